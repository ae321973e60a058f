"""Puts under way: what the contexts of ``async def`` handlers have in common.

Rules kept here:

* A put begins when the handler asks for it, waited for or not. Before the try counts as ended all
  are made; one that was refused, and that nobody looked at, fails the try.

Not handled here: how a put is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable
from typing import Any


class Put:
    """A put under way in the running event loop; await it for the element's number."""

    def __init__(self, put: Coroutine[Any, Any, int]) -> None:
        self._task = asyncio.get_running_loop().create_task(put)
        self._seen = False
        # asyncio would complain of a refusal that only ``wait_for_puts`` looks at.
        self._task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def __await__(self) -> Generator[Any, None, int]:
        self._seen = True
        return self._task.__await__()

    async def end(self) -> None:
        """Return when it is made; raises its refusal if nobody has looked at it."""
        if not (self._seen and self._task.done()):
            await self


async def wait_for_puts(puts: Iterable[Put]) -> None:
    """Return when all of ``puts`` are made; raises a refusal that nobody has looked at."""
    for put in puts:
        await put.end()
