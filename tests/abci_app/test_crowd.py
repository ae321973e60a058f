"""Services that are shown only in a crowd: where, since when, and to everybody alike."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app import abci_pb2 as pb
from abci_app.crowd import CrowdCount, pack_places, place_in, places_key, unpack_places
from abci_app.discover_service import Discoverer
from abci_app.discovery import ServiceIndex
from abci_app.profiles import Listed
from abci_app.schema import StoredService, stored_service
from abci_app.shown import MAX_AT_ONCE
from abci_app.turns import TURN_US
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.api import CellArea, DiscoverQuery
from edgistry.cell import cell_text, children_of, parent_of, parse_cell, resolution_of
from edgistry.codec import replace
from edgistry.errors import CorruptDatabaseError
from edgistry.kv import MemoryKeyValue
from edgistry.transactions import (
    Body,
    EpochKey,
    MemberKey,
    RecordKey,
    ServiceRecord,
    ServicesPut,
    ServicesWithdraw,
)
from tests.handle_world import client, epoch_keys

from .chain_world import ANN, BOB, CELL, SECOND, World, genesis, key, record, started

FIVE = parse_cell("85283473fffffff")
SIXES = children_of(FIVE)
SEVENS = [cell for six in SIXES[:3] for cell in children_of(six)]


def stored(record_: ServiceRecord) -> StoredService:
    return stored_service(ANN.id, record_)


def counted(services: dict[bytes, StoredService]) -> dict[bytes, int]:
    count = CrowdCount()
    for name, service in services.items():
        count.add(name, service)
    for _ in count.settle():
        pass
    return count.places


def naive(services: dict[bytes, StoredService]) -> dict[bytes, int]:
    """The rule, word for word."""
    places: dict[bytes, int] = {}
    for name, service in services.items():
        if service.crowd == 1:
            continue
        for level in range(resolution_of(service.cell), 4, -1):
            around = parent_of(service.cell, level)
            owners = {
                other.owner
                for other in services.values()
                if other.type == service.type
                and resolution_of(other.cell) >= level
                and parent_of(other.cell, level) == around
            }
            if len(owners) >= service.crowd:
                places[name] = around
                break
    return places


services_strategy = st.dictionaries(
    st.binary(min_size=16, max_size=16),
    st.builds(
        lambda cell, type_name, owner, crowd: stored(
            record("x", cell=cell, type_name=type_name, owner=owner, crowd=crowd)
        ),
        st.sampled_from([FIVE, *SIXES, *SEVENS]),
        st.sampled_from(["valve", "thermometer"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(1, 5),
    ),
    max_size=30,
)


@given(services_strategy)
def test_crowds_are_counted_as_the_rule_says(services: dict[bytes, StoredService]) -> None:
    assert counted(services) == naive(services)


def test_one_owner_of_many_services_is_no_crowd() -> None:
    services = {
        bytes([number]) * 16: stored(record(number, cell=SEVENS[0], crowd=2))
        for number in range(50)
    }
    assert counted(services) == {}


def test_a_service_is_shown_under_the_first_cell_that_has_the_crowd() -> None:
    services = {
        b"a" * 16: stored(record("a", cell=SEVENS[0], owner="a", crowd=3)),
        b"b" * 16: stored(record("b", cell=SEVENS[0], owner="b", crowd=2)),
        b"c" * 16: stored(record("c", cell=SEVENS[1], owner="c", crowd=4)),
        b"d" * 16: stored(record("d", cell=SIXES[2], owner="d")),
        b"e" * 16: stored(record("e", cell=SIXES[2], owner="e", crowd=5)),
        b"f" * 16: stored(record("f", cell=FIVE, owner="f", crowd=7)),
    }
    assert counted(services) == {
        b"a" * 16: SIXES[0],
        b"b" * 16: SEVENS[0],
        b"c" * 16: FIVE,
        b"e" * 16: FIVE,
    }


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.integers(0, (1 << 63) - 1)))
def test_places_are_read_back(places: dict[bytes, int]) -> None:
    data = pack_places(sorted(places.items()))
    assert unpack_places(data) == places
    assert all(place_in(data, name) == cell for name, cell in places.items())
    assert place_in(data, b"no such record!!") == places.get(b"no such record!!")


# --- over blocks --------------------------------------------------------------------------------


HOUR_AND_TURN = 3600 * SECOND + TURN_US
"""After that any of two members may begin the next epoch."""


class CrowdWorld:
    """A chain with epochs, and an index that follows it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.index = ServiceIndex()
        self.index.rebuild(world.app.reader.listed())
        world.app.reader.subscribe(lambda _, changes: self.index.apply(changes))
        self._epoch = world.app.reader.epoch

    async def put(self, *records: ServiceRecord) -> None:
        assert await self.world.do(ANN, ServicesPut(records=records)) == 0

    async def begin_epoch(self, *, beside: Body | None = None) -> None:
        self._epoch += 1
        asks = MemberKey(epoch=self._epoch, public=bytes(32))
        assert await self.world.do(ANN, asks) == 0
        begins = EpochKey(epoch=self._epoch, check=bytes(16), sealed=((ANN.id, bytes(80)),))
        transactions = [self.world.next(ANN, begins)]
        if beside is not None:
            transactions.append(self.world.next(ANN, beside))
        assert not any(await self.world.block(*transactions, after_us=HOUR_AND_TURN))

    def shown(self) -> dict[RecordKey, int]:
        """Record keys to cells, and what the index has is what a new one would have."""
        listed = dict(self.world.app.reader.listed())
        assert indexed(self.index) == listed
        return {name: found.cell for name, found in listed.items()}


def indexed(index: ServiceIndex) -> dict[bytes, Listed]:
    return {
        row[8:24]: Listed(int.from_bytes(row[:8], "big"), index._profiles[row[24:]])
        for chunk in index._all._chunks
        for row in chunk
    }


@pytest.fixture
def crowd() -> CrowdWorld:
    return CrowdWorld(started(MemoryKeyValue(), genesis(epoch_s=3600)))


async def test_without_a_wish_for_a_crowd_a_service_is_shown_at_once(crowd: CrowdWorld) -> None:
    await crowd.put(record("a"))
    assert crowd.shown() == {key("a"): CELL}
    await crowd.begin_epoch()
    assert crowd.shown() == {key("a"): CELL}


async def test_a_new_service_that_wants_a_crowd_waits_for_the_next_epoch(crowd: CrowdWorld) -> None:
    await crowd.begin_epoch()
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b"))
    assert crowd.shown() == {key("b"): CELL}
    await crowd.begin_epoch()
    assert crowd.shown() == {key("a"): CELL, key("b"): CELL}


async def test_what_came_in_the_block_of_the_epoch_is_counted(crowd: CrowdWorld) -> None:
    await crowd.put(record("a", owner="a", crowd=2))
    late = ServicesPut(records=(record("b", owner="b", crowd=2),))
    await crowd.begin_epoch(beside=late)
    assert crowd.shown() == {key("a"): CELL, key("b"): CELL}
    await crowd.begin_epoch(beside=ServicesWithdraw(keys=(key("b"),)))
    assert crowd.shown() == {}


async def test_an_epoch_tells_nothing_of_those_who_stay_in_their_crowd(crowd: CrowdWorld) -> None:
    names = [f"{number}" for number in range(5)]
    await crowd.put(*(record(name, owner=name, crowd=2) for name in names))
    await crowd.begin_epoch()
    heard: list[RecordKey] = []
    crowd.world.app.reader.subscribe(lambda _, changes: heard.extend(each.key for each in changes))
    await crowd.begin_epoch()
    assert heard == []
    assert set(crowd.shown()) == set(map(key, names))


async def test_a_crowd_that_leaves_is_missed_in_the_next_epoch_only(crowd: CrowdWorld) -> None:
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b"))
    await crowd.begin_epoch()
    assert await crowd.world.do(ANN, ServicesWithdraw(keys=(key("b"),))) == 0
    assert crowd.shown() == {key("a"): CELL}
    await crowd.begin_epoch()
    assert crowd.shown() == {}


@pytest.mark.parametrize(
    "changed",
    [
        record("a", owner="c", crowd=2),
        record("a", owner="a", crowd=3),
        record("a", owner="a", crowd=2, type_name="valve"),
        record("a", owner="a", crowd=2, cell=parent_of(CELL, 6)),
    ],
    ids=["owner", "crowd", "type", "resolution"],
)
async def test_a_change_of_what_is_counted_hides_a_service_until_the_next_epoch(
    crowd: CrowdWorld, changed: ServiceRecord
) -> None:
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b"))
    await crowd.begin_epoch()
    await crowd.put(changed)
    assert crowd.shown() == {key("b"): CELL}


async def test_any_other_change_is_shown_at_once(crowd: CrowdWorld) -> None:
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b"))
    await crowd.begin_epoch()
    one = record("a", owner="a", crowd=2)
    await crowd.put(replace(one, wake=3))
    assert crowd.shown() == {key("a"): CELL, key("b"): CELL}
    assert dict(crowd.world.app.reader.listed())[key("a")].profile.wake == 3


async def test_a_service_that_gives_up_its_wish_is_shown_at_once(crowd: CrowdWorld) -> None:
    await crowd.put(record("a", owner="a", crowd=9))
    await crowd.begin_epoch()
    assert crowd.shown() == {}
    await crowd.put(record("a", owner="a"))
    assert crowd.shown() == {key("a"): CELL}
    await crowd.put(record("a", owner="a", crowd=9))
    assert crowd.shown() == {}


async def test_places_are_outside_the_app_hash_and_in_the_same_write(crowd: CrowdWorld) -> None:
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b"))
    await crowd.begin_epoch()
    world = crowd.world
    again = World(world.app._ledger._store)
    assert again.app.reader.head == world.app.reader.head
    assert dict(again.app.reader.listed()) == dict(world.app.reader.listed())
    # The block is staged and dropped: nothing of it is there.
    before = crowd.shown()
    world.now_us += 3600 * SECOND
    await world.finalize(world.next(BOB, MemberKey(epoch=2, public=bytes(32))))
    world.app.engine_left()
    assert crowd.shown() == before


class Model:
    """The rules of a chain in an epoch, word for word."""

    def __init__(self) -> None:
        self.wanted: dict[bytes, ServiceRecord] = {}
        self.now: dict[bytes, int] = {}
        """In which cell services are, whether they are shown or not."""
        self.placed: dict[bytes, int] = {}

    def put(self, *records: ServiceRecord) -> None:
        for each in records:
            before, was = self.wanted.get(each.key), self.now.get(each.key)
            self.wanted[each.key] = each
            if was is None or before is None:
                self.now[each.key] = each.cell
                continue
            level = min(resolution_of(was), resolution_of(each.cell))
            now = self.now[each.key] = parent_of(was, level)
            if (was, before.owner, before.crowd) != (now, each.owner, each.crowd):
                self.placed.pop(each.key, None)

    def withdraw(self, *names: bytes) -> None:
        for name in names:
            for some in (self.wanted, self.now, self.placed):
                some.pop(name, None)

    def begin_epoch(self, *records: ServiceRecord) -> None:
        self.now = {name: each.cell for name, each in self.wanted.items()}
        self.put(*records)
        self.placed = naive({name: self.stored(name) for name in self.now})

    def stored(self, name: bytes) -> StoredService:
        return replace(stored(self.wanted[name]), cell=self.now[name])

    def shown(self) -> dict[bytes, int]:
        bold = {name: cell for name, cell in self.now.items() if self.wanted[name].crowd == 1}
        return {**bold, **self.placed}


@pytest.mark.parametrize("seed", range(6))
async def test_random_blocks_leave_what_the_rule_says(seed: int, crowd: CrowdWorld) -> None:
    source, model = random.Random(seed), Model()
    await crowd.begin_epoch()
    for _ in range(60):
        records = [
            record(
                source.randrange(40),
                cell=source.choice([FIVE, *SIXES, *SEVENS]),
                owner=source.choice("abcd"),
                crowd=source.choice((1, 1, 2, 3, 4)),
            )
            for _ in range(source.randrange(1, 6))
        ]
        records = list({each.key: each for each in records}.values())
        luck = source.randrange(4)
        if luck == 0:
            await crowd.begin_epoch(beside=ServicesPut(records=tuple(records)))
            model.begin_epoch(*records)
        elif luck == 1:
            gone = tuple(each.key for each in records)
            assert await crowd.world.do(ANN, ServicesWithdraw(keys=gone)) == 0
            model.withdraw(*gone)
        else:
            await crowd.put(*records)
            model.put(*records)
        assert crowd.shown() == model.shown()


def test_leveldb_and_memory_show_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    async def shown(store: MemoryKeyValue | LevelKeyValue) -> dict[RecordKey, int]:
        crowd = CrowdWorld(started(store, genesis(epoch_s=3600)))
        for number in range(40):
            await crowd.put(
                record(number, cell=SEVENS[number % 9], owner=str(number % 5), crowd=number % 4 + 1)
            )
        await crowd.begin_epoch()
        return crowd.shown()

    level = LevelKeyValue(tmp_path_factory.mktemp("crowd") / "registry.ldb")
    try:
        assert asyncio.run(shown(level)) == asyncio.run(shown(MemoryKeyValue()))
    finally:
        level.close()


# --- many at once -------------------------------------------------------------------------------


async def test_an_index_that_follows_in_slices_answers_for_the_height_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("abci_app.shown.MAX_AT_ONCE", 4)
    crowd = CrowdWorld(started(MemoryKeyValue(), genesis(epoch_s=3600)))
    discoverer = Discoverer(crowd.world.app.reader, epoch_keys())
    query = DiscoverQuery(area=CellArea(cell=cell_text(CELL)))
    await crowd.put(*(record(number, owner=str(number), crowd=2) for number in range(10)))
    await crowd.begin_epoch()
    height = crowd.world.app.reader.head.height
    answer = await discoverer.discover(query, client())
    # Ten new ones at height 1, which show nothing, and ten that are shown since: both wait.
    assert answer.height < height
    running = asyncio.create_task(discoverer.run())
    await crowd.world.block()
    reached = DiscoverQuery(area=CellArea(cell=cell_text(CELL)), min_height=height + 1)
    answer = await discoverer.discover(reached, client())
    assert (answer.height, len(answer.services)) == (height + 1, 10)
    running.cancel()
    assert MAX_AT_ONCE > 4


async def test_a_place_that_no_service_has_is_damage_and_is_said_to_be() -> None:
    store = MemoryKeyValue()
    crowd = CrowdWorld(started(store, genesis(epoch_s=3600)))
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b", crowd=2))
    nobody = bytes(16)
    store.write([(places_key(nobody), pack_places([(nobody, CELL)]))], sync=True)
    with pytest.raises(CorruptDatabaseError, match=nobody.hex()):
        await crowd.begin_epoch()


async def test_a_block_in_pieces_is_the_block(crowd: CrowdWorld) -> None:
    """Staging the same block twice gives the same hash and the same places."""
    await crowd.put(record("a", owner="a", crowd=2), record("b", owner="b", crowd=2))
    world = crowd.world
    await world.do(ANN, MemberKey(epoch=1, public=bytes(32)))
    begins = EpochKey(epoch=1, check=bytes(16), sealed=((ANN.id, bytes(80)),))
    transaction = world.next(ANN, begins)
    world.now_us += TURN_US
    first = await world.finalize(transaction)
    second = await world.finalize(transaction)
    assert first == second
    world.app.commit(pb.RequestCommit())
    assert crowd.shown() == {key("a"): CELL, key("b"): CELL}


@settings(max_examples=30)
@given(services_strategy)
def test_the_order_of_counting_does_not_matter(services: dict[bytes, StoredService]) -> None:
    turned = dict(reversed(services.items()))
    assert counted(services) == counted(turned)
