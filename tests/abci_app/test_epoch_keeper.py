"""Nodes that share the keys of privacy epochs, on good days and on bad ones."""

from __future__ import annotations

import random

import pytest
import structlog

from abci_app.epoch_keeper import EpochKeeper
from abci_app.epoch_keys import EpochKeys
from abci_app.epochs import KEPT_AFTER_US
from abci_app.schema import HEAD_KEY
from edgistry.errors import CorruptDatabaseError, NoEpochKeyError, UnknownHandleError
from edgistry.handles import Target
from edgistry.kv import MemoryKeyValue
from edgistry.transactions import EpochKey, EpochShare, MemberKey, NodeId, RecordKey

from .chain_world import SECOND
from .epoch_world import (
    BEAT_US,
    EPOCH_S,
    Chain,
    CrashError,
    EpochNode,
    check_agreement,
    maker,
    members,
    nodes_of,
    rounds,
    sent_by,
)

EPOCH_US = EPOCH_S * SECOND
TAG = b"t" * 16
TARGET = Target(NodeId(b"n" * 20), RecordKey(b"r" * 16))


def all_have(nodes: list[EpochNode]) -> bool:
    return all(node.has_current for node in nodes)


async def in_first_epoch(count: int) -> tuple[Chain, list[EpochNode]]:
    chain = Chain(*members(count))
    nodes = nodes_of(chain)
    await rounds(chain, nodes, 10, until=lambda: all_have(nodes))
    assert all_have(nodes)
    return chain, nodes


# --- good days ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4, 7])
async def test_all_nodes_have_the_first_key_within_a_few_blocks(count: int) -> None:
    chain = Chain(*members(count))
    nodes = nodes_of(chain)
    assert await rounds(chain, nodes, 10, until=lambda: all_have(nodes)) <= 5
    assert chain.number == 1
    assert len({node.keeper.keys.current() for node in nodes}) == 1
    check_agreement(chain, nodes)


async def test_a_node_without_a_key_says_so() -> None:
    node = nodes_of(Chain(*members(1)))[0]
    assert node.keeper.keys.current() is None
    assert node.keeper.keys.ends_us is None
    with pytest.raises(NoEpochKeyError):
        node.keeper.keys.handles()
    with pytest.raises(UnknownHandleError):
        node.keeper.keys.handles_of(1)


async def test_each_member_makes_a_key_now_and_then() -> None:
    chain, nodes = await in_first_epoch(3)
    await rounds(chain, nodes, 70 * 9)
    assert chain.number >= 9
    makers = [node for node, body, code in chain.bodies if isinstance(body, EpochKey) and not code]
    assert len(makers) == chain.number
    assert set(makers) == {node.node.id for node in nodes}
    assert not [code for _, _, code in chain.bodies if code]


async def test_handles_are_the_same_on_all_nodes_and_new_in_each_epoch() -> None:
    chain, nodes = await in_first_epoch(4)
    first = {node.keeper.keys.handles().own(TAG, TARGET) for node in nodes}
    assert len(first) == 1
    await rounds(chain, nodes, 80, until=lambda: chain.number == 2 and all_have(nodes))
    second = {node.keeper.keys.handles().own(TAG, TARGET) for node in nodes}
    assert len(second) == 1
    assert first.isdisjoint(second)
    for node in nodes:  # what was given out before the edge still opens
        assert {node.keeper.keys.handles_of(1).open(handle) for handle in first} == {TARGET}


async def test_ends_are_those_of_the_chain() -> None:
    chain, nodes = await in_first_epoch(1)
    keys = nodes[0].keeper.keys
    current = chain.blocks[-1].states.current
    assert current is not None
    assert keys.ends_us == keys.end_of(1) == keys.chain_ends_us == current.since_us + EPOCH_US
    await rounds(chain, nodes, 80, until=lambda: chain.number == 2 and all_have(nodes))
    current = chain.blocks[-1].states.current
    assert current is not None
    assert keys.end_of(1) == current.since_us
    assert keys.ends_us == keys.chain_ends_us == current.since_us + EPOCH_US
    assert keys.end_of(3) is None


async def test_end_of_the_chain_s_epoch_is_known_without_its_key() -> None:
    chain, nodes = await in_first_epoch(4)
    late = nodes[0].keeper
    assert EpochKeys().chain_ends_us == 0
    late.keys.put({}, late._reader.epochs(), epoch_us=EPOCH_US)
    current = chain.blocks[-1].states.current
    assert current is not None
    assert late.keys.ends_us is None
    assert late.keys.chain_ends_us == current.since_us + EPOCH_US


async def test_those_who_want_to_know_are_told_of_each_change() -> None:
    chain = Chain(*members(1))
    node = nodes_of(chain)[0]
    told: list[int] = []
    node.keeper.keys.on_change(lambda: told.append(node.keeper.keys.number))
    await rounds(chain, [node], 80, until=lambda: chain.number == 2 and node.has_current)
    assert told == [1, 2]


# --- secrets ------------------------------------------------------------------------------------


async def test_private_keys_are_destroyed_once_the_key_is_here() -> None:
    chain, nodes = await in_first_epoch(3)
    await rounds(chain, nodes, 2)
    for node in nodes:
        kinds = sorted(key[:4] for key, _ in node.secrets())
        # The one key of the epoch, and the private key it asked with for the next.
        assert kinds == [b"e/a/", b"e/k/"]
        assert [key[4:8] for key, _ in node.secrets()] == [b"\0\0\0\2", b"\0\0\0\1"]


async def test_the_key_of_an_epoch_is_destroyed_a_day_after_its_end() -> None:
    chain = Chain(*members(2), epoch_s=2 * 86_400)
    nodes = nodes_of(chain)
    await rounds(chain, nodes, 10, until=lambda: all_have(nodes))
    await rounds(chain, nodes, 5, after_us=50 * 3600 * SECOND, until=lambda: chain.number == 2)
    await rounds(chain, nodes, 5, until=lambda: all_have(nodes))
    assert all(node.keeper.keys.of(1) for node in nodes)
    await rounds(chain, nodes, 1, after_us=KEPT_AFTER_US)
    assert chain.number == 2
    for node in nodes:
        assert node.keeper.keys.of(1) is None
        assert node.keeper.keys.of(2) is not None
        assert b"e/k/\0\0\0\1" not in dict(node.secrets())


async def test_a_key_grows_old_on_a_node_that_sees_no_blocks_too() -> None:
    chain, nodes = await in_first_epoch(1)
    (node,) = nodes
    await rounds(chain, nodes, 80, until=lambda: chain.number == 2 and node.has_current)
    assert node.keeper.keys.of(1) is not None
    chain.world.now_us += KEPT_AFTER_US
    await node.keeper.follow()
    assert node.keeper.keys.of(1) is None


async def test_no_secret_is_shown_or_logged() -> None:
    chain = Chain(*members(2))
    nodes = nodes_of(chain)
    secrets: set[bytes] = set()
    with structlog.testing.capture_logs() as logs:
        for _ in range(80):
            await rounds(chain, nodes, 1)
            secrets |= {value for node in nodes for _, value in node.secrets()}
    assert chain.number == 2
    shown = repr(logs) + "".join(
        repr((node.keeper.keys, node.keeper._secrets, node.keeper, node.keeper.keys.handles()))
        for node in nodes
    )
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


async def test_a_damaged_secret_is_told() -> None:
    _, (node,) = await in_first_epoch(1)
    node.store.write([(b"e/k/\0\0\0\1", b"short")], sync=True)
    with pytest.raises(CorruptDatabaseError):
        node.start()


# --- restarts and absences ----------------------------------------------------------------------


async def test_a_restart_changes_nothing() -> None:
    chain, nodes = await in_first_epoch(3)
    before = nodes[0].keeper.keys.current()
    sent = len(chain.bodies)
    nodes[0].start()
    await rounds(chain, nodes, 5)
    assert nodes[0].keeper.keys.current() == before
    # What was sent since is only what was on its way.
    assert len(chain.bodies) - sent <= 3


@pytest.mark.parametrize("seed", range(12))
async def test_nodes_that_crash_and_lag_agree_in_the_end(seed: int) -> None:
    source = random.Random(seed)
    chain = Chain(*members(source.choice((1, 2, 3, 4))))
    nodes = nodes_of(chain, seed)
    for _ in range(150):
        await chain.block(source.choice((1, 10, 30)) * SECOND)
        for node in nodes:
            luck = source.randrange(12)
            if luck == 0:
                node.store.crash_in = source.randrange(3)
                node.store.crashes_after_writing = source.random() < 0.5
            elif luck == 1:
                node.start()
            elif luck < 5:
                continue
            try:
                await node.look()
            except CrashError:
                node.start()
        if source.randrange(10) == 0:
            chain.mempool.clear()
        check_agreement(chain, nodes)
    assert chain.number > 1
    for node in nodes:
        node.store.crash_in = None
    for node in nodes:
        node.start()
    await rounds(chain, nodes, 100, until=lambda: all_have(nodes))
    assert all_have(nodes)
    check_agreement(chain, nodes)
    assert len({node.keeper.keys.current() for node in nodes}) == 1


async def test_a_node_that_was_away_for_epochs_gets_the_key_from_the_others() -> None:
    chain, nodes = await in_first_epoch(4)
    away, *here = nodes
    away.is_cut_off = True
    for number in (2, 3, 4):
        await rounds(chain, here, 100, until=lambda number=number: chain.number == number)  # type: ignore[misc]
    assert away.keeper.keys.number == 1
    away.is_cut_off = False
    assert await rounds(chain, nodes, 30, until=lambda: all_have(nodes)) <= 10
    check_agreement(chain, nodes)
    # The key of the first epoch is gone: two have begun since.
    await rounds(chain, nodes, 2)
    assert away.keeper.keys.of(1) is None


async def test_a_node_that_lacks_the_key_goes_on_with_the_one_before() -> None:
    chain, nodes = await in_first_epoch(4)
    away, *here = nodes
    before = away.keeper.keys.current()
    away.is_cut_off = True
    await rounds(chain, here, 100, until=lambda: chain.number == 2)
    # It sees the blocks again, but can send nothing yet.
    away.seen = len(chain.blocks) - 1
    await away.keeper.follow()
    assert chain.number == 2
    assert away.keeper.keys.current() in (before, here[0].keeper.keys.current())
    assert away.keeper.keys.of(1) == here[0].keeper.keys.of(1)


async def test_nothing_is_sent_while_the_node_catches_up() -> None:
    chain = Chain(*members(1))
    (node,) = nodes_of(chain)
    node.catches_up = True
    await rounds(chain, [node], 3)
    assert not chain.bodies
    node.catches_up = False
    await rounds(chain, [node], 5)
    assert node.has_current


async def test_a_node_that_lost_its_secrets_is_given_the_key_anew() -> None:
    chain, nodes = await in_first_epoch(3)
    loser = nodes[0]
    loser.store.write([(key, None) for key, _ in loser.secrets()], sync=True)
    loser.start()
    await rounds(chain, nodes, 20, until=lambda: loser.has_current)
    assert loser.keeper.keys.current() == nodes[1].keeper.keys.current()
    assert chain.number == 1


async def test_a_key_that_nobody_has_any_more_is_replaced() -> None:
    chain, nodes = await in_first_epoch(3)
    for node in nodes:
        node.store.write([(key, None) for key, _ in node.secrets()], sync=True)
        node.start()
    await rounds(chain, nodes, 30, until=lambda: chain.number == 2 and all_have(nodes))
    assert all_have(nodes)


async def test_keys_of_another_past_are_not_taken_for_those_of_the_chain() -> None:
    _, nodes = await in_first_epoch(1)
    (node,) = nodes
    other = Chain(node.node)
    stranger = EpochNode(other, node.node, seed=1)
    stranger.store.write(node.secrets(), sync=True)
    stranger.start()
    await rounds(other, [stranger], 10, until=lambda: stranger.has_current)
    assert stranger.has_current
    assert stranger.keeper.keys.of(1) != node.keeper.keys.of(1)
    check_agreement(other, [stranger])


# --- members that fail --------------------------------------------------------------------------


async def test_the_next_member_makes_the_key_when_the_maker_is_dead() -> None:
    chain, nodes = await in_first_epoch(4)
    await rounds(chain, nodes, 3)
    dead = maker(chain, nodes)
    alive = [each for each in nodes if each is not dead]
    await rounds(chain, alive, 80, until=lambda: chain.number == 2)
    began = chain.blocks[-1].states.current
    assert began is not None
    first = chain.blocks[-1].states.previous
    assert first is not None
    # It had asked, so that nobody is waited for but it itself: 20 s and a few blocks.
    assert began.since_us - first.since_us <= EPOCH_US + 20 * SECOND + 4 * BEAT_US
    await rounds(chain, alive, 3)
    assert all_have(alive)


async def test_a_member_that_never_comes_does_not_hold_up_the_first_epoch_for_long() -> None:
    chain = Chain(*members(4))
    _, *alive = nodes_of(chain)
    needed = await rounds(chain, alive, 30, until=lambda: all_have(alive))
    # Blocks of ten seconds: that long for those who ask late, and up to two turns.
    assert 2 <= needed <= 8
    assert chain.number == 1


async def test_two_makers_at_once_end_with_one_key() -> None:
    chain, nodes = await in_first_epoch(2)
    await rounds(chain, nodes, 3)
    for node in nodes:
        node.is_mute = True
    before = len(chain.bodies)
    # Neither hears of the other's key until it is the turn of both.
    await rounds(chain, nodes, 1, after_us=EPOCH_US)
    await rounds(chain, nodes, 5)
    for node in nodes:
        node.is_mute = False
    await rounds(chain, nodes, 2)
    codes = [code for _, body, code in chain.bodies[before:] if isinstance(body, EpochKey)]
    assert sorted(map(bool, codes)) == [False, True]
    for node in nodes:
        await node.look()
    await rounds(chain, nodes, 3)
    assert all_have(nodes)
    check_agreement(chain, nodes)
    # The key that the chain did not take is destroyed, and no operator is bothered.
    assert not [key for node in nodes for key, _ in node.secrets() if key.startswith(b"e/m/")]
    assert all(len(node.outbox.dead_letters) == 0 for node in nodes)


class _Garbage(EpochKeeper):
    """Gives others what no key is."""

    def _sealed(
        self, epoch: int, key: bytes, members: tuple[tuple[bytes, bytes], ...]
    ) -> tuple[tuple[bytes, bytes], ...]:
        good = super()._sealed(epoch, key, members)
        return tuple(
            (node, data if node == self._node_id else bytes(len(data))) for node, data in good
        )


def turn_bad(node: EpochNode, kind: type[EpochKeeper] = _Garbage) -> None:
    node.keeper.__class__ = kind


async def test_a_member_that_was_given_garbage_gets_the_key_from_another() -> None:
    chain, nodes = await in_first_epoch(4)
    bad, late, *good = nodes
    turn_bad(bad)
    late.store.write([(key, None) for key, _ in late.secrets()], sync=True)
    late.start()
    await rounds(chain, nodes, 60, until=lambda: all_have(nodes))
    assert all_have(nodes)
    assert late.keeper.keys.current() == good[0].keeper.keys.current()


async def test_a_maker_that_withholds_the_key_costs_a_minute_or_two() -> None:
    chain, nodes = await in_first_epoch(4)
    await rounds(chain, nodes, 2)
    bad = maker(chain, nodes)
    good = [each for each in nodes if each is not bad]
    before = {node.keeper.keys.current() for node in good}
    turn_bad(bad)
    await rounds(chain, nodes, 80, until=lambda: chain.number == 2)
    await rounds(chain, nodes, 3)
    # Nobody else has it: the others go on with the key before.
    assert {node.keeper.keys.current() for node in good} == before
    await rounds(chain, nodes, 30, until=lambda: chain.number == 3 and all_have(good))
    assert all_have(good)
    check_agreement(chain, good)


async def test_garbage_makes_its_receiver_patient() -> None:
    chain, nodes = await in_first_epoch(2)
    bad, late = nodes
    turn_bad(bad)
    late.store.write([(key, None) for key, _ in late.secrets()], sync=True)
    late.start()
    before = len(sent_by(chain, late.node, MemberKey))
    await rounds(chain, nodes, 40)
    assert 2 <= len(sent_by(chain, late.node, MemberKey)) - before <= 8


async def test_a_member_whose_public_key_is_none_harms_nobody_else() -> None:
    chain = Chain(*members(3))
    bad, *good = nodes_of(chain)
    chain.mempool.append(bad.node.sign(1, MemberKey(epoch=1, public=bytes(32))))
    await rounds(chain, good, 20, until=lambda: all_have(good))
    assert all_have(good)
    assert not sent_by(chain, good[0].node, EpochShare)
    for number in range(2, 12):  # all of them are 0 or 1, whatever the highest bit is
        public = bytes([number & 1]) + bytes(30) + bytes([number & 2 and 128])
        chain.mempool.append(bad.node.sign(number, MemberKey(epoch=1, public=public)))
        await rounds(chain, good, 6)
    assert all(len(node.keeper._secrets.useless) == 1 for node in good)


async def test_a_key_whose_check_is_another_is_not_taken() -> None:
    chain = Chain(*members(1))
    (node,) = nodes_of(chain)
    await rounds(chain, [node], 1)
    public = dict(chain.blocks[-1].states.coming.keys) if chain.blocks[-1].states.coming else {}
    assert not public
    await rounds(chain, [node], 1)
    coming = chain.blocks[-1].states.coming
    assert coming is not None
    sealed = node.keeper._sealed(1, b"o" * 32, coming.keys)
    node.is_mute = True
    transaction = node.node.sign(
        node.sequence(node.node.id).last + 1,
        EpochKey(epoch=1, check=bytes(16), sealed=sealed),
    )
    chain.mempool[:] = [transaction]
    await rounds(chain, [node], 2)
    assert chain.number == 1
    assert node.keeper.keys.current() is None
    assert sealed[0][1] in node.keeper._secrets.useless


async def test_a_number_that_was_given_to_something_else_is_not_waited_for() -> None:
    chain, (node,) = await in_first_epoch(1)
    node.keeper._sent = 1 << 40  # as when the outbox has numbered what it has anew
    await rounds(chain, [node], 80, until=lambda: chain.number == 2 and node.has_current)
    assert chain.number == 2


async def test_the_world_these_tests_run_in_keeps_its_blocks() -> None:
    chain, _ = await in_first_epoch(1)
    assert [block.head.height for block in chain.blocks] == list(range(1, len(chain.blocks) + 1))
    assert isinstance(chain.world.app._ledger._store, MemoryKeyValue)
    assert chain.world.app._ledger._store.get(HEAD_KEY) is not None
