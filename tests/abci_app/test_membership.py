"""Members come and go while the chain runs."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app import abci_pb2 as pb
from abci_app.registry import MAX_DELETED
from abci_app.turns import TURN_US
from edgistry.codec import decode, encode, replace
from edgistry.errors import (
    BadSignatureError,
    ChainMismatchError,
    DuplicateError,
    MalformedError,
    MembershipError,
    NotAMemberError,
    NotOwnerError,
    TooFewSignaturesError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.membership import (
    MAX_POWER,
    NewMember,
    NodeJoin,
    NodeLeave,
    NodeRemove,
    change_bytes,
)
from edgistry.transactions import (
    MAX_MEMBERS,
    Body,
    EpochKey,
    MemberKey,
    ServicesPut,
    parse_body,
    parse_transaction,
)

from .chain_world import (
    ANN,
    BOB,
    CHAIN,
    EVE,
    LEASE,
    SECOND,
    START_US,
    Node,
    World,
    genesis,
    put,
    record,
    region,
    started,
)
from .member_world import LATER_US, card, joins, removes, signed

CAROL, DAN = Node("carol"), Node("dan")
FOUR = (ANN, BOB, CAROL, DAN)
LEAVES = NodeLeave(change=1)


@pytest.fixture
def world() -> World:
    return started(MemoryKeyValue(), genesis(*FOUR, validating=True, epoch_s=3600))


async def updates(world: World, node: Node, body: Body) -> list[tuple[bytes, int]]:
    """What the engine is told of validators in a block with ``body``, which is applied."""
    world.now_us += SECOND
    answer = await world.finalize(world.next(node, body))
    world.app.commit(pb.RequestCommit())
    assert [result.code for result in answer.tx_results] == [0]
    return [(each.pub_key.ed25519, each.power) for each in answer.validator_updates]


def members(world: World) -> set[bytes]:
    return set(world.app.reader.members())


# --- leaving ------------------------------------------------------------------------------------


async def test_a_node_leaves_by_itself(world: World) -> None:
    assert await updates(world, DAN, LEAVES) == [(DAN.validator_key, 0)]
    assert members(world) == {ANN.id, BOB.id, CAROL.id}
    assert await world.do(DAN, LEASE) == NotAMemberError.number
    assert world.check(world.next(DAN, LEASE)) == NotAMemberError.number
    former = world.app.reader.former()[DAN.id]
    assert (former.left_us, former.peer_id) == (world.now_us - SECOND, DAN.peer_id)


async def test_what_a_node_sends_behind_its_leaving_is_refused(world: World) -> None:
    transactions = [world.next(DAN, body) for body in (put("x"), LEAVES, put("y"), LEASE)]
    codes = await world.block(*transactions)
    assert codes == [0, 0, NotAMemberError.number, NotAMemberError.number]
    assert not world.app.reader.is_visible(DAN.id)


async def test_a_leaving_that_came_too_late_is_good_no_more_when_its_node_is_in_again(
    world: World,
) -> None:
    """It has not consumed its sequence: nobody looks at what is not a member's."""
    late = world.next(DAN, LEAVES)
    codes = await world.block(world.next(ANN, removes(DAN, ANN, BOB, CAROL)), late)
    assert codes == [0, NotAMemberError.number]
    await world.block()
    assert await world.do(ANN, joins(DAN, ANN, BOB, CAROL, change=2)) == 0
    assert await world.block(late) == [MembershipError.number]
    assert DAN.id in members(world)
    assert await world.do(DAN, NodeLeave(change=3)) == 0


async def test_more_than_two_thirds_of_the_others_remove_a_node(world: World) -> None:
    few = removes(DAN, ANN, BOB)
    assert await world.do(ANN, few) == TooFewSignaturesError.number
    assert await updates(world, ANN, removes(DAN, ANN, BOB, CAROL)) == [(DAN.validator_key, 0)]
    assert members(world) == {ANN.id, BOB.id, CAROL.id}


async def test_the_one_to_be_removed_has_no_say_in_it(world: World) -> None:
    assert await world.do(ANN, removes(DAN, ANN, BOB, DAN)) == NotAMemberError.number
    assert await world.do(ANN, removes(DAN, ANN, BOB, EVE)) == NotAMemberError.number
    assert await world.do(ANN, removes(EVE, ANN, BOB, CAROL)) == NotAMemberError.number


async def test_a_signature_that_does_not_verify_spoils_it(world: World) -> None:
    good = removes(DAN, ANN, BOB, CAROL)
    other = removes(CAROL, ANN, BOB)
    mixed = replace(good, signatures=(*good.signatures[:2], (good.signatures[2][0], bytes(64))))
    assert await world.do(ANN, mixed) == BadSignatureError.number
    stolen = replace(other, signatures=good.signatures)
    assert await world.do(ANN, stolen) == NotAMemberError.number
    elsewhere = signed(replace(good, signatures=()), ANN, BOB, CAROL, chain_id="other")
    assert await world.do(ANN, elsewhere) == BadSignatureError.number
    assert len(members(world)) == 4


async def test_the_last_one_stays() -> None:
    world = started(MemoryKeyValue(), genesis(ANN))
    assert await world.do(ANN, LEAVES) == MembershipError.number
    assert members(world) == {ANN.id}


async def test_the_last_one_that_votes_stays() -> None:
    state = genesis(ANN, BOB, validating=True)
    bob = replace(state.members[1], validator_key="")
    world = started(MemoryKeyValue(), replace(state, members=(state.members[0], bob)))
    assert await world.do(ANN, LEAVES) == MembershipError.number
    assert await updates(world, BOB, LEAVES) == []


async def test_records_of_one_who_left_are_hidden_and_withdrawn_in_bounded_blocks(
    world: World,
) -> None:
    count = MAX_DELETED + 88
    for start in range(0, count, 300):
        await world.do(DAN, put(*(f"dan {at}" for at in range(start, start + 300))))
    await world.do(ANN, put("kept"))
    assert world.app.reader.is_visible(DAN.id)
    await world.do(ANN, removes(DAN, ANN, BOB, CAROL))
    assert not world.app.reader.is_visible(DAN.id)
    left = []
    for _ in range(3):
        left.append(len(list(world.app.reader.keys_of(DAN.id))))
        await world.block()
    assert left == [600, 600 - MAX_DELETED, 0]
    assert [home for _, home in ((k, s.home) for k, s in world.app.reader.services())] == [ANN.id]
    assert not world.app.reader.former()[DAN.id].withdrawing
    before = world.app_hash
    await world.block()
    assert world.app_hash == before


async def test_the_bound_is_one_for_all_who_left(world: World) -> None:
    for node in (BOB, DAN):
        await world.do(node, put(*(f"{node.name} {at}" for at in range(400))))
    await world.block(world.next(BOB, LEAVES), world.next(DAN, NodeLeave(change=2)))
    left = []
    for _ in range(2):
        await world.block()
        left.append(len(list(world.app.reader.services())))
    assert left == [800 - MAX_DELETED, 0]


async def test_an_old_lease_of_a_removed_node_does_not_come_back(world: World) -> None:
    await world.do(DAN, put("x"))
    waiting = world.next(DAN, LEASE)
    codes = await world.block(world.next(ANN, removes(DAN, ANN, BOB, CAROL)), waiting)
    assert codes == [0, NotAMemberError.number]
    assert not world.app.reader.is_visible(DAN.id)


async def test_a_region_of_one_who_left_may_be_put_by_another(world: World) -> None:
    await world.do(DAN, region("park"))
    assert await world.do(ANN, region("park", 2)) == NotOwnerError.number
    await world.do(DAN, LEAVES)
    assert await world.do(ANN, region("park", 2)) == 0
    assert await world.do(BOB, region("park", 3)) == NotOwnerError.number


# --- joining ------------------------------------------------------------------------------------


async def test_more_than_two_thirds_take_a_node_in(world: World) -> None:
    assert await world.do(EVE, LEASE) == NotAMemberError.number
    assert await world.do(ANN, joins(EVE, ANN, BOB)) == TooFewSignaturesError.number
    assert await updates(world, ANN, joins(EVE, ANN, BOB, CAROL, power=3)) == [
        (EVE.validator_key, 3)
    ]
    assert members(world) == {node.id for node in (*FOUR, EVE)}
    assert world.app.reader.is_visible(EVE.id)
    (code,) = await world.block(EVE.sign(1, put("eve's")))
    assert code == 0


async def test_who_joined_may_send_in_the_same_block(world: World) -> None:
    codes = await world.block(
        world.next(ANN, joins(EVE, ANN, BOB, CAROL)), world.next(EVE, put("eve's"))
    )
    assert codes == [0, 0]


async def test_what_was_signed_is_good_once(world: World) -> None:
    body = joins(EVE, ANN, BOB, CAROL)
    assert await world.do(ANN, body) == 0
    assert await world.do(EVE, NodeLeave(change=2)) == 0
    await world.block()
    assert await world.do(ANN, body) == MembershipError.number
    assert await world.do(ANN, joins(EVE, ANN, BOB, CAROL, change=3)) == 0


async def test_what_was_signed_before_another_change_is_good_no_more(world: World) -> None:
    body = joins(EVE, ANN, BOB, CAROL)
    await world.do(DAN, LEAVES)
    assert await world.do(ANN, body) == MembershipError.number
    assert await world.do(ANN, joins(EVE, ANN, BOB, CAROL, change=3)) == MembershipError.number


async def test_of_two_changes_in_a_block_the_second_is_refused(world: World) -> None:
    first, second = joins(EVE, ANN, BOB, CAROL), removes(DAN, ANN, BOB, CAROL)
    codes = await world.block(world.next(ANN, first), world.next(BOB, second))
    assert codes == [0, MembershipError.number]


async def test_what_was_signed_ends_with_its_time(world: World) -> None:
    end_us = START_US + 10 * SECOND
    late = joins(EVE, ANN, BOB, CAROL, not_after_us=end_us)
    await world.block(after_us=10 * SECOND)
    assert await world.do(ANN, late) == MembershipError.number
    assert await world.do(ANN, joins(EVE, ANN, BOB, CAROL, not_after_us=world.now_us + SECOND)) == 0


@pytest.mark.parametrize("field", ["name", "validator_key", "peer_id"])
async def test_nobody_joins_under_what_is_anothers(world: World, field: str) -> None:
    member = replace(card(EVE), **{field: getattr(BOB, field)})
    body = NodeJoin(change=1, not_after_us=LATER_US, member=member, signatures=())
    assert await world.do(ANN, signed(body, ANN, BOB, CAROL)) == DuplicateError.number


async def test_a_member_does_not_join_again_under_another_name(world: World) -> None:
    assert await world.do(ANN, joins(DAN, ANN, BOB, CAROL)) == DuplicateError.number
    member = replace(card(EVE), public_key=DAN.public_key)
    body = NodeJoin(change=1, not_after_us=LATER_US, member=member, signatures=())
    assert await world.do(ANN, signed(body, ANN, BOB, CAROL)) == DuplicateError.number


async def test_there_are_no_more_members_than_a_chain_can_have() -> None:
    many = [Node(f"member-{number}") for number in range(MAX_MEMBERS)]
    signers = many[: MAX_MEMBERS * 2 // 3 + 1]
    world = started(MemoryKeyValue(), genesis(*many))
    assert await world.do(many[0], joins(EVE, *signers)) == MembershipError.number
    assert await world.do(many[-1], LEAVES) == 0
    assert await world.do(many[0], joins(EVE, *signers, change=2)) == 0


async def test_one_comes_back_when_its_records_are_gone_and_its_sequence_goes_on(
    world: World,
) -> None:
    first = world.next(DAN, put("x"))
    await world.block(first)
    await world.do(DAN, LEAVES)
    body = joins(DAN, ANN, BOB, CAROL, change=2)
    early = await world.block(world.next(ANN, body))
    # The block withdrew the one record before it came to the transaction.
    assert early == [0]
    assert list(world.app.reader.keys_of(DAN.id)) == []
    assert DAN.id not in world.app.reader.former()
    assert await world.block(first) != [0]
    assert await world.do(DAN, put("y")) == 0
    await world.block()
    assert len(list(world.app.reader.keys_of(DAN.id))) == 1


async def test_one_does_not_come_back_while_its_records_are_being_withdrawn(world: World) -> None:
    for start in range(0, MAX_DELETED + 1, 300):
        await world.do(DAN, put(*(f"dan {at}" for at in range(start, start + 300))))
    await world.do(DAN, LEAVES)
    code = await world.do(ANN, joins(DAN, ANN, BOB, CAROL, change=2))
    assert code == MembershipError.number
    assert await world.do(ANN, joins(DAN, ANN, BOB, CAROL, change=2)) == 0


@pytest.mark.parametrize("power", [7, 10])
async def test_a_key_that_changes_hands_within_a_block_is_one_update_if_any(
    world: World, power: int
) -> None:
    body = NodeJoin(
        change=2,
        not_after_us=LATER_US,
        member=replace(card(EVE, power), validator_key=DAN.validator_key),
        signatures=(),
    )
    world.now_us += SECOND
    answer = await world.finalize(
        world.next(DAN, LEAVES), world.next(ANN, signed(body, ANN, BOB, CAROL))
    )
    assert [result.code for result in answer.tx_results] == [0, 0]
    found = [(each.pub_key.ed25519, each.power) for each in answer.validator_updates]
    assert found == ([] if power == 10 else [(DAN.validator_key, power)])


async def test_a_block_without_changes_tells_the_engine_nothing(world: World) -> None:
    assert await updates(world, ANN, put("x")) == []


def test_genesis_whose_validators_are_not_the_members_is_refused() -> None:
    world = World(MemoryKeyValue(), genesis(ANN, BOB, validating=True))
    state = world.genesis
    for validators in ({}, {ANN.validator_key: 10}, {ANN.validator_key: 10, bytes(32): 1}):
        with pytest.raises(ChainMismatchError):
            world.app._ledger.begin(CHAIN, state, START_US, validators=validators)


@pytest.mark.parametrize("power", [MAX_POWER, MAX_POWER + 1])
def test_genesis_gives_no_member_more_power_than_it_can_have(power: int) -> None:
    world = World(MemoryKeyValue(), genesis(ANN, validating=True))
    begin = partial(world.app._ledger.begin, CHAIN, world.genesis, START_US)
    if power > MAX_POWER:
        with pytest.raises(ChainMismatchError, match="member ann has power 1001"):
            begin(validators={ANN.validator_key: power})
    else:
        begin(validators={ANN.validator_key: power})
        assert world.app._ledger.members[ANN.id].power == power


# --- epochs -------------------------------------------------------------------------------------


async def test_an_epoch_is_over_when_one_who_has_its_key_is_removed(world: World) -> None:
    for node in FOUR:
        await world.do(node, MemberKey(epoch=1, public=node.public_key))
    sealed = tuple(sorted((node.id, bytes(80)) for node in FOUR))
    begins = EpochKey(epoch=1, check=bytes(16), sealed=sealed)
    assert await world.do(ANN, begins, after_us=4 * TURN_US) == 0
    await world.do(ANN, removes(DAN, ANN, BOB, CAROL))
    current = world.app.reader.epochs().current
    assert current is not None
    assert current.over_us == world.now_us
    await world.do(ANN, MemberKey(epoch=2, public=ANN.public_key))
    begins = EpochKey(epoch=2, check=bytes(16), sealed=((ANN.id, bytes(80)),))
    assert await world.do(DAN, begins, after_us=4 * TURN_US) == NotAMemberError.number
    assert await world.do(ANN, begins) == 0


# --- the engine's peers -------------------------------------------------------------------------


async def test_the_engine_lets_in_the_peers_of_members(world: World) -> None:
    def may_connect(peer_id: str) -> bool:
        path = f"/p2p/filter/id/{peer_id}"
        return bool(world.app.query(pb.RequestQuery(path=path)).code == 0)

    await world.block()
    assert may_connect(DAN.peer_id.hex())
    assert not may_connect(EVE.peer_id.hex())
    assert may_connect("friend")  # configured: this node may not know yet that it is a member
    await world.do(ANN, joins(EVE, ANN, BOB, CAROL))
    await world.do(DAN, NodeLeave(change=2))
    assert may_connect(EVE.peer_id.hex())
    assert not may_connect(DAN.peer_id.hex())


async def test_a_configured_peer_of_a_former_member_is_kept_out(world: World) -> None:
    configured = world.app._queries
    configured._allowed = {DAN.peer_id.hex()}.__contains__
    await world.do(DAN, LEAVES)
    path = f"/p2p/filter/id/{DAN.peer_id.hex()}"
    assert world.app.query(pb.RequestQuery(path=path)).code != 0


# --- bytes --------------------------------------------------------------------------------------


def test_what_is_signed_is_named_by_domain_chain_kind_and_number() -> None:
    body = removes(DAN, change=5, not_after_us=7)
    expected = b"edgistry member 1\0\x95\xaatest-chain\x0a\x05\x07\xc4\x14" + DAN.id
    assert change_bytes(CHAIN, body) == expected
    other = joins(DAN, change=5, not_after_us=7)
    assert change_bytes(CHAIN, other).startswith(
        b"edgistry member 1\0\x95\xaatest-chain\x08\x05\x07\x95\xc4\x20" + DAN.public_key
    )
    assert change_bytes(CHAIN, joins(DAN, power=11)) != change_bytes(CHAIN, joins(DAN))


keys = st.binary(min_size=32, max_size=32)
node_ids = st.binary(min_size=20, max_size=20)
all_signatures = st.dictionaries(node_ids, st.binary(min_size=64, max_size=64), max_size=4).map(
    lambda found: tuple(sorted(found.items()))
)
numbers = st.integers(1, (1 << 63) - 1)
changes = st.one_of(
    st.builds(
        NodeJoin,
        change=numbers,
        not_after_us=numbers,
        member=st.builds(
            NewMember,
            public_key=keys,
            name=st.from_regex(r"[a-z][a-z0-9._-]{0,63}", fullmatch=True),
            validator_key=keys,
            peer_id=node_ids,
            power=st.integers(1, 1000),
        ),
        signatures=all_signatures,
    ),
    st.builds(
        NodeRemove,
        change=numbers,
        not_after_us=numbers,
        node=node_ids,
        signatures=all_signatures,
    ),
    st.builds(NodeLeave, change=numbers),
)


@given(changes)
def test_a_change_comes_back_from_its_transaction(body: NodeJoin | NodeRemove | NodeLeave) -> None:
    assert parse_body(parse_transaction(ANN.sign(1, body))) == body


@given(st.sampled_from([NodeJoin, NodeRemove, NodeLeave]), st.binary(max_size=300))
def test_any_bytes_are_a_change_or_malformed(kind: type[Body], data: bytes) -> None:
    try:
        value = decode(data, kind, limit=1000)
    except MalformedError:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    "body",
    [
        replace(removes(DAN, ANN, BOB), signatures=removes(DAN, ANN, BOB).signatures[::-1]),
        replace(removes(DAN, ANN), signatures=removes(DAN, ANN).signatures * 2),
        replace(removes(DAN), change=0),
        replace(joins(DAN), member=replace(card(DAN), name="da n")),
        replace(joins(DAN), member=replace(card(DAN), name="")),
        replace(joins(DAN), member=replace(card(DAN), power=0)),
        replace(joins(DAN), member=replace(card(DAN), power=1001)),
        replace(joins(DAN), member=replace(card(DAN), validator_key=b"")),
        replace(
            removes(DAN),
            signatures=tuple(
                (hashlib.sha256(b"%d" % at).digest()[:20], bytes(64)) for at in range(129)
            ),
        ),
    ],
)
def test_a_body_of_another_form_is_malformed(body: Body) -> None:
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(ANN.sign(1, body)))


async def test_many_records_of_others_are_left_alone_by_a_withdrawal(world: World) -> None:
    await world.do(ANN, ServicesPut(records=tuple(record(f"a{at}") for at in range(20))))
    await world.do(DAN, put("d"))
    await world.do(DAN, LEAVES)
    await world.block()
    assert len(list(world.app.reader.services())) == 20
