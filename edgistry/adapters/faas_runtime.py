"""The runtime of handlers: takes triggers as they become durable, and sees each to its end.

Rules kept here:

* A trigger is run at least once, and stays in the store until how it ended is durable too. What a
  handler puts is put once (``faas_context.py``).
* Handlers have a lane each: their own slots, their own queue, their own waits. In memory a lane has
  a bounded number of triggers; the others stay in the store until it gets to them.
* A trigger that was there when the program started may be what ended it: its try is recorded
  before it begins (``faas.py`` says what that leads to). A new one starts at once.
* Triggers of a handler that is not in the table stay, until it is.
* When the store takes no more writes nothing is started any more.

Not handled here: who runs handlers (``faas_workers.py``, ``faas_process.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import islice
from typing import Final

from ..errors import CorruptDatabaseError, Refused, StorageError, UnavailableError
from ..faas_letters import HandlerLetters
from ..faas_outcome import Outcome
from ..faas_scope import ScopeOf, everywhere
from ..handlers import Handler, HandlerTable
from ..kv import KeyValue
from ..woof_staging import Staging
from ..woof_triggers import Trigger, last_arrival
from .durable_woofs import DurableWoofs
from .faas_lane import Lane, LaneCounts, LaneTools
from .faas_process import ProcessWorker
from .faas_workers import LoopWorker, ThreadWorker, Worker
from .log import get_logger
from .loops import call_in

logger = get_logger("edgistry.handlers")

STOP_GRACE_S: Final = 1.0
"""How long handlers that run may go on when the program stops."""
MAX_COUNTED: Final = 1000

_COUNTED: Final = tuple(field.name for field in fields(LaneCounts))

OnEnd = Callable[[Staging, Trigger, Outcome], None]
"""Told how an invocation ended, answered or dead; what it stages is durable with the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerStatus:
    """How one handler is doing."""

    handler: Handler | None
    """``None``: not in the table, but there are triggers for it."""
    name: str
    waiting: int
    """Invocations that are due and not running; counted up to ``MAX_COUNTED``."""
    counts: LaneCounts
    stuck: bool
    """Nothing more can be started, since tries that were given up do not end."""


class HandlerRuntime:
    """Runs the handlers of ``table`` on what is put into ``woofs``, which rest in ``store``.

    ``clock_us`` is the wall clock in µs since 1970; ``scope_of`` says which invocations are
    confined, and to what.

    Raises:
        ConfigError: a handler cannot be run as it asks to be.
    """

    def __init__(
        self,
        store: KeyValue,
        woofs: DurableWoofs,
        table: HandlerTable,
        *,
        on_end: OnEnd | None = None,
        scope_of: ScopeOf = everywhere,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.table = table
        self.letters = HandlerLetters(store)
        self._store = store
        self._woofs = woofs
        self._on_end = on_end
        tools = LaneTools(
            woofs=woofs,
            table=table,
            letters=self.letters,
            alone=asyncio.Lock(),
            clock_us=clock_us,
            scope_of=scope_of,
            on_end=self._ended,
            on_change=self._changes,
            on_error=self._failed,
        )
        self._lanes = {each.name: Lane(each, _worker(each), tools) for each in table}
        self._bug: asyncio.Future[None] | None = None
        self._halted: Refused | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._started = False

    # --- running --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run handlers until cancelled. Triggers from before come first.

        Raises:
            Refused: the store cannot be used.
            Exception: a bug.
        """
        self._loop = asyncio.get_running_loop()
        self._bug = self._loop.create_future()
        await self._woofs.commit(self.letters.prepare)
        self._woofs.on_triggers = self._heard
        try:
            for name in self._woofs.woofs.handlers_waiting():
                if name in self._lanes:
                    self._lanes[name].recover(last_arrival(self._store, name.encode()))
                else:
                    logger.warning("triggers wait for a handler that is not there", handler=name)
            self._started = True
            self._changed.set()
            await self._bug
        finally:
            self._started = False
            self._woofs.on_triggers = None
            await self._stop()

    async def idle(self) -> None:
        """Return when no invocation of a handler in the table is due, now or later, or running.

        Waits for ``run`` to begin.

        Raises:
            Refused: the store takes no more writes, so this will never be.
        """
        while not (self._started and all(lane.is_idle for lane in self._lanes.values())):
            if self._halted is not None:
                raise self._halted
            self._changed.clear()
            await self._changed.wait()

    async def _stop(self) -> None:
        await asyncio.gather(*(lane.stop(STOP_GRACE_S) for lane in self._lanes.values()))

    def withdraw(self, staging: Staging, trigger: Trigger) -> bool:
        """Let an invocation end unbegun, with ``staging``; whether that could be.

        It cannot where it may have begun, also before the program started. To be called in the
        loop of ``run``.
        """
        lane = self._lanes.get(trigger.handler)
        return self._started and lane is not None and lane.withdraw(staging, trigger)

    # --- what others ask ------------------------------------------------------------------------

    @property
    def halted(self) -> Refused | None:
        """Why nothing is started any more; ``None`` while all is well."""
        return self._halted

    def status(self) -> list[HandlerStatus]:
        """How each handler is doing, and those that are missing."""
        waiting = self._woofs.woofs.handlers_waiting()
        names = sorted({*self._lanes, *waiting})
        return [self._status(name, due=name in waiting) for name in names]

    def _status(self, name: str, *, due: bool) -> HandlerStatus:
        lane = self._lanes.get(name)
        counts = lane.counts if lane else LaneCounts()
        known = 0
        if due:
            known = sum(1 for _ in islice(self._woofs.woofs.triggers(name), MAX_COUNTED))
        return HandlerStatus(
            handler=lane.handler if lane else None,
            name=name,
            waiting=max(0, known - counts.running - counts.ending),
            counts=counts,
            stuck=lane.is_stuck if lane else False,
        )

    def totals(self) -> LaneCounts:
        """What all handlers do and have done, together; costs nothing to ask."""
        found = LaneCounts()
        for lane in self._lanes.values():
            counts = lane.counts
            for name in _COUNTED:
                setattr(found, name, getattr(found, name) + getattr(counts, name))
        return found

    def backlog(self) -> int:
        """How far handlers are behind: from the oldest invocation that is due to the newest.

        Summed up; those between that have ended count too. Reads two entries for each handler.
        """
        behind = 0
        for name in self._woofs.woofs.handlers_waiting():
            oldest = next(self._woofs.woofs.triggers(name), None)
            if oldest is not None:
                behind += last_arrival(self._store, name.encode()) - oldest.arrival + 1
        return behind

    async def replay(self, numbers: Iterable[int]) -> int:
        """Let these dead letters be tried again, all or none; how many.

        Raises:
            NotFoundError: one is not there; nothing has changed.
            UnknownHandlerError: the handler of one is not there; nothing has changed.
        """

        def replay(staging: Staging, number: int) -> None:
            self.table.require(self.letters.get(number).record.handler)
            self.letters.replay(staging, number)

        return await self._take_out(numbers, replay)

    async def purge(self, numbers: Iterable[int]) -> int:
        """Forget these dead letters, all or none; how many. Raises as ``replay``."""
        return await self._take_out(numbers, self.letters.purge)

    async def _take_out(
        self, numbers: Iterable[int], take: Callable[[Staging, int], object]
    ) -> int:
        taken: list[int] = []

        def decide(staging: Staging) -> None:
            for number in sorted(set(numbers)):
                take(staging, number)
                taken.append(number)

        try:
            await self._woofs.commit(decide)
        finally:
            for number in taken:
                self.letters.settled(number)
        return len(taken)

    # --- what lanes need ------------------------------------------------------------------------

    def _ended(self, staging: Staging, trigger: Trigger, outcome: Outcome) -> None:
        if self._on_end is not None:
            self._on_end(staging, trigger, outcome)

    def _changes(self) -> None:
        self._changed.set()

    def _failed(self, error: BaseException) -> None:
        """A lane cannot go on: the store refuses, or there is a bug."""
        if isinstance(error, StorageError | UnavailableError | CorruptDatabaseError):
            if self._halted is None:
                self._halted = error
                logger.error("no handler is started any more", code=error.code, why=error.detail)
                for lane in self._lanes.values():
                    lane.halt()
            self._changed.set()
        elif self._bug is not None and not self._bug.done():
            self._bug.set_exception(error)

    def _heard(self, triggers: list[Trigger]) -> None:
        """By whoever has written them: these have become durable."""
        if self._loop is not None:
            # Where the loop is closed they are found at the next start.
            call_in(self._loop, self._arrived, triggers)

    def _arrived(self, triggers: list[Trigger]) -> None:
        touched = set()
        for trigger in triggers:
            lane = self._lanes.get(trigger.handler)
            if lane is not None:
                lane.arrived(trigger)
                touched.add(lane)
        for lane in touched:
            lane.pump()


def _worker(handler: Handler) -> Worker:
    if handler.isolation == "process":
        return ProcessWorker(handler)
    return LoopWorker(handler) if handler.is_async else ThreadWorker(handler)
