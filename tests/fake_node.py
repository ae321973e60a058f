"""A node for tests of the HTTP API and its clients: real types, made-up services."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field

from abci_app.http_server import public_server
from edgistry.adapters.http import Handler
from edgistry.api import (
    CellArea,
    CountEntry,
    DiscoverAnswer,
    DiscoverQuery,
    ReadyAnswer,
    RegionArea,
    RegionEntry,
    RegionList,
    ServiceEntry,
    StatusAnswer,
    block_time_text,
)
from edgistry.cell import parent_of, parse_cell, resolution_of
from edgistry.codec import replace
from edgistry.envelope import GENERIC_REFUSAL
from edgistry.errors import LimitExceededError, MalformedError, NotYetError, UnknownRegionError
from edgistry.event_stream import encode_event
from edgistry.signed_request import Client
from edgistry.watch_api import WatchQuery
from tests.handle_world import handle_for

HEIGHT = 7
BLOCK_TIME = block_time_text(1_772_366_400_000_000)


CELL = "87283082effffff"


def entry(number: int, type_name: str = "thermometer") -> ServiceEntry:
    return ServiceEntry(
        handle=handle_for(number.to_bytes(16, "big"), tag=b"t" * 16),
        type=type_name,
        cell=CELL,
        resolution=7,
        center=(37.77, -122.42),
        accuracy_m=1406,
        actions=("read",),
        state="open",
        wake="15m",
    )


def count_of(type_name: str, services: int) -> CountEntry:
    return CountEntry(
        type=type_name,
        cell=CELL,
        resolution=7,
        center=(37.77, -122.42),
        accuracy_m=1406,
        services=services,
        owners=1,
    )


@dataclass
class FakeNode:
    """Implements ``PublicNode``. Everything lies in the region "bay", in one cell of it; other
    areas are empty."""

    services: list[ServiceEntry] = field(
        default_factory=lambda: [entry(1), entry(2), entry(3, "valve")]
    )
    queries: list[DiscoverQuery] = field(default_factory=list)
    clients: list[Client | None] = field(default_factory=list)
    """Who signed each of them."""
    watched: list[WatchQuery] = field(default_factory=list)
    streams: list[list[bytes]] = field(default_factory=list)
    """What is sent to each watcher in turn; to those after the last, only the beginning."""
    is_ready: bool = True
    lists_cell: bool = False
    """Whether the services are found by their cell, and by those around it, too."""

    async def discover(self, query: DiscoverQuery, client: Client | None) -> DiscoverAnswer:
        self.queries.append(query)
        self.clients.append(client)
        if query.min_height is not None and query.min_height > HEIGHT:
            raise NotYetError(f"height {query.min_height} is not reached", retry_after_s=5)
        page = self._page(query, self._found(query))
        if client is not None:
            return page
        kinds = Counter(each.type for each in page.services)
        counts = tuple(count_of(name, number) for name, number in sorted(kinds.items()))
        return replace(page, services=(), counts=counts)

    async def watch(self, query: WatchQuery, client: Client) -> AsyncGenerator[bytes, None]:
        self.watched.append(query)
        self.clients.append(client)
        if query.since is not None and query.since > HEIGHT + 90:
            raise NotYetError(f"height {query.since} is not reached", retry_after_s=5)
        self._found(DiscoverQuery(area=query.area, type=query.type))
        begin = encode_event(f'{{"height":{query.since or HEIGHT}}}', name="begin")
        sent = self.streams.pop(0) if self.streams else []

        async def events() -> AsyncGenerator[bytes, None]:
            yield begin
            for each in sent:
                yield each

        return events()

    def _found(self, query: DiscoverQuery) -> list[ServiceEntry]:
        if self.lists_cell and isinstance(query.area, CellArea):
            cell = parse_cell(query.area.cell)
            if parent_of(parse_cell(CELL), resolution_of(cell)) != cell:
                return []
            return [each for each in self.services if query.type in (None, each.type)]
        if not isinstance(query.area, RegionArea):
            return []
        if query.area.name == "everything":
            raise LimitExceededError("the area needs 6000 ranges; at most 5000")
        if query.area.name == "broken":
            raise RuntimeError("a bug in the node")
        if query.area.name != "bay":
            raise UnknownRegionError(f"no region {query.area.name!r} at height {HEIGHT}")
        return [each for each in self.services if query.type in (None, each.type)]

    def _page(self, query: DiscoverQuery, found: list[ServiceEntry]) -> DiscoverAnswer:
        if query.cursor is not None and not query.cursor.isdecimal():
            raise MalformedError("cursor: not one of ours")
        start = int(query.cursor or 0)
        stop = start + query.limit
        return DiscoverAnswer(
            height=HEIGHT,
            block_time=BLOCK_TIME,
            services=tuple(found[start:stop]),
            next=str(stop) if stop < len(found) else None,
        )

    def regions(self) -> RegionList:
        return RegionList(
            height=HEIGHT,
            block_time=BLOCK_TIME,
            regions=(RegionEntry(name="bay", version=2, cells=31),),
        )

    def status(self) -> StatusAnswer:
        return StatusAnswer(
            node="node0",
            version="0.1.0",
            engine="cometbft",
            chain_id="test-chain",
            height=HEIGHT,
            app_hash="ab" * 32,
            block_time=BLOCK_TIME,
            members=4,
            peers=3,
            catching_up=False,
            services=len(self.services),
            regions=1,
            outbox=0,
        )

    def ready(self) -> tuple[bool, ReadyAnswer]:
        reasons = () if self.is_ready else ("the registry is being rebuilt",)
        answer = ReadyAnswer(ready=self.is_ready, writes=self.is_ready, reasons=reasons)
        return self.is_ready, answer


class FakeWoofs:
    """Implements ``PublicWoofs``: nobody has a capability."""

    async def answer(self, data: bytes) -> bytes:
        return GENERIC_REFUSAL

    async def open_stream(self, data: bytes, *, last_seen: int | None = None) -> bytes:
        return GENERIC_REFUSAL


@contextlib.asynccontextmanager
async def serving(
    node: FakeNode, devices: Mapping[str, Handler] | None = None
) -> AsyncIterator[str]:
    """The address at which ``node`` is served, with operations on ``devices``."""
    server = public_server(node, FakeWoofs(), version="0.1.0", devices=devices)
    port = await server.listen_tcp("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(grace_s=1.0)


@contextlib.contextmanager
def serving_from_a_thread(
    node: FakeNode, devices: Mapping[str, Handler] | None = None
) -> Iterator[str]:
    """As ``serving``, for tests that block."""
    started = threading.Event()
    address: list[str] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        async with serving(node, devices) as url:
            address.append(url)
            loops.append((asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        if not started.wait(20):
            raise RuntimeError("the fake node did not start")
        yield address[0]
    finally:
        for loop, stop in loops:
            loop.call_soon_threadsafe(stop.set)
        thread.join(20)
