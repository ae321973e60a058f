"""Group commit: one writes at a time, and whoever waits while it does shares the next sync.

Rules kept here:

* Works are written in the order in which they were handed over, each whole, in one batch or in
  several; each is answered when it is durable.
* A sync takes milliseconds, and costs the same for one work and for a hundred. So whoever writes
  takes everything that waits; and after a sync those who were woken may hand over their next work
  first (a turn of their event loop, at most ``PATIENCE_S``), or the next sync would be for the
  quickest one alone, and the one after it for all the others.
* Works of event loops are written by a thread of this module. A thread that has to wait anyway
  writes by itself, if nobody else is: waking another one takes longer than many a disk.
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

    size: int
    """About how many bytes there are in them."""

    waiter: object
    """The committer's: an ``asyncio.Future``, or a ``_Blocked``."""

    def settle(self) -> None:
        """They are durable. Called with the committer's lock held, by its thread."""


class Changes:
    """A ``Work`` that nobody has to be told of."""

    waiter: object = None

    def __init__(self, changes: Iterable[Change]) -> None:
        self.changes = list(changes)
        self.size = sum(len(value or b"") for _, value in self.changes)

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
        self._closing = False
        self._writing = False
        self._thread = threading.Thread(target=self._run, name="edgistry-writer", daemon=True)
        self._thread.start()

    # --- handing over ---------------------------------------------------------------------------

    def hand_over(self, work: Work) -> asyncio.Future[None]:
        """Write ``work`` soon; done when it is durable. Called with ``lock`` held, in a loop.

        To cancel the future does not take the work back.

        Raises:
            UnavailableError: the committer is closed.
        """
        if self._closing:
            raise _closed()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        work.waiter = future
        self._waiting.append(work)
        if not self._writing:
            # It begins when this thread waits for something, so after the loop's other tasks.
            self._wake_up()
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
        with self.lock:
            if self._closing:
                raise _closed()
            work = decide()
            alone = not self._writing and not self._waiting
            if alone:
                self._writing = True
            else:
                work.waiter = blocked = _Blocked()
                self._waiting.append(work)
        if alone:
            self._write_alone(work)
            return
        self._wake_up()
        blocked.event.wait()
        if blocked.error is not None:
            raise blocked.error

    def _write_alone(self, work: Work) -> None:
        batch = [work]
        try:
            error = self._write(batch)
        except BaseException:
            # Ctrl-C in the middle of it: the others must neither wait for ever nor trust memory.
            self._answer(batch, self._failed(batch, UnavailableError("the write was interrupted")))
            raise
        if self._waiting or self._closing:
            self._wake_up()
        if error is not None:
            self._answer(batch, error)
            raise error

    def close(self) -> None:
        """Write everything that waits, then take nothing more. Closing twice is safe."""
        with self.lock:
            self._closing = True
        self._wake_up()
        self._thread.join()

    def _wake_up(self) -> None:
        if self._wake.locked():
            with contextlib.suppress(RuntimeError):  # another thread has just done it
                self._wake.release()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        patience_s = -1.0
        while True:
            self._wake.acquire(timeout=patience_s)
            batch = self._take()
            if batch:
                error = self._write(batch)
                # Who woke this thread during the write may have company soon.
                self._wake.acquire(blocking=False)
                patient = self._answer(batch, error)
                patience_s = self._patience_s(patient=patient)
            elif self._closing and not self._writing:
                return
            else:
                patience_s = -1.0  # whoever writes, or hands something over, wakes this thread

    def _patience_s(self, *, patient: bool) -> float:
        if self._closing:
            return 0.0
        if not self._waiting:
            return -1.0
        return PATIENCE_S if patient else 0.0

    def _take(self) -> list[Work]:
        """What to write now; nothing if somebody else is writing. Else they wait for us."""
        taken: list[Work] = []
        size = 0
        with self.lock:
            if self._writing:
                return taken
            while self._waiting and size < MAX_BATCH_BYTES:
                work = self._waiting.popleft()
                taken.append(work)
                size += work.size
            self._writing = bool(taken)
        return taken

    def _write(self, batch: list[Work]) -> Exception | None:
        """Write the batch; what went wrong. After a failure everything that waits is in it."""
        if len(batch) == 1:
            changes = batch[0].changes
        else:
            changes = [change for work in batch for change in work.changes]
        try:
            if changes:
                self._store.write(changes, sync=True)
            with self.lock:
                for work in batch:
                    work.settle()
                self.on_settled(batch)
                self._writing = False
        except Exception as error:
            # A refusal of the store, or a bug; either way those who wait must hear of it.
            return self._failed(batch, error)
        return None

    def _failed(self, batch: list[Work], error: Exception) -> Exception:
        with self.lock:
            batch += self._waiting
            self._waiting.clear()
            self.on_failure()
            self._writing = False
        return error

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


def _closed() -> UnavailableError:
    return UnavailableError("this program is stopping and takes no more writes")


def _nobody(_works: Sequence[Work]) -> None:
    """Nobody is told."""


def _nothing() -> None:
    """Nothing to put in order."""
