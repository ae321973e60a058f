"""Who runs handlers in this program: threads, and event loops in threads of their own.

Rules kept here:

* No handler runs in the program's own event loop: one that blocks delays nobody but itself. A
  plain function gets a thread for each try, an ``async def`` handler one event loop for all.
* What a handler raises, whatever it is, is a failure of that try and never leaves here.
* A thread cannot be ended. A try that does not end in time is given up: its context is dead, its
  thread is left behind, and after ``MAX_LEFT_BEHIND`` of them the handler is stuck until one ends.

Not handled here: handlers in processes of their own (``faas_process.py``); what becomes of a try
that failed (``faas_runtime.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from ..faas_outcome import Failure, Outcome, failure_of, outcome_of
from ..handlers import Handler
from .faas_context import Access, LoopContext, ThreadContext

MAX_LEFT_BEHIND: Final = 8
CANCEL_GRACE_S: Final = 1.0
"""How long a handler that was cancelled may take to end."""


class Worker(Protocol):
    """Who runs one handler, try by try, several at a time."""

    on_free: Callable[[], None]
    """Called when a try that was left behind has ended."""

    @property
    def stuck(self) -> bool:
        """Whether nothing more can be started for now."""

    @property
    def left_behind(self) -> int:
        """Tries that were given up and have not ended."""

    async def run(self, access: Access) -> Outcome:
        """Run the handler once; how that ended. It has ended, or nothing comes of it any more.

        Cancelled, it gives the try up.
        """

    async def close(self) -> None:
        """End what can be ended."""


def overdue(handler: Handler) -> Failure:
    """The failure of a handler that took too long."""
    return Failure(reason=f"took more than {handler.timeout_s:g} s")


def _nobody() -> None:
    """Nobody waits for it."""


class ThreadWorker:
    """Runs a plain function: a thread for each try."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.left_behind = 0
        self.on_free: Callable[[], None] = _nobody

    @property
    def stuck(self) -> bool:
        """Whether too many threads were left behind."""
        return self.left_behind >= MAX_LEFT_BEHIND

    async def run(self, access: Access) -> Outcome:
        """As ``Worker.run``."""
        ended = _Ended()
        thread = threading.Thread(
            target=self._body, args=(access, ended), name=f"handler {self._handler.name}"
        )
        # The program can end without it.
        thread.daemon = True
        thread.start()
        try:
            async with asyncio.timeout(self._handler.timeout_s):
                return await ended.wait()
        except TimeoutError:
            return overdue(self._handler)
        finally:
            access.end()
            if not ended.is_set:
                self.left_behind += 1
                ended.when_late(self._came_back)

    def _body(self, access: Access, ended: _Ended) -> None:
        trigger = access.trigger
        try:
            result = self._handler.function(
                ThreadContext(access), access.woof, trigger.number, trigger.element
            )
            outcome = outcome_of(result)
        except BaseException as error:  # SystemExit too: it is the handler that exits
            outcome = failure_of(error)
        ended.set(outcome)

    def _came_back(self) -> None:
        self.left_behind -= 1
        self.on_free()

    async def close(self) -> None:
        """Threads that still run are left behind."""


class LoopWorker:
    """Runs an ``async def`` handler: an event loop of its own, in a thread."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._loop: _HandlerLoop | None = None
        self.left_behind = 0
        self.on_free: Callable[[], None] = _nobody

    @property
    def stuck(self) -> bool:
        """Whether too many tries, or the event loops they block, were left behind."""
        return self.left_behind >= MAX_LEFT_BEHIND

    async def run(self, access: Access) -> Outcome:
        """As ``Worker.run``."""
        if self._loop is None:
            self._loop = _HandlerLoop(self._handler.name)
        loop, ended = self._loop, _Ended()
        task = loop.start(lambda: self._body(access), ended)
        try:
            async with asyncio.timeout(self._handler.timeout_s):
                return await ended.wait()
        except TimeoutError:
            return overdue(self._handler)
        finally:
            access.end()
            if not ended.is_set:
                await self._give_up(loop, task, ended)

    async def _give_up(self, loop: _HandlerLoop, task: _LoopTask, ended: _Ended) -> None:
        """Cancel the try; one that goes on all the same is left behind."""
        alive = loop.cancel(task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_GRACE_S):
                await ended.wait()
        if ended.is_set:
            return
        self.left_behind += 1
        ended.when_late(self._came_back)
        if not alive.is_set() and self._loop is loop:
            # It blocks its loop: the next tries get another one.
            loop.close()
            self._loop = None

    async def _body(self, access: Access) -> Outcome:
        context, trigger = LoopContext(access), access.trigger
        try:
            result = await self._handler.function(
                context, access.woof, trigger.number, trigger.element
            )
            await context.settle()
        except BaseException as error:
            # All of them: SystemExit would end the loop, and with it the handler's other tries.
            return failure_of(error)
        return outcome_of(result)

    def _came_back(self) -> None:
        self.left_behind -= 1
        self.on_free()

    async def close(self) -> None:
        """The loop ends; what still runs in it is cancelled."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None


class _Ended:
    """The end of a try, told by another thread to the loop in which this was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Outcome] = self._loop.create_future()
        self._late: Callable[[], None] | None = None

    @property
    def is_set(self) -> bool:
        return self._future.done()

    async def wait(self) -> Outcome:
        """The outcome. To be cancelled while waiting does not lose it."""
        return await asyncio.shield(self._future)

    def when_late(self, call: Callable[[], None]) -> None:
        """``call`` in the loop when it is set after all."""
        self._late = call

    def set(self, outcome: Outcome) -> None:
        """In any thread: this is how it ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._set, outcome)

    def _set(self, outcome: Outcome) -> None:
        self._future.set_result(outcome)
        if self._late is not None:
            self._late()


class _LoopTask:
    """A try in the handler's loop, once it has begun there."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Outcome] | None = None
        self.cancelled = False


class _HandlerLoop:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # What a task that the handler left behind raises is the handler's business, and private.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"handler {name}", daemon=True)
        self._thread.start()

    def start(self, body: Callable[[], Coroutine[Any, Any, Outcome]], ended: _Ended) -> _LoopTask:
        """Run the coroutine that ``body`` makes, which never raises; tell ``ended``."""
        started = _LoopTask()

        def begin() -> None:
            if started.cancelled:
                ended.set(Failure(reason="not started in time"))
                return
            started.task = self._loop.create_task(body())
            started.task.add_done_callback(end)

        def end(task: asyncio.Task[Outcome]) -> None:
            ended.set(Failure(reason="cancelled") if task.cancelled() else task.result())

        self._loop.call_soon_threadsafe(begin)
        return started

    def cancel(self, started: _LoopTask) -> threading.Event:
        """Cancel the try; the event is set as soon as the loop does anything at all."""
        alive = threading.Event()

        def cancel() -> None:
            alive.set()
            started.cancelled = True
            if started.task is not None:
                started.task.cancel()

        with contextlib.suppress(RuntimeError):  # closed since: it cancels everything itself
            self._loop.call_soon_threadsafe(cancel)
        return alive

    def close(self) -> None:
        """The loop ends as soon as it does anything; what runs in it is cancelled."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            # Once around, so that what was cancelled can end; what does not is dropped.
            self._loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._loop.close()
