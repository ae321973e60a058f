"""Streams of registry changes in an area.

Rules kept here:

* A stream tells what discover would show: services whose published cell's centre lies in the area,
  of nodes whose lease lives. A record that moves out of the area has left.
* Each reader has a place in one shared log, so a slow one costs no memory; whom the log has left
  behind is told ``gone``. So is one whose area was changed: a region that was put anew.
* A silent stream gets a comment every ``keep_alive_s``, or the height, where that has risen.
* What one reader costs at a time is bounded, and so is the number of readers.

Not handled here: the log (``change_log``), covers (``discover_service``), HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, Protocol

from edgistry.api import (
    Area,
    RegionArea,
    ServiceEntry,
    block_time_text,
)
from edgistry.codec import encode_json, replace
from edgistry.cover import Cover
from edgistry.errors import BusyError
from edgistry.event_stream import KEEP_ALIVE, encode_event
from edgistry.watch_api import (
    BEGIN,
    CHANGES,
    GONE,
    HEIGHT,
    MAX_EVENT_SERVICES,
    ChangesEvent,
    GoneEvent,
    HeightEvent,
    WatchQuery,
)

from .change_log import BlockChanges, ChangeLog, SeenChange
from .devices import handle_of
from .discover_service import entry_of
from .discovery import Found
from .reader import RecordChange
from .schema import Head

KEEP_ALIVE_S: Final = 15.0
MAX_STREAMS: Final = 256
"""A quarter of the connections that a node takes."""

_OVERTAKEN: Final = "this node no longer has all the changes since then"
_NEW_AREA: Final = "the region was changed"


class WatchReader(Protocol):
    """What watching needs of the registry."""

    @property
    def head(self) -> Head: ...
    def visible_nodes(self) -> AbstractSet[bytes]: ...
    def region_changed_at(self, name: str) -> int: ...
    def subscribe(self, callback: Callable[[Head, Sequence[RecordChange]], None]) -> None: ...
    async def next_commit(self) -> None: ...


class Places(Protocol):
    """Where areas are looked up. ``Discoverer`` is one."""

    async def cover(self, area: Area) -> Cover: ...
    async def reach(self, height: int) -> None: ...


class Watcher:
    """The streams of one node; ``open`` is how many are being read."""

    def __init__(
        self,
        reader: WatchReader,
        places: Places,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        most: int = MAX_STREAMS,
    ) -> None:
        self.open = 0
        self._reader = reader
        self._places = places
        self._keep_alive_s = keep_alive_s
        self._most = most
        self._log = ChangeLog(reader.head.height, reader.visible_nodes())
        reader.subscribe(self._committed)

    async def watch(self, query: WatchQuery) -> AsyncGenerator[bytes, None]:
        """The events of a stream of changes behind ``query.since``.

        Raises:
            BusyError: too many streams are open, or queries wait for their area.
            NotYetError: the chain did not reach ``query.since`` in time.
            UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError: the query.
        """
        self._check_room()
        cover = await self._places.cover(query.area)
        if query.since is not None:
            await self._places.reach(query.since)
            if isinstance(query.area, RegionArea):
                # It may have been put anew meanwhile; what is covered is that of now.
                cover = await self._places.cover(query.area)
        self._check_room()
        since = self._reader.head.height if query.since is None else query.since
        return self._events(query, cover, since)

    def _check_room(self) -> None:
        if self.open >= self._most:
            raise BusyError(f"{self._most} streams of changes are open already")

    async def _events(
        self, query: WatchQuery, cover: Cover, since: int
    ) -> AsyncGenerator[bytes, None]:
        self.open += 1
        try:
            at = told = since
            yield _height_event(BEGIN, at)
            while (reason := self._lost(query.area, at)) is None:
                block = self._log.after(at)
                if block is not None:
                    async for event in _told(block, cover, query.type):
                        yield event
                        told = block.height
                    at = block.height
                    continue
                at = max(at, self._reader.head.height)
                if await self._is_next_block():
                    continue
                if at > told:
                    yield _height_event(HEIGHT, at)
                    told = at
                else:
                    yield KEEP_ALIVE
            gone = GoneEvent(height=self._reader.head.height, reason=reason)
            yield _event(GONE, gone)
        finally:
            self.open -= 1

    def _lost(self, area: Area, at: int) -> str | None:
        """Why the changes behind ``at`` cannot be told, if so."""
        if at < self._log.floor:
            return _OVERTAKEN
        if isinstance(area, RegionArea) and at < self._reader.region_changed_at(area.name):
            return _NEW_AREA
        return None

    async def _is_next_block(self) -> bool:
        """Whether a block comes before it is time to say something."""
        try:
            async with asyncio.timeout(self._keep_alive_s):
                await self._reader.next_commit()
        except TimeoutError:
            return False
        return True

    def _committed(self, head: Head, changes: Sequence[RecordChange]) -> None:
        self._log.committed(head, changes, self._reader.visible_nodes())


class _Part(NamedTuple):
    """Some changes of a block, of one area."""

    appeared: tuple[ServiceEntry, ...]
    changed: tuple[ServiceEntry, ...]
    left: tuple[str, ...]


async def _told(
    block: BlockChanges, cover: Cover, type_name: str | None
) -> AsyncGenerator[bytes, None]:
    """The events that tell of ``block``; the last one has its height as id."""
    waiting: ChangesEvent | None = None
    for first in range(0, len(block.changes), MAX_EVENT_SERVICES):
        some = block.changes[first : first + MAX_EVENT_SERVICES]
        part = _part(some, cover, type_name)
        if not any(part):
            await asyncio.sleep(0)  # a large block, and others have something to do
            continue
        if waiting is not None:
            yield _event(CHANGES, waiting)
        waiting = ChangesEvent(
            height=block.height,
            block_time=block_time_text(block.block_time_us),
            appeared=part.appeared,
            changed=part.changed,
            left=part.left,
            more=True,
        )
    if waiting is not None:
        yield _event(CHANGES, replace(waiting, more=False), block.height)


def _part(changes: Sequence[SeenChange], cover: Cover, type_name: str | None) -> _Part:
    def of_area(found: Found | None) -> bool:
        if found is None or (type_name is not None and found.profile.type != type_name):
            return False
        return found.cell in cover

    appeared: list[ServiceEntry] = []
    changed: list[ServiceEntry] = []
    left: list[str] = []
    for key, old, new in changes:
        if new is not None and of_area(new):
            entry = entry_of(new)
            if old is None or not of_area(old):
                appeared.append(entry)
            elif entry != entry_of(old):
                changed.append(entry)
        elif of_area(old):
            left.append(handle_of(key))
    return _Part(tuple(appeared), tuple(changed), tuple(left))


def _height_event(name: str, height: int) -> bytes:
    return _event(name, HeightEvent(height=height), height)


def _event(
    name: str, data: ChangesEvent | GoneEvent | HeightEvent, height: int | None = None
) -> bytes:
    event_id = "" if height is None else str(height)
    return encode_event(encode_json(data).decode(), name=name, event_id=event_id)
