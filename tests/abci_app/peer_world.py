"""Two nodes: a client's entry node, and the home node of a device; the link between them is cut
when a test says so. Everything is real but the sockets, the registry and the clock."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from abci_app.any_grants import AnyGrantDesk
from abci_app.config_guards import GrantsConfig
from abci_app.entry_book import EntryBook
from abci_app.entry_courier import Courier
from abci_app.entry_desk import EntryDesk, GrantForwarder
from abci_app.entry_records import EntryLimits
from abci_app.grants import GrantDesk
from abci_app.peer_link import PeerLink
from abci_app.peer_routes import peer_routes
from abci_app.schema import StoredService
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import HttpServer, Request, Response, problem_response
from edgistry.api import internal_problem
from edgistry.capability import BoundRequest
from edgistry.errors import CannotReachError, TimedOutError
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.requests_api import RequestAnswer
from edgistry.transactions import NodeId
from tests.handle_world import epoch_keys

from .desk_world import FETCH_KEY, SERVICE_KEY, Desks, FakePairings, desks, text_bytes

HOME = NodeId(b"h" * 20)
ENTRY = NodeId(b"e" * 20)
KEYS = epoch_keys()
STORED = StoredService(
    home=HOME,
    type="thermometer",
    cell=0,
    actions=("read",),
    wake=1,
    commitment=bytes(32),
    owner=bytes(8),
    crowd=1,
)

Tamper = Callable[[str, bytes], bytes]
"""Path and bytes to other bytes."""


@dataclass
class CutWay:
    """The way to the home node. Implements ``Way``."""

    server: HttpServer
    peer: NodeId | None = ENTRY
    is_cut: bool = False
    lose_answers: int = 0
    """So many answers are lost: the home node has done what was asked."""
    sent: list[str] = field(default_factory=list)
    """The paths that arrived."""
    poison: bytes | None = None
    """What the home node fails at."""
    silent: bytes | None = None
    """What the home node has no answer to."""
    tamper_request: Tamper = lambda _path, body: body
    tamper_answer: Tamper = lambda _path, body: body

    async def request(self, method: str, path: str, *, body: bytes, timeout_s: float) -> Response:
        if self.is_cut:
            raise CannotReachError("the link is cut")
        if self.poison is not None and self.poison in body:
            return problem_response(internal_problem())
        if self.silent is not None and self.silent in body:
            raise TimedOutError("there was no answer")
        self.sent.append(path.rpartition("/")[2])
        request = Request(
            method=method, path=path, body=self.tamper_request(path, body), peer_node=self.peer
        )
        response = await self.server.answer(request)
        if self.lose_answers:
            self.lose_answers -= 1
            raise TimedOutError("the answer was lost")
        body = self.tamper_answer(path, response.body)
        return Response(status=response.status, headers=response.headers, body=body)

    async def close(self) -> None:
        return None


@dataclass
class Nodes:
    """Home node and entry node. Clients talk to ``entry``, the device to ``home``."""

    home: Desks
    way: CutWay
    link: PeerLink
    store: KeyValue
    book: EntryBook
    courier: Courier
    entry: EntryDesk
    grants: GrantForwarder
    steady_s: float = 1000.0

    async def step(self) -> bool:
        """What the courier does in one round."""
        return await self.courier.step(self.link)

    async def passes(self, seconds: float) -> None:
        """Time passes, and both nodes notice."""
        self.home.now_us += round(seconds * 1_000_000)
        self.steady_s += seconds
        await self.home.writer.sweep()
        await self.courier.sweep()

    async def submit(self, request: BoundRequest, **more: Any) -> RequestAnswer:
        answer, _ = await self.entry.submit(self.home.asked(request, **more))
        return answer

    async def fetch(self, answer: RequestAnswer, **more: Any) -> RequestAnswer:
        return await self.entry.fetch(text_bytes(answer.id), FETCH_KEY, **more)

    async def cancel(self, answer: RequestAnswer) -> RequestAnswer:
        return await self.entry.cancel(text_bytes(answer.id), FETCH_KEY)

    async def acknowledge(self, answer: RequestAnswer) -> RequestAnswer:
        return await self.entry.acknowledge(text_bytes(answer.id), FETCH_KEY)


@contextlib.asynccontextmanager
async def nodes(
    store: KeyValue | None = None,
    *,
    home_store: KeyValue | None = None,
    home_limits: dict[str, int] | None = None,
    now_us: int | None = None,
    **limits: int,
) -> AsyncIterator[Nodes]:
    """Both nodes; the entry node over what is in ``store``."""
    kept = store if store is not None else MemoryKeyValue()
    async with desks(home_store, **(home_limits or {})) as home:
        if now_us is not None:
            home.now_us = now_us
        woofs = DurableWoofs(kept)
        policy = GrantDesk(home.pairings, GrantsConfig(), KEYS, clock_us=lambda: home.now_us)
        any_grants = AnyGrantDesk(policy, clock_us=lambda: home.now_us)
        way = CutWay(HttpServer(peer_routes(home.requests, policy, any_grants)))
        link = PeerLink(HOME, way, steady_s=lambda: world.steady_s)
        book = EntryBook(
            kept, woofs.committer, limits=EntryLimits(**limits), clock_us=lambda: home.now_us
        )
        courier = Courier(book, {HOME: link}, chance=lambda: 0.0)

        def find(key: bytes) -> StoredService | None:
            return STORED if home.pairings.is_listed and key == SERVICE_KEY else None

        async with desks() as own:
            own.pairings.paired = None
            nobody = GrantDesk(FakePairings(), GrantsConfig(), KEYS)
            world = Nodes(
                home=home,
                way=way,
                link=link,
                store=kept,
                book=book,
                courier=courier,
                entry=EntryDesk(own.requests, book, courier, node_id=ENTRY, find=find),
                grants=GrantForwarder(nobody, {HOME: link}, node_id=ENTRY, find=find, keys=KEYS),
            )
            try:
                yield world
            finally:
                await woofs.close()
