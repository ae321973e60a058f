"""Anycast: any service of a type in an area, chosen by the node (privacy.md, *Anycast*).

Rules kept here:

* Pure. The members are frozen; they stand in an order that the seed makes, so nobody outside can
  tell whose turn it is, and two nodes do not choose alike.
* Members take turns: each is chosen once before any is chosen again, among those that wake equally
  soon. So over any time the numbers of choices differ by one at most (Gini 0 for whole rounds).
* Who wakes sooner is preferred, until all of those have as much as they may: ``is_fit`` says so.
* A choice looks at a bounded number of members, however many there are.

Not handled here: who is a member, load, grants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

MAX_LOOKED_AT: Final = 256
"""Members of one wake bucket that are looked at for one choice."""


@dataclass(frozen=True, slots=True)
class Member:
    """A service that may be chosen: its record key, and the number of its wake bucket."""

    key: bytes
    wake: int


class Members:
    """The frozen members of one type and area, taking turns.

    ``seed`` is secret; it makes the order.
    """

    def __init__(self, members: Iterable[Member], *, seed: bytes) -> None:
        by_wake: dict[int, list[bytes]] = {}
        for member in members:
            by_wake.setdefault(member.wake, []).append(member.key)
        self._turns = [
            _Turns(sorted(keys, key=lambda key: hashlib.blake2b(key, key=seed).digest()))
            for _, keys in sorted(by_wake.items())
        ]

    def __len__(self) -> int:
        return sum(len(turns.keys) for turns in self._turns)

    def choose(
        self, *, is_fit: Callable[[bytes], bool], avoid: Collection[bytes] = ()
    ) -> bytes | None:
        """The record key of a member that is fit and not in ``avoid``; ``None`` if none is."""
        for turns in self._turns:
            key = turns.next(is_fit, avoid)
            if key is not None:
                return key
        return None


class _Turns:
    """Members that wake equally soon. ``at``: whose turn it is."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self._at = 0

    def next(self, is_fit: Callable[[bytes], bool], avoid: Collection[bytes]) -> bytes | None:
        keys = self.keys
        for step in range(min(len(keys), MAX_LOOKED_AT)):
            at = (self._at + step) % len(keys)
            key = keys[at]
            if key not in avoid and is_fit(key):
                # Who was passed over has had its turn; else one busy member would be looked at
                # again for every choice.
                self._at = at + 1
                return key
        self._at += min(len(keys), MAX_LOOKED_AT)
        return None
