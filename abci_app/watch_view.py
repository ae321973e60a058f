"""What one reader of a stream of registry changes sees: handles of one epoch, in its own order.

Rules kept here: pure but for giving way in large blocks; changes come in order of cells, and in a
cell in the order of the client and epoch, so that no two readers' streams can be laid over each
other by it.

Not handled here: when what is told (``watch_service``), the log of changes (``change_log``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from edgistry.api import ServiceEntry, block_time_text
from edgistry.codec import replace
from edgistry.cover import Cover
from edgistry.handles import HandleKey, Place
from edgistry.signed_request import Client
from edgistry.watch_api import MAX_EVENT_SERVICES, ChangesEvent

from .change_log import BlockChanges, SeenChange
from .discovery import Found, Page


class Services(Protocol):
    """Services as clients see them. ``Discoverer`` is one."""

    def page(
        self,
        cover: Cover,
        type_name: str | None,
        client: Client,
        keys: HandleKey,
        *,
        limit: int,
        after: Place | None,
    ) -> Page: ...
    def entries(
        self, found: Sequence[Found], client: Client, keys: HandleKey
    ) -> tuple[ServiceEntry, ...]: ...


class View(NamedTuple):
    """What one reader sees: an area, and services of it under handles of one epoch."""

    services: Services
    type: str | None
    cover: Cover
    client: Client
    keys: HandleKey

    def in_epoch_of(self, keys: HandleKey) -> View:
        """The same in another epoch."""
        return self._replace(keys=keys)

    def page(self, after: Place | None) -> Page:
        """What is there behind ``after``, as much as goes into an event."""
        return self.services.page(
            self.cover, self.type, self.client, self.keys, limit=MAX_EVENT_SERVICES, after=after
        )

    def entries(self, found: Sequence[Found]) -> tuple[ServiceEntry, ...]:
        return self.services.entries(found, self.client, self.keys)

    def shows(self, found: Found | None) -> bool:
        if found is None or (self.type is not None and found.profile.type != self.type):
            return False
        return found.cell in self.cover

    def seen(self, change: SeenChange) -> SeenChange | None:
        """What the reader sees of a change, if anything."""
        old = change.old if self.shows(change.old) else None
        new = change.new if self.shows(change.new) else None
        return None if old == new else SeenChange(change.key, old, new)

    def sorted(self, changes: Sequence[SeenChange]) -> list[SeenChange]:
        """``changes`` in the reader's order: by the cell of now, or the last one, and the place."""
        order = self.keys.order(self.client.tag)
        places = order.places([each.key for each in changes])
        cells = [found.cell for each in changes if (found := each.new or each.old)]
        ranked = sorted(zip(cells, places, changes, strict=True), key=lambda each: each[:2])
        return [each for _, _, each in ranked]


class Part(NamedTuple):
    """Some changes of a block, of one area."""

    appeared: tuple[ServiceEntry, ...]
    changed: tuple[ServiceEntry, ...]
    left: tuple[str, ...]


async def told_of(block: BlockChanges, view: View) -> AsyncGenerator[ChangesEvent, None]:
    """The events that tell of ``block``; the last one says so."""
    seen: list[SeenChange] = []
    for first in range(0, len(block.changes), MAX_EVENT_SERVICES):
        some = block.changes[first : first + MAX_EVENT_SERVICES]
        seen += [found for each in some if (found := view.seen(each)) is not None]
        await asyncio.sleep(0)  # a large block, and others have something to do
    time = block_time_text(block.block_time_us)
    waiting: ChangesEvent | None = None
    seen = view.sorted(seen)
    for first in range(0, len(seen), MAX_EVENT_SERVICES):
        part = _part(seen[first : first + MAX_EVENT_SERVICES], view)
        if not any(part):
            continue
        if waiting is not None:
            yield waiting
        waiting = changes_event(block.height, time, part, more=True)
    if waiting is not None:
        yield replace(waiting, more=False)


def changes_event(height: int, time: str, part: Part, *, more: bool) -> ChangesEvent:
    return ChangesEvent(
        height=height,
        block_time=time,
        appeared=part.appeared,
        changed=part.changed,
        left=part.left,
        more=more,
    )


def _part(changes: Sequence[SeenChange], view: View) -> Part:
    appeared = view.entries([new for _, old, new in changes if new is not None and old is None])
    both = [(old, new) for _, old, new in changes if old is not None and new is not None]
    before = view.entries([old for old, _ in both])
    after = view.entries([new for _, new in both])
    left = view.entries([old for _, old, new in changes if old is not None and new is None])
    return Part(
        appeared,
        tuple(new for old, new in zip(before, after, strict=True) if old != new),
        tuple(each.handle for each in left),
    )
