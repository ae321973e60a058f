"""Work in threads: whoever waits for it goes on when it has ended, and not before."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import StorageError

LIMIT_S = 20.0


class Slow:
    """Work that is going on until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.ended = False

    def work(self, answer: int = 7) -> int:
        self.begun.set()
        assert self.go.wait(LIMIT_S)
        self.ended = True
        if not answer:
            raise StorageError("no answer")
        return answer


async def test_what_work_returns_or_raises_comes_back() -> None:
    slow = Slow()
    slow.go.set()
    assert await in_thread(slow.work) == 7
    with pytest.raises(StorageError):
        await in_thread(slow.work, answer=0)


async def test_cancelled_twice_it_ends_after_the_work_and_is_cancelled() -> None:
    slow = Slow()
    waiting = asyncio.create_task(in_thread(slow.work))
    await asyncio.to_thread(slow.begun.wait, LIMIT_S)
    for _ in range(2):
        waiting.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    assert not waiting.done()
    slow.go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(waiting), LIMIT_S)
    assert slow.ended


async def test_failure_of_work_that_nobody_waits_for_any_more_is_not_complained_of() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
    slow = Slow()
    waiting = asyncio.create_task(in_thread(slow.work, 0))
    await asyncio.sleep(0)
    waiting.cancel()
    slow.go.set()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    del waiting
    gc.collect()
    assert complaints == []


async def test_time_that_is_up_while_work_goes_on_is_told_when_it_has_ended() -> None:
    slow = Slow()

    async def hurried() -> None:
        async with asyncio.timeout(0.01):
            await in_thread(slow.work)

    asyncio.get_running_loop().call_later(0.05, slow.go.set)
    with pytest.raises(TimeoutError):
        await hurried()
    assert slow.ended


async def test_store_can_be_closed_after_a_cancelled_write(tmp_path: Path) -> None:
    store = LevelKeyValue(tmp_path / "db")
    changes = [(b"%d" % number, bytes(1000)) for number in range(3000)]
    writing = asyncio.create_task(in_thread(store.write, changes, sync=True))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    store.close()  # under a write it would end the process
    again = LevelKeyValue(tmp_path / "db")
    assert len(list(again.scan(b"", None))) == len(changes)
    again.close()
