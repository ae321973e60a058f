"""Puts over HTTP beside an aiohttp server that only echoes the same bytes.

Each server is a process of its own; the requests are bound before the clock runs. A put verifies a
capability, strikes a sequence, appends, makes all of it durable and signs the reply.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from _http_load import _Connection
from _rivals import ELEMENT
from measure import ROOT, Rounds, report

sys.path.insert(0, str(ROOT))

from edgistry.adapters.clock import wall_us
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import HttpServer, Request, Response, Route, run
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.woof_server import WoofServer
from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.envelope import Operation
from edgistry.issuer import Issuer

SECRET = bytes(32)
WOOF = "bench/log"
ROUNDS = 15
TOGETHER = 32
"""Connections with one request under way each: as many as one client may have."""
PUTS = {1: 40, TOGETHER: 640}
"""Connections to puts in one round."""
DEADLINE_US = 60_000_000


# --- the servers --------------------------------------------------------------------------------


async def _serve(what: str, directory: Path) -> None:
    async with AsyncExitStack() as parts:
        answer = await (_echo(parts) if what == "echo" else _put(parts, directory))
        print(answer, flush=True)
        await asyncio.Event().wait()


async def _echo(parts: AsyncExitStack) -> int:
    from aiohttp import web

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await request.read())

    server = web.Server(echo)
    parts.push_async_callback(server.shutdown)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port: int = listener.sockets[0].getsockname()[1]
    return port


async def _put(parts: AsyncExitStack, directory: Path) -> int:
    store = LevelKeyValue(directory / "http.ldb")
    parts.callback(store.close)
    woofs = DurableWoofs(store)
    parts.push_async_callback(woofs.close)
    await woofs.create_namespace("bench")
    await woofs.create(WOOF, 1_000_000)
    authority = Authority.from_secret(store, SECRET)
    server = WoofServer(woofs, authority, require_handler=lambda name: None)

    async def woof(request: Request) -> Response:
        return Response(body=await server.answer(request.body))

    http = HttpServer([Route(method="POST", template="/v1/woof", handler=woof)])
    parts.push_async_callback(http.stop)
    return await http.listen_tcp("127.0.0.1", 0)


@contextmanager
def _server(what: str, directory: Path) -> Iterator[str]:
    words = [sys.executable, __file__, what, str(directory)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise SystemExit(f"bench: the {what} server did not start")
            yield f"http://127.0.0.1:{line.strip()}"
        finally:
            process.terminate()


# --- the load -----------------------------------------------------------------------------------


def _requests(capability: Capability, base: str, count: int) -> list[bytes]:
    host = urlsplit(base).netloc
    began = wall_us()
    found = []
    for number in range(count):
        bound = capability.bind(
            Operation.PUT,
            WOOF,
            ELEMENT,
            client=bytes(8),
            sequence=began + number,
            deadline=began + number + DEADLINE_US,
        )
        head = f"POST /v1/woof HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(bound.encoded)}"
        found.append(f"{head}\r\n\r\n".encode() + bound.encoded)
    return found


def _send_all(connections: Sequence[_Connection], requests: Sequence[bytes]) -> float:
    """Seconds a request, when each connection always has one under way."""
    waiting = iter(requests)
    left = len(requests)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        began = time.perf_counter()
        for connection in connections:
            connection.send(next(waiting))
        while left:
            for key, _ in selector.select(5.0):
                if key.data.complete():
                    left -= 1
                    following = next(waiting, None)
                    if following is not None:
                        key.data.send(following)
        return (time.perf_counter() - began) / len(requests)


def http_puts(directory: Path) -> None:
    """Print how long a put over HTTP takes, as a multiple of an echo."""
    capability = Issuer.from_secret(SECRET, epoch=0).mint(serial=secrets.randbits(32))
    with ExitStack() as stack:
        bases = {name: stack.enter_context(_server(name, directory)) for name in ("echo", "put")}
        for together, name in ((1, "http_put_over_echo_alone"), (TOGETHER, "http_put_over_echo")):
            seconds: dict[str, list[float]] = {what: [] for what in bases}
            opened = {what: [_open(base) for _ in range(together)] for what, base in bases.items()}
            for turn in range(-1, ROUNDS):
                for what in list(bases) if turn % 2 else list(bases)[::-1]:
                    requests = _requests(capability, bases[what], PUTS[together])
                    took = _send_all(opened[what], requests)
                    if turn >= 0:
                        seconds[what].append(took)
            for connection in (each for found in opened.values() for each in found):
                connection.socket.close()
            rounds = Rounds(seconds)
            report(
                "woof",
                name,
                rounds.ratio("put", "echo"),
                connections=together,
                puts_a_second=round(1 / statistics.median(seconds["put"])),
                echoes_a_second=round(1 / statistics.median(seconds["echo"])),
            )


def _open(base: str) -> _Connection:
    where = urlsplit(base)
    return _Connection(where.hostname or "", where.port or 80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["echo", "put"])
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    run(_serve(given.what, given.directory))
