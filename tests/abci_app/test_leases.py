"""Renewing the lease: in time, and never more than once at a time."""

from __future__ import annotations

import asyncio

import pytest

import abci_app.outbox_queue as queue_module
from abci_app.leases import LeaseKeeper
from abci_app.outbox import Outbox
from abci_app.schema import Head
from edgistry.kv import MemoryKeyValue

from .simulated_registry import NODE, SimulatedRegistry


class Bench:
    def __init__(self) -> None:
        self.store = MemoryKeyValue()
        self.chain = SimulatedRegistry()
        self.slept: list[float] = []
        self.restart()

    def restart(self) -> None:
        self.outbox = Outbox(
            self.store,
            chain_id="test",
            node_id=NODE,
            sign=lambda message: bytes(64),
            reader=self.chain,
            sink=self.chain,
        )
        self.leases = LeaseKeeper(reader=self.chain, outbox=self.outbox, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == 5:
            raise asyncio.CancelledError


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_renewals_do_not_pile_up_while_no_block_is_made(bench: Bench) -> None:
    with pytest.raises(asyncio.CancelledError):
        await bench.leases.run()
    assert len(bench.slept) == 5
    assert bench.outbox.pending == 1


async def test_one_who_is_no_member_renews_nothing(bench: Bench) -> None:
    is_member = [False]
    leases = LeaseKeeper(
        reader=bench.chain, outbox=bench.outbox, is_member=lambda: is_member[0], sleep=bench.sleep
    )
    assert not await leases.renew()
    assert bench.outbox.pending == 0
    is_member[0] = True
    assert await leases.renew()


async def test_renewal_that_waits_is_known_after_a_restart(bench: Bench) -> None:
    assert await bench.leases.renew()
    bench.restart()
    assert not await bench.leases.renew()
    assert bench.outbox.pending == 1


async def test_each_renewal_that_got_through_makes_room_for_the_next(bench: Bench) -> None:
    for count in range(1, 4):
        assert await bench.leases.renew()
        await bench.outbox.step()
        bench.chain.commit()
        await bench.outbox.step()
        assert bench.chain.lease_renewals == count


async def test_lease_is_renewed_every_third_of_it(bench: Bench) -> None:
    with pytest.raises(asyncio.CancelledError):
        await bench.leases.run()
    assert bench.slept == [200.0] * 5


async def test_nothing_is_sent_before_the_chain_begins(bench: Bench) -> None:
    head = bench.chain.head
    bench.chain.head = Head(
        height=0, block_time_us=0, app_hash=bytes(32), previous_app_hash=bytes(32)
    )
    running = asyncio.create_task(bench.leases.run())
    await bench.chain.asked_for_commit.wait()
    assert bench.outbox.pending == 0
    bench.chain.head = head
    bench.chain.next_block.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.outbox.pending == 1


async def test_full_outbox_only_postpones_the_renewal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_PENDING_BYTES", 1)
    assert not await bench.leases.renew()
    monkeypatch.undo()
    assert await bench.leases.renew()
