"""Handlers in child processes: as many children as there are tries at the same time.

Rules kept here:

* A child serves one handler, one element at a time. After a try that ended well, or that raised, it
  is used again, ``MAX_USES`` times at most; after anything else it is killed and replaced. One that
  has nothing to do for ``IDLE_S`` is ended.
* A try that takes too long is ended with its child.

Not handled here: one child (``faas_spawned.py``), the limits (``faas_limits.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..errors import ConfigError
from ..faas_outcome import Failure, Outcome
from ..handlers import Handler
from .faas_context import Access
from .faas_spawned import Child
from .faas_workers import overdue

IDLE_S: Final = 60.0
"""A child that has had nothing to do for so long is ended."""
MAX_USES: Final = 1000
"""Tries of one child: what its handler leaks is bounded."""


class ProcessWorker:
    """Runs one handler in child processes, as many as it has tries at the same time."""

    def __init__(self, handler: Handler) -> None:
        if handler.function.__module__ == "__main__":
            raise ConfigError(
                f"handler {handler.name!r}: to be isolated it must be in a module of its own"
            )
        self._handler = handler
        self._idle: list[Child] = []
        self._ending: set[asyncio.Task[None]] = set()
        self.stuck = False
        self.left_behind = 0
        self.on_free: Callable[[], None] = lambda: None

    async def run(self, access: Access) -> Outcome:
        """As ``Worker.run``."""
        child = self._idle.pop() if self._idle else None
        if child is not None and not child.rests():
            await child.end()
            child = None
        if child is None:
            try:
                child = Child(self._handler)
            except OSError as error:
                return Failure(reason=f"its process cannot be started: {error.strerror}")
        try:
            outcome = await self._run(child, access)
        finally:
            access.end()
            # Shielded: a child that is being ended is ended also when we are cancelled.
            await asyncio.shield(asyncio.ensure_future(self._put_away(child)))
        if isinstance(outcome, Failure):
            return Failure(
                reason=outcome.reason, for_good=outcome.for_good, output=bytes(child.output)
            )
        return outcome

    async def _run(self, child: Child, access: Access) -> Outcome:
        if child.is_new:
            failure = await child.set_up()
            if failure is not None:
                return failure
        try:
            async with asyncio.timeout(self._handler.timeout_s):
                return await child.handle(access)
        except TimeoutError:
            return overdue(self._handler)

    async def _put_away(self, child: Child) -> None:
        if child.is_reusable and child.uses < MAX_USES:
            child.rest(IDLE_S, self._end_idle)
            self._idle.append(child)
        else:
            await child.end()

    def _end_idle(self, child: Child) -> None:
        if child in self._idle:
            self._idle.remove(child)
            task = asyncio.get_running_loop().create_task(child.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End the children that have nothing to do; the others end with their tries."""
        idle, self._idle = self._idle, []
        for child in idle:
            child.rests()
            await child.end()
        await asyncio.gather(*self._ending)
