"""One handler's lane: its slots, its tries, and how each invocation ends.

Rules kept here:

* A slot is free again when the handler has ended; writing down how it ended goes on beside the next
  tries, of at most ``MAX_ENDING`` invocations.
* A try of a trigger from before this start is recorded before it begins, as if it were interrupted;
  how it really ends replaces that.
* An invocation is withdrawn only while it is certain that no try of it has begun: one that was
  there when the program started may have been tried by the one before.
* Logs say which handler failed on which element, and not what it said: that may be private.
* An invocation in a scope whose handler may not run for others is a dead letter, and does not run.

Not handled here: what comes next (``faas_queue.py``), what follows from a failure (``faas.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from ..errors import Refused
from ..faas import Course, Event, Phase, spread_of
from ..faas_letters import HandlerLetters
from ..faas_outcome import Failure, Outcome
from ..faas_queue import TriggerQueue
from ..faas_scope import Scope, ScopeOf
from ..handlers import Handler, HandlerTable
from ..woof_staging import Staging
from ..woof_triggers import Trigger
from .durable_woofs import DurableWoofs
from .faas_context import Access
from .faas_workers import Worker
from .log import get_logger
from .loops import call_in

logger = get_logger("edgistry.handlers")

MAX_ENDING: Final = 256
"""Invocations of one handler whose end is being written."""

SPENT: Final = Failure(reason="the program ended each time it was tried", for_good=True)
NOT_FOR_DEVICES: Final = Failure(
    reason="the handler is not marked for_devices, and a device wants it run", for_good=True
)


@dataclass(slots=True, kw_only=True)
class LaneCounts:
    """What a handler does, and has done since the program started."""

    running: int = 0
    ending: int = 0
    """Invocations that have ended, which is being written."""
    done: int = 0
    failed: int = 0
    """Tries that failed."""
    dead: int = 0
    """Dead letters."""
    left_behind: int = 0
    """Tries that were given up and have not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTools:
    """What all lanes of a program share."""

    woofs: DurableWoofs
    table: HandlerTable
    letters: HandlerLetters
    alone: asyncio.Lock
    """Held by an invocation that may end the program."""
    clock_us: Callable[[], int]
    scope_of: ScopeOf
    on_end: Callable[[Staging, Trigger, Outcome], None]
    """Joins changes to the write that ends an invocation."""
    on_change: Callable[[], None]
    """Hears that a lane may be idle."""
    on_error: Callable[[BaseException], None]
    """Hears that a lane cannot go on."""


class Lane:
    """The lane of ``handler``, whose tries ``worker`` runs. Used in one event loop."""

    def __init__(self, handler: Handler, worker: Worker, tools: LaneTools) -> None:
        self.handler = handler
        self._worker = worker
        self._tools = tools
        self._counts = LaneCounts()
        self._queue = TriggerQueue(self._stored, handler.retry)
        self._timer: asyncio.TimerHandle | None = None
        self._recovered = 0
        """Arrival of the last trigger from before this start."""
        self._recorded: dict[int, tuple[Trigger, Course]] = {}
        """By arrival: tries that are recorded as interrupted, and what they were before."""
        self._begun: set[int] = set()
        """Arrivals of those that are tried, or whose end is being written."""
        self._withdrawn: set[int] = set()
        """Arrivals of those that must not begin any more, which is being written."""
        self._tries: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._open = True
        worker.on_free = self.pump

    # --- what comes -----------------------------------------------------------------------------

    def recover(self, last_arrival: int) -> None:
        """Begin with the triggers in the store, of which ``last_arrival`` is the last."""
        self._recovered = last_arrival
        self._queue.look()
        self.pump()

    def arrived(self, trigger: Trigger) -> None:
        """``trigger`` has become durable; ``pump`` is to follow."""
        self._queue.arrived(trigger)

    def pump(self) -> None:
        """Start what can be started."""
        try:
            while self._open and self._has_slot():
                trigger = self._queue.next(now_s=self._now_s(), now_us=self._tools.clock_us())
                if trigger is None:
                    break
                if trigger.arrival in self._withdrawn:
                    continue
                self._begun.add(trigger.arrival)
                self._counts.running += 1
                self._spawn(self._tries, self._try(trigger))
        except Exception as error:  # the store cannot be read; or a bug
            self._tools.on_error(error)
            return
        self._set_timer()
        self._tools.on_change()

    def withdraw(self, staging: Staging, trigger: Trigger) -> bool:
        """Let an invocation end unbegun, with ``staging``; whether that could be.

        Only for triggers that have come since the program started.
        """
        arrival = trigger.arrival
        if arrival <= self._recovered or arrival in self._begun | self._withdrawn:
            return False
        found = next(self._stored(arrival - 1), None)
        if found is None or found.arrival != arrival or found.attempts:
            return False
        staging.finish(trigger)
        self._withdrawn.add(arrival)
        staging.when_written(
            functools.partial(call_in, asyncio.get_running_loop(), self._is_withdrawn, arrival),
            undo=lambda: self._withdrawn.discard(arrival),
        )
        return True

    def _is_withdrawn(self, arrival: int) -> None:
        """Durably. It may have come into the queue meanwhile; from the store it comes no more."""
        self._queue.leave_out(arrival)
        self._withdrawn.discard(arrival)
        self._tools.on_change()

    @property
    def counts(self) -> LaneCounts:
        """What it does and has done."""
        self._counts.left_behind = self._worker.left_behind
        return self._counts

    @property
    def is_stuck(self) -> bool:
        """Whether nothing can be started because tries that were given up do not end."""
        return self._worker.stuck

    @property
    def is_idle(self) -> bool:
        """Whether no invocation is due, now or later, and all ends are written."""
        return self._queue.is_empty and not (self._counts.running or self._counts.ending)

    def _stored(self, after: int) -> Any:
        return self._tools.woofs.woofs.triggers(self.handler.name, after=after)

    def _has_slot(self) -> bool:
        counts = self._counts
        if self._worker.stuck or counts.ending >= MAX_ENDING:
            return False
        return counts.running < self.handler.concurrency

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._queue.next_due_s
        # What was due when the queue was asked has come. What has become due since, however long
        # ago, needs the timer as well; without a slot, whatever frees one pumps.
        if due_s is not None and self._open and self._has_slot():
            self._timer = asyncio.get_running_loop().call_at(due_s, self.pump)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    # --- one try --------------------------------------------------------------------------------

    async def _try(self, trigger: Trigger) -> None:
        course = Course.of(trigger)
        try:
            scope = self._tools.scope_of(trigger)
            if course.is_spent:
                outcome: Outcome = SPENT
            elif scope is not None and not self.handler.for_devices:
                outcome = NOT_FOR_DEVICES
            else:
                alone = self._tools.alone if course.runs_alone else contextlib.nullcontext()
                async with alone:
                    await self._record(trigger, course)
                    course = course.after(Event.STARTED)
                    outcome = await self._worker.run(self._access(trigger, course, scope))
        finally:
            self._counts.running -= 1
        self._counts.ending += 1
        self._spawn(self._ends, self._end(trigger, course, outcome))
        self.pump()

    def _access(self, trigger: Trigger, course: Course, scope: Scope | None) -> Access:
        tools = self._tools
        return Access(
            tools.woofs,
            tools.table,
            trigger,
            attempt=course.attempts + course.interruptions + 1,
            clock_us=tools.clock_us,
            scope=scope,
        )

    async def _record(self, trigger: Trigger, course: Course) -> None:
        """Make it durable that a try begins, where it may be this that ends the program."""
        if trigger.arrival > self._recovered:
            return
        interrupted = course.after(Event.STARTED).after(Event.INTERRUPTED)
        self._recorded[trigger.arrival] = (trigger, course)
        await self._tools.woofs.commit(lambda staging: _write(staging, trigger, interrupted))

    async def _end(self, trigger: Trigger, course: Course, outcome: Outcome) -> None:
        """Make it durable how a try has ended."""
        retry, tools = self.handler.retry, self._tools
        if isinstance(outcome, Failure):
            spread = spread_of(trigger.woof_id, trigger.number, trigger.handler, course.attempts)
            course = course.failed(outcome, retry, now_us=tools.clock_us(), spread=spread)
        else:
            course = course.after(Event.SUCCEEDED)

        def decide(staging: Staging) -> None:
            if course.phase is Phase.WAITING:
                _write(staging, trigger, course)
                return
            if isinstance(outcome, Failure):
                tools.letters.bury(
                    staging, trigger, outcome, attempts=course.attempts, now_us=tools.clock_us()
                )
            else:
                staging.finish(trigger)
            tools.on_end(staging, trigger, outcome)

        try:
            await tools.woofs.commit(decide)
        finally:
            self._counts.ending -= 1
            self._begun.discard(trigger.arrival)
        self._recorded.pop(trigger.arrival, None)
        self._tell(trigger, course, outcome)
        self.pump()

    def _tell(self, trigger: Trigger, course: Course, outcome: Outcome) -> None:
        counts = self._counts
        about = {"handler": trigger.handler, "woof": trigger.woof, "seq": trigger.number}
        if not isinstance(outcome, Failure):
            counts.done += 1
            return
        counts.failed += 1
        logger.debug("why a handler failed", **about, reason=outcome.reason)
        if course.phase is Phase.DEAD:
            counts.dead += 1
            logger.warning("a handler failed for good", **about, attempts=course.attempts)
            return
        wait_s = course.due_in_s(self.handler.retry, now_us=self._tools.clock_us())
        logger.info(
            "a handler failed", **about, attempts=course.attempts, next_try_in_s=round(wait_s, 1)
        )
        self._queue.hold(trigger, self._now_s() + wait_s)

    # --- the end --------------------------------------------------------------------------------

    def halt(self) -> None:
        """Start nothing any more."""
        self._open = False
        self._set_timer()

    async def stop(self, grace_s: float) -> None:
        """Everything has ended; what still ran after ``grace_s`` was given up, and counts not."""
        self.halt()
        if self._tries:
            await asyncio.wait(self._tries, timeout=grace_s)
        for task in self._tries:
            task.cancel()
        await asyncio.gather(*self._tries, return_exceptions=True)
        await asyncio.gather(*self._ends, return_exceptions=True)
        if self._recorded:
            await self._take_back()
        await self._worker.close()

    async def _take_back(self) -> None:
        """Tries that were recorded as interrupted have ended in good order, if without result."""

        def decide(staging: Staging) -> None:
            for trigger, course in self._recorded.values():
                _write(staging, trigger, course)

        # Where it cannot be written it stays: the store takes no more writes.
        with contextlib.suppress(Refused):
            await self._tools.woofs.commit(decide)

    def _spawn(self, tasks: set[asyncio.Task[None]], body: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(body)
        tasks.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            tasks.discard(ended)
            error = None if ended.cancelled() else ended.exception()
            if error is not None:
                self._tools.on_error(error)

        task.add_done_callback(done)


def _write(staging: Staging, trigger: Trigger, course: Course) -> None:
    staging.retry(
        trigger,
        attempts=course.attempts,
        interruptions=course.interruptions,
        not_before_us=course.not_before_us,
        reason=course.reason,
    )
