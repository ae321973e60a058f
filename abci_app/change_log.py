"""The latest changes to what clients may see of the registry, kept in memory.

Rules kept here:

* Pure. Fed at each commit; ``after`` a height come the changes of every later block, in order of
  height and key, or ``floor`` says that they are not here any more.
* Bounded: the oldest blocks go first, whole.
* Only what is visible enters: a change to a hidden record is none. When the lease of a node lapses
  or comes back, many records vanish or appear at once; such a block is not told but forgotten with
  all before it, since listing anew is cheaper for everybody.

Not handled here: areas and types (``watch_service``), who listens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from edgistry.transactions import RecordKey

from .discovery import Found
from .profiles import Listed
from .schema import Head

MAX_CHANGES: Final = 20_000
"""About 5 MB; an hour of a registry in which six services change every second."""
MAX_OF_A_BLOCK: Final = 10_000
"""Looked at within the Commit, in about 30 ms; a block that changes more is not told."""


class Change(Protocol):
    """What a block did to one record."""

    @property
    def key(self) -> RecordKey: ...
    @property
    def before(self) -> Listed | None: ...
    @property
    def after(self) -> Listed | None: ...


class SeenChange(NamedTuple):
    """What clients may see of a change; not both are ``None``, and they differ."""

    key: RecordKey
    old: Found | None
    new: Found | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChanges:
    """The visible changes of one block; at least one."""

    height: int
    block_time_us: int
    changes: Sequence[SeenChange]


class ChangeLog:
    """The changes behind ``floor``, a height; ``visible`` are the nodes whose records are shown."""

    def __init__(self, floor: int, visible: AbstractSet[bytes], *, most: int = MAX_CHANGES) -> None:
        self.floor = floor
        self._visible = frozenset(visible)
        self._most = most
        self._count = 0
        self._heights: list[int] = []
        self._blocks: list[BlockChanges] = []

    def __len__(self) -> int:
        """The number of changes kept."""
        return self._count

    def committed(self, head: Head, changes: Sequence[Change], visible: AbstractSet[bytes]) -> None:
        """Take note of the block ``head``; heights rise."""
        if visible != self._visible:
            self._visible = frozenset(visible)
            self._drop(len(self._blocks), head.height)
            return
        if len(changes) > min(self._most, MAX_OF_A_BLOCK):
            # An epoch began and shows many services elsewhere. Not even looked at one by one.
            self._drop(len(self._blocks), head.height)
            return
        seen = [found for each in changes if (found := self._seen(each)) is not None]
        if not seen:
            return
        self._heights.append(head.height)
        self._blocks.append(
            BlockChanges(height=head.height, block_time_us=head.block_time_us, changes=tuple(seen))
        )
        self._count += len(seen)
        excess, over = 0, self._count
        while over > self._most:
            over -= len(self._blocks[excess].changes)
            excess += 1
        if excess:
            self._drop(excess, self._heights[excess - 1])

    def after(self, height: int) -> BlockChanges | None:
        """The first block behind ``height``, which is not under ``floor``, with changes."""
        at = bisect_right(self._heights, height)
        return self._blocks[at] if at < len(self._blocks) else None

    def _drop(self, blocks: int, floor: int) -> None:
        """Forget the oldest ``blocks``."""
        self._count -= sum(len(each.changes) for each in self._blocks[:blocks])
        del self._blocks[:blocks], self._heights[:blocks]
        self.floor = floor

    def _seen(self, change: Change) -> SeenChange | None:
        old, new = self._found(change.key, change.before), self._found(change.key, change.after)
        return None if old == new else SeenChange(change.key, old, new)

    def _found(self, key: RecordKey, listed: Listed | None) -> Found | None:
        if listed is None or listed.profile.home not in self._visible:
            return None
        return Found(listed.cell, key, listed.profile)
