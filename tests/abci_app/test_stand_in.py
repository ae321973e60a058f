"""A fallback node that stands in for a device's primary one: when, and what clients find."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.device_counts import kinds
from abci_app.stand_in import AFTER_US, Standing, begins, ends, heard
from abci_app.stand_in_keeper import StandInKeeper
from edgistry.codec import encode
from edgistry.errors import DiskFullError
from edgistry.kv import MemoryKeyValue
from edgistry.messages import ExchangeUp
from edgistry.pairing import Moved

from .pairing_world import FakeDevice, PairingWorld, open_world

MINUTE_US = 60_000_000
START_US = 1_800_000_000_000_000
LISTED = [("thermometer", "15m"), ("valve", "15m")]


# --- decisions ----------------------------------------------------------------------------------


def after(*said: tuple[int, bool], period_s: int = 60) -> Standing:
    """What is known after exchanges at these minutes; whether the primary was away in them."""
    standing = Standing()
    for minute, is_away in said:
        now_us = START_US + minute * MINUTE_US
        standing = heard(standing, is_home_away=is_away, period_s=period_s, now_us=now_us)
    return standing


@pytest.mark.parametrize(
    ("said", "period_s", "expected"),
    [
        ((), 60, False),
        (((0, True),), 60, False),
        (((0, True), (1, True)), 60, False),
        (((0, True), (1, True), (2, True)), 60, True),
        (((0, True), (60, True)), 3600, True),
        (((0, True), (1, False), (2, True)), 60, False),
        (((0, True), (1, False), (2, True), (4, True)), 60, True),
        (((0, False), (9, False)), 60, False),
        # Eleven minutes of silence: nobody knows what was in between.
        (((0, True), (11, True)), 60, False),
        (((0, True), (11, True), (13, True)), 60, True),
    ],
)
def test_node_stands_in_when_the_primary_was_away_for_two_minutes(
    said: tuple[tuple[int, bool], ...], period_s: int, expected: bool
) -> None:
    assert begins(after(*said, period_s=period_s)) is expected


@pytest.mark.parametrize(
    ("said", "period_s", "minute", "expected"),
    [
        (((0, True), (2, True)), 60, 3, False),
        (((0, True), (2, True)), 60, 12, False),
        (((0, True), (2, True)), 60, 13, True),
        (((0, True), (60, True)), 3600, 239, False),
        (((0, True), (60, True)), 3600, 241, True),
        (((2, True), (3, False)), 60, 4, False),
        (((2, True), (3, False)), 60, 5, True),
        (((2, True), (3, False), (4, False)), 60, 5, True),
        (((2, True), (3, False), (4, True)), 60, 6, False),
    ],
)
def test_node_stands_in_no_longer_when_the_primary_is_back_or_the_device_silent(
    said: tuple[tuple[int, bool], ...], period_s: int, minute: int, expected: bool
) -> None:
    standing, now_us = after(*said, period_s=period_s), START_US + minute * MINUTE_US
    assert ends(standing, period_s=period_s, now_us=now_us) is expected


@given(
    gaps=st.lists(st.tuples(st.integers(1, 700), st.booleans()), max_size=40),
    period_s=st.integers(0, 7200),
)
def test_node_does_not_change_its_mind_more_often_than_every_two_minutes(
    gaps: list[tuple[int, bool]], period_s: int
) -> None:
    standing, now_us, stands_in = Standing(), START_US, False
    changes = [now_us - AFTER_US]
    for seconds, is_away in gaps:
        now_us += seconds * 1_000_000
        standing = heard(standing, is_home_away=is_away, period_s=period_s, now_us=now_us)
        is_over = stands_in and ends(standing, period_s=period_s, now_us=now_us)
        if is_over or (not stands_in and begins(standing)):
            stands_in = not stands_in
            standing = standing if stands_in else Standing()
            assert now_us - changes[-1] >= AFTER_US
            changes.append(now_us)


# --- what clients find --------------------------------------------------------------------------


@dataclass
class Fallback:
    """A fallback node, over what outlives its process."""

    world: PairingWorld
    registry: MemoryKeyValue
    device: FakeDevice = field(default_factory=FakeDevice)
    now_us: int = START_US
    count: int = 0

    @classmethod
    async def open(cls, store: MemoryKeyValue | None = None) -> Fallback:
        registry = MemoryKeyValue()
        made = cls(await open_world(store, registry), registry)
        made.keep()
        await made.world.pair(made.device, role="fallback", period_s=600)
        await made.world.set_up(made.device)
        return made

    def keep(self) -> None:
        setup = self.world.setup
        self.keeper = StandInKeeper(
            self.world.store,
            followers=setup,
            writing=setup._writing,
            clock_us=lambda: self.now_us,
        )

    async def restart(self) -> None:
        world = self.world
        self.world = await open_world(
            world.store, self.registry, queue=world.queue, draw=world.draw
        )
        self.keep()
        await self.keeper.load()
        await self.world.setup.withdraw_orphans()
        await self.world.node.settle()

    async def wake(self, *, is_away: bool, after_minutes: int = 10) -> None:
        """The device polls, and the node does what follows."""
        self.now_us += after_minutes * MINUTE_US
        self.count += 1
        up = ExchangeUp(
            version=1,
            instance=bytes(8),
            counter=self.count,
            want_count=1,
            want_bytes=1000,
            is_home_away=is_away,
        )
        paired = self.world.desk.table.by_device(self.device.id)
        assert paired is not None
        self.keeper.heard(paired, up)
        await self.look()

    async def look(self, *, after_minutes: int = 0) -> None:
        self.now_us += after_minutes * MINUTE_US
        await self.keeper.look()
        await self.world.set_up(self.device)

    async def listed(self) -> list[tuple[str, str]]:
        return await self.world.listed()


async def test_services_are_found_at_the_fallback_while_the_primary_is_away() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    assert (await node.listed(), node.device.done) == ([], []), "once says nothing"
    await node.wake(is_away=True)
    assert await node.listed() == LISTED
    assert {target for _, target, _ in node.device.done} >= {"thermometer/read", "valve/open"}
    await node.wake(is_away=False, after_minutes=1)
    assert await node.listed() == LISTED, "it may go again at once"
    await node.look(after_minutes=2)
    assert await node.listed() == []
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    assert await node.listed() == LISTED


async def test_services_are_not_listed_before_the_device_has_their_woofs() -> None:
    node = await Fallback.open()
    serve, node.world.queue.serve = node.world.queue.serve, lambda *_: None  # type: ignore
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    assert (node.world.stage(node.device), await node.listed()) == ("asked", [])
    node.world.queue.serve = serve  # type: ignore[method-assign]
    await node.look()
    assert await node.listed() == LISTED


@pytest.mark.parametrize("pairs_again", [False, True])
async def test_a_device_that_has_moved_is_listed_where_others_saw_it_last(
    pairs_again: bool,
) -> None:
    """Its primary node would have shown the move with the next epoch; so does this one."""
    node = await Fallback.open()
    world, device = node.world, node.device
    answer = await world.pair(device, role="fallback", period_s=600)
    if pairs_again:
        await world.pair(device, role="fallback", period_s=600, lat=47.0, moves=1)
        await world.set_up(device)
    else:
        moved = encode(Moved(what="edgistry move 1", lat=47.0, lon=8.0, cell=0, moves=1))
        await world.desk.move(world.leave(answer, payload=moved))
    for _ in range(2):
        await node.wake(is_away=True)
        await node.wake(is_away=True)
        assert await node.listed() == LISTED
        await node.wake(is_away=False)
        await node.look(after_minutes=2)
        assert await node.listed() == []
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    assert await world.node.service.registrar.place_moved() == 2
    await world.node.settle()
    assert await node.listed() == []
    found = await world.node.near(47.0, 8.0)
    assert sorted(each.type for each in found.services) == ["thermometer", "valve"]


async def test_services_of_a_device_that_falls_silent_are_withdrawn() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    await node.look(after_minutes=29)
    assert await node.listed() == LISTED
    await node.look(after_minutes=2)
    assert await node.listed() == []


async def test_primary_node_never_stands_in_nor_withdraws() -> None:
    node = await Fallback.open()
    await node.world.pair(node.device)
    await node.world.set_up(node.device)
    for is_away in (True, True, False):
        await node.wake(is_away=is_away)
    await node.look(after_minutes=200)
    assert await node.listed() == LISTED


async def test_node_that_stands_in_goes_on_after_a_restart() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    await node.restart()
    await node.look(after_minutes=29)
    assert await node.listed() == LISTED
    await node.look(after_minutes=2)
    assert await node.listed() == []


async def test_what_a_node_was_killed_before_withdrawing_is_withdrawn_at_its_next_start() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    paired = node.world.desk.table.by_device(node.device.id)
    assert paired is not None
    assert await node.keeper._store_changes(paired, stands_in=False, stage="ready", requests=())
    assert await node.listed() == LISTED
    await node.restart()
    assert await node.listed() == []


async def test_full_disk_keeps_a_node_from_standing_in_and_does_not_stop_it() -> None:
    node = await Fallback.open()

    def refuse(_changes: object, *, sync: bool) -> None:
        raise DiskFullError("no space")

    for is_away, before, after in ((True, [], LISTED), (False, LISTED, [])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node.world.store, "write", refuse)
            await node.wake(is_away=is_away)
            await node.wake(is_away=is_away)
            assert await node.listed() == before
        await node.look()
        assert await node.listed() == after


async def test_others_go_on_while_a_node_looks_at_thousands() -> None:
    node = await Fallback.open()
    for number in range(1000):
        node.keeper._standings[f"device {number}"] = Standing(away_us=START_US)
    looking, turns = asyncio.create_task(node.keeper.look()), 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 1000
    assert node.keeper._standings == {}, "none of them is paired"


async def test_device_that_tells_something_new_stays_listed_while_it_is_stood_in_for() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    thermometer = node.device.offer().services[0]
    await node.world.pair(node.device, role="fallback", period_s=600, services=(thermometer,))
    await node.world.node.settle()
    assert await node.listed() == [("thermometer", "15m")], "what it still offers never went"
    await node.look()
    assert await node.listed() == [("thermometer", "15m")]
    await node.wake(is_away=False)
    await node.look(after_minutes=2)
    assert await node.listed() == []


async def test_revoked_device_is_not_stood_in_for() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    await node.world.desk.revoke(node.device.id)
    await node.world.node.settle()
    await node.look()
    assert (await node.listed(), node.keeper._standings) == ([], {})


async def test_record_leads_to_the_device_only_while_the_node_stands_in() -> None:
    node = await Fallback.open()
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    table = node.world.desk.table
    keys = [row.key for row in node.world.setup._rows.scan()]
    assert [table.by_record(key) is not None for key in keys] == [True, True]
    await node.wake(is_away=False)
    await node.look(after_minutes=2)
    assert [table.by_record(key) for key in keys] == [None, None]


async def test_devices_that_are_stood_in_for_are_counted_as_such() -> None:
    node = await Fallback.open()
    counts = node.world.setup.counts

    def counted() -> dict[tuple[str, str], int]:
        return {kind: counts.count(kind) for kind in kinds() if counts.count(kind)}

    assert counted() == {("15m", "fallback"): 1}
    await node.wake(is_away=True)
    await node.wake(is_away=True)
    assert counted() == {("15m", "standing-in"): 1}
    await node.wake(is_away=False)
    await node.look(after_minutes=2)
    assert counted() == {("15m", "fallback"): 1}


async def test_device_at_two_nodes_is_listed_at_both_for_minutes_only() -> None:
    """The primary node lists it all the time: it cannot know that the device does not reach it."""
    away = await Fallback.open()
    both = 0
    for minute in range(120):
        is_down = 30 <= minute < 60
        # The device polls every minute; its fallback only while it has to.
        told = is_down or minute == 60
        if told:
            await away.wake(is_away=is_down, after_minutes=1)
        else:
            await away.look(after_minutes=1)
        both += not is_down and await away.listed() == LISTED
        if 33 <= minute < 60:
            assert await away.listed() == LISTED
    assert both <= 3
    assert await away.listed() == []
