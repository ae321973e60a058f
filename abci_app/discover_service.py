"""Answering discover queries from the last committed state.

Rules kept here:

* Answers come from memory and the registry, never through the engine, and carry the height they
  belong to. It is the last one, but where an epoch's key is waited for, or a block with thousands
  of changes is followed (``shown``).
* Records of a node whose lease has lapsed are hidden.
* Who has signed gets services: type, published cell, actions and wake bucket, under a handle of
  their own; nothing else of the record leaves this module. Everybody else gets counts.
* The state of a service is the client's own: it tells of no request of anybody else.
* Large areas are covered in a thread, one at a time, and few wait: strangers cannot hold the node.
  Polygons, which take longest, have a lane of their own.

Not handled here: the index (``discovery``), which block of it is shown (``shown``), covers
(``covers``), HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol, cast

from edgistry.api import (
    MIN_HEIGHT_WAIT_S,
    Area,
    CountEntry,
    DiscoverAnswer,
    DiscoverQuery,
    PolygonArea,
    RegionArea,
    ServiceEntry,
    WakeBucket,
    block_time_text,
    state_of,
)
from edgistry.cell import cell_text, resolution_of
from edgistry.cover import Cover
from edgistry.errors import LimitExceededError, NotYetError
from edgistry.handles import HandleKey, Place, Target
from edgistry.region import accuracy_m, cell_center
from edgistry.signed_request import Client
from edgistry.transactions import WAKE_BUCKETS, NodeId, RecordKey

from .cell_rows import MAX_ROWS_SCANNED
from .covers import Covers, CoverWork, cover_geojson
from .discovery import (
    Found,
    Page,
    Position,
    ServiceIndex,
    Tallies,
    Tally,
    decode_cursor,
    encode_cursor,
)
from .epoch_keys import EpochKeys
from .lane import Lane
from .profiles import Listed
from .reader import RecordChange
from .schema import Head, StoredRegion
from .shown import ShownIndex

MAX_WAITING_POLYGONS = 8
"""Polygon queries at once, one being covered and the others waiting; each takes up to a second."""
MAX_WAITING_LARGE_AREAS = 64
"""The same for wide circles and for regions asked for the first time, of about 10 ms each."""


class DiscoverReader(Protocol):
    """What discovery needs of the registry."""

    @property
    def head(self) -> Head: ...
    @property
    def epoch(self) -> int: ...
    def listed(self) -> Iterator[tuple[RecordKey, Listed]]: ...
    def region(self, name: str) -> StoredRegion | None: ...
    def region_version(self, name: str) -> int | None: ...
    def is_visible(self, node_id: bytes) -> bool: ...
    def subscribe(self, callback: Callable[[Head, Sequence[RecordChange]], None]) -> None: ...


Outstanding = Callable[[bytes, bytes], int]
"""(record key, client id) to how many requests of that client to that service this node knows that
have not ended."""


class Discoverer:
    """Answers queries about the registry of ``reader``, whose services it indexes now.

    Handles are made with ``keys``. ``outstanding`` may be set later, when there are requests.
    """

    def __init__(
        self,
        reader: DiscoverReader,
        keys: EpochKeys,
        *,
        min_height_wait_s: float = MIN_HEIGHT_WAIT_S,
    ) -> None:
        self.outstanding: Outstanding = lambda _record, _client: 0
        self._reader = reader
        self._keys = keys
        self._min_height_wait_s = min_height_wait_s
        self._covers = Covers(reader)
        self._polygons = Lane("polygon queries", most=MAX_WAITING_POLYGONS)
        self._large_areas = Lane("queries for large areas", most=MAX_WAITING_LARGE_AREAS)
        self.shown = ShownIndex(reader, keys)

    @property
    def index(self) -> ServiceIndex:
        """What is shown now."""
        return self.shown.index

    @property
    def head(self) -> Head:
        """The block that is shown."""
        return self.shown.head

    async def next_shown(self) -> None:
        """Return after the next block is shown."""
        await self.shown.next_shown()

    async def run(self) -> None:
        """Follow the chain until cancelled."""
        await self.shown.run()

    async def discover(self, query: DiscoverQuery, client: Client | None) -> DiscoverAnswer:
        """What matches ``query``: services under the handles of ``client``, or counts for ``None``.

        Raises:
            NoEpochKeyError: there are no handles yet.
            NotYetError: the chain did not reach ``query.min_height`` in time.
            BusyError: too many queries wait for their area to be covered.
            UnknownCursorError: the cursor is another client's, or of another epoch.
            UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError: the query.
        """
        area = query.area
        # Whatever can be refused at any height is refused before there is any waiting for one.
        _ = self._after(query, client)
        cover = None if isinstance(area, RegionArea) else await self.cover(area)
        if query.min_height is not None:
            await self.reach(query.min_height)
        if cover is None:
            cover = await self.cover(area)
        # From here to the end nothing waits: all of the answer is from one height and epoch.
        after = self._after(query, client)
        if client is None:
            return self._counted(query, cover, after if isinstance(after, Position) else None)
        return self._found(query, cover, client, after if isinstance(after, Place) else None)

    def _after(self, query: DiscoverQuery, client: Client | None) -> Place | Position | None:
        """Where to go on; raises as ``discover``."""
        if client is None:
            return None if query.cursor is None else decode_cursor(query.cursor)
        keys = self._keys.handles()
        return None if query.cursor is None else keys.open_cursor(client.tag, query.cursor)

    def _found(
        self, query: DiscoverQuery, cover: Cover, client: Client, after: Place | None
    ) -> DiscoverAnswer:
        keys = self._keys.handles()
        page = self.page(cover, query.type, client, keys, limit=query.limit, after=after)
        cursor = None if page.next is None else keys.seal_cursor(client.tag, page.next)
        if cursor is not None and not page.items:
            raise _cut_short(cursor)
        return self._answer(cursor, services=self.entries(page.items, client, keys))

    def _counted(
        self, query: DiscoverQuery, cover: Cover, after: Position | None
    ) -> DiscoverAnswer:
        tallies = self._tallies(cover, query, after)
        cursor = None if tallies.next is None else encode_cursor(tallies.next)
        if cursor is not None and not tallies.items:
            raise _cut_short(cursor)
        return self._answer(cursor, counts=tuple(map(_count, tallies.items)))

    def _tallies(self, cover: Cover, query: DiscoverQuery, after: Position | None) -> Tallies:
        return self.index.count(
            cover,
            query.type,
            limit=query.limit,
            after=after,
            is_visible=self._reader.is_visible,
        )

    def _answer(
        self,
        cursor: str | None,
        *,
        services: tuple[ServiceEntry, ...] = (),
        counts: tuple[CountEntry, ...] = (),
    ) -> DiscoverAnswer:
        head = self.head
        return DiscoverAnswer(
            height=head.height,
            block_time=_block_time(head.block_time_us),
            services=services,
            next=cursor,
            counts=counts,
            epoch=self._keys.number,
            epoch_ends=time_text(self._keys.ends_us),
        )

    def page(
        self,
        cover: Cover,
        type_name: str | None,
        client: Client,
        keys: HandleKey,
        *,
        limit: int,
        after: Place | None,
    ) -> Page:
        """Services in the order of ``client`` in the epoch of ``keys``; as ``ServiceIndex.search``.

        An empty page that is not the last one looked at hidden services only.
        """
        return self.index.search(
            cover,
            type_name,
            limit=limit,
            order=keys.order(client.tag),
            after=after,
            is_visible=self._reader.is_visible,
        )

    def entries(
        self, found: Sequence[Found], client: Client, keys: HandleKey
    ) -> tuple[ServiceEntry, ...]:
        """What ``client`` may see of services, in the epoch of ``keys``."""
        targets = [Target(NodeId(each.profile.home), each.key) for each in found]
        handles = keys.texts(client.tag, targets)
        return tuple(
            entry_of(each, handle, self.outstanding(each.key, client.id))
            for each, handle in zip(found, handles, strict=True)
        )

    async def reach(self, height: int) -> None:
        """Return when ``height`` is shown.

        Raises:
            NotYetError: it did not get there in time.
        """
        try:
            async with asyncio.timeout(self._min_height_wait_s):
                while self.head.height < height:
                    await self.next_shown()
        except TimeoutError:
            raise NotYetError(
                f"this node is at height {self.head.height}, not yet at {height}"
            ) from None

    async def cover(self, area: Area) -> Cover:
        """The cover of ``area``; a region's is that of its version when this returns.

        Raises:
            BusyError: too many queries wait for their area to be covered.
            UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError: the area.
        """
        if isinstance(area, PolygonArea):
            async with self._polygons:
                return await asyncio.to_thread(cover_geojson, area.geojson)
        while True:
            cover = self._covers.of(area)
            if isinstance(cover, Cover):
                return cover
            async with self._large_areas:
                # Somebody else may have made it meanwhile.
                work = self._covers.of(area)
                if isinstance(work, CoverWork):
                    work.keep(await asyncio.to_thread(work.make))


_block_time = lru_cache(maxsize=4)(block_time_text)


def time_text(time_us: int | None) -> str | None:
    """A time as answers have it, if there is one."""
    return None if time_us is None else _block_time(time_us)


@lru_cache(maxsize=8192)
def _place(cell: int) -> tuple[str, int, tuple[float, float], int]:
    """What an entry tells of a published cell: text, resolution, centre, accuracy."""
    return cell_text(cell), resolution_of(cell), cell_center(cell), accuracy_m(cell)


def entry_of(found: Found, handle: str, outstanding: int) -> ServiceEntry:
    """What a client may see of a service: under its ``handle``, with so many requests under way."""
    text, resolution, center, accuracy = _place(found.cell)
    profile = found.profile
    return ServiceEntry(
        handle=handle,
        type=profile.type,
        cell=text,
        resolution=resolution,
        center=center,
        accuracy_m=accuracy,
        actions=profile.actions,
        state=state_of(outstanding),
        wake=cast(WakeBucket, WAKE_BUCKETS[profile.wake]),
    )


def _count(tally: Tally) -> CountEntry:
    text, resolution, center, accuracy = _place(tally.cell)
    return CountEntry(
        type=tally.type,
        cell=text,
        resolution=resolution,
        center=center,
        accuracy_m=accuracy,
        services=tally.services,
        owners=tally.owners,
    )


def _cut_short(cursor: str) -> LimitExceededError:
    return LimitExceededError(
        f"none of the first {MAX_ROWS_SCANNED} services here is visible now; ask for a smaller "
        f"area or another type, or go on with the cursor {cursor}"
    )
