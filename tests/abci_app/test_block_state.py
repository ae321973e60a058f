"""The staged state of one block."""

from __future__ import annotations

import pytest

from abci_app.block_state import BlockChanges, BlockState
from abci_app.schema import Lease, home_key, lease_key, pack
from edgistry.kv import MemoryKeyValue

from .chain_world import ANN, BOB, key

ANNS, BOBS = lease_key(ANN.id), lease_key(BOB.id)


@pytest.fixture
def committed() -> MemoryKeyValue:
    store = MemoryKeyValue()
    store.write([(ANNS, pack(Lease(expires_us=1)))], sync=False)
    return store


def changes(state: BlockState) -> BlockChanges:
    for _ in state.settle():
        pass
    return state.changes


def test_a_block_reads_its_own_changes(committed: MemoryKeyValue) -> None:
    state = BlockState(committed)
    assert state.get(ANNS, Lease) == Lease(expires_us=1)
    state.put(ANNS, Lease(expires_us=2))
    assert state.get(ANNS, Lease) == Lease(expires_us=2)
    state.delete(ANNS)
    assert state.get(ANNS, Lease) is None


def test_nothing_committed_changes(committed: MemoryKeyValue) -> None:
    state = BlockState(committed)
    state.put(ANNS, Lease(expires_us=2))
    state.put(BOBS, Lease(expires_us=3))
    changes(state)
    assert committed.get(ANNS) == pack(Lease(expires_us=1))
    assert committed.get(BOBS) is None


def test_changes_come_in_key_order_with_what_was_before(committed: MemoryKeyValue) -> None:
    state = BlockState(committed)
    low, high = sorted([ANNS, BOBS])
    state.put(high, Lease(expires_us=9))
    state.put(low, Lease(expires_us=9))
    found = changes(state)
    assert [changed for changed, _ in found.records] == [low, high]
    assert found.before == {ANNS: pack(Lease(expires_us=1)), BOBS: None}


def test_what_comes_to_the_same_is_no_change(committed: MemoryKeyValue) -> None:
    state = BlockState(committed)
    state.delete(ANNS)
    state.put(ANNS, Lease(expires_us=1))
    state.put(BOBS, Lease(expires_us=2))
    state.delete(BOBS)
    assert changes(state).records == ()


def test_homes_are_bookkeeping_and_the_last_word_counts(committed: MemoryKeyValue) -> None:
    state = BlockState(committed)
    state.add_home(ANN.id, key("a"))
    state.drop_home(ANN.id, key("a"))
    found = changes(state)
    assert found.records == ()
    assert found.bookkeeping == ((home_key(ANN.id, key("a")), None),)


def test_changes_of_a_block_that_is_not_settled_are_a_bug(committed: MemoryKeyValue) -> None:
    with pytest.raises(RuntimeError):
        _ = BlockState(committed).changes
