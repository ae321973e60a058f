"""Services that move: not before an epoch begins, and then all at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from abci_app import turns
from abci_app.moves import cell_in, is_put, put_over
from abci_app.schema import StoredService, pack, stored_service, unpack
from edgistry.cell import children_of, parent_of, parse_cell, resolution_of
from edgistry.codec import replace
from edgistry.kv import MemoryKeyValue
from edgistry.membership import NodeLeave
from edgistry.transactions import (
    Body,
    EpochKey,
    MemberKey,
    ServiceRecord,
    ServicesPut,
    ServicesWithdraw,
)

from .chain_world import (
    ANN,
    BOB,
    CELL,
    CHAIN,
    EVE,
    SECOND,
    Node,
    World,
    genesis,
    key,
    record,
    started,
)
from .test_crowd import CrowdWorld

FIVES = [parent_of(CELL, 5), parse_cell("85283473fffffff")]
SIXES = [cell for five in FIVES for cell in children_of(five)[:2]]
SEVENS = [cell for six in SIXES for cell in children_of(six)[:2]]
HERE, THERE, ELSEWHERE = SEVENS[0], SEVENS[-1], SEVENS[4]
CELLS = st.sampled_from([*FIVES, *SIXES, *SEVENS])
EPOCHS = st.integers(1, 4)


def stored(cell: int, name: str = "a", **fields: object) -> StoredService:
    return replace(stored_service(ANN.id, record(name, cell=cell)), **fields)


def places(service: StoredService, *epochs: int) -> list[int]:
    return [cell_in(service, epoch) for epoch in epochs]


# --- the rule -----------------------------------------------------------------------------------


def test_a_new_record_is_shown_at_once() -> None:
    assert places(put_over(None, stored(HERE), epoch=3), 3, 4) == [HERE, HERE]


def test_a_move_shows_in_the_next_epoch_and_not_before() -> None:
    moved = put_over(stored(HERE), stored(THERE), epoch=3)
    assert places(moved, 3, 4, 5) == [HERE, THERE, THERE]


def test_the_last_of_two_moves_in_an_epoch_counts() -> None:
    moved = put_over(stored(HERE), stored(THERE), epoch=3)
    again = put_over(moved, stored(ELSEWHERE), epoch=3)
    assert places(again, 3, 4) == [HERE, ELSEWHERE]


def test_a_move_that_was_taken_back_never_shows() -> None:
    moved = put_over(stored(HERE), stored(THERE), epoch=3)
    assert put_over(moved, stored(HERE), epoch=3) == stored(HERE)


def test_a_move_that_comes_after_the_edge_goes_with_the_epoch_after() -> None:
    moved = put_over(stored(HERE), stored(THERE), epoch=3)
    late = put_over(moved, stored(ELSEWHERE), epoch=4)
    assert places(late, 4, 5) == [THERE, ELSEWHERE]


def test_what_is_put_late_and_was_meant_for_before_does_not_bring_the_old_place_back() -> None:
    moved = put_over(stored(HERE), stored(THERE), epoch=3)
    late = put_over(moved, stored(HERE, wake=3), epoch=4)
    assert (places(late, 4, 5), late.wake) == ([THERE, HERE], 3)


def test_before_the_first_epoch_nothing_waits() -> None:
    assert places(put_over(stored(HERE), stored(THERE), epoch=0), 0, 1) == [THERE, THERE]


@pytest.mark.parametrize(("one", "other"), [(HERE, SIXES[0]), (SIXES[0], FIVES[0]), (HERE, HERE)])
def test_a_coarser_place_shows_at_once(one: int, other: int) -> None:
    assert put_over(stored(one), stored(other), epoch=3) == stored(other)


def test_a_finer_place_waits_since_the_coarse_one_may_have_been_another_fine_one_before() -> None:
    coarse = put_over(stored(HERE), stored(FIVES[0]), epoch=3)
    fine = put_over(coarse, stored(SEVENS[2]), epoch=3)
    assert places(fine, 3, 4) == [FIVES[0], SEVENS[2]]


def test_a_coarser_place_shows_at_once_although_a_move_waits() -> None:
    moved = put_over(stored(HERE), stored(THERE), epoch=3)
    coarser = put_over(moved, stored(parent_of(THERE, 5)), epoch=3)
    assert places(coarser, 3, 4) == [parent_of(HERE, 5), parent_of(THERE, 5)]


def test_a_move_to_a_finer_place_tells_nothing_finer_of_the_old_one() -> None:
    moved = put_over(stored(FIVES[0]), stored(THERE), epoch=3)
    assert places(moved, 3, 4) == [FIVES[0], THERE]


@given(CELLS, st.lists(st.tuples(CELLS, st.integers(0, 1)), max_size=8))
def test_in_an_epoch_a_service_is_seen_in_one_place(
    first: int, steps: list[tuple[int, int]]
) -> None:
    """Whatever is put, and however late: what is seen in an epoch are cells around the first."""
    service, epoch = stored(first), 1
    for cell, passes in steps:
        before = cell_in(service, epoch)
        service = put_over(service, stored(cell), epoch=epoch)
        after = cell_in(service, epoch)
        assert resolution_of(after) <= min(resolution_of(before), resolution_of(cell))
        assert parent_of(before, resolution_of(after)) == after
        assert cell_in(service, epoch + 1) == cell
        epoch += passes


@given(CELLS, CELLS, EPOCHS, st.integers(0, 2))
def test_what_is_put_need_not_be_put_again(first: int, second: int, epoch: int, later: int) -> None:
    service = put_over(stored(first), stored(second), epoch=epoch)
    again = put_over(service, stored(second), epoch=epoch + later)
    assert places(again, epoch + later, epoch + 3) == places(service, epoch + later, epoch + 3)
    assert is_put(service, stored(second))
    assert not is_put(service, stored(second, wake=3))
    assert not is_put(None, stored(second))
    assert is_put(service, stored(first)) == (second == first)


@given(CELLS, CELLS, EPOCHS)
def test_a_service_that_moves_is_read_back(first: int, second: int, epoch: int) -> None:
    service = put_over(stored(first), stored(second), epoch=epoch)
    assert unpack(pack(service), StoredService) == service


# --- over blocks --------------------------------------------------------------------------------


@pytest.fixture
async def world() -> CrowdWorld:
    made = CrowdWorld(started(MemoryKeyValue(), genesis(epoch_s=3600)))
    await made.begin_epoch()
    return made


async def test_all_moves_show_in_the_block_that_begins_the_epoch(world: CrowdWorld) -> None:
    await world.put(record("a", cell=HERE), record("b", cell=HERE), record("c", cell=HERE))
    await world.put(record("a", cell=THERE))
    await world.put(record("b", cell=ELSEWHERE))
    heard = heard_by(world.world)
    await world.world.block()
    assert world.shown() == {key("a"): HERE, key("b"): HERE, key("c"): HERE}
    assert not any(heard)
    await world.begin_epoch()
    assert world.shown() == {key("a"): THERE, key("b"): ELSEWHERE, key("c"): HERE}
    moved = [each for each in heard if each]
    assert moved == [sorted([(key("a"), HERE, THERE), (key("b"), HERE, ELSEWHERE)])]
    await world.begin_epoch()
    assert [each for each in heard if each] == moved


def heard_by(world: World) -> list[list[tuple[bytes, int, int]]]:
    """What a subscriber hears of moves, block by block."""
    heard: list[list[tuple[bytes, int, int]]] = []
    world.app.reader.subscribe(
        lambda _, changes: heard.append(
            [
                (each.key, each.before.cell, each.after.cell)
                for each in changes
                if each.before and each.after and each.before.cell != each.after.cell
            ]
        )
    )
    return heard


async def test_a_move_and_another_change_in_the_block_of_the_epoch(world: CrowdWorld) -> None:
    await world.put(record("a", cell=HERE), record("b", cell=HERE))
    await world.put(record("a", cell=THERE))
    both = (replace(record("a", cell=THERE), wake=3), record("b", cell=THERE))
    heard = heard_by(world.world)
    await world.begin_epoch(beside=world_put(*both))
    assert world.shown() == {key("a"): THERE, key("b"): HERE}, "b came behind the edge"
    assert dict(world.world.app.reader.listed())[key("a")].profile.wake == 3
    assert [each for each in heard if each] == [[(key("a"), HERE, THERE)]]
    await world.begin_epoch()
    assert world.shown() == {key("a"): THERE, key("b"): THERE}


def world_put(*records: ServiceRecord) -> Body:
    return ServicesPut(records=records)


async def test_a_service_with_a_crowd_is_shown_where_it_moved_from_the_edge_on(
    world: CrowdWorld,
) -> None:
    await world.put(record("a", cell=HERE, owner="a", crowd=2), record("b", cell=HERE, owner="b"))
    await world.put(record("c", cell=THERE, owner="c"))
    await world.begin_epoch()
    await world.put(record("a", cell=THERE, owner="a", crowd=2))
    assert world.shown()[key("a")] == HERE, "it neither vanishes nor moves before the edge"
    await world.begin_epoch()
    assert world.shown()[key("a")] == THERE


async def test_those_who_move_away_are_no_crowd_from_the_edge_on(world: CrowdWorld) -> None:
    await world.put(record("a", cell=HERE, owner="a", crowd=2), record("b", cell=HERE, owner="b"))
    await world.begin_epoch()
    await world.put(record("b", cell=THERE, owner="b"))
    assert world.shown() == {key("a"): HERE, key("b"): HERE}
    await world.begin_epoch()
    assert world.shown() == {key("b"): THERE}


async def test_a_service_that_gives_up_its_crowd_is_shown_where_it_was(world: CrowdWorld) -> None:
    await world.put(record("a", cell=HERE, owner="a", crowd=2))
    await world.put(record("a", cell=THERE, owner="a", crowd=2))
    await world.put(record("a", cell=THERE, owner="a"))
    assert world.shown() == {key("a"): HERE}
    await world.begin_epoch()
    assert world.shown() == {key("a"): THERE}


async def test_nothing_is_left_of_a_service_that_is_withdrawn_before_it_moves(
    world: CrowdWorld,
) -> None:
    await world.put(record("a", cell=HERE))
    await world.put(record("a", cell=THERE))
    assert await world.world.do(ANN, ServicesWithdraw(keys=(key("a"),))) == 0
    assert world.shown() == {}
    await world.begin_epoch()
    assert world.shown() == {}


async def test_a_move_waits_over_a_restart(world: CrowdWorld) -> None:
    await world.put(record("a", cell=HERE))
    await world.put(record("a", cell=THERE))
    again = World(world.world.app._ledger._store)
    assert [each.cell for _, each in again.app.reader.listed()] == [HERE]
    again.now_us, again._sequences = world.world.now_us, world.world._sequences
    later = CrowdWorld(again)
    await later.begin_epoch()
    assert later.shown() == {key("a"): THERE}
    third = World(again.app._ledger._store)
    assert [each.cell for _, each in third.app.reader.listed()] == [THERE]


async def test_a_block_that_begins_two_epochs_shows_what_moved_with_the_first() -> None:
    """The first of them is over when one who was given its key leaves."""
    world = CrowdWorld(started(MemoryKeyValue(), genesis(ANN, BOB, EVE, epoch_s=3600)))
    first, second = (turns.makers(_THREE, chain_id=CHAIN, epoch=n, given_up={})[0] for n in (1, 2))
    third = turns.makers(_THREE.keys() - {second}, chain_id=CHAIN, epoch=3, given_up={})[0]
    assert await world.world.do(_THREE[first], _asks(1)) == 0
    assert await world.world.do(_THREE[first], _begins(1, first)) == 0
    home = _THREE[third]
    assert await world.world.do(home, world_put(record("a", cell=HERE))) == 0
    assert await world.world.do(home, world_put(record("a", cell=THERE))) == 0
    assert await world.world.do(_THREE[second], _asks(2)) == 0
    heard = heard_by(world.world)
    codes = await world.world.block(
        world.world.next(_THREE[second], _begins(2, second)),
        world.world.next(_THREE[third], _asks(3)),
        world.world.next(_THREE[second], NodeLeave(change=1)),
        world.world.next(_THREE[third], _begins(3, third)),
        after_us=3600 * SECOND,
    )
    assert (codes, world.world.app.reader.epoch) == ([0, 0, 0, 0], 3)
    assert world.shown() == {key("a"): THERE}
    assert [each for each in heard if each] == [[(key("a"), HERE, THERE)]]


_THREE: dict[bytes, Node] = {node.id: node for node in (ANN, BOB, EVE)}


def _asks(epoch: int) -> Body:
    return MemberKey(epoch=epoch, public=bytes(32))


def _begins(epoch: int, node: bytes) -> Body:
    return EpochKey(epoch=epoch, check=bytes(16), sealed=((node, bytes(80)),))


async def test_an_epoch_changes_no_record_of_a_service(world: CrowdWorld) -> None:
    """Else an epoch in which all have moved would be as many changes of the app hash."""
    await world.put(record("a", cell=HERE))
    await world.put(record("a", cell=THERE))
    before = world.world.app.reader.service(key("a"))
    await world.begin_epoch()
    assert world.world.app.reader.service(key("a")) == before


class Watched(RuleBasedStateMachine):
    """Somebody who reads every block under the handles of its epoch: no handle ever moves."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = CrowdWorld(started(MemoryKeyValue(), genesis(epoch_s=3600)))
        asyncio.run(self.crowd.begin_epoch())
        self.seen: dict[bytes, list[int]] = {}
        self.wanted: dict[bytes, int] = {}

    @rule(name=st.integers(0, 3), cell=CELLS, crowd=st.integers(1, 2), owner=st.sampled_from("ab"))
    def put(self, name: int, cell: int, crowd: int, owner: str) -> None:
        asyncio.run(self.crowd.put(record(name, cell=cell, crowd=crowd, owner=owner)))
        self.wanted[key(name)] = cell
        self.look()

    @precondition(lambda self: self.wanted)
    @rule()
    def begin_epoch(self) -> None:
        self.seen = {}
        asyncio.run(self.crowd.begin_epoch())
        self.look()
        for name, cell in self.crowd.shown().items():
            wanted = self.wanted[name]
            assert parent_of(wanted, resolution_of(cell)) == cell

    def look(self) -> None:
        for name, cell in self.crowd.shown().items():
            self.seen.setdefault(name, []).append(cell)

    @invariant()
    def what_is_seen_of_a_handle_is_one_place(self) -> None:
        for cells in self.seen.values():
            finest = max(cells, key=resolution_of)
            assert all(parent_of(finest, resolution_of(cell)) == cell for cell in cells)


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)
