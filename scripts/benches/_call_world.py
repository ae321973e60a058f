"""What calls are measured on: a solo node and devices, run by the programs that users run.

Rules kept here:

* Node and device are processes of their own, started from the installed commands, with their
  databases on the disk under test. Only they are ended, by process id.
* A device is paired as a user pairs one, and its capability comes by a grant.

Not handled here: what is measured, rivals (``_call_rivals``), devices by the thousand
(``_call_devices``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from _clusters import BIN, command
from _settings import unguarded

from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import NodeClient
from edgistry.capability import Capability
from edgistry.errors import NoEpochKeyError, Refused

START_LIMIT_S = 60.0
PORTS_PER_NODE = 10
LAT, LON = 47.61, -122.33
TYPE = "echo"

HANDLERS = """\
from edgistry.handlers import Context, handler


@handler
async def echo(context: Context, woof: str, seq: int, element: bytes) -> bytes:
    return element
"""

MANIFEST = f"""\
lat = {LAT}
lon = {LON}

[[service]]
type = "{TYPE}"

[[service.action]]
name = "echo"
history = 100000

[[service.action]]
name = "look"
handler = "echo"
read = true
fresh_s = 86400
"""


def free_base_port() -> int:
    """The first of some ports that nobody listens on now."""
    for base in range(24_000, 32_000, 40):
        with contextlib.ExitStack() as taken:
            try:
                for port in range(base, base + PORTS_PER_NODE):
                    taken.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise SystemExit("bench: no free ports")


@contextlib.contextmanager
def running(
    words: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended at the end: it may stop in good order, and is killed otherwise."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(port: int, path: str) -> bytes:
    """The body of a GET; empty when nobody answers."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as opened:
        opened.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        found = b"".join(iter(lambda: opened.recv(65536), b""))
        head, _, body = found.partition(b"\r\n\r\n")
        return body if head.startswith(b"HTTP/1.1 200") else b""
    return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that runs."""

    directory: Path
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def node(directory: Path, *, make: bool = True, run: str = "run") -> Iterator[Node]:
    """The node in ``directory``, or the host with ``run="host"``, until the end."""
    if make:
        command("edgistry-node", "init", str(directory), "--base-port", str(free_base_port()))
        unguarded(directory)
        settings = directory / "node.toml"
        text = settings.read_text().replace('anyone = "read"', 'anyone = "all"')
        settings.write_text(text)
    found = re.search(r"(?m)^port = (\d+)", (directory / "node.toml").read_text())
    port = int(found[1]) if found else 0
    words = [str(BIN / "edgistry-node"), run, str(directory)]
    with running(words, directory.parent / f"{directory.name}.log") as process:
        until(lambda: ask(port, "/readyz"), "the node is ready", process)
        yield Node(directory=directory, port=port, pid=process.pid)


def until(
    condition: Callable[[], object], what: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Return when ``condition`` holds."""
    end = time.monotonic() + START_LIMIT_S
    while not condition():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            raise SystemExit(f"bench: waited in vain: {what}")
        time.sleep(0.05)


def new_device(
    directory: Path,
    home: Node,
    *,
    manifest: str = MANIFEST,
    handlers: str = HANDLERS,
    period_s: int = 0,
    url: str | None = None,
) -> None:
    """A device in ``directory``, paired with ``home``; always awake if ``period_s`` is 0."""
    command(
        *("edgistry-agent", "init", str(directory), "--type", TYPE),
        *("--lat", str(LAT), "--lon", str(LON), "--period", str(period_s)),
    )
    (directory / "manifest.toml").write_text(manifest)
    (directory / "handlers" / "device_handlers.py").write_text(handlers)
    pair(directory, home, url=url)


def pair(directory: Path, home: Node, *, url: str | None = None) -> None:
    """Pair the device in ``directory`` with ``home``, which it reaches at ``url``."""
    code = command("edgistry-node", "pair-code", str(home.directory)).strip()
    command("edgistry-agent", "pair", str(directory), "--node", url or home.url, "--code", code)


@contextlib.contextmanager
def device(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program of the device in ``directory``, until the end."""
    words = [str(BIN / "edgistry-agent"), "run", str(directory)]
    with running(words, directory.parent / f"{directory.name}.log") as process:
        yield process


KEYS = ClientKeys.generate()
"""The client whose handles, grants and calls they are."""


async def handles(home: Node, count: int = 1, keys: ClientKeys = KEYS) -> list[str]:
    """The handles that a client has of the devices' services, once there are ``count`` of them."""
    end = time.monotonic() + START_LIMIT_S
    async with NodeClient(home.url, keys=keys) as client:
        while True:
            found: list[str] = []
            with contextlib.suppress(NoEpochKeyError):
                found = [
                    each.handle
                    async for each in client.services(
                        near=(LAT, LON), radius_km=10.0, type=TYPE, limit=1000
                    )
                ]
            if len(found) >= count:
                return found
            if time.monotonic() > end:
                raise SystemExit(f"bench: {len(found)} of {count} services are listed")
            await asyncio.sleep(0.1)


async def grants(home: Node, handle: str, keys: ClientKeys = KEYS) -> dict[str, Capability]:
    """Capabilities of a client to call each action of the service ``handle``."""
    async with HttpClient(home.url) as http:
        try:
            granted = await request_grant(http, keys, handle)
        except Refused as error:
            raise SystemExit(f"bench: no grant: {error}") from None
    return {each.action: Capability.from_bytes(each.capability) for each in granted.granted}
