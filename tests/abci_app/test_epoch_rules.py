"""What the chain lets members do with the keys of privacy epochs."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace as with_changes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app import registry, turns
from abci_app.block_state import Block, BlockState
from abci_app.epoch_rules import (
    GIVEN_UP_AFTER_US,
    begin_epoch,
    look_at_members,
    publish_key,
)
from abci_app.schema import (
    CURRENT_EPOCH_KEY,
    CurrentEpoch,
    StoredEpoch,
    epoch_key,
    genesis_parameters,
)
from abci_app.turns import TURN_US
from edgistry.codec import replace
from edgistry.errors import (
    DuplicateError,
    EpochNotDueError,
    InvalidValueError,
    MalformedError,
    NotAMemberError,
    PrivacyEpochError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.transactions import (
    SEALED_KEY_BYTES,
    Body,
    EpochKey,
    EpochShare,
    MemberKey,
    NodeId,
    node_id_of,
    parse_body,
    parse_transaction,
)

from .chain_world import ANN, BOB, CHAIN, DAY, EVE, SECOND, Node, World, genesis, started

CAROL = Node("carol")
HOUR = 3600 * SECOND


def public(node: Node, label: object = "") -> bytes:
    return hashlib.sha256(f"public {node.name} {label}".encode()).digest()


def asks(node: Node, epoch: int, label: object = "") -> MemberKey:
    return MemberKey(epoch=epoch, public=public(node, label))


def seals(*nodes: Node, label: str = "seal") -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        sorted(
            (node.id, hashlib.sha512(f"{label} {node.name}".encode()).digest() + bytes(16))
            for node in nodes
        )
    )


def begins(epoch: int, *nodes: Node) -> EpochKey:
    return EpochKey(epoch=epoch, check=bytes([epoch % 256]) * 16, sealed=seals(*nodes))


def shares(epoch: int, *nodes: Node) -> EpochShare:
    return EpochShare(epoch=epoch, sealed=seals(*nodes, label="share"))


@pytest.fixture
def world() -> World:
    return started(MemoryKeyValue(), genesis(ANN, BOB, CAROL, epoch_s=3600))


def maker(epoch: int, rank: int = 0, given_up: dict[bytes, int] | None = None) -> Node:
    """Who of the three is the one of ``rank`` in beginning ``epoch``."""
    nodes = {node.id: node for node in (ANN, BOB, CAROL)}
    order = turns.makers(nodes, chain_id=CHAIN, epoch=epoch, given_up=given_up or {})
    return nodes[NodeId(order[rank])]


def giver(world: World, to: Node, rank: int = 0) -> Node:
    """Who of the three, if all have the key, is the one of ``rank`` in giving it to ``to``."""
    nodes = {node.id: node for node in (ANN, BOB, CAROL) if node != to}
    current = world.app.reader.epochs().current
    assert current is not None
    order = turns.givers(nodes, (), public=dict(current.keys)[to.id])
    return nodes[NodeId(order[rank])]


async def begin(world: World, epoch: int, *nodes: Node, after_us: int = SECOND) -> int:
    """Who is first in turn begins ``epoch``, with a seal for each of ``nodes``."""
    return await world.do(maker(epoch), begins(epoch, *nodes), after_us=after_us)


async def in_epoch(world: World, *nodes: Node) -> None:
    """The first epoch has begun, with a seal for each of ``nodes``."""
    for node in nodes:
        assert await world.do(node, asks(node, 1)) == 0
    assert await begin(world, 1, *nodes) == 0


def holders(world: World) -> list[bytes]:
    current = world.app.reader.epochs().current
    assert current is not None
    return [node for node, _ in current.sealed]


# --- asking -------------------------------------------------------------------------------------


async def test_members_ask_for_the_first_epoch_before_there_is_one(world: World) -> None:
    assert await world.do(ANN, asks(ANN, 1)) == 0
    assert await world.do(BOB, asks(BOB, 1)) == 0
    states = world.app.reader.epochs()
    assert (states.number, states.previous, states.current) == (0, None, None)
    assert states.coming is not None
    assert dict(states.coming.keys) == {ANN.id: public(ANN), BOB.id: public(BOB)}


async def test_a_member_that_asks_again_replaces_its_key(world: World) -> None:
    await world.do(ANN, asks(ANN, 1))
    await world.do(ANN, asks(ANN, 1, "again"))
    coming = world.app.reader.epochs().coming
    assert coming is not None
    assert coming.keys == ((ANN.id, public(ANN, "again")),)


@pytest.mark.parametrize("epoch", [2, 3, 1 << 20])
async def test_nobody_asks_for_an_epoch_far_ahead(world: World, epoch: int) -> None:
    assert await world.do(ANN, asks(ANN, epoch)) == PrivacyEpochError.number


async def test_nobody_asks_for_an_epoch_that_is_over(world: World) -> None:
    await in_epoch(world, ANN)
    await world.do(ANN, asks(ANN, 2))
    assert await begin(world, 2, ANN, after_us=HOUR) == 0
    assert await world.do(BOB, asks(BOB, 1)) == PrivacyEpochError.number


async def test_one_who_is_no_member_asks_for_nothing(world: World) -> None:
    assert await world.do(EVE, asks(EVE, 1)) == NotAMemberError.number
    assert world.app.reader.epochs().coming is None


# --- beginning ----------------------------------------------------------------------------------


async def test_an_epoch_begins_with_the_time_of_its_block(world: World) -> None:
    await in_epoch(world, ANN, BOB)
    states = world.app.reader.epochs()
    assert states.number == world.app.reader.epoch == 1
    assert states.current == StoredEpoch(
        since_us=world.now_us,
        check=bytes([1]) * 16,
        keys=tuple(sorted(((ANN.id, public(ANN)), (BOB.id, public(BOB))))),
        sealed=seals(ANN, BOB),
        maker=maker(1).id,
    )


async def test_the_second_of_two_makers_in_one_block_is_refused(world: World) -> None:
    await world.do(ANN, asks(ANN, 1))
    first, second = (world.next(maker(1, rank), begins(1, ANN)) for rank in (0, 1))
    assert await world.block(first, second, after_us=TURN_US) == [0, PrivacyEpochError.number]


async def test_an_epoch_lasts_its_time(world: World) -> None:
    await in_epoch(world, ANN)
    await world.do(ANN, asks(ANN, 2))
    early = await begin(world, 2, ANN, after_us=HOUR - 2 * SECOND)
    assert early == EpochNotDueError.number
    assert await begin(world, 2, ANN, after_us=SECOND) == 0


async def test_an_epoch_skips_none(world: World) -> None:
    await in_epoch(world, ANN)
    assert await world.do(ANN, begins(3, ANN), after_us=DAY) == PrivacyEpochError.number
    assert await world.do(ANN, begins(1, ANN), after_us=DAY) == PrivacyEpochError.number


async def test_a_key_is_sealed_to_members_that_asked(world: World) -> None:
    await world.do(ANN, asks(ANN, 1))
    assert await begin(world, 1, ANN, BOB) == InvalidValueError.number
    assert await begin(world, 1, ANN, EVE) == NotAMemberError.number
    assert world.app.reader.epoch == 0
    assert await begin(world, 1, ANN) == 0


async def test_the_state_keeps_the_epoch_before_and_none_older(world: World) -> None:
    await in_epoch(world, ANN)
    for number in range(2, 6):
        await world.do(ANN, asks(ANN, number))
        assert await begin(world, number, ANN, after_us=HOUR) == 0
    states = world.app.reader.epochs()
    assert states.number == 5
    assert states.previous is not None
    assert states.previous.check == bytes([4]) * 16
    kept = list(world.app._ledger.records.scan(b"p", b"q"))
    assert [key[1:] for key, _ in kept] == [number.to_bytes(4, "big") for number in (4, 5)]


# --- turns --------------------------------------------------------------------------------------


def test_the_order_of_makers_is_that_of_hashes_over_chain_epoch_and_node() -> None:
    nodes = [ANN.id, BOB.id, CAROL.id]
    orders = set()
    for epoch in range(1, 30):
        order = turns.makers(nodes, chain_id="a-chain", epoch=epoch, given_up={})
        number = epoch.to_bytes(4, "big")
        hashes = [
            hashlib.sha256(b"edgistry epoch maker 1\0" + number + b"a-chain\0" + node).digest()
            for node in order
        ]
        assert hashes == sorted(hashes)
        orders.add(tuple(order))
    assert len(orders) == 6
    other = [
        turns.makers(nodes, chain_id=chain, epoch=epoch, given_up={})
        for chain in ("a-chain", "b-chain")
        for epoch in range(1, 10)
    ]
    assert other[:9] != other[9:]


async def test_members_begin_an_epoch_by_turns_from_when_it_is_due(world: World) -> None:
    await in_epoch(world, ANN)
    await world.do(ANN, asks(ANN, 2))
    began = world.app.reader.epochs().current
    assert began is not None
    due_us = began.since_us + HOUR
    for rank in (2, 1):
        early_us = due_us + rank * TURN_US - SECOND - world.now_us
        code = await world.do(maker(2, rank), begins(2, ANN), after_us=max(SECOND, early_us))
        if rank == 2:
            assert code == EpochNotDueError.number
            assert await world.do(maker(2, rank), begins(2, ANN)) == 0
            assert world.now_us == due_us + 2 * TURN_US


async def test_the_first_epoch_is_due_when_the_first_member_asks(world: World) -> None:
    await world.block(after_us=DAY)
    await world.do(ANN, asks(ANN, 1))
    asked_us = world.now_us
    await world.do(BOB, asks(BOB, 1), after_us=5 * SECOND)
    late = maker(1, 2)
    early_us = asked_us + 2 * TURN_US - SECOND - world.now_us
    assert await world.do(late, begins(1, ANN), after_us=early_us) == EpochNotDueError.number
    assert await world.do(late, begins(1, ANN)) == 0


async def test_who_made_what_was_given_up_comes_last_in_the_next_turns(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    bad = maker(1)
    await give_up(world, 1)
    order = [maker(2, rank, {bad.id: 1}) for rank in range(3)]
    assert order[-1] is bad
    assert maker(2, 2) is not bad  # it would come earlier if nothing had been given up
    early_us = _over_us(world) + 2 * TURN_US - SECOND - world.now_us
    assert await world.do(bad, begins(2, ANN), after_us=early_us) == EpochNotDueError.number
    assert await world.do(order[0], begins(2, ANN, BOB, CAROL)) == 0
    assert world.app.reader.epochs().given_up == ((bad.id, 1),)
    # A good epoch of another does not bring it back: else it could spoil every second one.
    for node in (ANN, BOB, CAROL):
        await world.do(node, asks(node, 3))
    assert await world.do(bad, begins(3, ANN), after_us=HOUR) == EpochNotDueError.number
    assert await world.do(bad, begins(3, ANN), after_us=2 * TURN_US) == 0
    # One of its own, not given up, does.
    await world.do(ANN, asks(ANN, 4))
    assert await begin(world, 4, ANN, after_us=HOUR) == 0
    assert world.app.reader.epochs().given_up == ()


def test_the_latest_of_those_whose_epoch_was_given_up_comes_last() -> None:
    nodes = [ANN.id, BOB.id, CAROL.id]
    for epoch in range(1, 9):
        order = turns.makers(
            nodes, chain_id=CHAIN, epoch=epoch, given_up={ANN.id: 5, CAROL.id: 2, EVE.id: 9}
        )
        assert order == [BOB.id, CAROL.id, ANN.id]


# --- sharing ------------------------------------------------------------------------------------


async def test_a_member_that_has_the_key_gives_it_to_one_that_asked_late(world: World) -> None:
    await in_epoch(world, ANN)
    assert await world.do(BOB, asks(BOB, 1)) == 0
    assert await world.do(ANN, shares(1, BOB), after_us=TURN_US) == 0
    assert holders(world) == sorted((ANN.id, BOB.id))


async def test_who_was_given_no_key_gives_none(world: World) -> None:
    await in_epoch(world, maker(1))
    await world.do(maker(1, 1), asks(maker(1, 1), 1))
    code = await world.do(maker(1, 2), shares(1, maker(1, 1)), after_us=DAY)
    assert code == PrivacyEpochError.number


async def test_the_maker_gives_a_key_that_it_did_not_seal_to_itself(world: World) -> None:
    other = maker(1, 1)
    await in_epoch(world, other)
    await world.do(maker(1, 2), asks(maker(1, 2), 1))
    assert await world.do(maker(1), shares(1, maker(1, 2)), after_us=TURN_US) == 0


async def test_members_give_a_key_by_turns_from_when_it_was_asked_for(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    await world.do(CAROL, asks(CAROL, 1, "again"), after_us=10 * TURN_US)
    first, second = giver(world, CAROL), giver(world, CAROL, 1)
    early = await world.do(second, shares(1, CAROL), after_us=TURN_US - SECOND)
    assert early == EpochNotDueError.number
    assert await world.do(second, shares(1, CAROL)) == 0
    # Another key that is asked with, another turn; the first is at once.
    for label in range(20):
        await world.do(CAROL, asks(CAROL, 1, label))
        if giver(world, CAROL) is not first:
            break
    assert await world.do(giver(world, CAROL), shares(1, CAROL)) == 0


def test_the_order_of_givers_is_drawn_by_the_key_that_was_asked_with() -> None:
    nodes = [ANN.id, BOB.id, CAROL.id]
    orders = set()
    for number in range(40):
        public = bytes([number]) * 32
        order = turns.givers(nodes, (ANN.id, EVE.id), public=public)
        # Who once had it comes after all who have it now.
        assert order[3] == EVE.id
        hashes = [
            hashlib.sha256(b"edgistry epoch giver 1\0" + public + node).digest()
            for node in order[:3]
        ]
        assert hashes == sorted(hashes)
        orders.add(tuple(order))
    assert len(orders) == 6


async def test_nobody_replaces_what_a_member_has(world: World) -> None:
    await in_epoch(world, ANN, BOB)
    assert await world.do(CAROL, asks(CAROL, 1)) == 0
    before = world.app.reader.epochs()
    code = await world.do(ANN, shares(1, BOB, CAROL), after_us=DAY)
    assert code == DuplicateError.number
    assert world.app.reader.epochs() == before


async def test_a_member_whose_share_was_of_no_use_asks_again(world: World) -> None:
    await in_epoch(world, ANN, BOB)
    assert await world.do(BOB, asks(BOB, 1, "again")) == 0
    assert holders(world) == [ANN.id]
    assert await world.do(ANN, shares(1, BOB), after_us=2 * TURN_US) == 0
    assert holders(world) == sorted((ANN.id, BOB.id))


async def test_shares_are_of_the_current_epoch(world: World) -> None:
    assert await world.do(ANN, shares(1, BOB)) == PrivacyEpochError.number
    await in_epoch(world, ANN)
    await world.do(BOB, asks(BOB, 2))
    assert await world.do(ANN, shares(2, BOB)) == PrivacyEpochError.number
    assert await world.do(ANN, shares(1, BOB)) == InvalidValueError.number
    assert await world.do(ANN, shares(1, EVE)) == NotAMemberError.number


# --- what is over before its time ---------------------------------------------------------------


async def give_up(world: World, epoch: int) -> None:
    """All say that what they were given is of no use, and ask for the next epoch's key."""
    for node in (ANN, BOB, CAROL):
        assert await world.do(node, asks(node, epoch, "again")) == 0
        assert await world.do(node, asks(node, epoch + 1)) == 0


async def test_an_epoch_that_most_have_no_key_of_is_given_up_after_a_minute(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    began_us = world.now_us
    await give_up(world, 1)
    node = maker(2, 0, {maker(1).id: 1})
    early_us = began_us + GIVEN_UP_AFTER_US - SECOND - world.now_us
    code = await world.do(node, begins(2, ANN), after_us=early_us)
    assert code == EpochNotDueError.number
    assert await world.do(node, begins(2, ANN)) == 0


async def test_turns_are_counted_from_when_an_epoch_was_given_up(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    await world.block(after_us=20 * TURN_US)
    await give_up(world, 1)
    current = world.app.reader.epochs().current
    assert current is not None
    assert current.over_us == world.now_us - SECOND  # the last one asked for both keys
    second = maker(2, 1, {maker(1).id: 1})
    code = await world.do(second, begins(2, ANN), after_us=TURN_US - 2 * SECOND)
    assert code == EpochNotDueError.number
    assert await world.do(second, begins(2, ANN)) == 0


async def test_an_epoch_whose_key_its_maker_keeps_to_itself_is_given_up() -> None:
    nodes = {node.id: node for node in (ANN, BOB, CAROL, EVE)}
    world = started(MemoryKeyValue(), genesis(*nodes.values(), epoch_s=3600))
    first = turns.makers(nodes, chain_id=CHAIN, epoch=1, given_up={})[0]
    for number in (1, 2):
        for node in nodes.values():
            assert await world.do(node, asks(node, number)) == 0
        if number == 1:
            assert await world.do(nodes[NodeId(first)], begins(1, nodes[NodeId(first)])) == 0
            began_us = world.now_us
    assert _over_us(world) == began_us + GIVEN_UP_AFTER_US
    second = turns.makers(nodes, chain_id=CHAIN, epoch=2, given_up={first: 1})[0]
    late_us = began_us + GIVEN_UP_AFTER_US - world.now_us
    assert await world.do(nodes[NodeId(second)], begins(2, ANN), after_us=late_us) == 0
    assert world.app.reader.epochs().given_up == ((first, 1),)


async def test_two_thirds_without_a_key_do_not_end_an_epoch(world: World) -> None:
    await in_epoch(world, ANN)
    for node in (BOB, CAROL):
        assert await world.do(node, asks(node, 1)) == 0
    await world.do(ANN, asks(ANN, 2))
    early = await world.do(maker(2), begins(2, ANN), after_us=2 * GIVEN_UP_AFTER_US)
    assert early == EpochNotDueError.number


async def test_who_took_back_garbage_is_not_silenced_by_more_of_it(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    for node in (ANN, BOB, CAROL):
        await world.do(node, asks(node, 1, "again"))
        await world.do(giver(world, node), shares(1, node), after_us=TURN_US)
    await world.do(ANN, asks(ANN, 2))
    assert await begin(world, 2, ANN, after_us=GIVEN_UP_AFTER_US) == 0


async def test_an_epoch_goes_on_when_those_who_asked_late_are_given_its_key(world: World) -> None:
    first, second, third = (maker(1, rank) for rank in range(3))
    await world.do(second, asks(second, 1))
    await world.do(first, asks(first, 1))
    await world.do(third, asks(third, 1))
    assert await world.do(first, begins(1, second)) == 0
    await world.do(second, asks(second, 1, "again"))
    assert _over_us(world) > world.now_us
    assert await world.do(first, shares(1, third), after_us=2 * TURN_US) == 0
    assert _over_us(world) == 0


def _over_us(world: World) -> int:
    current = world.app.reader.epochs().current
    assert current is not None
    return current.over_us


async def test_the_last_epoch_that_was_not_given_up_outlives_those_that_were(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    for node in (ANN, BOB, CAROL):
        await world.do(node, asks(node, 2))
    assert await world.do(maker(2), begins(2, ANN, BOB, CAROL), after_us=HOUR) == 0
    for number in (2, 3, 4):
        await give_up(world, number)
        given_up = dict(world.app.reader.epochs().given_up)
        current = world.app.reader.epochs().current
        assert current is not None
        node = maker(number + 1, 0, given_up)
        code = await world.do(
            node, begins(number + 1, ANN, BOB, CAROL), after_us=GIVEN_UP_AFTER_US + 2 * TURN_US
        )
        assert code == 0
        kept = world.app.reader.epochs().kept()
        assert sorted(kept) == [1, number, number + 1]
    # A good one after them, and only it is kept when the next begins.
    for node in (ANN, BOB, CAROL):
        await world.do(node, asks(node, 6))
    assert await world.do(ANN, begins(6, ANN), after_us=HOUR + 2 * TURN_US) == 0
    assert sorted(world.app.reader.epochs().kept()) == [5, 6]
    stored = [key for key, _ in world.app._ledger.records.scan(b"p", b"q")]
    assert stored == [epoch_key(5), epoch_key(6)]


@pytest.mark.parametrize(("left", "is_given_up"), [(BOB, False), (EVE, True)])
def test_an_epoch_is_given_up_by_those_who_are_members(left: Node, is_given_up: bool) -> None:
    """Three of four lack its key, and two of three do not give it up."""
    state = BlockState(MemoryKeyValue())
    everybody = (ANN, BOB, CAROL, EVE)
    keys = tuple(sorted((node.id, public(node)) for node in everybody))
    lacking = StoredEpoch(since_us=0, check=bytes(16), keys=keys, sealed=(), maker=EVE.id)
    lacking = replace(lacking, sealed=seals(EVE))
    state.put(CURRENT_EPOCH_KEY, CurrentEpoch(number=1, good=0))
    state.put(epoch_key(1), lacking)
    block = _block(_members(*(node for node in everybody if node is not left)), now_us=SECOND)
    look_at_members(state, block)
    after = state.get(epoch_key(1), StoredEpoch)
    assert after is not None
    # Eve has the key: when she is a member no more the epoch is over at once.
    assert after.over_us == (SECOND if left is EVE else 0)
    state.put(epoch_key(2), replace(lacking, check=b"", sealed=(), maker=b""))
    late = with_changes(block, now_us=2 * HOUR)
    begin_epoch(state, late, ANN.id, begins(2, ANN))
    chain = state.get(CURRENT_EPOCH_KEY, CurrentEpoch)
    assert chain is not None
    assert (chain.good, chain.given_up) == (0 if is_given_up else 1, ())


def test_the_chain_remembers_nothing_of_makers_and_askers_that_are_members_no_more() -> None:
    state = BlockState(MemoryKeyValue())
    members = _members(ANN, BOB)
    given_up = tuple(sorted(((ANN.id, 1), (EVE.id, 2))))
    state.put(CURRENT_EPOCH_KEY, CurrentEpoch(number=3, good=0, given_up=given_up))
    late = tuple(sorted(((BOB.id, 1), (EVE.id, 1))))
    current = StoredEpoch(since_us=0, check=bytes(16), keys=(), sealed=(), maker=BOB.id, late=late)
    state.put(epoch_key(3), current)
    block = _block(members, now_us=2 * HOUR)
    publish_key(state, block, ANN.id, asks(ANN, 3))
    after = state.get(epoch_key(3), StoredEpoch)
    assert after is not None
    assert {node for node, _ in after.late} == {ANN.id, BOB.id}
    publish_key(state, block, ANN.id, asks(ANN, 4))
    begin_epoch(state, block, ANN.id, begins(4, ANN))
    chain = state.get(CURRENT_EPOCH_KEY, CurrentEpoch)
    assert chain is not None
    assert chain.given_up == ((ANN.id, 1),)


def _members(*nodes: Node) -> frozenset[NodeId]:
    return frozenset(node.id for node in nodes)


@pytest.mark.parametrize(
    ("epoch", "left", "expected"),
    [
        ({"sealed": seals(ANN, BOB), "maker": ANN.id}, CAROL, False),
        ({"sealed": seals(ANN, BOB), "maker": ANN.id}, BOB, True),
        ({"sealed": seals(ANN), "maker": BOB.id}, BOB, True),
        ({"sealed": seals(ANN), "maker": ANN.id, "took_back": (BOB.id,)}, BOB, True),
    ],
    ids=["never had it", "has it", "made it", "took it back"],
)
def test_an_epoch_is_over_when_one_who_ever_had_its_key_is_a_member_no_more(
    epoch: dict[str, Any], left: Node, expected: bool
) -> None:
    state = BlockState(MemoryKeyValue())
    stored = StoredEpoch(**{"since_us": 0, "check": bytes(16), "keys": (), **epoch})
    state.put(CURRENT_EPOCH_KEY, CurrentEpoch(number=1, good=0))
    state.put(epoch_key(1), stored)
    everybody = (ANN, BOB, CAROL)
    look_at_members(state, _block(_members(*everybody), now_us=5 * SECOND))
    assert state.get(epoch_key(1), StoredEpoch) == stored
    members = _members(*(node for node in everybody if node is not left))
    for now_us in (7 * SECOND, 9 * SECOND):  # it stays over since when it was first
        look_at_members(state, _block(members, now_us=now_us))
        after = state.get(epoch_key(1), StoredEpoch)
        assert after is not None
        assert after.over_us == (7 * SECOND if expected else 0)


async def test_who_asks_again_is_still_known_to_have_had_the_key(world: World) -> None:
    await in_epoch(world, ANN, BOB)
    await world.do(BOB, asks(BOB, 1, "again"))
    await world.do(CAROL, asks(CAROL, 1))
    current = world.app.reader.epochs().current
    assert current is not None
    assert current.took_back == (BOB.id,)
    assert {node for node, _ in current.late} == {BOB.id, CAROL.id}


def _block(members: frozenset[NodeId], *, now_us: int = SECOND) -> Block:
    return Block(
        parameters=genesis_parameters(CHAIN, genesis(epoch_s=3600)),
        members=members,
        now_us=now_us,
        lease_now_us=now_us,
    )


def _apply(
    state: BlockState, members: frozenset[NodeId], node: Node, sequence: int, body: Body
) -> None:
    block = _block(members, now_us=sequence * 3 * TURN_US)
    registry.execute(state, block, parse_transaction(node.sign(sequence, body)))


def test_the_key_of_a_removed_member_is_dropped_and_nothing_is_sealed_to_it() -> None:
    state = BlockState(MemoryKeyValue())
    everybody, left = _members(ANN, BOB), _members(ANN)
    _apply(state, everybody, ANN, 1, asks(ANN, 1))
    _apply(state, everybody, BOB, 1, asks(BOB, 1))
    with pytest.raises(NotAMemberError):
        _apply(state, left, ANN, 2, begins(1, ANN, BOB))
    _apply(state, left, ANN, 3, asks(ANN, 1, "again"))
    with pytest.raises(InvalidValueError):
        _apply(state, everybody, ANN, 4, begins(1, ANN, BOB))
    _apply(state, left, ANN, 5, begins(1, ANN))


def test_a_refused_body_consumes_its_sequence_and_changes_nothing_else() -> None:
    state = BlockState(MemoryKeyValue())
    with pytest.raises(PrivacyEpochError):
        _apply(state, _members(ANN), ANN, 1, shares(1, ANN))
    for _ in state.settle():
        pass
    assert [key[:1] for key, _ in state.changes.records] == [b"q"]


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        EpochShare(epoch=1, sealed=tuple(reversed(seals(ANN, BOB)))),
        EpochShare(epoch=1, sealed=seals(ANN) * 2),
        EpochKey(epoch=1, check=bytes(16), sealed=()),
        EpochKey(epoch=1, check=bytes(15), sealed=seals(ANN)),
        EpochKey(epoch=0, check=bytes(16), sealed=seals(ANN)),
        EpochKey(epoch=1 << 32, check=bytes(16), sealed=seals(ANN)),
        EpochShare(epoch=1, sealed=((ANN.id, bytes(SEALED_KEY_BYTES - 1)),)),
        EpochShare(
            epoch=1,
            sealed=tuple(
                (node_id_of(bytes([number])), bytes(SEALED_KEY_BYTES)) for number in range(129)
            ),
        ),
        MemberKey(epoch=1, public=bytes(31)),
    ],
)
def test_a_body_of_another_form_is_malformed(body: Body) -> None:
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(ANN.sign(1, body)))


@given(
    st.lists(st.tuples(st.sampled_from("adsr"), st.integers(0, 3), st.integers(0, 2)), max_size=25)
)
def test_whatever_members_send_the_state_keeps_its_promises(
    moves: list[tuple[str, int, int]],
) -> None:
    """One current epoch, seals for members that asked alone, nothing older than the one before."""
    state = BlockState(MemoryKeyValue())
    nodes = (ANN, BOB, CAROL)
    members = _members(*nodes)
    sequences = dict.fromkeys(nodes, 0)
    for number, (what, epoch, who) in enumerate(moves):
        node = nodes[who]
        bodies: dict[str, Body] = {
            "a": asks(node, epoch or 1, number),
            "d": begins(epoch or 1, *nodes[: who + 1]),
            "s": shares(epoch or 1, node),
            "r": shares(epoch or 1, *nodes[who:]),
        }
        sequences[node] += 1
        block = Block(
            parameters=genesis_parameters(CHAIN, genesis(epoch_s=1)),
            members=members,
            now_us=number * TURN_US,
            lease_now_us=number * TURN_US,
        )
        with contextlib.suppress(*registry.REFUSALS):
            registry.execute(
                state, block, parse_transaction(node.sign(sequences[node], bodies[what]))
            )
    for _ in state.settle():
        pass
    epochs = {
        int.from_bytes(key[1:], "big"): value
        for key, value in state.changes.values.items()
        if key.startswith(b"p") and isinstance(value, StoredEpoch)
    }
    current = state.changes.values.get(b"e")
    number = getattr(current, "number", 0)
    good = getattr(current, "good", 0)
    assert set(epochs) <= {good, number - 1, number, number + 1}
    for each, epoch_state in epochs.items():
        assert bool(epoch_state.check) is (each <= number)
        assert {node for node, _ in epoch_state.sealed} <= {node for node, _ in epoch_state.keys}


async def test_epochs_are_read_once_a_block(world: World) -> None:
    reader = world.app.reader
    before = reader.epochs()
    assert reader.epochs() is before
    await world.block()
    after = reader.epochs()
    assert after is not before
    assert after == before
