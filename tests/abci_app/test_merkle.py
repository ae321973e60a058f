"""The app hash against RFC 6962's own text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.merkle import (
    AbsenceProof,
    MerkleMap,
    Path,
    Proof,
    Update,
    bucket_key,
    bucket_of,
    tree_path,
    tree_root,
)

from . import rfc6962

# Four keys of one bucket, so that small examples exercise more than buckets of one leaf.
_CROWDED = [
    key
    for key in (b"s" + number.to_bytes(3, "big") for number in range(30_000))
    if rfc6962.bucket_number(key) == 7
]
KEYS = st.sampled_from(_CROWDED[:6]) | st.binary(min_size=1, max_size=200)
ITEMS = st.dictionaries(KEYS, st.binary(max_size=40), max_size=30)


def merkle_map(items: dict[bytes, bytes]) -> MerkleMap:
    return MerkleMap(sorted(items.items()))


def settled(update: Update) -> Update:
    for _ in update.settle():
        pass
    return update


def changed(tree: MerkleMap, changes: dict[bytes, bytes | None]) -> Update:
    update = tree.update()
    update.put(changes.items())
    return settled(update)


def follow(leaf: bytes, path: Path) -> bytes | None:
    """Where ``path`` leads, by the RFC, and only if its own leaf hash is right."""
    if path.leaf_hash != rfc6962.sha256(b"\x00" + leaf):
        return None
    return rfc6962.root_from_path(leaf, path.index, path.total, list(path.aunts))


def proven_root(proof: Proof, value: bytes) -> bytes | None:
    """The app hash that ``proof`` leads to if its key has ``value``."""
    bucket_root = follow(rfc6962.map_leaf(proof.key, value), proof.inner)
    if bucket_root is None:
        return None
    return follow(rfc6962.map_leaf(proof.bucket_key, bucket_root), proof.outer)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
def test_a_tree_of_any_size_has_the_root_and_paths_of_the_rfc(count: int) -> None:
    inputs = [bytes([number]) * 3 for number in range(count)]
    hashes = b"".join(rfc6962.sha256(b"\x00" + leaf) for leaf in inputs)
    assert tree_root(hashes) == rfc6962.tree_head(inputs)
    for index in range(count):
        assert list(tree_path(hashes, index).aunts) == rfc6962.audit_path(index, inputs)


def test_the_empty_map_has_the_root_of_4096_empty_buckets() -> None:
    assert MerkleMap().root == rfc6962.two_level_root({})


@settings(deadline=None, max_examples=10)
@given(items=ITEMS)
def test_the_root_is_that_of_the_rfc_whatever_the_records(items: dict[bytes, bytes]) -> None:
    assert merkle_map(items).root == rfc6962.two_level_root(items)


@settings(deadline=None, max_examples=10)
@given(
    items=ITEMS,
    steps=st.lists(
        st.dictionaries(KEYS, st.none() | st.binary(max_size=40), max_size=12), max_size=4
    ),
)
def test_changing_a_map_gives_the_root_of_building_it(
    items: dict[bytes, bytes], steps: list[dict[bytes, bytes | None]]
) -> None:
    tree, now = merkle_map(items), dict(items)
    for changes in steps:
        for key, value in changes.items():
            if value is None:
                now.pop(key, None)
            else:
                now[key] = value
        update = changed(tree, changes)
        assert update.root == merkle_map(now).root
        tree.adopt(update)
        assert tree.root == update.root
        assert len(tree) == len(now)


@settings(deadline=None, max_examples=10)
@given(items=ITEMS, changes=st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=12))
def test_an_update_that_is_thrown_away_changes_nothing(
    items: dict[bytes, bytes], changes: dict[bytes, bytes | None]
) -> None:
    tree = merkle_map(items)
    root = tree.root
    changed(tree, changes)
    assert tree.root == root
    assert tree.root == merkle_map(items).root


def test_one_update_may_change_a_key_twice_and_the_last_one_counts() -> None:
    tree = MerkleMap()
    update = tree.update()
    update.put([(b"a", b"1")])
    update.put([(b"a", b"2"), (b"b", b"3"), (b"b", None)])
    assert settled(update).root == merkle_map({b"a": b"2"}).root


@settings(deadline=None, max_examples=10)
@given(items=ITEMS, wrong=st.binary(max_size=40))
def test_every_record_has_a_proof_that_holds_for_its_value_only(
    items: dict[bytes, bytes], wrong: bytes
) -> None:
    tree = merkle_map(items)
    for key, value in items.items():
        proof = tree.prove(key)
        assert isinstance(proof, Proof)
        assert proven_root(proof, value) == tree.root
        assert (proven_root(proof, wrong) == tree.root) == (wrong == value)


def absence_holds(proof: AbsenceProof, items: dict[bytes, bytes], root: bytes) -> bool:
    """Whether ``proof`` shows that its key is missing from the map with ``root``."""
    roots = set()
    for side in (proof.left, proof.right):
        if side is not None:
            key, path = side
            roots.add((follow(rfc6962.map_leaf(key, items[key]), path), path.total))
    if not roots:
        bucket_root: bytes | None = rfc6962.sha256(b"")
    elif len(roots) == 1:
        bucket_root, total = roots.pop()
        places = (
            -1 if proof.left is None else proof.left[1].index,
            total if proof.right is None else proof.right[1].index,
        )
        if places[1] - places[0] != 1:
            return False
    else:
        return False
    in_order = (proof.left is None or proof.left[0] < proof.key) and (
        proof.right is None or proof.key < proof.right[0]
    )
    right_bucket = proof.outer.index == rfc6962.bucket_number(proof.key)
    if bucket_root is None or not in_order or not right_bucket:
        return False
    return follow(rfc6962.map_leaf(proof.bucket_key, bucket_root), proof.outer) == root


@settings(deadline=None, max_examples=10)
@given(items=ITEMS, key=KEYS)
def test_a_missing_key_has_a_proof_of_absence(items: dict[bytes, bytes], key: bytes) -> None:
    items.pop(key, None)
    tree = merkle_map(items)
    proof = tree.prove(key)
    assert isinstance(proof, AbsenceProof)
    assert absence_holds(proof, items, tree.root)


@settings(deadline=None, max_examples=10)
@given(items=ITEMS, changes=st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=12))
def test_the_version_before_the_last_change_can_still_be_proven(
    items: dict[bytes, bytes], changes: dict[bytes, bytes | None]
) -> None:
    tree = merkle_map(items)
    root = tree.root
    earlier = tree.adopt(changed(tree, changes))
    assert earlier.root == root
    for key in {*items, *changes}:
        proof = earlier.prove(key)
        if key in items:
            assert isinstance(proof, Proof)
            assert proven_root(proof, items[key]) == root
        else:
            assert isinstance(proof, AbsenceProof)
            assert absence_holds(proof, items, root)


def test_a_key_belongs_to_the_bucket_of_its_first_twelve_bits() -> None:
    for key in (b"a", b"service", bytes(17)):
        assert bucket_of(key) == rfc6962.bucket_number(key)
    assert bucket_key(4095) == b"\x0f\xff"


def test_settling_a_large_update_lets_others_run_between() -> None:
    source = random.Random(6962)
    update = MerkleMap().update()
    update.put((source.randbytes(17), b"value") for _ in range(2000))
    assert sum(1 for _ in update.settle()) > 40
