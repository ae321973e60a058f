"""Group commit: one writes at a time, and whoever waits while it does shares the next sync.

Rules kept here:

* Works are written in the order in which they were handed over, each whole, in one batch or in
  several; each is answered when it is durable.
* A sync takes as long for one work as for a hundred. So works gather in a group while an earlier
  one is written. After a sync those who were woken may hand over their next work first (a turn of
  their event loop, at most ``PATIENCE_S``), or the next sync would be for the quickest one alone,
  and the one after it for all the others.
* A thread that has to wait anyway writes by itself, if nobody else is: waking another one takes
  longer than many a disk. So does an event loop on a disk that has shown to be quick: what was
  handed over in one turn of it is written after that turn. On any other disk a thread of this
  module writes, and the loop goes on meanwhile.
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
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from ..errors import Refused, UnavailableError
from ..kv import Change, KeyValue

MAX_BATCH_BYTES: Final = 4 << 20
"""One batch is at most about this large, so that nobody waits for the disk for too long."""

PATIENCE_S: Final = 0.002
"""How long the thread waits for an event loop that is busy with something else."""

QUICK_S: Final = 0.002
"""A write that takes no longer than this is quick: an event loop can wait for it."""

QUICK_WRITES: Final = 8
"""So many quick writes in a row, and event loops write by themselves; until one is not quick."""


class Work(Protocol):
    """Changes to write together."""

    changes: list[Change]
    """In order. Once handed over, only who may ``join`` adds to them."""

    size: int
    """About how many bytes there are in them."""

    def settle(self) -> None:
        """They are durable. Called with the committer's lock held, by whoever wrote them."""


class Changes:
    """A ``Work`` that nobody has to be told of."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self.changes = list(changes)
        self.size = sum(len(value or b"") for _, value in self.changes)

    def settle(self) -> None:
        """Nothing to do."""


class _Blocked:
    """A thread that waits, and what it is to raise."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None


class _Group:
    """Works that will be one batch, and who waits for them: tasks of one loop, or threads."""

    __slots__ = ("blocked", "futures", "loop", "size", "works")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.works: list[Work] = []
        self.futures: list[asyncio.Future[None]] = []
        self.blocked: list[_Blocked] = []
        self.size = 0

    def add(self, work: Work) -> None:
        self.works.append(work)
        self.size += work.size

    def changes(self) -> list[Change]:
        if len(self.works) == 1:
            return self.works[0].changes
        return [change for work in self.works for change in work.changes]


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
        self._gathering: _Group | None = None
        self._full: deque[_Group] = deque()
        """Groups before it that take no more."""
        self._writing = False
        self._closing = False
        self._quick = 0
        """How many writes were quick since the last one that was not."""
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run, name="edgistry-writer", daemon=True)
        self._thread.start()

    # --- handing over ---------------------------------------------------------------------------

    def hand_over(self, work: Work) -> asyncio.Future[None]:
        """Write ``work`` soon; done when it is durable. Called with ``lock`` held, in a loop.

        To cancel the future does not take the work back.

        Raises:
            UnavailableError: the committer is closed.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        group = self._gathering
        if group is None or group.loop is not loop or group.size > MAX_BATCH_BYTES:
            group = self._new_group(loop)
        group.add(work)
        group.futures.append(future)
        return future

    def join(self, work: Work, size: int) -> asyncio.Future[None] | None:
        """Let ``work``, handed over in this loop, grow by about ``size`` bytes; ``lock`` is held.

        Done when all of it is durable. ``None`` when it cannot grow: it is being written, or is not
        the last one. Who then has nothing to add cancels the future.
        """
        group = self._gathering
        if group is None or group.works[-1] is not work or group.size > MAX_BATCH_BYTES:
            return None
        loop = group.loop
        if loop is None or loop is not asyncio.get_running_loop():
            return None
        group.size += size
        future: asyncio.Future[None] = loop.create_future()
        group.futures.append(future)
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
            self._check_open()
            work = decide()
            alone = not self._writing and self._gathering is None
            if alone:
                self._writing = True
            else:
                group = self._gathering
                if group is None or group.size > MAX_BATCH_BYTES:
                    group = self._new_group(None)
                group.add(work)
                blocked = _Blocked()
                group.blocked.append(blocked)
        if alone:
            self._write_alone(work)
        else:
            self._wake_up()
            blocked.done.wait()
            if blocked.error is not None:
                raise blocked.error

    def _write_alone(self, work: Work) -> None:
        group = _Group(None)
        group.add(work)
        try:
            error = self._write(group)
        except BaseException:
            # Ctrl-C in the middle of it: the others must neither wait for ever nor trust memory.
            self._fail(UnavailableError("the write was interrupted"))
            raise
        if self._gathering is not None or self._closing:
            self._wake_up()
        if error is not None:
            raise error

    def close(self) -> None:
        """Write everything that waits, then take nothing more. Closing twice is safe."""
        with self.lock:
            self._closing = True
        self._wake_up()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("this program is stopping and takes no more writes")

    def _new_group(self, loop: asyncio.AbstractEventLoop | None) -> _Group:
        self._check_open()
        if self._gathering is not None:
            self._full.append(self._gathering)
        self._gathering = group = _Group(loop)
        if not self._writing:
            if loop is not None and self._quick >= QUICK_WRITES and not self._full:
                loop.call_soon(self._write_in_loop, group)
            else:
                # It begins when this thread waits for something: after the loop's other tasks.
                self._wake_up()
        return group

    def _wake_up(self) -> None:
        if self._wake.locked():
            with contextlib.suppress(RuntimeError):  # another thread has just done it
                self._wake.release()

    # --- writing --------------------------------------------------------------------------------

    def _run(self) -> None:
        patience_s = -1.0
        while True:
            self._wake.acquire(timeout=patience_s)
            group = self._take()
            if group is not None:
                error = self._write(group)
                # Who woke this thread during the write may have company soon.
                self._wake.acquire(blocking=False)
                told = self._answer(group, error)
                patience_s = self._patience_s(told=told)
            elif self._closing and not self._writing:
                return
            else:
                patience_s = -1.0  # whoever writes, or hands something over, wakes this thread

    def _patience_s(self, *, told: bool) -> float:
        if self._full or self._closing:
            return 0.0
        if self._gathering is None:
            return -1.0
        return PATIENCE_S if told else 0.0

    def _take(self) -> _Group | None:
        """What to write now; nothing if somebody else is writing. Others wait from now on."""
        with self.lock:
            if self._writing:
                return None
            if self._full:
                group: _Group | None = self._full.popleft()
            else:
                group, self._gathering = self._gathering, None
            self._writing = group is not None
            return group

    def _write_in_loop(self, group: _Group) -> None:
        """Write ``group`` in the event loop that waits for it, unless somebody else does."""
        with self.lock:
            if self._writing or self._gathering is not group:
                return  # whoever writes, or has taken it, sees to it
            self._gathering = None
            self._writing = True
        try:
            error = self._write(group)
        except BaseException:
            self._fail(UnavailableError("the write was interrupted"))
            self._answer(group, UnavailableError("the write was interrupted"))
            raise
        if self._gathering is not None or self._full or self._closing:
            self._wake_up()
        self._tell_blocked(group, error)
        self._tell_tasks(group, error)

    def _write(self, group: _Group) -> Exception | None:
        """Write the group; what went wrong. Then those who waited behind it are told already."""
        try:
            changes = group.changes()
            if changes:
                began_s = time.perf_counter()
                self._store.write(changes, sync=True)
                is_quick = time.perf_counter() - began_s <= QUICK_S
                self._quick = self._quick + 1 if is_quick else 0
            with self.lock:
                for work in group.works:
                    work.settle()
                self.on_settled(group.works)
                self._writing = False
        except Exception as error:
            # A refusal of the store, or a bug; either way those who wait must hear of it.
            self._fail(error)
            return error
        return None

    def _fail(self, error: Exception) -> None:
        """Nothing that was decided counts."""
        with self.lock:
            groups = [*self._full, self._gathering]
            self._full.clear()
            self._gathering = None
            self.on_failure()
            self._writing = False
        for group in groups:
            if group is not None:
                self._answer(group, error)

    def _answer(self, group: _Group, error: Exception | None) -> bool:
        """Tell those who wait; whether an event loop was told, that may have more to write."""
        self._tell_blocked(group, error)
        if group.loop is None:
            return False
        try:
            group.loop.call_soon_threadsafe(self._resolve, group, error)
        except RuntimeError:
            return False  # the loop is closed: nobody waits in it
        return True

    def _resolve(self, group: _Group, error: Exception | None) -> None:
        """In the loop: wake the tasks, and after their turn the writer."""
        self._tell_tasks(group, error)
        if group.loop is not None:
            group.loop.call_soon(self._wake_up)

    @staticmethod
    def _tell_blocked(group: _Group, error: Exception | None) -> None:
        for blocked in group.blocked:
            blocked.error = error and _copy_of(error)
            blocked.done.set()

    @staticmethod
    def _tell_tasks(group: _Group, error: Exception | None) -> None:
        for future in group.futures:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(_copy_of(error))


def _copy_of(error: Exception) -> Exception:
    """An error for each who waits: raising adds a traceback to it."""
    if isinstance(error, Refused) and type(error).__init__ is Refused.__init__:
        return type(error)(error.detail)
    return error


def _nobody(_works: Sequence[Work]) -> None:
    """Nobody is told."""


def _nothing() -> None:
    """Nothing to put in order."""
