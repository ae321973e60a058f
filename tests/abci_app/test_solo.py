"""The solo engine, end to end over LevelDB."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import abci_app.solo as solo_module
from abci_app.application import RegistryApplication
from abci_app.solo import MAX_WAITING, SoloEngine
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import ChainMismatchError, UnavailableError
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.transactions import MAX_BATCH_RECORDS

from .chain_world import ANN, BOB, CHAIN, LEASE, SECOND, START_US, genesis, key, put

NEVER_S = 3600.0
"""A beat that no test lives to see."""


class Clock:
    """Microseconds that go on only by hand."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us


class Solo:
    """A registry application and the engine that drives it."""

    def __init__(self, store: KeyValue, *, chain_id: str = CHAIN, beat_s: float = NEVER_S) -> None:
        self.clock = Clock()
        self.app = RegistryApplication(store, allowed_peer_ids=lambda _: False)
        self.engine = SoloEngine(
            self.app,
            chain_id=chain_id,
            genesis=genesis(),
            genesis_time_us=START_US,
            clock_us=self.clock,
            beat_s=beat_s,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.engine.start()
        task = asyncio.create_task(self.engine.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def reached(self, sequence: int) -> None:
        """Wait until Ann's ``sequence`` is committed."""
        async with asyncio.timeout(20):
            while self.app.reader.sequence(ANN.id).last < sequence:
                await self.app.reader.next_commit()


async def test_a_fresh_solo_node_begins_its_chain_with_a_first_block() -> None:
    solo = Solo(MemoryKeyValue())
    await solo.engine.start()
    assert solo.app.reader.head.height == 1
    assert solo.app.reader.parameters.chain_id == CHAIN


async def test_a_submitted_transaction_is_committed_without_a_beat() -> None:
    solo = Solo(MemoryKeyValue())
    async with solo.running():
        await solo.engine.submit(ANN.sign(1, put("a")))
        await solo.reached(1)
    assert solo.app.reader.service(key("a")) is not None


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    store = LevelKeyValue(tmp_path / "registry.ldb")
    solo = Solo(store)
    async with solo.running():
        await solo.engine.submit(ANN.sign(1, put(*range(MAX_BATCH_RECORDS))))
        await solo.engine.submit(ANN.sign(2, LEASE))
        await solo.reached(2)
    head = solo.app.reader.head
    store.close()

    store = LevelKeyValue(tmp_path / "registry.ldb")
    again = Solo(store)
    async with again.running():
        assert again.app.reader.head == head
        assert sum(1 for _ in again.app.reader.services()) == MAX_BATCH_RECORDS
        await again.engine.submit(ANN.sign(3, put("more")))
        await again.reached(3)
    assert again.app.reader.head.height == head.height + 1
    store.close()


async def test_block_time_follows_the_clock_and_never_stands_still() -> None:
    solo = Solo(MemoryKeyValue())
    await solo.engine.start()
    solo.clock.now_us += 5 * SECOND
    await solo.engine.make_block()
    assert solo.app.reader.head.block_time_us == START_US + 5 * SECOND
    solo.clock.now_us -= 60 * SECOND
    await solo.engine.make_block()
    assert solo.app.reader.head.block_time_us == START_US + 5 * SECOND + 1


async def test_an_idle_chain_beats_without_changing_the_hash() -> None:
    solo = Solo(MemoryKeyValue(), beat_s=0.01)
    async with solo.running():
        before = solo.app.reader.head
        async with asyncio.timeout(20):
            while solo.app.reader.head.height < before.height + 3:
                await solo.app.reader.next_commit()
    assert solo.app.reader.head.app_hash == before.app_hash


async def test_what_does_not_fit_into_one_block_comes_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solo_module, "MAX_BLOCK_BYTES", 200_000)
    solo = Solo(MemoryKeyValue())
    await solo.engine.start()
    per_batch = MAX_BATCH_RECORDS
    count = 6
    for number in range(count):
        names = range(number * per_batch, (number + 1) * per_batch)
        await solo.engine.submit(ANN.sign(number + 1, put(*names)))
    await solo.engine.make_block()
    reached = solo.app.reader.sequence(ANN.id).last
    assert 0 < reached < count
    await solo.engine.make_block()
    assert solo.app.reader.sequence(ANN.id).last == count


async def test_a_refused_transaction_is_dropped_and_the_next_goes_through() -> None:
    solo = Solo(MemoryKeyValue())
    async with solo.running():
        await solo.engine.submit(b"junk")
        await solo.engine.submit(ANN.sign(5, put("gap")))
        await solo.engine.submit(ANN.sign(1, put("a")))
        await solo.reached(1)
    assert solo.app.reader.service(key("gap")) is None


async def test_too_much_waiting_is_refused_for_now() -> None:
    solo = Solo(MemoryKeyValue())
    await solo.engine.start()
    for number in range(1, MAX_WAITING + 1):
        await solo.engine.submit(BOB.sign(number, LEASE))
    with pytest.raises(UnavailableError):
        await solo.engine.submit(BOB.sign(MAX_WAITING + 1, LEASE))
    await solo.engine.make_block()
    await solo.engine.submit(BOB.sign(MAX_WAITING + 1, LEASE))
    await solo.engine.make_block()
    assert solo.app.reader.sequence(BOB.id).last == MAX_WAITING + 1


async def test_a_registry_of_another_chain_is_refused() -> None:
    store = MemoryKeyValue()
    await Solo(store).engine.start()
    with pytest.raises(ChainMismatchError, match="other-chain"):
        await Solo(store, chain_id="other-chain").engine.start()
