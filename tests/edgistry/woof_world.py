"""A node's WooFs behind a real HTTP server, in memory: what tests of WooFs over the wire need."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import HttpServer, Request, Response, Route
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.woof_server import WoofServer
from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.errors import UnknownHandlerError
from edgistry.kv import KeyValue, MemoryKeyValue

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

    def client(self, capability: Capability = ROOT, *, timeout_s: float = 20.0) -> NodeClient:
        """A client whose clock agrees with the server's; closed with the world."""
        made = NodeClient(self.at, capability, timeout_s=timeout_s, clock_us=self.clock)
        self.clients.append(made)
        return made


@contextlib.asynccontextmanager
async def woof_world(store: KeyValue | None = None) -> AsyncIterator[WoofWorld]:
    """The WooFs in ``store`` served on a free port, with a namespace ``ns``."""
    kept = store if store is not None else MemoryKeyValue()
    woofs = DurableWoofs(kept)
    clock = HandClock()
    server = WoofServer(
        woofs, Authority(kept, ISSUER), require_handler=require_handler, clock_us=clock
    )
    world = WoofWorld(store=kept, woofs=woofs, server=server, clock=clock)

    async def woof(request: Request) -> Response:
        return Response(body=await server.answer(request.body))

    http = HttpServer([Route(method="POST", template="/v1/woof", handler=woof)])
    try:
        await woofs.create_namespace("ns")
        world.at = f"http://127.0.0.1:{await http.listen_tcp('127.0.0.1', 0)}"
        yield world
    finally:
        for client in world.clients:
            await client.close()
        await http.stop(grace_s=0.1)
        await woofs.close()
