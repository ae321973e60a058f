"""Streams of registry changes in an area.

Rules kept here:

* A stream tells what discover would show: services whose published cell's centre lies in the area,
  of nodes whose lease lives. A record that moves out of the area has left.
* Each reader has a place in one shared log, so a slow one costs no memory; whom the log has left
  behind is told ``gone``. So is one whose area was changed: a region that was put anew.
* A silent stream gets a comment every ``keep_alive_s``, or the height, where that has risen.
* What one reader costs at a time is bounded, and so is the number of readers.
* A reader sees handles of one epoch, in an order of its own. When this node goes over to the next
  epoch's handles and places, its readers are told, and then all that is there, anew. Nobody is told
  under the handles of now what was done before that: who has heard of it under those of then could
  lay the two side by side. Nor is anybody told under those of then what is done since.

Not handled here: the log (``change_log``), covers (``discover_service``), HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from edgistry.api import (
    Area,
    RegionArea,
    block_time_text,
)
from edgistry.codec import encode_json
from edgistry.cover import Cover
from edgistry.errors import BusyError
from edgistry.event_stream import KEEP_ALIVE, encode_event
from edgistry.handles import Place
from edgistry.signed_request import Client
from edgistry.watch_api import (
    BEGIN,
    CHANGES,
    EPOCH,
    GONE,
    HEIGHT,
    ChangesEvent,
    EpochEvent,
    GoneEvent,
    HeightEvent,
    WatchQuery,
)

from .change_log import ChangeLog
from .discover_service import time_text
from .epoch_keys import EpochKeys
from .reader import RecordChange
from .schema import Head
from .watch_view import Part, Services, View, changes_event, told_of

KEEP_ALIVE_S: Final = 15.0
MAX_STREAMS: Final = 256
"""A quarter of the connections that a node takes."""

_OVERTAKEN: Final = "this node no longer has all the changes since then"
_OTHER_HANDLES: Final = "handles are of another privacy epoch since then"
_NO_HANDLES: Final = "this node has no key of the privacy epoch of now yet"
_NEW_AREA: Final = "the region was changed"


class WatchReader(Protocol):
    """What watching needs of the registry."""

    @property
    def head(self) -> Head: ...
    def visible_nodes(self) -> AbstractSet[bytes]: ...
    def region_changed_at(self, name: str) -> int: ...
    def subscribe(self, callback: Callable[[Head, Sequence[RecordChange]], None]) -> None: ...


class Places(Services, Protocol):
    """Where areas are looked up, and services. ``Discoverer`` is one."""

    @property
    def head(self) -> Head: ...
    async def cover(self, area: Area) -> Cover: ...
    async def next_shown(self) -> None: ...
    async def reach(self, height: int) -> None: ...


class Watcher:
    """The streams of one node; ``open`` is how many are being read."""

    def __init__(
        self,
        reader: WatchReader,
        places: Places,
        keys: EpochKeys,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        most: int = MAX_STREAMS,
    ) -> None:
        self.open = 0
        self._reader = reader
        self._places = places
        self._keys = keys
        self._keep_alive_s = keep_alive_s
        self._most = most
        self._log = ChangeLog(reader.head.height, reader.visible_nodes())
        self._epoch = keys.number
        self._handles_since = reader.head.height
        """From which height on this node has told of services under the handles of now."""
        reader.subscribe(self._committed)
        keys.on_change(self._keys_changed)

    async def watch(self, query: WatchQuery, client: Client) -> AsyncGenerator[bytes, None]:
        """The events of a stream of changes behind ``query.since``, for ``client``.

        Raises:
            NoEpochKeyError: there are no handles yet.
            BusyError: too many streams are open, or queries wait for their area.
            NotYetError: the chain did not reach ``query.since`` in time.
            UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError: the query.
        """
        self._check_room()
        self._keys.handles()
        cover = await self._places.cover(query.area)
        if query.since is not None:
            await self._places.reach(query.since)
            if isinstance(query.area, RegionArea):
                # It may have been put anew meanwhile; what is covered is that of now.
                cover = await self._places.cover(query.area)
        self._check_room()
        since = self._places.head.height if query.since is None else query.since
        view = View(self._places, query.type, cover, client, self._keys.handles())
        return self._events(query, view, since, is_past=since < self._handles_since)

    def _check_room(self) -> None:
        if self.open >= self._most:
            raise BusyError(f"{self._most} streams of changes are open already")

    async def _events(
        self, query: WatchQuery, view: View, since: int, *, is_past: bool
    ) -> AsyncGenerator[bytes, None]:
        self.open += 1
        try:
            at = told = since
            yield _event(BEGIN, HeightEvent(height=at, epoch=view.keys.epoch), at)
            reason: str | None = _OTHER_HANDLES if is_past else None
            while reason is None and (reason := self._lost(view, query.area, at)) is None:
                if self._keys.number != view.keys.epoch:
                    view = view.in_epoch_of(self._keys.handles())
                    head = self._places.head
                    async for event in self._anew(view, head):
                        yield event
                    at = told = head.height
                    continue
                block = self._log.after(at)
                if block is not None and block.height <= self._places.head.height:
                    async for changes in told_of(block, view):
                        yield _changes(changes)
                        told = block.height
                    at = block.height
                    continue
                if at >= self._log.floor:
                    at = max(at, self._places.head.height)
                if await self._is_next_block():
                    continue
                if at > told:
                    yield _height_event(HEIGHT, at)
                    told = at
                else:
                    yield KEEP_ALIVE
            gone = GoneEvent(height=self._places.head.height, reason=reason)
            yield _event(GONE, gone)
        finally:
            self.open -= 1

    async def _anew(self, view: View, head: Head) -> AsyncGenerator[bytes, None]:
        """The epoch of ``view`` has begun, and all that is there; ``head`` is the block of now.

        What later blocks do while pages are sent may be in them, and is told again after them. When
        another epoch begins meanwhile, they end: pages of then would be of its places.
        """
        time = block_time_text(head.block_time_us)
        begun = EpochEvent(
            height=head.height,
            block_time=time,
            epoch=view.keys.epoch,
            epoch_ends=time_text(self._keys.end_of(view.keys.epoch)),
        )
        yield _event(EPOCH, begun)
        after: Place | None = None
        while self._keys.number == view.keys.epoch:
            page = view.page(after)
            after = page.next
            part = Part(view.entries(page.items), (), ())
            yield _changes(changes_event(head.height, time, part, more=after is not None))
            if after is None:
                return

    def _lost(self, view: View, area: Area, at: int) -> str | None:
        """Why what is behind ``at`` cannot be told, if so."""
        shown = self._places.head.height
        # Before the block is shown in which the region was put, whoever lists anew is no further.
        if isinstance(area, RegionArea):
            changed_at = self._reader.region_changed_at(area.name)
            if at < changed_at <= shown:
                return _NEW_AREA
        if not self._keys.number:
            return _NO_HANDLES
        # With a new epoch all is told anew, whatever was missed.
        is_same = self._keys.number == view.keys.epoch
        return _OVERTAKEN if is_same and at < self._log.floor <= shown else None

    async def _is_next_block(self) -> bool:
        """Whether a block comes before it is time to say something."""
        try:
            async with asyncio.timeout(self._keep_alive_s):
                await self._places.next_shown()
        except TimeoutError:
            return False
        return True

    def _keys_changed(self) -> None:
        if self._keys.number != self._epoch:
            self._epoch = self._keys.number
            self._handles_since = self._places.head.height

    def _committed(self, head: Head, changes: Sequence[RecordChange]) -> None:
        self._log.committed(head, changes, self._reader.visible_nodes())


def _changes(changes: ChangesEvent) -> bytes:
    """The event that tells ``changes``; the last one of a block has its height as id."""
    return _event(CHANGES, changes, None if changes.more else changes.height)


def _height_event(name: str, height: int) -> bytes:
    return _event(name, HeightEvent(height=height), height)


def _event(
    name: str,
    data: ChangesEvent | EpochEvent | GoneEvent | HeightEvent,
    height: int | None = None,
) -> bytes:
    event_id = "" if height is None else str(height)
    return encode_event(encode_json(data).decode(), name=name, event_id=event_id)
