"""One clock, wound by hand, for any number of sleepers."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

START_S = 1000.0
TURNS = 30
"""Of the event loop, in which everything that does not wait for time has happened."""


class WoundClock:
    """Stands still unless ``advance`` is called."""

    def __init__(self, *, wall_us: int) -> None:
        self._s = START_S
        self._start_wall_us = wall_us
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now_s(self) -> float:
        return self._s

    def wall_us(self) -> int:
        return self._start_wall_us + round((self._s - START_S) * 1_000_000)

    async def sleep_until(self, until_s: float) -> None:
        if until_s <= self._s:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (until_s, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let so much time pass; whoever wakes meanwhile does so at its time."""
        end_s = self._s + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            until_s, _, future = heapq.heappop(self._sleepers)
            self._s = max(self._s, until_s)
            if not future.done():
                future.set_result(None)
                await self._settle()
        self._s = end_s

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
