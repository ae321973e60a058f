"""The application as the engine sees it: staging, Commit, CheckTx, proposals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app import abci_pb2 as pb
from abci_app.abci_framing import proposal_size
from abci_app.application import RegistryApplication
from abci_app.schema import FORMAT_KEY
from abci_app.slices import Slices
from edgistry.adapters import sodium
from edgistry.errors import (
    BadSignatureError,
    ChainMismatchError,
    ConfigError,
    CorruptDatabaseError,
    DatabaseLayoutError,
    MalformedError,
    NotAMemberError,
    NotOwnerError,
    TooLargeError,
    UnavailableError,
    WrongChainError,
    WrongSequenceError,
)
from edgistry.kv import Change, MemoryKeyValue

from .chain_world import (
    ANN,
    BOB,
    CHAIN,
    EVE,
    LEASE,
    START_US,
    World,
    genesis,
    key,
    put,
    region,
    started,
    timestamp,
    withdraw,
)


class WatchedKeyValue(MemoryKeyValue):
    """Counts writes, and can lose power before one."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bool] = []
        self.powered = True

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if not self.powered:
            raise OSError("no power")
        self.writes.append(sync)
        super().write(changes, sync=sync)


@pytest.fixture
def store() -> WatchedKeyValue:
    return WatchedKeyValue()


@pytest.fixture
def world(store: WatchedKeyValue) -> World:
    return started(store)


@pytest.fixture
def _always_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long work lets others run at every chance, however fast this machine is."""

    async def rest(self: Slices) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Slices, "rest", rest)


def reopened(world: World, store: MemoryKeyValue) -> World:
    """The world after the node's process died: only what is in ``store`` is left."""
    again = World(store, world.genesis)
    again.now_us = world.now_us
    return again


# --- genesis and Info ------------------------------------------------------------------------


def test_info_of_an_empty_registry_asks_for_genesis(store: WatchedKeyValue) -> None:
    answer = World(store).app.info(pb.RequestInfo())
    assert (answer.last_block_height, answer.last_block_app_hash) == (0, b"")


async def test_info_tells_the_last_committed_height_and_hash(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.finalize(ANN.sign(2, put("b")))
    answer = world.app.info(pb.RequestInfo())
    assert (answer.last_block_height, answer.last_block_app_hash) == (1, world.app_hash)


def test_genesis_may_come_again_until_the_first_commit(store: WatchedKeyValue) -> None:
    world = World(store)
    assert world.begin() == world.begin()
    assert store.writes == []


async def test_genesis_after_a_finalized_block_starts_over(world: World) -> None:
    await world.finalize(ANN.sign(1, put("a")), height=1)
    world.begin()
    with pytest.raises(ChainMismatchError):
        world.app.commit(pb.RequestCommit())
    assert await world.block(ANN.sign(1, put("b"))) == [0]
    assert world.app.reader.service(key("a")) is None


async def test_genesis_over_committed_blocks_is_a_mix_up(world: World) -> None:
    await world.block()
    with pytest.raises(ChainMismatchError, match="reset"):
        world.begin()


@pytest.mark.parametrize(
    "app_state",
    [b"", b"{}", b"[]", b'{"members":[]}', b'{"members":[{"name":"a","public_key":"00"}]}'],
)
def test_a_genesis_that_says_nothing_usable_is_refused(
    store: WatchedKeyValue, app_state: bytes
) -> None:
    request = pb.RequestInitChain(
        time=timestamp(START_US), chain_id=CHAIN, app_state_bytes=app_state
    )
    with pytest.raises(ConfigError):
        World(store).app.init_chain(request)


def test_a_genesis_for_another_chain_is_refused(store: WatchedKeyValue) -> None:
    request = pb.RequestInitChain(
        time=timestamp(START_US),
        chain_id=CHAIN,
        app_state_bytes=b'{"chain_id":"other","members":[{"name":"a","public_key":"'
        + ANN.public_key.hex().encode()
        + b'"}]}',
    )
    with pytest.raises(ChainMismatchError, match="other"):
        World(store).app.init_chain(request)


async def test_a_chain_may_begin_at_any_height(store: WatchedKeyValue) -> None:
    world = World(store)
    world.begin()
    await world.finalize(height=1000)
    world.app.commit(pb.RequestCommit())
    assert world.app.reader.head.height == 1000


# --- FinalizeBlock and Commit ----------------------------------------------------------------


async def test_finalizing_stages_and_commits_nothing(world: World, store: WatchedKeyValue) -> None:
    await world.finalize(ANN.sign(1, put("a")), height=1)
    assert world.app.reader.service(key("a")) is None
    assert world.app.reader.head.height == 0
    assert store.writes == []


async def test_a_commit_is_one_synced_write(world: World, store: WatchedKeyValue) -> None:
    await world.block(ANN.sign(1, put(*range(100))), BOB.sign(1, region("bay")))
    assert store.writes == [True]
    await world.block()
    assert store.writes == [True, True]


async def test_there_is_exactly_one_result_for_each_transaction(world: World) -> None:
    assert await world.block() == []
    transactions = [ANN.sign(1, put("a")), b"", b"x" * 300_000, ANN.sign(2, put("b"))]
    codes = await world.block(*transactions)
    assert codes == [0, MalformedError.number, TooLargeError.number, 0]


async def test_the_announced_hash_is_the_committed_one(world: World) -> None:
    answer = await world.finalize(ANN.sign(1, put("a")), height=1)
    world.app.commit(pb.RequestCommit())
    assert answer.app_hash == world.app_hash


async def test_a_block_finalized_twice_is_applied_once(world: World) -> None:
    transaction = ANN.sign(1, put("a"))
    first = await world.finalize(transaction)
    second = await world.finalize(transaction)
    world.app.commit(pb.RequestCommit())
    assert first.app_hash == second.app_hash == world.app_hash
    assert world.app.reader.sequence(ANN.id).last == 1


async def test_the_block_finalized_last_is_the_one_committed(world: World) -> None:
    await world.finalize(ANN.sign(1, put("a")))
    await world.finalize(ANN.sign(1, put("b")))
    world.app.commit(pb.RequestCommit())
    assert world.app.reader.service(key("a")) is None
    assert world.app.reader.service(key("b")) is not None


@pytest.mark.usefixtures("_always_yield")
async def test_a_finalization_overtaken_by_a_later_one_does_not_come_back(world: World) -> None:
    slow = [ANN.sign(number, put(number)) for number in range(1, 30)]
    first = asyncio.create_task(world.finalize(*slow))
    await asyncio.sleep(0)
    await world.finalize(ANN.sign(1, put("b")))
    assert not first.done()
    await first
    world.app.commit(pb.RequestCommit())
    assert world.app.reader.service(key("b")) is not None
    assert world.app.reader.sequence(ANN.id).last == 1


@pytest.mark.usefixtures("_always_yield")
async def test_check_tx_answers_while_a_block_is_being_staged(world: World) -> None:
    block = asyncio.create_task(world.finalize(ANN.sign(1, put(*range(200)))))
    await asyncio.sleep(0)
    assert world.check(ANN.sign(1, put("a"))) == 0
    assert not block.done()
    await block


@pytest.mark.parametrize("height", [0, 1, 3])
async def test_a_block_that_does_not_follow_the_last_is_a_mix_up(world: World, height: int) -> None:
    await world.block()
    with pytest.raises(ChainMismatchError):
        await world.finalize(height=height)


async def test_a_block_without_a_chain_is_a_mix_up(store: WatchedKeyValue) -> None:
    with pytest.raises(ChainMismatchError, match="no chain"):
        await World(store).finalize(height=5)


async def test_commit_without_a_staged_block_is_a_mix_up(world: World) -> None:
    with pytest.raises(ChainMismatchError):
        world.app.commit(pb.RequestCommit())


async def test_what_was_staged_is_dropped_when_the_engine_leaves(world: World) -> None:
    await world.finalize(ANN.sign(1, put("a")))
    world.app.engine_left()
    with pytest.raises(ChainMismatchError):
        world.app.commit(pb.RequestCommit())
    assert await world.block(ANN.sign(1, put("b"))) == [0]


async def test_an_unexpected_exception_leaves_finalize_block(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("abci_app.registry.check_sequence", broken)
    with pytest.raises(ZeroDivisionError):
        await world.finalize(ANN.sign(1, put("a")))


async def test_a_damaged_record_stops_the_node_instead_of_refusing_the_transaction(
    world: World, store: WatchedKeyValue
) -> None:
    await world.do(ANN, put("a"))
    store.write([(b"s" + key("a"), b"damaged")], sync=True)
    with pytest.raises(CorruptDatabaseError):
        await world.finalize(world.next(ANN, put("a")))


# --- crashes ---------------------------------------------------------------------------------


async def test_a_crash_between_finalize_and_commit_leaves_the_block_before(
    world: World, store: WatchedKeyValue
) -> None:
    await world.do(ANN, put("a"))
    before = world.app.reader.head
    lost = ANN.sign(2, put("b"))
    announced = (await world.finalize(lost)).app_hash
    world = reopened(world, store)
    assert world.app.reader.head == before
    assert (await world.finalize(lost)).app_hash == announced
    world.app.commit(pb.RequestCommit())
    assert world.app_hash == announced


async def test_a_crash_before_the_first_commit_begins_again(
    world: World, store: WatchedKeyValue
) -> None:
    await world.finalize(ANN.sign(1, put("a")))
    world = reopened(world, store)
    assert world.app.info(pb.RequestInfo()).last_block_height == 0
    world.begin()
    assert await world.block(ANN.sign(1, put("a"))) == [0]


async def test_a_commit_that_cannot_be_written_stops_the_node_and_changes_nothing(
    world: World, store: WatchedKeyValue
) -> None:
    await world.do(ANN, put("a"))
    before = world.app.reader.head
    await world.finalize(ANN.sign(2, put("b")))
    store.powered = False
    with pytest.raises(OSError, match="power"):
        world.app.commit(pb.RequestCommit())
    store.powered = True
    world = reopened(world, store)
    assert world.app.reader.head == before
    assert await world.block(ANN.sign(2, put("b"))) == [0]


async def test_the_same_state_is_there_after_reopening(
    world: World, store: WatchedKeyValue
) -> None:
    await world.block(ANN.sign(1, put("a", "b")), BOB.sign(1, region("bay")))
    await world.block(ANN.sign(2, withdraw("b")), ANN.sign(3, LEASE))
    again = reopened(world, store)
    assert again.app.reader.head == world.app.reader.head
    assert list(again.app.reader.services()) == list(world.app.reader.services())
    assert again.app.reader.members() == world.app.reader.members()
    assert again.app.reader.is_visible(ANN.id)
    assert again.app.reader.parameters == world.app.reader.parameters


@pytest.mark.parametrize(
    "damage",
    [
        (b"s" + key("a"), None),
        (b"s" + key("stranger"), b"anything"),
        (b"!head", None),
        (b"!head", b"nonsense"),
        (b"!format", b"\x00\x63"),
        (b"H" + ANN.id + key("a"), None),
    ],
)
async def test_a_registry_that_contradicts_itself_is_not_opened(
    world: World, store: WatchedKeyValue, damage: Change
) -> None:
    await world.do(ANN, put("a"))
    store.write([damage], sync=True)
    with pytest.raises(CorruptDatabaseError):
        reopened(world, store)


async def test_a_wiped_registry_replays_to_the_same_hashes(world: World) -> None:
    blocks = [
        [ANN.sign(1, put("a", "b")), BOB.sign(1, put("b"))],
        [],
        [b"junk", ANN.sign(2, withdraw("a"))],
        [BOB.sign(2, region("bay")), ANN.sign(3, LEASE)],
    ]
    hashes = []
    for block in blocks:
        await world.block(*block)
        hashes.append(world.app_hash)
    again = started(MemoryKeyValue())
    for block, expected in zip(blocks, hashes, strict=True):
        await again.block(*block)
        assert again.app_hash == expected


# --- CheckTx ---------------------------------------------------------------------------------


def test_check_tx_takes_consecutive_pending_sequences(world: World) -> None:
    assert [world.check(ANN.sign(number, put(number))) for number in (1, 2, 3)] == [0, 0, 0]
    assert world.check(BOB.sign(1, put("b"))) == 0


@pytest.mark.parametrize("sequence", [1, 2, 4])
def test_check_tx_refuses_repeats_and_gaps(world: World, sequence: int) -> None:
    world.check(ANN.sign(1, put("a")))
    world.check(ANN.sign(2, put("b")))
    assert world.check(ANN.sign(sequence, put("c"))) == WrongSequenceError.number
    assert world.check(ANN.sign(3, put("c"))) == 0


async def test_pending_sequences_are_forgotten_at_commit(world: World) -> None:
    one, two = ANN.sign(1, put("a")), ANN.sign(2, put("b"))
    world.check(one)
    world.check(two)
    await world.block(one)
    assert world.check(two, recheck=True) == 0
    assert world.check(ANN.sign(3, put("c"))) == 0


async def test_recheck_refuses_what_has_been_committed(world: World) -> None:
    one = ANN.sign(1, put("a"))
    world.check(one)
    await world.block(one)
    assert world.check(one, recheck=True) == WrongSequenceError.number


async def test_after_a_dropped_transaction_recheck_refuses_what_followed_it(world: World) -> None:
    world.check(ANN.sign(1, put("a")))
    two = ANN.sign(2, put("b"))
    world.check(two)
    await world.block()
    assert world.check(two, recheck=True) == WrongSequenceError.number
    assert world.check(ANN.sign(1, put("a"))) == 0


def test_check_tx_does_not_judge_the_body(world: World) -> None:
    assert world.check(ANN.sign(1, region("bay", version=9))) == 0


@pytest.mark.parametrize(
    ("transaction", "error"),
    [
        (b"", MalformedError),
        (b"\xff" * 300_000, TooLargeError),
        (ANN.sign(1, LEASE, chain_id="other-chain"), WrongChainError),
        (EVE.sign(1, LEASE), NotAMemberError),
        (ANN.sign(1, LEASE, seed=BOB.seed), BadSignatureError),
        (ANN.sign(2, LEASE), WrongSequenceError),
        (ANN.sign(1, LEASE)[:-1], MalformedError),
        (ANN.sign(1, LEASE) + b"\0", MalformedError),
    ],
)
async def test_a_bad_envelope_is_refused_alike_by_check_tx_and_in_a_block(
    world: World, transaction: bytes, error: type[MalformedError]
) -> None:
    assert world.check(transaction) == error.number
    assert await world.block(transaction) == [error.number]
    assert world.app.reader.sequence(ANN.id).last == 0


def test_check_tx_before_genesis_says_that_it_cannot_tell(store: WatchedKeyValue) -> None:
    assert World(store).check(ANN.sign(1, LEASE)) == UnavailableError.number


def test_every_flipped_bit_of_a_transaction_is_refused(world: World) -> None:
    transaction = ANN.sign(1, LEASE)
    for place in range(len(transaction) * 8):
        flipped = bytearray(transaction)
        flipped[place // 8] ^= 1 << place % 8
        assert world.check(bytes(flipped)) != 0
    assert world.check(transaction) == 0


# --- proposals -------------------------------------------------------------------------------


async def proposal(world: World, *transactions: bytes, max_bytes: int = 1 << 20) -> list[bytes]:
    answer = await world.app.prepare_proposal(
        pb.RequestPrepareProposal(txs=transactions, max_tx_bytes=max_bytes, height=1)
    )
    return list(answer.txs)


async def test_a_proposal_leaves_out_what_would_be_refused(world: World) -> None:
    good = [ANN.sign(1, put("a")), BOB.sign(1, put("b")), ANN.sign(2, put("c"))]
    bad = [b"junk", EVE.sign(1, LEASE), ANN.sign(4, LEASE), ANN.sign(2, LEASE, seed=BOB.seed)]
    mixed = [good[0], *bad, good[1], good[0], good[2], good[2]]
    assert await proposal(world, *mixed) == good


async def test_a_proposal_keeps_within_the_engines_limit_as_protobuf_counts(world: World) -> None:
    transactions = [ANN.sign(number, put(number)) for number in range(1, 5)]
    exact = sum(proposal_size(transaction) for transaction in transactions[:3])
    assert await proposal(world, *transactions, max_bytes=exact) == transactions[:3]
    assert await proposal(world, *transactions, max_bytes=exact - 1) == transactions[:2]


async def test_proposing_leaves_the_mempools_sequences_alone(world: World) -> None:
    await proposal(world, ANN.sign(1, put("a")), ANN.sign(2, put("b")))
    assert world.check(ANN.sign(1, put("a"))) == 0


async def test_before_genesis_proposals_neither_hold_anything_nor_stop_the_node(
    store: WatchedKeyValue,
) -> None:
    world = World(store)
    assert await proposal(world, ANN.sign(1, LEASE)) == []
    answer = await world.app.process_proposal(
        pb.RequestProcessProposal(txs=[ANN.sign(1, LEASE)], height=1)
    )
    assert answer.status == pb.ResponseProcessProposal.ACCEPT


async def test_any_proposal_of_another_validator_is_accepted(world: World) -> None:
    answer = await world.app.process_proposal(
        pb.RequestProcessProposal(txs=[b"junk", ANN.sign(9, LEASE), b""], height=1)
    )
    assert answer.status == pb.ResponseProcessProposal.ACCEPT


async def test_a_signature_is_verified_once_from_mempool_to_block(
    store: WatchedKeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []

    def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
        verified.append(message)
        return sodium.verify(public_key, message, signature)

    world = World(store)
    world.app = RegistryApplication(store, allowed_peer_ids=lambda _: False, verify=verify)
    world.begin()
    transaction = ANN.sign(1, put("a"))
    assert world.check(transaction) == 0
    assert await proposal(world, transaction) == [transaction]
    await world.app.process_proposal(pb.RequestProcessProposal(txs=[transaction], height=1))
    assert await world.block(transaction) == [0]
    assert len(verified) == 1


async def test_a_proposal_is_verified_before_it_is_decided(store: WatchedKeyValue) -> None:
    verified = []

    def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
        verified.append(message)
        return True

    world = World(store)
    world.app = RegistryApplication(store, allowed_peer_ids=lambda _: False, verify=verify)
    world.begin()
    transactions = [ANN.sign(1, put("a")), ANN.sign(2, put("b"))]
    await world.app.process_proposal(pb.RequestProcessProposal(txs=transactions, height=1))
    assert len(verified) == 2
    await world.block(*transactions)
    assert len(verified) == 2


# --- any bytes -------------------------------------------------------------------------------

VALID = ANN.sign(1, put("a", "b"))
MUTATED = st.builds(
    lambda start, stop, middle: VALID[:start] + middle + VALID[stop:],
    st.integers(0, len(VALID)),
    st.integers(0, len(VALID)),
    st.binary(max_size=8),
).filter(lambda data: data != VALID)


@settings(deadline=None, max_examples=25)
@given(transactions=st.lists(st.binary(max_size=300) | MUTATED, max_size=20))
def test_any_bytes_as_transactions_are_refused_and_change_nothing(
    transactions: list[bytes],
) -> None:
    async def run() -> None:
        world = started(MemoryKeyValue(), genesis(ANN))
        await world.block()
        before = world.app_hash
        assert all(world.check(transaction) for transaction in transactions)
        assert await proposal(world, *transactions) == []
        codes = await world.block(*transactions)
        assert len(codes) == len(transactions)
        assert all(codes)
        assert world.app_hash == before

    asyncio.run(run())


# --- readers ---------------------------------------------------------------------------------


async def test_subscribers_hear_of_each_changed_record_after_commit(world: World) -> None:
    heard: list[tuple[int, list[tuple[bytes, bool, bool]]]] = []
    world.app.reader.subscribe(
        lambda head, changes: heard.append(
            (head.height, [(c.key, c.before is not None, c.after is not None) for c in changes])
        )
    )
    await world.do(ANN, put("a"))
    await world.do(ANN, put("a"))
    await world.do(ANN, withdraw("a"))
    await world.block()
    assert heard == [
        (1, [(key("a"), False, True)]),
        # Put again with the same content: nothing changed.
        (2, []),
        (3, [(key("a"), True, False)]),
        (4, []),
    ]


async def test_a_subscriber_sees_the_state_it_is_told_of(world: World) -> None:
    seen: list[bool] = []
    world.app.reader.subscribe(
        lambda head, changes: seen.append(
            world.app.reader.head == head
            and dict(world.app.reader.listed()) == {change.key: change.after for change in changes}
        )
    )
    await world.do(ANN, put("a", "b"))
    assert seen == [True]


async def test_a_subscriber_that_fails_stops_the_node(world: World) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    world.app.reader.subscribe(broken)
    await world.finalize()
    with pytest.raises(ZeroDivisionError):
        world.app.commit(pb.RequestCommit())


async def test_next_commit_wakes_every_waiter_at_each_commit(world: World) -> None:
    waiters = [asyncio.create_task(world.app.reader.next_commit()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.sleep(0)
    await world.block()
    await asyncio.wait_for(asyncio.gather(*waiters[1:]), 5)
    assert waiters[0].cancelled()
    late = asyncio.create_task(world.app.reader.next_commit())
    await asyncio.sleep(0)
    assert not late.done()
    await world.block()
    await asyncio.wait_for(late, 5)


def test_a_reader_before_genesis_knows_nothing_and_says_so(store: WatchedKeyValue) -> None:
    reader = World(store).app.reader
    assert reader.head.height == 0
    assert reader.members() == {}
    assert list(reader.services()) == []
    assert reader.region("bay") is None
    with pytest.raises(UnavailableError):
        _ = reader.parameters


async def test_refused_bodies_are_reported_with_code_and_reason(world: World) -> None:
    await world.do(ANN, put("a"))
    answer = await world.finalize(BOB.sign(1, put("a")))
    (result,) = answer.tx_results
    assert result.code == NotOwnerError.number
    assert result.codespace == "edgistry"
    assert "not-owner" in result.log


async def test_a_database_of_an_earlier_layout_is_refused_with_what_to_do(world: World) -> None:
    await world.do(ANN, put("a"))
    store = world.app._ledger._store
    store.write([(FORMAT_KEY, b"\0\1")], sync=True)
    with pytest.raises(DatabaseLayoutError, match=r"has layout 1, .* reads 4") as refused:
        World(store)
    assert "import the devices again" in refused.value.advice()
    assert "repair" not in refused.value.advice()
