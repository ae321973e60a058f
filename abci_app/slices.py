"""Long work in slices, so that the one event loop goes on answering.

Not handled here: the work. What is computed must not depend on where it was cut.
"""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.004
"""How long work may hold the loop at a time: unnoticeable beside a page's 1 ms, cheap to switch."""


class Slices:
    """Call ``rest`` often while working; it lets others run when the slice is used up."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._began = time.monotonic()

    async def rest(self) -> None:
        """Let everything else that is ready run, if this slice has lasted long enough."""
        if time.monotonic() - self._began >= self._slice_s:
            await asyncio.sleep(0)
            self._began = time.monotonic()
