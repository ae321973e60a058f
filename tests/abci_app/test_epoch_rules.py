"""What the chain lets members do with the keys of privacy epochs."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app import registry
from abci_app.block_state import Block, BlockState
from abci_app.epoch_rules import ABANDONED_AFTER_US, is_over
from abci_app.schema import StoredEpoch, genesis_parameters
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


async def in_epoch(world: World, *nodes: Node) -> None:
    """The first epoch has begun, with a seal for each of ``nodes``."""
    for node in nodes:
        assert await world.do(node, asks(node, 1)) == 0
    assert await world.do(ANN, begins(1, *nodes)) == 0


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
    assert await world.do(ANN, begins(2, ANN), after_us=HOUR) == 0
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
    )


async def test_the_second_of_two_makers_in_one_block_is_refused(world: World) -> None:
    await world.do(ANN, asks(ANN, 1))
    first, second = world.next(ANN, begins(1, ANN)), world.next(BOB, begins(1, ANN))
    assert await world.block(first, second) == [0, PrivacyEpochError.number]


async def test_an_epoch_lasts_its_time(world: World) -> None:
    await in_epoch(world, ANN)
    await world.do(ANN, asks(ANN, 2))
    early = await world.do(ANN, begins(2, ANN), after_us=HOUR - 2 * SECOND)
    assert early == EpochNotDueError.number
    assert await world.do(ANN, begins(2, ANN), after_us=SECOND) == 0


async def test_an_epoch_skips_none(world: World) -> None:
    await in_epoch(world, ANN)
    assert await world.do(ANN, begins(3, ANN), after_us=DAY) == PrivacyEpochError.number
    assert await world.do(ANN, begins(1, ANN), after_us=DAY) == PrivacyEpochError.number


async def test_a_key_is_sealed_to_members_that_asked(world: World) -> None:
    await world.do(ANN, asks(ANN, 1))
    assert await world.do(ANN, begins(1, ANN, BOB)) == InvalidValueError.number
    assert await world.do(ANN, begins(1, ANN, EVE)) == NotAMemberError.number
    assert world.app.reader.epoch == 0
    assert await world.do(BOB, begins(1, ANN)) == 0


async def test_the_state_keeps_the_epoch_before_and_none_older(world: World) -> None:
    await in_epoch(world, ANN)
    for number in range(2, 6):
        await world.do(ANN, asks(ANN, number))
        assert await world.do(ANN, begins(number, ANN), after_us=HOUR) == 0
    states = world.app.reader.epochs()
    assert states.number == 5
    assert states.previous is not None
    assert states.previous.check == bytes([4]) * 16
    kept = list(world.app._ledger.records.scan(b"p", b"q"))
    assert [key[1:] for key, _ in kept] == [number.to_bytes(4, "big") for number in (4, 5)]


# --- sharing ------------------------------------------------------------------------------------


async def test_any_member_gives_the_key_to_one_that_asked_late(world: World) -> None:
    await in_epoch(world, ANN)
    assert await world.do(BOB, asks(BOB, 1)) == 0
    assert await world.do(CAROL, shares(1, BOB)) == 0
    assert holders(world) == sorted((ANN.id, BOB.id))


async def test_nobody_replaces_what_a_member_has(world: World) -> None:
    await in_epoch(world, ANN, BOB)
    assert await world.do(CAROL, asks(CAROL, 1)) == 0
    before = world.app.reader.epochs()
    assert await world.do(ANN, shares(1, BOB, CAROL)) == DuplicateError.number
    assert world.app.reader.epochs() == before


async def test_a_member_whose_share_was_of_no_use_asks_again(world: World) -> None:
    await in_epoch(world, ANN, BOB)
    assert await world.do(BOB, asks(BOB, 1, "again")) == 0
    assert holders(world) == [ANN.id]
    assert await world.do(ANN, shares(1, BOB)) == 0
    assert holders(world) == sorted((ANN.id, BOB.id))


async def test_shares_are_of_the_current_epoch(world: World) -> None:
    assert await world.do(ANN, shares(1, BOB)) == PrivacyEpochError.number
    await in_epoch(world, ANN)
    await world.do(BOB, asks(BOB, 2))
    assert await world.do(ANN, shares(2, BOB)) == PrivacyEpochError.number
    assert await world.do(ANN, shares(1, BOB)) == InvalidValueError.number
    assert await world.do(ANN, shares(1, EVE)) == NotAMemberError.number


# --- what is over before its time ---------------------------------------------------------------


async def test_an_epoch_that_most_have_no_key_of_is_over_after_a_minute(world: World) -> None:
    await in_epoch(world, ANN, BOB, CAROL)
    for node in (ANN, BOB, CAROL):
        assert await world.do(node, asks(node, 1, "again")) == 0
        assert await world.do(node, asks(node, 2)) == 0
    assert await world.do(ANN, begins(2, ANN)) == EpochNotDueError.number
    assert await world.do(ANN, begins(2, ANN), after_us=ABANDONED_AFTER_US) == 0


async def test_two_thirds_without_a_key_do_not_end_an_epoch(world: World) -> None:
    await in_epoch(world, ANN)
    for node in (BOB, CAROL):
        assert await world.do(node, asks(node, 1)) == 0
    await world.do(ANN, asks(ANN, 2))
    early = await world.do(ANN, begins(2, ANN), after_us=2 * ABANDONED_AFTER_US)
    assert early == EpochNotDueError.number


def _members(*nodes: Node) -> frozenset[NodeId]:
    return frozenset(node.id for node in nodes)


def test_an_epoch_is_over_when_one_who_has_its_key_is_a_member_no_more() -> None:
    epoch = StoredEpoch(since_us=0, check=bytes(16), keys=(), sealed=seals(ANN, BOB))
    for members, expected in ((_members(ANN, BOB, CAROL), False), (_members(ANN, CAROL), True)):
        assert is_over(epoch, members=members, epoch_us=HOUR, now_us=SECOND) is expected


def _apply(
    state: BlockState, members: frozenset[NodeId], node: Node, sequence: int, body: Body
) -> None:
    block = Block(
        parameters=genesis_parameters(CHAIN, genesis(epoch_s=3600)),
        members=members,
        now_us=SECOND,
        lease_now_us=SECOND,
    )
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
            now_us=number * SECOND,
            lease_now_us=number * SECOND,
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
    assert set(epochs) <= {number - 1, number, number + 1}
    for each, epoch_state in epochs.items():
        assert bool(epoch_state.check) is (each <= number)
        assert {node for node, _ in epoch_state.sealed} <= {node for node, _ in epoch_state.keys}
