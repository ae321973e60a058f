"""Group commit: one thread writes, and whoever waits while it does shares the next sync."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from edgistry.adapters import group_commit
from edgistry.adapters.group_commit import QUICK_S, Changes, GroupCommitter
from edgistry.errors import DiskFullError, UnavailableError
from edgistry.kv import Change, MemoryKeyValue

from .woof_tools import FailingKeyValue

LIMIT_S = 20


class SlowKeyValue(MemoryKeyValue):
    """Each write waits until the test lets it go on; it remembers the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Change]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        assert sync
        batch = list(changes)
        self.started.release()
        assert self.gate.acquire(timeout=LIMIT_S)
        self.batches.append(batch)
        super().write(batch, sync=sync)


@pytest.fixture
def slow() -> Iterator[tuple[SlowKeyValue, GroupCommitter]]:
    store = SlowKeyValue()
    committer = GroupCommitter(store)
    yield store, committer
    for _ in range(100):
        store.gate.release()
    committer.close()


def change(number: int) -> list[Change]:
    return [(b"%04d" % number, b"value")]


async def started(store: SlowKeyValue) -> None:
    assert await asyncio.to_thread(store.started.acquire, timeout=LIMIT_S)


async def test_commit_returns_when_its_changes_are_written(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    waiting = asyncio.create_task(committer.commit(change(1)))
    await started(store)
    assert not waiting.done()
    assert store.get(b"0001") is None
    store.gate.release()
    await waiting
    assert store.get(b"0001") == b"value"


async def test_what_comes_while_a_write_is_running_shares_the_next_one(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    first = asyncio.create_task(committer.commit(change(0)))
    await started(store)
    others = [asyncio.create_task(committer.commit(change(number))) for number in range(1, 20)]
    await asyncio.sleep(0)
    store.gate.release(2)
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in store.batches] == [1, 19]


async def test_writers_that_go_on_at_once_stay_together(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow

    async def writer(number: int) -> None:
        for _ in range(5):
            await committer.commit(change(number))

    tasks = [asyncio.create_task(writer(number)) for number in range(16)]
    store.gate.release(80)
    await asyncio.gather(*tasks)
    # Alone each would be a batch. A busy machine may split some: the patience is short.
    assert len(store.batches) <= 20


async def test_changes_are_written_in_the_order_they_were_handed_over() -> None:
    store = MemoryKeyValue()
    committer = GroupCommitter(store)
    await asyncio.gather(*(committer.commit([(b"key", b"%d" % number)]) for number in range(100)))
    assert store.get(b"key") == b"99"
    committer.close()


async def test_a_failed_write_fails_everything_that_waits_and_nothing_after_it() -> None:
    store = FailingKeyValue()
    committer = GroupCommitter(store)
    calls = []
    committer.on_failure = lambda: calls.append(committer.lock.locked())
    store.failures = 1
    outcomes = await asyncio.gather(
        *(committer.commit(change(number)) for number in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [DiskFullError] * 5
    assert len({id(outcome) for outcome in outcomes}) == 5
    assert calls == [True]
    assert list(store.scan(b"", None)) == []
    await committer.commit(change(7))
    assert store.get(b"0007") == b"value"
    committer.close()


async def test_what_waits_behind_a_write_that_fails_was_decided_on_it_and_fails_too(
    slow: tuple[SlowKeyValue, GroupCommitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, committer = slow

    def fail(self: MemoryKeyValue, changes: Iterable[Change], *, sync: bool) -> None:
        raise DiskFullError("no space in the test")

    monkeypatch.setattr(MemoryKeyValue, "write", fail)
    first = asyncio.create_task(committer.commit(change(0)))
    await started(store)
    second = asyncio.create_task(committer.commit(change(1)))
    await asyncio.sleep(0)
    store.gate.release()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DiskFullError] * 2
    assert len(store.batches) == 1


async def test_a_bug_in_a_work_reaches_who_waits_and_does_not_stop_the_writer() -> None:
    store = MemoryKeyValue()
    committer = GroupCommitter(store)

    class Broken(Changes):
        def settle(self) -> None:
            raise ZeroDivisionError

    with committer.lock:
        future = committer.hand_over(Broken(change(1)))
    with pytest.raises(ZeroDivisionError):
        await future
    await committer.commit(change(2))
    committer.close()


async def test_cancelling_who_waits_does_not_disturb_the_others(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    tasks = [asyncio.create_task(committer.commit(change(number))) for number in range(3)]
    await started(store)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    store.gate.release()
    await asyncio.gather(tasks[0], tasks[2])
    assert tasks[1].cancelled()
    assert store.get(b"0001") == b"value"  # it was on its way


async def test_closing_writes_what_waits_and_then_refuses(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    tasks = [asyncio.create_task(committer.commit(change(number))) for number in range(3)]
    await started(store)
    tasks.append(asyncio.create_task(committer.commit(change(3))))
    await asyncio.sleep(0)
    store.gate.release(2)
    await asyncio.to_thread(committer.close)
    await asyncio.gather(*tasks)
    assert len(list(store.scan(b"", None))) == 4
    with pytest.raises(UnavailableError):
        await committer.commit(change(9))
    with pytest.raises(UnavailableError):
        committer.commit_blocking(lambda: Changes(change(9)))
    committer.close()


def test_threads_without_an_event_loop_share_syncs_too(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    threads = [
        threading.Thread(
            target=committer.commit_blocking, args=(lambda number=number: Changes(change(number)),)
        )
        for number in range(8)
    ]
    threads[0].start()
    assert store.started.acquire(timeout=LIMIT_S)
    for thread in threads[1:]:
        thread.start()
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s and (
        committer._gathering is None or len(committer._gathering.works) < 7
    ):
        time.sleep(0.001)
    store.gate.release(2)
    for thread in threads:
        thread.join(LIMIT_S)
    assert [len(batch) for batch in store.batches] == [1, 7]


def test_a_thread_writes_by_itself_when_nobody_else_is_writing() -> None:
    writers = []

    class Watching(MemoryKeyValue):
        def write(self, changes: Iterable[Change], *, sync: bool) -> None:
            writers.append(threading.current_thread())
            super().write(changes, sync=sync)

    committer = GroupCommitter(Watching())
    committer.commit_blocking(lambda: Changes(change(1)))
    assert writers == [threading.current_thread()]
    committer.close()


async def test_works_of_a_loop_that_come_while_a_thread_writes_are_written_after_it(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    thread = asyncio.create_task(
        asyncio.to_thread(committer.commit_blocking, lambda: Changes(change(0)))
    )
    await started(store)
    others = [asyncio.create_task(committer.commit(change(number))) for number in range(1, 4)]
    await asyncio.sleep(0.01)
    store.gate.release(2)
    await asyncio.gather(thread, *others)
    assert [len(batch) for batch in store.batches] == [1, 3]


def test_a_write_that_is_interrupted_leaves_nobody_waiting_for_ever() -> None:
    class Interrupted(MemoryKeyValue):
        def write(self, changes: Iterable[Change], *, sync: bool) -> None:
            if not self.get(b"once"):
                super().write([(b"once", b"x")], sync=sync)
                raise KeyboardInterrupt
            super().write(changes, sync=sync)

    store = Interrupted()
    committer = GroupCommitter(store)
    failures = []
    committer.on_failure = lambda: failures.append(1)
    with pytest.raises(KeyboardInterrupt):
        committer.commit_blocking(lambda: Changes(change(1)))
    assert failures == [1]
    committer.commit_blocking(lambda: Changes(change(2)))
    assert store.get(b"0002") == b"value"
    committer.close()


def test_a_thread_is_told_of_a_failure_and_of_a_refused_decision() -> None:
    store = FailingKeyValue()
    committer = GroupCommitter(store)
    store.failures = 1
    with pytest.raises(DiskFullError):
        committer.commit_blocking(lambda: Changes(change(1)))

    def refuse() -> Changes:
        raise UnavailableError("not now")

    with pytest.raises(UnavailableError, match="not now"):
        committer.commit_blocking(refuse)
    committer.commit_blocking(lambda: Changes(change(2)))
    assert store.get(b"0002") == b"value"
    committer.close()


def test_a_loop_that_ended_early_holds_up_no_later_one() -> None:
    store = MemoryKeyValue()
    committer = GroupCommitter(store)

    async def hand_over_and_leave() -> None:
        with committer.lock:
            committer.hand_over(Changes(change(1)))

    asyncio.run(hand_over_and_leave())
    asyncio.run(asyncio.wait_for(committer.commit(change(2)), LIMIT_S))
    assert store.get(b"0001") == store.get(b"0002") == b"value"
    committer.close()


async def test_work_grows_only_while_it_is_the_last_that_waits_in_its_loop(
    slow: tuple[SlowKeyValue, GroupCommitter],
) -> None:
    store, committer = slow
    works = [Changes(change(number)) for number in range(2)]
    waiting = []
    with committer.lock:
        assert committer.join(works[0], 1) is None
        waiting.append(committer.hand_over(works[0]))
        joined = committer.join(works[0], 1)
        assert joined is not None
        works[0].changes += change(7)
        elsewhere: list[object] = []
        thread = threading.Thread(
            target=lambda: elsewhere.append(asyncio.run(_join(committer, works[0])))
        )
        thread.start()
        thread.join()
        assert elsewhere == [None]
        waiting.append(committer.hand_over(works[1]))
        assert committer.join(works[0], 1) is None
    await started(store)
    with committer.lock:
        assert committer.join(works[1], 1) is None
    store.gate.release()
    await asyncio.gather(*waiting, joined)
    assert store.batches == [change(0) + change(7) + change(1)]


async def _join(committer: GroupCommitter, work: Changes) -> object:
    return committer.join(work, 1)


async def test_what_joined_fails_with_the_write(
    slow: tuple[SlowKeyValue, GroupCommitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: MemoryKeyValue, changes: Iterable[Change], *, sync: bool) -> None:
        raise DiskFullError("no space in the test")

    monkeypatch.setattr(MemoryKeyValue, "write", fail)
    store, committer = slow
    work = Changes(change(0))
    with committer.lock:
        handed_over = committer.hand_over(work)
        joined = committer.join(work, 1)
        given_up = committer.join(work, 1)
    assert joined is not None
    assert given_up is not None
    given_up.cancel()
    store.gate.release()
    outcomes = await asyncio.gather(handed_over, joined, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DiskFullError] * 2


async def test_a_large_amount_is_split_into_several_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgistry.adapters.group_commit.MAX_BATCH_BYTES", 100)
    store = FailingKeyValue()
    committer = GroupCommitter(store)
    await asyncio.gather(*(committer.commit([(b"%d" % number, bytes(60))]) for number in range(10)))
    assert store.writes >= 5
    assert len(list(store.scan(b"", None))) == 10
    committer.close()


# --- quick disks --------------------------------------------------------------------------------


class Timed(MemoryKeyValue):
    """Remembers who wrote, and takes as long as the test says, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[threading.Thread] = []
        self.batches: list[int] = []
        self.takes_s = 0.0
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        batch = list(changes)
        self.writers.append(threading.current_thread())
        self.batches.append(len(batch))
        self.now_s += self.takes_s
        super().write(batch, sync=sync)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Timed, GroupCommitter]]:
    """However long this machine lets a write wait for its turn."""
    store = Timed()
    monkeypatch.setattr(group_commit, "time", store)
    committer = GroupCommitter(store)
    yield store, committer
    committer.close()


async def trusted(store: Timed, committer: GroupCommitter) -> None:
    """``store`` has shown to be quick."""
    async with asyncio.timeout(LIMIT_S):
        while not store.writers or store.writers[-1] is not threading.current_thread():
            await committer.commit(change(0))
    store.writers.clear()
    store.batches.clear()


async def test_loop_writes_by_itself_where_the_disk_is_quick(
    timed: tuple[Timed, GroupCommitter],
) -> None:
    store, committer = timed
    await committer.commit(change(0))
    assert store.writers[0] is not threading.current_thread(), "nothing is known of the disk yet"
    await trusted(store, committer)
    await asyncio.gather(*(committer.commit(change(number)) for number in range(10)))
    assert store.batches == [10], "what is handed over in one turn shares one sync"
    assert store.writers == [threading.current_thread()]


async def test_disk_that_is_slow_once_does_not_hold_up_the_loop_again(
    timed: tuple[Timed, GroupCommitter],
) -> None:
    store, committer = timed
    await trusted(store, committer)
    store.takes_s = QUICK_S * 2
    for number in range(3):
        await committer.commit(change(number))
    loop, *others = store.writers
    assert loop is threading.current_thread()
    assert threading.current_thread() not in others
    store.takes_s = 0.0
    await trusted(store, committer)


async def test_failure_of_a_write_in_the_loop_is_told_as_any_other(
    timed: tuple[Timed, GroupCommitter],
) -> None:
    store, committer = timed
    calls = []
    committer.on_failure = lambda: calls.append(committer.lock.locked())
    await trusted(store, committer)

    def fail(changes: Iterable[Change], *, sync: bool) -> None:
        raise DiskFullError("no space in the test")

    right, store.write = store.write, fail  # type: ignore[method-assign]
    outcomes = await asyncio.gather(
        *(committer.commit(change(number)) for number in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [DiskFullError] * 5
    assert calls == [True]
    store.write = right  # type: ignore[method-assign]
    await committer.commit(change(7))
    assert store.get(b"0007") == b"value"


async def test_threads_and_a_loop_that_writes_by_itself_wait_for_each_other(
    timed: tuple[Timed, GroupCommitter],
) -> None:
    store, committer = timed
    await trusted(store, committer)

    def thread(number: int) -> None:
        for count in range(50):
            changes = [(b"%d %d" % (number, count), b"")]
            committer.commit_blocking(functools.partial(Changes, changes))

    async def task(number: int) -> None:
        for count in range(50):
            await committer.commit([(b"%d %d" % (number, count), b"")])

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            *(asyncio.to_thread(thread, number) for number in range(4)),
            *(task(number) for number in range(4, 8)),
        )
    assert sum(store.batches) == 8 * 50


async def test_closing_writes_what_a_loop_was_about_to_write(
    timed: tuple[Timed, GroupCommitter],
) -> None:
    store, committer = timed
    await trusted(store, committer)
    with committer.lock:
        future = committer.hand_over(Changes(change(1)))
    await asyncio.to_thread(committer.close)
    await future
    assert store.get(b"0001") == b"value"


def test_loop_that_ended_before_it_wrote_holds_up_no_later_one(
    timed: tuple[Timed, GroupCommitter],
) -> None:
    store, committer = timed

    async def hand_over_and_leave() -> None:
        await trusted(store, committer)
        with committer.lock:
            committer.hand_over(Changes(change(1)))
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    with contextlib.suppress(RuntimeError):  # stopped before the future was done
        loop.run_until_complete(hand_over_and_leave())
    loop.close()
    asyncio.run(asyncio.wait_for(committer.commit(change(2)), LIMIT_S))
    assert store.get(b"0001") == store.get(b"0002") == b"value"
