"""A node that is killed at any write: a device pairs, is set up, leaves, or is stood in for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest

from edgistry.kv import Change, MemoryKeyValue
from edgistry.pairing import PairingCode, PairingRequest

from .pairing_world import Draw, FakeDevice, FakeQueue, PairingWorld, open_world
from .test_stand_in import LISTED, Fallback

MOST_WRITES = 8
"""That a life without a crash makes, all steps included."""


class KilledError(Exception):
    """The process is gone."""


class MortalStore(MemoryKeyValue):
    """A store whose process is killed at its ``left``-th write, before or after it."""

    def __init__(self, left: int, *, is_written: bool) -> None:
        super().__init__()
        self.left = left
        self.is_written = is_written

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        self.left -= 1
        if self.left == 0 and not self.is_written:
            raise KilledError
        super().write(changes, sync=sync)
        if self.left == 0:
            raise KilledError


class Life:
    """A device, and what outlives its node's process."""

    def __init__(self, left: int, *, is_written: bool) -> None:
        self.store = MortalStore(left, is_written=is_written)
        self.registry = MemoryKeyValue()
        self.queue = FakeQueue()
        self.draw = Draw()
        self.device = FakeDevice()
        self.code: PairingCode | None = None

    async def start(self) -> PairingWorld:
        return await open_world(self.store, self.registry, queue=self.queue, draw=self.draw)

    async def become_ready(self, world: PairingWorld) -> None:
        """Pair, with the code that the device has if it has one, and be set up."""
        if self.code is None:
            self.code, _ = await world.desk.new_code(ttl_s=3600)
        request = PairingRequest(secret=self.code.secret, offer=self.device.offer())
        await world.desk.pair(request)
        for _ in range(10):
            await world.setup.step(self.device.id)
            self.queue.serve(self.device, world.now_us)
        await world.node.settle()


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("left", range(1, MOST_WRITES + 1))
async def test_pairing_goes_on_after_a_kill_and_lists_each_service_once(
    left: int, is_written: bool
) -> None:
    life = Life(left, is_written=is_written)
    try:
        await life.become_ready(await life.start())
    except KilledError:
        world = await life.start()
        await life.become_ready(world)
    world = await life.start()
    assert world.stage(life.device) == "ready"
    assert await world.listed() == [("thermometer", "15m"), ("valve", "15m")]
    assert len(list(world.desk.table.scan())) == 1
    assert len(list(world.setup._rows.scan())) == 2


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("left", range(1, 6))
async def test_a_device_that_is_revoked_stays_so_or_can_be_revoked_again(
    left: int, is_written: bool
) -> None:
    life = Life(0, is_written=is_written)
    world = await life.start()
    await life.become_ready(world)
    life.store.left = left
    try:
        await world.desk.revoke(life.device.id)
        await world.node.settle()
    except KilledError:
        world = await life.start()
        if world.desk.table.by_device(life.device.id) is not None:
            await world.desk.revoke(life.device.id)
    life.store.left = 0
    await world.setup.withdraw_orphans()
    await world.node.settle()
    assert (world.stage(life.device), await world.listed()) == (None, [])
    assert set(life.queue.forgotten) == {life.device.id}


MOST_WRITES_STANDING_IN = 12


async def stand_in_and_end(node: Fallback) -> None:
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    assert await node.listed() == LISTED
    await node.wake(is_away=False)
    await node.look(after_minutes=2)


async def test_every_write_of_standing_in_is_among_those_at_which_the_node_is_killed() -> None:
    store = MortalStore(0, is_written=True)
    node = await Fallback.open(store)
    before = store.left
    await stand_in_and_end(node)
    assert 4 <= before - store.left <= MOST_WRITES_STANDING_IN


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("left", range(1, MOST_WRITES_STANDING_IN + 1))
async def test_fallback_node_lists_while_it_stands_in_and_not_after_whenever_it_is_killed(
    left: int, is_written: bool
) -> None:
    store = MortalStore(0, is_written=is_written)
    node = await Fallback.open(store)
    store.left = left
    with contextlib.suppress(KilledError):
        await stand_in_and_end(node)
    store.left = 0
    await node.restart()
    await node.wake(is_away=True, after_minutes=3)
    await node.wake(is_away=True, after_minutes=3)
    assert await node.listed() == LISTED
    await node.wake(is_away=False, after_minutes=3)
    await node.look(after_minutes=2)
    assert await node.listed() == []
