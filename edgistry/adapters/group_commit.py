"""Group commit: one thread writes, and whoever waits while it does shares the next sync.

Rules kept here:

* Works are written in the order in which they were handed over, each whole, in one batch or in
  several; each is answered when it is durable.
* A sync takes milliseconds, and costs the same for one work and for a hundred. So the thread takes
  everything that waits; and after a sync it lets those it woke hand over their next work first (a
  turn of their event loop, at most ``PATIENCE_S``), or it would sync for the quickest one alone,
  and then for all the others.
* When a write fails, everything that waits fails with it: it was decided upon what is now not
  there. ``on_failure`` puts the memory of whoever decides in order before anybody decides again.
* ``lock`` is held from the first look that a decision is based on until ``hand_over``: so the
  order of decisions is the order of writes.

Not handled here: what is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, cast

from ..errors import Refused, UnavailableError
from ..kv import Change, KeyValue

MAX_BATCH_BYTES: Final = 4 << 20
"""One batch is at most about this large, so that nobody waits for the disk for too long."""

PATIENCE_S: Final = 0.002
"""How long the thread waits for an event loop that is busy with something else."""


class Work(Protocol):
    """Changes to write together."""

    changes: list[Change]
    """In order; they are left alone once handed over."""

    waiter: object
    """The committer's: an ``asyncio.Future``, or a ``_Blocked``."""

    def settle(self) -> None:
        """They are durable. Called with the committer's lock held, by its thread."""


class Changes:
    """A ``Work`` that nobody has to be told of."""

    __slots__ = ("changes", "waiter")

    def __init__(self, changes: Iterable[Change]) -> None:
        self.changes = list(changes)
        self.waiter: object = None

    def settle(self) -> None:
        """Nothing to do."""


class _Blocked:
    """A thread that waits, and what it is to raise."""

    __slots__ = ("error", "event")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.error: BaseException | None = None


class GroupCommitter:
    """The one writer of ``store``, from now until ``close``."""

    def __init__(self, store: KeyValue) -> None:
        self.lock = threading.Lock()
        """Guards the memory of whoever decides, and the order of works."""
        self.on_settled: Callable[[Sequence[Work]], None] = _nobody
        """Told of the works of each batch, after they are settled, with the lock held."""
        self.on_failure: Callable[[], None] = _nothing
        """Called with the lock held when a write has failed, before those who wait are told."""
        self._store = store
        self._waiting: deque[Work] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._wakes_soon: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="edgistry-writer", daemon=True)
        self._thread.start()

    # --- handing over ---------------------------------------------------------------------------

    def hand_over(self, work: Work) -> asyncio.Future[None]:
        """Write ``work`` soon; done when it is durable. Called with ``lock`` held, in a loop.

        To cancel the future does not take the work back.

        Raises:
            UnavailableError: the committer is closed.
        """
        self._check_open()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        work.waiter = future
        self._waiting.append(work)
        if self._wakes_soon is not loop:
            # Not at once: the other tasks of this turn may have something to write too.
            self._wakes_soon = loop
            loop.call_soon(self._wake_up)
        return future

    async def commit(self, changes: Iterable[Change]) -> None:
        """Write ``changes`` atomically; they are durable afterwards.

        Raises:
            Refused: what the store raises; nothing was written, as far as anyone can see.
            UnavailableError: the committer is closed.
        """
        with self.lock:
            future = self.hand_over(Changes(changes))
        await future

    def commit_blocking(self, decide: Callable[[], Work]) -> None:
        """Write the work that ``decide`` gives, with the lock held; it is durable afterwards.

        For threads without an event loop. Raises as ``commit``, and what ``decide`` raises.
        """
        blocked = _Blocked()
        with self.lock:
            self._check_open()
            work = decide()
            work.waiter = blocked
            self._waiting.append(work)
        self._wake_up()
        blocked.event.wait()
        if blocked.error is not None:
            raise blocked.error

    def close(self) -> None:
        """Write everything that waits, then take nothing more. Closing twice is safe."""
        with self.lock:
            self._closing = True
        self._wake_up()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("this program is stopping and takes no more writes")

    def _wake_up(self) -> None:
        self._wakes_soon = None
        if self._wake.locked():
            with contextlib.suppress(RuntimeError):  # another thread has just done it
                self._wake.release()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        patience_s = -1.0
        while True:
            self._wake.acquire(timeout=patience_s)
            batch = self._take()
            if not batch and self._closing:
                return
            told = bool(batch) and self._serve(batch)
            if self._closing or (self._waiting and not told):
                patience_s = 0.0
            else:
                patience_s = PATIENCE_S if self._waiting else -1.0

    def _serve(self, batch: list[Work]) -> bool:
        """Write and answer; whether an event loop was told, that may have more to write."""
        error = self._write(batch)
        # Who woke this thread meanwhile may wait for those that are woken now.
        self._wake.acquire(blocking=False)
        return self._answer(batch, error)

    def _take(self) -> list[Work]:
        taken = []
        size = 0
        with self.lock:
            while self._waiting and size < MAX_BATCH_BYTES:
                work = self._waiting.popleft()
                taken.append(work)
                for _, value in work.changes:
                    if value is not None:
                        size += len(value)
        return taken

    def _write(self, batch: list[Work]) -> BaseException | None:
        """Write the batch; what went wrong. After a failure everything that waits is in it."""
        changes = [change for work in batch for change in work.changes]
        try:
            if changes:
                self._store.write(changes, sync=True)
            with self.lock:
                for work in batch:
                    work.settle()
                self.on_settled(batch)
        except Exception as error:
            # A refusal of the store, or a bug; either way those who wait must hear of it.
            with self.lock:
                batch += self._waiting
                self._waiting.clear()
                self.on_failure()
            return error
        return None

    def _answer(self, batch: list[Work], error: BaseException | None) -> bool:
        """Tell those who wait; whether an event loop was told, that may have more to write."""
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for work in batch:
            waiter = work.waiter
            if isinstance(waiter, _Blocked):
                waiter.error = error and _copy_of(error)
                waiter.event.set()
            elif waiter is not None:
                future = cast("asyncio.Future[None]", waiter)
                loops.setdefault(future.get_loop(), []).append(future)
        told = False
        for loop, futures in loops.items():
            try:
                loop.call_soon_threadsafe(self._resolve, loop, futures, error)
                told = True
            except RuntimeError:
                continue  # the loop is closed: nobody waits in it
        return told

    def _resolve(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: list[asyncio.Future[None]],
        error: BaseException | None,
    ) -> None:
        """In the loop: wake the tasks, and after their turn the writer."""
        for future in futures:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(_copy_of(error))
        loop.call_soon(self._wake_up)


def _copy_of(error: BaseException) -> BaseException:
    """An error for each who waits: raising adds a traceback to it."""
    if isinstance(error, Refused) and type(error).__init__ is Refused.__init__:
        return type(error)(error.detail)
    return error


def _nobody(_works: Sequence[Work]) -> None:
    """Nobody is told."""


def _nothing() -> None:
    """Nothing to put in order."""
