"""The index that readers see, and under handles of which epoch.

Rules kept here:

* One step takes readers from the places and handles of one privacy epoch to those of the next: when
  the block that begins it is in the index and its key is here. Until then answers carry the height
  before. A place of the new epoch under a handle of the old one, or the other way round, would let
  whoever looks follow a service that moves with the epoch.
* So a node that lacks the key shows what was before the epoch for as long as it makes handles of
  before; where it can make none (it was started anew, say), it shows the registry as it is.
* Other blocks are shown at their Commit. One that changes thousands of services (an import) is
  followed in slices in a copy of the index, and shown as a whole.

Not handled here: the index (``discovery``), keys (``epoch_keys``), answers (``discover_service``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from edgistry.transactions import RecordKey

from .discovery import ServiceIndex
from .epoch_keys import EpochKeys
from .profiles import Listed
from .reader import RecordChange
from .schema import Head
from .slices import Slices

MAX_AT_ONCE = 4_000
"""Changes of a block that the index follows at once, in about 30 ms."""
_STEP = 128
"""Changes between two looks at the slice: less than a millisecond."""


class ShownReader(Protocol):
    """What is needed of the registry."""

    @property
    def head(self) -> Head: ...
    @property
    def epoch(self) -> int: ...
    def listed(self) -> Iterator[tuple[RecordKey, Listed]]: ...
    def subscribe(self, callback: Callable[[Head, Sequence[RecordChange]], None]) -> None: ...


class _Block(NamedTuple):
    """A block to be followed; ``epoch`` is the one that it is in, or begins."""

    head: Head
    epoch: int
    changes: Sequence[RecordChange]


class ShownIndex:
    """The services of ``reader`` that are shown under handles of ``keys``, from now on."""

    def __init__(self, reader: ShownReader, keys: EpochKeys) -> None:
        self.index = ServiceIndex()
        self.index.rebuild(reader.listed())
        self._reader = reader
        self._keys = keys
        self._head = reader.head
        self._epoch = reader.epoch
        self._waiting: deque[_Block] = deque()
        """Blocks that are yet to be followed."""
        self._copy: ServiceIndex | None = None
        self._copy_of: _Block | None = None
        """The block that the copy is at; ``None`` while it follows one."""
        self._has_work = asyncio.Event()
        self._was_shown = asyncio.Event()
        keys.shown = self
        keys.shown_changed()
        reader.subscribe(self._committed)

    @property
    def head(self) -> Head:
        """The block that is shown."""
        return self._head if self._is_behind else self._reader.head

    @property
    def _is_behind(self) -> bool:
        return bool(self._waiting) or self._copy is not None

    async def next_shown(self) -> None:
        """Return after the next block is shown."""
        await self._was_shown.wait()

    # --- the epoch of handles -------------------------------------------------------------------

    def allows(self, epoch: int) -> bool:
        """Whether what is shown may be shown under handles of ``epoch``."""
        return epoch == self._epoch or (epoch > self._epoch and not self._is_behind)

    def keys_changed(self) -> None:
        """Show what was waiting for a key, if it is here."""
        self._show_copy()

    # --- following the chain --------------------------------------------------------------------

    def _committed(self, head: Head, changes: Sequence[RecordChange]) -> None:
        block = _Block(head, self._reader.epoch, changes)
        if not self._is_behind and self._can_show_at_once(block):
            self._show(block)
            return
        self._waiting.append(block)
        self._has_work.set()

    def _can_show_at_once(self, block: _Block) -> bool:
        return len(block.changes) <= MAX_AT_ONCE and self._may_show(block.epoch)

    def _may_show(self, epoch: int) -> bool:
        """Whether handles can be of ``epoch`` once it is shown, or there are none to follow."""
        return epoch == self._epoch or self._keys.newest >= epoch or not self._keys.allowed()

    async def run(self) -> None:
        """Follow what is too much at once, or has to wait for a key, until cancelled."""
        while True:
            await self._has_work.wait()
            await self.follow()

    async def follow(self) -> None:
        """Follow all blocks, and show those that may be shown."""
        self._has_work.clear()
        slices = Slices()
        while self._waiting:
            if self._copy is None and self._can_show_at_once(self._waiting[0]):
                self._show(self._waiting.popleft())
            else:
                await self._follow_in_copy(self._waiting[0], slices)
                self._waiting.popleft()
                if self._show_copy():
                    self._keys.shown_changed()
            await slices.rest()

    async def _follow_in_copy(self, block: _Block, slices: Slices) -> None:
        copy, self._copy_of = self._copy, None
        if copy is None:
            copy = self._copy = ServiceIndex()
            for _ in self.index.copy_into(copy):
                await slices.rest()
        for at in range(0, len(block.changes), _STEP):
            copy.apply(block.changes[at : at + _STEP])
            await slices.rest()
        self._copy_of = block

    def _show_copy(self) -> bool:
        """Show the copy, if it has a whole block that may be shown; whether it was."""
        if self._copy is None or self._copy_of is None or not self._may_show(self._copy_of.epoch):
            return False
        self.index, self._copy = self._copy, None
        self._was_shown_at(self._copy_of)
        return True

    def _show(self, block: _Block) -> None:
        self.index.apply(block.changes)
        self._was_shown_at(block)
        self._keys.shown_changed()

    def _was_shown_at(self, block: _Block) -> None:
        self._head, self._epoch = block.head, block.epoch
        waiting, self._was_shown = self._was_shown, asyncio.Event()
        waiting.set()
