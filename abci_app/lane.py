"""A lane for work that would hold up the event loop: one at a time, and few may wait.

Rules kept here: whoever waits in a lane holds up nobody outside of it; over the bound, the next is
told to come back, at once. Not handled here: what is done in the lane (``discover_service``).
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from edgistry.errors import BusyError


class Lane:
    """``async with lane:`` waits for its turn, among at most ``most`` at once.

    Raises (on entering):
        BusyError: there are as many already.
    """

    def __init__(self, what: str, *, most: int) -> None:
        self._what = what
        self._most = most
        self._entered = 0
        self._turn = asyncio.Semaphore(1)

    async def __aenter__(self) -> None:
        if self._entered >= self._most:
            raise BusyError(f"{self._entered} {self._what} are waiting already")
        self._entered += 1
        try:
            await self._turn.acquire()
        except BaseException:
            self._entered -= 1
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._turn.release()
        self._entered -= 1
