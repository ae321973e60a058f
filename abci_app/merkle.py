"""The app hash: a two-level sorted Merkle map, kept current as records change.

Rules kept here (consensus.md, *App hash*; RFC 6962, section 2.1):

* A key belongs to the bucket named by the first 12 bits of SHA-256(key). Leaf =
  SHA-256(0x00 | uvarint(len key) | key | 0x20 | SHA-256(value)), inner = SHA-256(0x01 | left |
  right), split at the largest power of two below the number of leaves; leaves in key order.
* The top map has all 4096 buckets: key = bucket number as two bytes big-endian, value = root of
  the bucket; the root of an empty bucket is SHA-256 of nothing. Its root is the app hash.
* ``MerkleMap`` changes only in ``MerkleMap.adopt``. Changes are gathered in an ``Update`` beside
  it, which can be thrown away, and adopting one returns the ``Version`` it replaced, so that
  proofs of the version before can still be made.
* Memory: a tuple of keys and one string of leaf hashes a bucket, about 110 bytes a record.

Pure. Not handled here: where records are stored, and what carries a proof (``queries``).
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

BUCKETS = 4096
_DEPTH = 12
"""Levels above the top map's leaves: 2 ** 12 buckets."""
_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves (RFC 6962)."""

Change = tuple[bytes, bytes | None]
"""A key and its new value; ``None`` removes the key."""
_Bucket = tuple[tuple[bytes, ...], bytes]
"""Keys in order, and their leaf hashes one after another in one string."""
_EMPTY: _Bucket = ((), b"")
_STEP = 32
"""Buckets hashed between two yields of ``Update.settle``: a millisecond at 100 000 records."""
_pairs = struct.Struct("64s").iter_unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Where a leaf stands in a tree of ``total`` leaves; ``aunts`` from its sibling upwards."""

    total: int
    index: int
    leaf_hash: bytes
    aunts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That ``key`` has the value it has: its path in its bucket, and the bucket's in the top map.

    The bucket's key is ``bucket_key``; its value is the root that ``inner`` leads to.
    """

    key: bytes
    inner: Path
    bucket_key: bytes
    outer: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsenceProof:
    """That ``key`` has no value: its neighbours stand side by side in the bucket it belongs to.

    ``left`` and ``right`` are (key, path) of the last leaf before and the first after it; a side
    without a neighbour is ``None``: then the other one is the last or first leaf of the bucket.
    With neither the bucket is empty.
    """

    key: bytes
    left: tuple[bytes, Path] | None
    right: tuple[bytes, Path] | None
    bucket_key: bytes
    outer: Path


def bucket_of(key: bytes) -> int:
    """The bucket of ``key``: 0 to 4095."""
    digest = hashlib.sha256(key).digest()
    return digest[0] << 4 | digest[1] >> 4


def bucket_key(bucket: int) -> bytes:
    """The key of ``bucket`` in the top map."""
    return bucket.to_bytes(2, "big")


def leaf_hash(key: bytes, value: bytes) -> bytes:
    """The hash of the leaf that says ``key`` has ``value``."""
    sha256 = hashlib.sha256
    return sha256(b"\x00" + _uvarint(len(key)) + key + b"\x20" + sha256(value).digest()).digest()


def tree_root(leaves: bytes) -> bytes:
    """RFC 6962 root over leaf hashes given one after another in one string."""
    if not leaves:
        return EMPTY_ROOT
    while len(leaves) > _SIZE:
        leaves = _parents(leaves)
    return leaves


def tree_path(leaves: bytes, index: int) -> Path:
    """RFC 6962 audit path of leaf ``index`` among ``leaves`` (as for ``tree_root``)."""
    total, place, aunts = len(leaves) // _SIZE, index, []
    own = _at(leaves, index)
    while len(leaves) > _SIZE:
        sibling = place ^ 1
        if sibling * _SIZE < len(leaves):
            aunts.append(_at(leaves, sibling))
        leaves, place = _parents(leaves), place >> 1
    return Path(total=total, index=index, leaf_hash=own, aunts=tuple(aunts))


def _parents(level: bytes) -> bytes:
    # Pairing from the left and promoting an odd last node upwards gives the same tree as
    # splitting at the largest power of two from the top down.
    sha256 = hashlib.sha256
    odd = len(level) & _SIZE
    pairs = _pairs(level[:-_SIZE] if odd else level)
    hashes = [sha256(b"\x01" + pair).digest() for (pair,) in pairs]
    if odd:
        hashes.append(level[-_SIZE:])
    return b"".join(hashes)


def _at(hashes: bytes | bytearray, index: int) -> bytes:
    return bytes(hashes[index * _SIZE : (index + 1) * _SIZE])


def _uvarint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class MerkleMap:
    """The records of the last committed state, as hashes.

    ``items`` are all (key, value) pairs in ascending key order.
    """

    def __init__(self, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        keys: list[list[bytes]] = [[] for _ in range(BUCKETS)]
        leaves = [bytearray() for _ in range(BUCKETS)]
        for key, value in items:
            bucket = bucket_of(key)
            keys[bucket].append(key)
            leaves[bucket] += leaf_hash(key, value)
        self.buckets: list[_Bucket] = []
        for bucket in range(BUCKETS):
            self.buckets.append((tuple(keys[bucket]), bytes(leaves[bucket])))
            keys[bucket], leaves[bucket] = [], bytearray()
        # The top map's levels, leaves first; index i of a level is above 2i and 2i+1 of the one
        # before.
        self.levels = [bytearray(level) for level in _empty_levels()]
        filled = {number for number, bucket in enumerate(self.buckets) if bucket[0]}
        for number in filled:
            _set(self.levels[0], number, _bucket_leaf(number, self.buckets[number]))
        for _ in _raise_levels(self.levels, filled):
            pass

    @property
    def root(self) -> bytes:
        """The app hash."""
        return bytes(self.levels[_DEPTH])

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self.buckets)

    def prove(self, key: bytes) -> Proof | AbsenceProof:
        """The proof of what the map says about ``key``."""
        return Version(self).prove(key)

    def update(self) -> Update:
        """An empty set of changes to this version."""
        return Update(self)

    def adopt(self, update: Update) -> Version:
        """Make ``update`` (settled, made from this version) the current state.

        The version that it replaced is returned; it is valid until the next ``adopt``.
        """
        earlier = Version(self)
        for number, bucket in update.buckets.items():
            earlier.buckets[number] = self.buckets[number]
            self.buckets[number] = bucket
        self.levels = update.levels
        return earlier


class Version:
    """A version of ``base`` that differs in some ``buckets`` and has ``levels`` of its own."""

    def __init__(self, base: MerkleMap) -> None:
        self._base = base
        self.buckets: dict[int, _Bucket] = {}
        self.levels = base.levels

    @property
    def root(self) -> bytes:
        """The app hash of this version (of an ``Update``: once it is settled)."""
        return bytes(self.levels[_DEPTH])

    def prove(self, key: bytes) -> Proof | AbsenceProof:
        """The proof of what this version says about ``key``."""
        number = bucket_of(key)
        keys, leaves = self._bucket(number)
        outer = Path(
            total=BUCKETS,
            index=number,
            leaf_hash=_at(self.levels[0], number),
            aunts=tuple(_at(self.levels[level], number >> level ^ 1) for level in range(_DEPTH)),
        )
        place = bisect_left(keys, key)
        if place < len(keys) and keys[place] == key:
            inner = tree_path(leaves, place)
            return Proof(key=key, inner=inner, bucket_key=bucket_key(number), outer=outer)
        return AbsenceProof(
            key=key,
            left=(keys[place - 1], tree_path(leaves, place - 1)) if place else None,
            right=(keys[place], tree_path(leaves, place)) if place < len(keys) else None,
            bucket_key=bucket_key(number),
            outer=outer,
        )

    def _bucket(self, number: int) -> _Bucket:
        changed = self.buckets.get(number)
        return self._base.buckets[number] if changed is None else changed


class Update(Version):
    """Changes to a ``MerkleMap``: ``put`` any number of times, ``settle`` once, then ``root``."""

    def __init__(self, base: MerkleMap) -> None:
        super().__init__(base)
        self._waiting: dict[int, list[Change]] = {}

    def put(self, changes: Iterable[Change]) -> None:
        """Add ``changes``; a later one for a key replaces an earlier one."""
        waiting = self._waiting
        for change in changes:
            waiting.setdefault(bucket_of(change[0]), []).append(change)

    def settle(self) -> Iterator[None]:
        """Compute the hashes; yields now and then, so that the caller can let others run."""
        if not self._waiting:
            return
        # All 8191 nodes of the top map are copied: 20 µs, less than looking up which changed.
        self.levels = [bytearray(level) for level in self.levels]
        for done, (number, changes) in enumerate(self._waiting.items(), start=1):
            bucket = self.buckets[number] = _changed(self._bucket(number), changes)
            _set(self.levels[0], number, _bucket_leaf(number, bucket))
            if not done % _STEP:
                yield
        yield from _raise_levels(self.levels, set(self._waiting))


@cache
def _empty_levels() -> tuple[bytes, ...]:
    levels = [b"".join(_bucket_leaf(number, _EMPTY) for number in range(BUCKETS))]
    for _ in range(_DEPTH):
        levels.append(_parents(levels[-1]))
    return tuple(levels)


def _bucket_leaf(number: int, bucket: _Bucket) -> bytes:
    return leaf_hash(bucket_key(number), tree_root(bucket[1]))


def _raise_levels(levels: list[bytearray], changed: set[int]) -> Iterator[None]:
    """Recompute the nodes above the ``changed`` leaves, one level at a time."""
    for below, above in itertools.pairwise(levels):
        changed = {index >> 1 for index in changed}
        for index in changed:
            pair = below[index * 2 * _SIZE : (index + 1) * 2 * _SIZE]
            _set(above, index, hashlib.sha256(b"\x01" + pair).digest())
        yield


def _set(hashes: bytearray, index: int, node: bytes) -> None:
    hashes[index * _SIZE : (index + 1) * _SIZE] = node


def _changed(old: _Bucket, changes: list[Change]) -> _Bucket:
    keys, leaves = list(old[0]), bytearray(old[1])
    for key, value in changes:
        place = bisect_left(keys, key)
        present = place < len(keys) and keys[place] == key
        start, stop = place * _SIZE, (place + present) * _SIZE
        if value is not None:
            leaves[start:stop] = leaf_hash(key, value)
            if not present:
                keys.insert(place, key)
        elif present:
            del leaves[start:stop]
            del keys[place]
    return tuple(keys), bytes(leaves)
