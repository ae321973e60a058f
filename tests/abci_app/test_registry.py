"""The registry's rules, each as the chain shows it."""

from __future__ import annotations

import itertools

import pytest

from abci_app import abci_pb2 as pb
from abci_app.registry import MAX_DELETED
from edgistry.adapters import crypto
from edgistry.cell import base_cell, children_of, parse_cell
from edgistry.codec import Raw, encode, replace
from edgistry.errors import (
    BadSignatureError,
    DuplicateError,
    InvalidValueError,
    MalformedError,
    NotAMemberError,
    NotOwnerError,
    Refused,
    WrongChainError,
    WrongSequenceError,
    WrongVersionError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.transactions import (
    Kind,
    RegionPut,
    ServicesPut,
    Transaction,
    pack_cells,
    parse_transaction,
    signing_bytes,
)

from .chain_world import (
    ANN,
    BOB,
    CHAIN,
    DAY,
    EVE,
    LEASE,
    LEASE_US,
    SECOND,
    Node,
    World,
    genesis,
    key,
    put,
    record,
    region,
    started,
    withdraw,
)


@pytest.fixture
def world() -> World:
    return started(MemoryKeyValue())


def sign_raw(node: Node, sequence: int, body: bytes, kind: int = Kind.SERVICES_PUT) -> bytes:
    """A correctly signed transaction whose body is any one MessagePack value."""
    unsigned = Transaction(
        version=1,
        kind=kind,
        chain_id=CHAIN,
        node_id=node.id,
        sequence=sequence,
        body=Raw(body),
        signature=bytes(64),
    )
    signature = crypto.sign(node.seed, signing_bytes(unsigned))
    return encode((1, kind, CHAIN, node.id, sequence, Raw(body), signature))


# --- records ---------------------------------------------------------------------------------


async def test_a_published_record_is_in_the_registry_with_its_home(world: World) -> None:
    assert await world.do(ANN, put("a")) == 0
    service = world.app.reader.service(key("a"))
    assert service is not None
    assert service.home == ANN.id
    assert service.cell == record("a").cell
    assert service.commitment == record("a").commitment


async def test_putting_again_replaces_the_record(world: World) -> None:
    await world.do(ANN, put("a"))
    changed = ServicesPut(records=(record("a", type_name="valve"),))
    assert await world.do(ANN, changed) == 0
    service = world.app.reader.service(key("a"))
    assert service is not None
    assert service.type == "valve"


async def test_a_batch_publishes_all_its_records(world: World) -> None:
    assert await world.do(ANN, put(*range(512))) == 0
    assert sum(1 for _ in world.app.reader.services()) == 512


async def test_services_are_listed_in_key_order(world: World) -> None:
    await world.do(ANN, put(*range(20)))
    keys = [found for found, _ in world.app.reader.services()]
    assert keys == sorted(key(number) for number in range(20))


async def test_a_record_of_another_node_cannot_be_replaced(world: World) -> None:
    await world.do(ANN, put("a"))
    assert await world.do(BOB, put("a")) == NotOwnerError.number
    service = world.app.reader.service(key("a"))
    assert service is not None
    assert service.home == ANN.id


async def test_one_bad_record_refuses_its_whole_batch(world: World) -> None:
    await world.do(ANN, put("a"))
    assert await world.do(BOB, put("b", "a", "c")) == NotOwnerError.number
    assert world.app.reader.service(key("b")) is None
    assert world.app.reader.service(key("c")) is None


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (0, MalformedError),
        (12345, MalformedError),
        (parse_cell("872830828ffffff") | 1 << 62, MalformedError),
        (base_cell(20), InvalidValueError),
        (children_of(parse_cell("872830828ffffff"))[0], InvalidValueError),
    ],
)
async def test_a_batch_with_a_cell_that_is_none_or_may_not_be_published_is_refused(
    world: World, cell: int, error: type[MalformedError] | type[InvalidValueError]
) -> None:
    bad = ServicesPut(records=(record("a"), record("b", cell=cell)))
    assert await world.do(ANN, bad) == error.number
    assert world.app.reader.service(key("a")) is None


async def test_a_key_twice_in_one_batch_is_refused(world: World) -> None:
    assert await world.do(ANN, put("a", "a")) == DuplicateError.number
    assert world.app.reader.service(key("a")) is None


async def test_a_withdrawn_record_is_gone(world: World) -> None:
    await world.do(ANN, put("a", "b"))
    assert await world.do(ANN, withdraw("a")) == 0
    assert world.app.reader.service(key("a")) is None
    assert world.app.reader.service(key("b")) is not None


async def test_withdrawing_what_is_gone_already_is_no_error(world: World) -> None:
    await world.do(ANN, put("a"))
    assert await world.do(ANN, withdraw("a", "never-there")) == 0
    assert world.app.reader.service(key("a")) is None


async def test_withdrawing_a_record_of_another_node_is_refused_whole(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.do(BOB, put("b"))
    assert await world.do(BOB, withdraw("b", "a")) == NotOwnerError.number
    assert world.app.reader.service(key("a")) is not None
    assert world.app.reader.service(key("b")) is not None


async def test_withdrawing_one_key_twice_is_refused(world: World) -> None:
    await world.do(ANN, put("a"))
    assert await world.do(ANN, withdraw("a", "a")) == DuplicateError.number


async def test_put_and_withdraw_in_one_block_leave_nothing(world: World) -> None:
    codes = await world.block(world.next(ANN, put("a")), world.next(ANN, withdraw("a")))
    assert codes == [0, 0]
    assert world.app.reader.service(key("a")) is None


# --- regions ---------------------------------------------------------------------------------


async def test_a_region_begins_with_version_one_and_grows_by_one(world: World) -> None:
    assert await world.do(ANN, region("bay")) == 0
    assert await world.do(ANN, region("bay", version=2)) == 0
    stored = world.app.reader.region("bay")
    assert stored is not None
    assert (stored.owner, stored.version) == (ANN.id, 2)


@pytest.mark.parametrize("version", [1, 3])
async def test_a_region_version_that_is_not_the_next_is_refused(world: World, version: int) -> None:
    await world.do(ANN, region("bay"))
    assert await world.do(ANN, region("bay", version=version)) == WrongVersionError.number
    stored = world.app.reader.region("bay")
    assert stored is not None
    assert stored.version == 1


async def test_a_new_region_cannot_begin_with_version_two(world: World) -> None:
    assert await world.do(ANN, region("bay", version=2)) == WrongVersionError.number
    assert world.app.reader.region("bay") is None


async def test_only_its_owner_changes_a_region(world: World) -> None:
    await world.do(ANN, region("bay"))
    assert await world.do(BOB, region("bay", version=2)) == NotOwnerError.number


async def test_a_region_may_hold_compacted_cells_down_to_resolution_seven(world: World) -> None:
    coarse = base_cell(20)
    fine = parse_cell("872830828ffffff")
    assert await world.do(ANN, region("mixed", cells=(coarse, fine))) == 0


@pytest.mark.parametrize("cell", [5, children_of(parse_cell("872830828ffffff"))[0]])
async def test_a_region_with_a_bad_cell_is_refused(world: World, cell: int) -> None:
    assert await world.do(ANN, region("bay", cells=(cell,))) == InvalidValueError.number
    assert world.app.reader.region("bay") is None


async def test_regions_are_listed_by_name(world: World) -> None:
    for name in ("west", "east"):
        await world.do(ANN, region(name))
    assert [name for name, _ in world.app.reader.regions()] == ["east", "west"]


# --- sequences -------------------------------------------------------------------------------


async def test_sequences_are_consumed_one_by_one(world: World) -> None:
    await world.block(ANN.sign(1, put("a")), ANN.sign(2, put("b")), BOB.sign(1, put("c")))
    assert world.app.reader.sequence(ANN.id).last == 2
    assert world.app.reader.sequence(BOB.id).last == 1


@pytest.mark.parametrize("sequence", [1, 3, 1 << 40])
async def test_any_sequence_but_the_next_is_refused_and_not_consumed(
    world: World, sequence: int
) -> None:
    await world.block(ANN.sign(1, LEASE))
    assert await world.block(ANN.sign(sequence, put("a"))) == [WrongSequenceError.number]
    assert world.app.reader.sequence(ANN.id).last == 1
    assert world.app.reader.sequence(ANN.id).refused == ()
    assert world.app.reader.service(key("a")) is None


async def test_a_refused_body_consumes_its_sequence_and_is_remembered(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.do(BOB, put("a"))
    state = world.app.reader.sequence(BOB.id)
    assert state.last == 1
    assert state.refused == ((1, NotOwnerError.number),)
    assert await world.do(BOB, put("b")) == 0


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.SERVICES_PUT, encode([])),
        (Kind.SERVICES_PUT, encode("text")),
        (Kind.SERVICES_PUT, encode([[1, 2, 3]])),
        (Kind.NODE_LEASE, encode([1])),
        (Kind.NODE_LEASE, b"\xcd\x00\x01"),
        (Kind.NODE_LEASE, b"\x91" * 30 + b"\x01"),
        (200, encode([])),
    ],
)
async def test_a_body_that_means_nothing_consumes_its_sequence(
    world: World, kind: int, body: bytes
) -> None:
    codes = await world.block(sign_raw(ANN, 1, body, kind), ANN.sign(2, put("a")))
    assert codes == [MalformedError.number, 0]
    assert world.app.reader.sequence(ANN.id).refused == ((1, MalformedError.number),)


@pytest.mark.parametrize("levels", [40, 1000, 100_000])
async def test_a_body_nested_too_deep_is_no_transaction_at_any_depth(
    world: World, levels: int
) -> None:
    deep = sign_raw(ANN, 1, b"\x91" * levels + b"\x01")
    assert await world.block(deep) == [MalformedError.number]
    assert world.app.reader.sequence(ANN.id).last == 0


async def test_a_body_nested_too_deep_does_not_come_into_mempool_or_proposal(
    world: World,
) -> None:
    deep, next_one = sign_raw(ANN, 1, b"\x91" * 33 + b"\x01"), ANN.sign(1, LEASE)
    for _ in range(2):
        assert world.check(deep) == MalformedError.number
    proposal = await world.app.prepare_proposal(
        pb.RequestPrepareProposal(txs=[deep, next_one], max_tx_bytes=1 << 20, height=1)
    )
    assert list(proposal.txs) == [next_one]
    shallow = sign_raw(ANN, 1, b"\x91" * 32 + b"\x01")
    assert world.check(shallow) == 0
    assert await world.block(shallow) == [MalformedError.number]
    assert world.app.reader.sequence(ANN.id).last == 1


@pytest.mark.parametrize(
    ("changed", "shallow"),
    [
        ({"chain_id": "elsewhere"}, WrongChainError),
        ({"node_id": EVE.id}, NotAMemberError),
        ({"sequence": 7}, WrongSequenceError),
        ({"signature": bytes(64)}, BadSignatureError),
    ],
)
@pytest.mark.parametrize("levels", [40, 500, 980, 100_000])
async def test_a_refusal_never_depends_on_how_deep_a_decoder_goes(
    world: World, changed: dict[str, object], shallow: type[Refused], levels: int
) -> None:
    def altered(body: bytes) -> bytes:
        return encode(replace(parse_transaction(sign_raw(ANN, 1, body)), **changed))

    deep = altered(b"\x90").replace(b"\x90\xc4\x40", b"\x91" * levels + b"\x90\xc4\x40")
    codes = await world.block(altered(b"\x90"), deep)
    assert codes == [shallow.number, MalformedError.number]
    assert world.app.reader.sequence(ANN.id).last == 0


async def test_only_the_last_sixteen_refusals_are_remembered(world: World) -> None:
    await world.do(BOB, put("a"))
    await world.block(*(world.next(ANN, put("a")) for _ in range(20)))
    state = world.app.reader.sequence(ANN.id)
    assert state.last == 20
    assert [sequence for sequence, _ in state.refused] == list(range(5, 21))


async def test_a_node_that_never_sent_has_consumed_nothing(world: World) -> None:
    assert world.app.reader.sequence(EVE.id).last == 0


# --- leases and time -------------------------------------------------------------------------


async def beats(world: World, span_us: int, *transactions: bytes) -> None:
    """Empty blocks every 10 s for ``span_us``; ``transactions`` in the first."""
    await world.block(*transactions, after_us=10 * SECOND)
    for _ in range(span_us // (10 * SECOND) - 1):
        await world.block(after_us=10 * SECOND)


async def test_records_are_visible_while_their_nodes_lease_lives(world: World) -> None:
    await world.do(ANN, LEASE)
    await beats(world, LEASE_US - 10 * SECOND)
    assert world.app.reader.is_visible(ANN.id)
    await beats(world, 10 * SECOND)
    assert not world.app.reader.is_visible(ANN.id)


async def test_renewing_makes_a_lapsed_nodes_records_visible_again(world: World) -> None:
    await beats(world, 2 * LEASE_US)
    assert not world.app.reader.is_visible(ANN.id)
    await world.do(ANN, LEASE)
    assert world.app.reader.is_visible(ANN.id)
    assert not world.app.reader.is_visible(BOB.id)


async def test_publishing_revives_a_lapsed_lease(world: World) -> None:
    await beats(world, 2 * LEASE_US)
    await world.do(ANN, put("a"))
    assert world.app.reader.is_visible(ANN.id)


async def test_publishing_leaves_a_living_lease_alone(world: World) -> None:
    await beats(world, LEASE_US // 2)
    await world.do(ANN, put("a"))
    await beats(world, LEASE_US // 2)
    assert not world.app.reader.is_visible(ANN.id)


async def test_members_have_a_lease_from_genesis_and_others_none(world: World) -> None:
    await world.block()
    assert world.app.reader.is_visible(ANN.id)
    assert not world.app.reader.is_visible(EVE.id)


async def test_an_outage_of_consensus_does_not_age_leases(world: World) -> None:
    await world.do(ANN, LEASE)
    await world.block(after_us=3 * DAY)
    assert world.app.reader.is_visible(ANN.id)
    # All of the outage but one beat of ten seconds is forgiven, once.
    await beats(world, LEASE_US - 20 * SECOND)
    assert world.app.reader.is_visible(ANN.id)
    await beats(world, 20 * SECOND)
    assert not world.app.reader.is_visible(ANN.id)


async def test_a_silence_of_sixty_seconds_is_no_outage(world: World) -> None:
    await world.block()
    before = world.app.reader.lease_now_us
    await world.block(after_us=60 * SECOND)
    assert world.app.reader.lease_now_us - before == 60 * SECOND
    await world.block(after_us=61 * SECOND)
    assert world.app.reader.lease_now_us - before == 70 * SECOND


async def test_an_outage_longer_than_the_deletion_period_deletes_nothing(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.block(after_us=30 * DAY)
    assert world.app.reader.service(key("a")) is not None
    assert world.app.reader.is_visible(ANN.id)


async def test_a_short_lease_outlasts_an_outage_longer_than_itself() -> None:
    world = started(MemoryKeyValue(), genesis(lease_s=30, outage_gap_s=0))
    await world.do(ANN, LEASE)
    await world.block(after_us=10 * SECOND)
    await world.block(after_us=45 * SECOND)
    assert world.app.reader.is_visible(ANN.id)


@pytest.mark.parametrize("lease_s", [24, 30, 60, 600])
async def test_no_silence_before_the_next_renewal_lets_a_lease_lapse(lease_s: int) -> None:
    for tenths in range(1, 21):
        world = started(MemoryKeyValue(), genesis(lease_s=lease_s, outage_gap_s=0))
        await world.do(ANN, LEASE)
        for _ in range(lease_s // 24):
            await world.block(after_us=8 * SECOND)
        await world.block(after_us=lease_s * tenths * SECOND // 10)
        assert world.app.reader.is_visible(ANN.id)


def lapsing() -> World:
    """A world in which leases end after a minute and records a minute later."""
    return started(MemoryKeyValue(), genesis(lease_s=60, delete_after_s=60))


async def test_records_are_hidden_before_they_are_deleted() -> None:
    world = lapsing()
    await world.do(ANN, put("a"))
    await beats(world, 70 * SECOND)
    assert not world.app.reader.is_visible(ANN.id)
    assert world.app.reader.service(key("a")) is not None
    await beats(world, 60 * SECOND)
    assert world.app.reader.service(key("a")) is None


async def test_only_the_dead_nodes_records_are_deleted() -> None:
    world = lapsing()
    await world.block(world.next(ANN, put("a")), world.next(BOB, put("b")))
    for _ in range(20):
        await world.block(world.next(BOB, LEASE), after_us=10 * SECOND)
    assert world.app.reader.service(key("a")) is None
    assert world.app.reader.service(key("b")) is not None


async def test_deletion_is_bounded_in_each_block() -> None:
    world = lapsing()
    total = 2 * MAX_DELETED + 100
    for start in range(0, total, 300):
        await world.do(ANN, put(*range(start, min(start + 300, total))))
    left = [total]
    while left[-1]:
        await world.block(after_us=10 * SECOND)
        left.append(sum(1 for _ in world.app.reader.services()))
    steps = [before - after for before, after in itertools.pairwise(left)]
    assert [step for step in steps if step] == [MAX_DELETED, MAX_DELETED, 100]


async def test_deletion_takes_the_lowest_keys_first() -> None:
    world = lapsing()
    for start in (0, 300):
        await world.do(ANN, put(*range(start, start + 300)))
    while sum(1 for _ in world.app.reader.services()) == 600:
        await world.block(after_us=10 * SECOND)
    kept = [found for found, _ in world.app.reader.services()]
    assert kept == sorted(key(number) for number in range(600))[MAX_DELETED:]


async def test_a_node_that_returns_after_deletion_can_publish_again() -> None:
    world = lapsing()
    await world.do(ANN, put("a"))
    await beats(world, 200 * SECOND)
    assert world.app.reader.service(key("a")) is None
    assert await world.do(ANN, put("a")) == 0
    await world.block()
    assert world.app.reader.service(key("a")) is not None


# --- the hash --------------------------------------------------------------------------------


async def test_an_empty_block_does_not_change_the_hash(world: World) -> None:
    await world.do(ANN, put("a"))
    before = world.app_hash
    await world.block()
    await world.block(after_us=50 * SECOND)
    assert world.app_hash == before


async def test_a_block_of_foreign_transactions_does_not_change_the_hash(world: World) -> None:
    await world.block()
    before = world.app_hash
    await world.block(b"", b"garbage", EVE.sign(1, put("a")), ANN.sign(7, put("a")))
    assert world.app_hash == before


async def test_every_kind_of_change_changes_the_hash(world: World) -> None:
    await world.block()
    hashes = [world.app_hash]
    for body in (LEASE, put("a"), region("bay"), withdraw("a")):
        await world.do(ANN, body)
        hashes.append(world.app_hash)
    await world.block(after_us=1000 * SECOND)
    hashes.append(world.app_hash)
    assert len(set(hashes)) == len(hashes)


def test_genesis_is_in_the_hash() -> None:
    one = World(MemoryKeyValue(), genesis(ANN)).begin()
    two = World(MemoryKeyValue(), genesis(ANN, BOB)).begin()
    other_lease = World(MemoryKeyValue(), genesis(ANN, lease_s=599)).begin()
    assert len({one, two, other_lease}) == 3


async def test_the_largest_region_fits_into_one_transaction(world: World) -> None:
    cells: list[int] = [base_cell(20)]
    while len(cells) < 8192:
        cells = [child for cell in cells for child in children_of(cell)]
    body = RegionPut(name="largest", version=1, cells=pack_cells(cells[:8192]))
    assert await world.do(ANN, body) == 0
