"""Answering discover queries from the last committed state.

Rules kept here:

* Answers come from memory and the registry, never through the engine, and carry the height they
  belong to. The index follows each Commit before anybody can ask about it.
* Records of a node whose lease has lapsed are hidden.
* An entry tells type, published cell, actions and wake bucket, under an opaque handle; nothing
  else of the record leaves this module.
* Polygons are covered in a thread, one at a time, and few wait: strangers cannot hold the node.

Not handled here: the index (``discovery``), covers (``covers``), HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

from edgistry.api import (
    MIN_HEIGHT_WAIT_S,
    Area,
    DiscoverAnswer,
    DiscoverQuery,
    PolygonArea,
    ServiceEntry,
    WakeBucket,
    block_time_text,
)
from edgistry.cell import cell_text, resolution_of
from edgistry.cover import Cover
from edgistry.errors import NotYetError, UnavailableError
from edgistry.region import accuracy_m, cell_center
from edgistry.transactions import WAKE_BUCKETS, RecordKey

from .covers import Covers
from .devices import handle_of
from .discovery import ServiceIndex, decode_cursor, encode_cursor
from .reader import RecordChange
from .schema import Head, StoredRegion, StoredService

MAX_WAITING_POLYGONS = 8
"""Polygon queries that may wait for the one being covered; the next is told to come back."""


class DiscoverReader(Protocol):
    """What discovery needs of the registry."""

    @property
    def head(self) -> Head: ...
    def service(self, key: bytes) -> StoredService | None: ...
    def services(self) -> Iterator[tuple[RecordKey, StoredService]]: ...
    def region(self, name: str) -> StoredRegion | None: ...
    def is_visible(self, node_id: bytes) -> bool: ...
    def subscribe(self, callback: Callable[[Head, Sequence[RecordChange]], None]) -> None: ...
    async def next_commit(self) -> None: ...


class Discoverer:
    """Answers queries about the registry of ``reader``, whose services it indexes now."""

    def __init__(self, reader: DiscoverReader, *, min_height_wait_s: float = MIN_HEIGHT_WAIT_S):
        self._reader = reader
        self._min_height_wait_s = min_height_wait_s
        self._covers = Covers(reader.region)
        self._covering = asyncio.Semaphore(1)
        self._waiting = 0
        self.index = ServiceIndex()
        self.index.rebuild(reader.services())
        reader.subscribe(lambda head, changes: self.index.apply(changes))

    async def discover(self, query: DiscoverQuery) -> DiscoverAnswer:
        """The services that match ``query``, in order of (cell, key).

        Raises:
            NotYetError: the chain did not reach ``query.min_height`` in time.
            UnavailableError: too many polygons wait.
            UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError: the query.
        """
        if query.min_height is not None:
            await self._reach(query.min_height)
        after = None if query.cursor is None else decode_cursor(query.cursor)
        cover = await self._cover(query.area)
        # From here to the end nothing waits: all of the answer is from one height.
        page = self.index.search(
            cover, query.type, limit=query.limit, after=after, visible=self._visible
        )
        head = self._reader.head
        return DiscoverAnswer(
            height=head.height,
            block_time=block_time_text(head.block_time_us),
            services=tuple(_entry(key, service) for key, service in page.items),
            next=None if page.next is None else encode_cursor(page.next),
        )

    async def _reach(self, height: int) -> None:
        try:
            async with asyncio.timeout(self._min_height_wait_s):
                while self._reader.head.height < height:
                    await self._reader.next_commit()
        except TimeoutError:
            raise NotYetError(
                f"this node is at height {self._reader.head.height}, not yet at {height}"
            ) from None

    async def _cover(self, area: Area) -> Cover:
        if not isinstance(area, PolygonArea):
            return self._covers.of(area)
        if self._waiting >= MAX_WAITING_POLYGONS:
            raise UnavailableError(f"{self._waiting} polygon queries are waiting already")
        self._waiting += 1
        try:
            async with self._covering:
                return await asyncio.to_thread(self._covers.of, area)
        finally:
            self._waiting -= 1

    def _visible(self, key: RecordKey) -> StoredService | None:
        service = self._reader.service(key)
        if service is None or not self._reader.is_visible(service.home):
            return None
        return service


def _entry(key: bytes, service: StoredService) -> ServiceEntry:
    return ServiceEntry(
        handle=handle_of(key),
        type=service.type,
        cell=cell_text(service.cell),
        resolution=resolution_of(service.cell),
        center=cell_center(service.cell),
        accuracy_m=accuracy_m(service.cell),
        actions=service.actions,
        state="open",
        wake=cast(WakeBucket, WAKE_BUCKETS[service.wake]),
    )
