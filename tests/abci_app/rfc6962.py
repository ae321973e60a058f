"""Merkle trees as the text of RFC 6962, section 2.1, has them: slow, recursive, independent.

Written from the RFC alone and sharing nothing with the code under test. ``two_level_root`` adds
the map of consensus.md on top.
"""

from __future__ import annotations

import hashlib


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def split_point(count: int) -> int:
    """k: the largest power of two smaller than n, "k < n <= 2k"."""
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def tree_head(leaves: list[bytes]) -> bytes:
    """MTH(D[n]): leaves are the inputs d(i), not yet hashed."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0])
    k = split_point(len(leaves))
    return sha256(b"\x01" + tree_head(leaves[:k]) + tree_head(leaves[k:]))


def audit_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(leaves) == 1:
        return []
    k = split_point(len(leaves))
    if index < k:
        return [*audit_path(index, leaves[:k]), tree_head(leaves[k:])]
    return [*audit_path(index - k, leaves[k:]), tree_head(leaves[:k])]


def root_from_path(leaf: bytes, index: int, count: int, path: list[bytes]) -> bytes | None:
    """The tree head that ``path`` leads to from leaf input ``leaf``, ``None`` if it cannot."""
    return _climb(sha256(b"\x00" + leaf), index, count, path)


def _climb(node: bytes, index: int, count: int, path: list[bytes]) -> bytes | None:
    if not 0 <= index < count:
        return None
    if count == 1:
        return None if path else node
    if not path:
        return None
    k = split_point(count)
    *lower, sibling = path
    if index < k:
        left = _climb(node, index, k, lower)
        return None if left is None else sha256(b"\x01" + left + sibling)
    right = _climb(node, index - k, count - k, lower)
    return None if right is None else sha256(b"\x01" + sibling + right)


def map_leaf(key: bytes, value: bytes) -> bytes:
    """The leaf input for a key and its value: both length-prefixed, the value hashed."""
    length, prefix = len(key), b""
    while length >= 128:
        prefix += bytes([length % 128 + 128])
        length //= 128
    prefix += bytes([length])
    return prefix + key + bytes([32]) + sha256(value)


def bucket_number(key: bytes) -> int:
    return int(sha256(key).hex()[:3], 16)


def two_level_root(items: dict[bytes, bytes]) -> bytes:
    """The app hash of ``items``: 4096 buckets, and the map of their roots."""
    buckets: list[list[bytes]] = [[] for _ in range(4096)]
    for key in sorted(items):
        buckets[bucket_number(key)].append(map_leaf(key, items[key]))
    return tree_head(
        [
            map_leaf(bytes([number // 256, number % 256]), tree_head(leaves))
            for number, leaves in enumerate(buckets)
        ]
    )
