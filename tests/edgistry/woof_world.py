"""A node's WooFs behind a real HTTP server, in memory: what tests of WooFs over the wire need."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from abci_app.http_server import woof_handlers
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import Handler, HttpServer, Route
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.woof_server import WoofServer
from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.errors import UnknownHandlerError
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.routes import OPERATIONS

from .grants import ISSUER, NOW, ROOT

HANDLER = "alarm"
"""The one handler there is."""


class HandClock:
    """A clock that is set by hand; µs since 1970."""

    def __init__(self) -> None:
        self.now_us = NOW

    def __call__(self) -> int:
        return self.now_us


def require_handler(name: str) -> None:
    if name != HANDLER:
        raise UnknownHandlerError(f"there is no handler {name!r} here")


@dataclass
class WoofWorld:
    """WooFs in ``store`` with their server; ``at`` is where it listens."""

    store: KeyValue
    woofs: DurableWoofs
    server: WoofServer
    clock: HandClock
    at: str = ""
    clients: list[NodeClient] = field(default_factory=list)
    http: HttpServer | None = None

    def client(self, capability: Capability = ROOT, *, timeout_s: float = 20.0) -> NodeClient:
        """A client whose clock agrees with the server's; closed with the world."""
        made = NodeClient(self.at, capability, timeout_s=timeout_s, clock_us=self.clock)
        self.clients.append(made)
        return made

    async def stop(self) -> None:
        """Nothing is served or written any more. Stopping twice is safe."""
        if self.http is not None:
            http, self.http = self.http, None
            await http.stop(grace_s=0.1)
            await self.woofs.close()


@contextlib.asynccontextmanager
async def woof_world(
    store: KeyValue | None = None, *, port: int = 0, keep_alive_s: float = 15.0
) -> AsyncIterator[WoofWorld]:
    """The WooFs in ``store`` served on a free port, with a namespace ``ns``."""
    kept = store if store is not None else MemoryKeyValue()
    woofs = DurableWoofs(kept)
    clock = HandClock()
    server = WoofServer(
        woofs,
        Authority(kept, ISSUER),
        require_handler=require_handler,
        clock_us=clock,
        keep_alive_s=keep_alive_s,
    )
    world = WoofWorld(store=kept, woofs=woofs, server=server, clock=clock)

    routes = [
        Route(method="POST", template=each.path, handler=handler)
        for each in OPERATIONS
        if (handler := woof_handlers(server).get(each.name))
    ]
    world.http = http = HttpServer(routes)
    try:
        await woofs.create_namespace("ns")
        world.at = f"http://127.0.0.1:{await http.listen_tcp('127.0.0.1', port)}"
        yield world
    finally:
        for client in world.clients:
            await client.close()
        await world.stop()


@contextlib.asynccontextmanager
async def between(
    world: WoofWorld,
    answer: Handler,
    capability: Capability = ROOT,
    *,
    path: str = "/v1/woof",
    timeout_s: float = 20.0,
) -> AsyncIterator[NodeClient]:
    """A client whose requests to ``path`` all go to ``answer``, and nowhere else."""
    http = HttpServer([Route(method="POST", template=path, handler=answer)])
    at = f"http://127.0.0.1:{await http.listen_tcp('127.0.0.1', 0)}"
    try:
        async with NodeClient(at, capability, timeout_s=timeout_s, clock_us=world.clock) as client:
            yield client
    finally:
        await http.stop(grace_s=0.1)
