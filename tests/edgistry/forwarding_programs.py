"""Two programs that are killed: one puts and forwards, the other is the destination.

Elements are the numbers 1, 2, 3 …, in the order of their puts; what was acknowledged is told.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.forward_link import HttpLink
from edgistry.adapters.forwarder import Forwarder
from edgistry.adapters.http import HttpServer, Request, Response, Route
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.woof_server import WoofServer
from edgistry.authority import Authority
from edgistry.forward_requests import Forward

from .grants import ISSUER, ROOT
from .killing import Told

SOURCE, TARGET = "edge/log", "cloud/log"
EDGE_DB, CLOUD_DB = "edge.db", "cloud.db"
PORTS = "ports"
"""A file: the cloud's port, and the port that the edge takes for it."""
MAX_LAG = 100
LAST_ROUND = -1
"""Puts nothing new, and ends when everything has arrived."""


def write_ports(directory: Path, *, cloud: int, link: int) -> None:
    (directory / PORTS).write_text(f"{cloud} {link}")


def read_ports(directory: Path) -> tuple[int, int]:
    cloud, link = (directory / PORTS).read_text().split()
    return int(cloud), int(link)


def serve_cloud(directory: Path, told: Told, _number: int) -> None:
    """Serve the destination for ever."""
    asyncio.run(_serve(directory, told))


async def _serve(directory: Path, told: Told) -> None:
    store = LevelKeyValue(directory / CLOUD_DB)
    woofs = DurableWoofs(store)
    await woofs.create_namespace("cloud")
    await woofs.create(TARGET, 1_000_000)
    server = WoofServer(woofs, Authority(store, ISSUER), require_handler=lambda name: name)

    async def answer(request: Request) -> Response:
        return Response(body=await server.answer(request.body))

    http = HttpServer([Route(method="POST", template="/v1/woof", handler=answer)])
    await http.listen_tcp("127.0.0.1", read_ports(directory)[0])
    told(b"serves")
    await asyncio.Event().wait()


def put_and_forward(directory: Path, told: Told, number: int) -> None:
    """Put and forward for ever; round ``LAST_ROUND`` only finishes what is due."""
    asyncio.run(_forward(directory, told, ends=number == LAST_ROUND))


async def _forward(directory: Path, told: Told, *, ends: bool) -> None:
    store = LevelKeyValue(directory / EDGE_DB)
    woofs = DurableWoofs(store)
    await woofs.create_namespace("edge")
    await woofs.create(SOURCE, 1_000_000)
    link = HttpLink(f"http://127.0.0.1:{read_ports(directory)[1]}", timeout_s=1.0)
    forward = Forward(woof=SOURCE, target=TARGET)
    forwarder = Forwarder(woofs, forward, link, capability=lambda: ROOT)
    forwarding = asyncio.create_task(forwarder.run())
    if ends:
        while forwarder.status().lag:  # noqa: ASYNC110 - polled as an operator would
            await asyncio.sleep(0.01)
        forwarding.cancel()
        await asyncio.wait({forwarding})
        told(repr(forwarder.status().record).encode())
        await link.close()
        await woofs.close()
        store.close()
        return
    while True:
        following = woofs.woofs.latest(SOURCE) + 1
        told(b"%d" % await woofs.put(SOURCE, b"%d" % following))
        while forwarder.status().lag > MAX_LAG:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
