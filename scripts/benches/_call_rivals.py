"""What a user might pick instead for durable calls: NATS JetStream; and MQTT, which is not durable.

Rules kept here:

* JetStream syncs every message before it acknowledges it (file storage, ``sync_interval: always``);
  requests and replies go through a stream each. It is not replicated, and nobody is authenticated.
* The responders are a process of their own, as our devices are. It answers a request when its
  reply is in the stream, and acknowledges it then. Many of them share one consumer of JetStream's:
  with one for each it manages a tenth of the calls.
* Mosquitto is the Debian package's, QoS 1 on both ways; it writes nothing to the disk.
* ``nats-server`` is built once into the user's cache by the Go that builds our engine. Where
  Mosquitto is not installed its package is unpacked there, which needs apt and no rights; where
  that fails the bench says so.

Not handled here: what is compared (``call.py``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import aiomqtt
import nats
from _call_world import running, until
from edgistry_abci_app.engine import find_go
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

NATS_VERSION: Final = "v2.15.2"
MOSQUITTO_PACKAGES: Final = (
    *("mosquitto", "libmosquitto1", "libwebsockets17", "libcjson1", "libdlt2"),
    *("libwrap0", "libev4", "libuv1", "libnsl2"),
)

_AT_ONCE: Final = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)

Call = Callable[[int, bytes], Awaitable[bytes]]
"""Calls the responder with that number; its answer."""
After = Callable[[], Awaitable[object]]
"""Acknowledges the answers that came, which is not part of the time of a call."""


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    tools = base / "edgistry" / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    return tools


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _listens(port: int) -> Callable[[], bool]:
    def look() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    return look


@contextlib.contextmanager
def responders(kind: str, port: int, directory: Path) -> Iterator[None]:
    """A process that answers calls of any number, and listens already."""
    ready = directory / f"{kind}.ready"
    ready.unlink(missing_ok=True)
    words = [sys.executable, __file__, kind, str(port), str(ready)]
    with running(words, directory / f"{kind}-responders.log") as process:
        until(ready.exists, f"the {kind} responders listen", process)
        yield


def _touch(ready: Path) -> None:
    """All listen."""
    ready.touch()


# --- JetStream -----------------------------------------------------------------------------------


def nats_server() -> Path:
    """The server, built if need be."""
    target = _cache() / f"nats-server-{NATS_VERSION}"
    if not target.exists():
        print(f"bench: building nats-server {NATS_VERSION}, once", file=sys.stderr)
        scratch = target.with_suffix(".new")
        subprocess.run(
            [
                *(str(find_go(lambda text: print(text, file=sys.stderr))), "install"),
                f"github.com/nats-io/nats-server/v2@{NATS_VERSION}",
            ],
            env={**os.environ, "GOBIN": str(scratch), "CGO_ENABLED": "0"},
            check=True,
        )
        (scratch / "nats-server").replace(target)
        scratch.rmdir()
    return target


@contextlib.contextmanager
def jetstream(directory: Path) -> Iterator[int]:
    """A server that keeps its streams in ``directory``; its port."""
    port = _free_port()
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\n'
        f'jetstream {{ store_dir: "{directory}/jetstream", sync_interval: always }}\n'
    )
    with running([str(nats_server()), "-c", str(config)], directory / "nats.log") as process:
        until(_listens(port), "nats-server listens", process)
        yield port


@contextlib.asynccontextmanager
async def jetstream_caller(port: int) -> AsyncIterator[tuple[Call, After]]:
    """Calls through the streams: the request is stored, and the reply was, when it is there."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    js = client.jetstream()
    waiting: dict[str, asyncio.Future[bytes]] = {}
    came: list[Any] = []

    async def take(message: Any) -> None:
        came.append(message)
        found = waiting.pop(message.subject.rpartition(".")[2], None)
        if found is not None:
            found.set_result(message.data)

    await js.subscribe("replies.>", cb=take, manual_ack=True, config=_CONSUMER)
    number = 0

    async def call(responder: int, data: bytes) -> bytes:
        nonlocal number
        number += 1
        waiting[str(number)] = answer = asyncio.get_running_loop().create_future()
        await js.publish(f"requests.{responder}.{number}", data)
        return await answer

    async def acknowledge() -> None:
        while came:
            await came.pop().ack()

    yield call, acknowledge
    await client.close()


_CONSUMER: Final = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=10_000)


async def _respond_nats(port: int, ready: Path) -> None:
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    js = client.jetstream()
    for name in ("requests", "replies"):
        await js.add_stream(
            StreamConfig(
                name=name, subjects=[f"{name}.>"], storage=StorageType.FILE, max_msgs=100_000
            )
        )

    async def answer(message: Any) -> None:
        number = message.subject.rpartition(".")[2]
        await js.publish(f"replies.{number}", message.data)
        await message.ack()

    busy: set[asyncio.Task[None]] = set()

    async def take(message: Any) -> None:
        task = asyncio.create_task(answer(message))
        busy.add(task)
        task.add_done_callback(busy.discard)

    await js.subscribe("requests.>", cb=take, manual_ack=True, config=_CONSUMER)
    _touch(ready)
    await asyncio.Event().wait()


# --- MQTT ----------------------------------------------------------------------------------------


def mosquitto() -> tuple[Path, Path | None] | None:
    """The broker and the libraries it needs besides; ``None`` where it cannot be had."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is not None:
        return Path(found), None
    root = _cache() / "mosquitto"
    program, libraries = root / "usr/sbin/mosquitto", root / "usr/lib/x86_64-linux-gnu"
    if not program.exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            _unpack(root)
    if not program.exists():
        return None
    tried = subprocess.run([program, "-h"], env=_with(libraries), capture_output=True, check=False)
    return (program, libraries) if b"mosquitto version" in tried.stdout else None


def _unpack(root: Path) -> None:
    print("bench: unpacking Debian's mosquitto, once", file=sys.stderr)
    packages = root.with_name("packages")
    packages.mkdir(exist_ok=True)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["apt-get", "download", *MOSQUITTO_PACKAGES], cwd=packages, check=True, **quiet)
    scratch = root.with_name("mosquitto.new")
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, scratch], check=True, **quiet)
    scratch.replace(root)
    shutil.rmtree(packages)


def _with(libraries: Path | None) -> dict[str, str]:
    return dict(os.environ) | ({} if libraries is None else {"LD_LIBRARY_PATH": str(libraries)})


@contextlib.contextmanager
def mqtt(directory: Path) -> Iterator[int | None]:
    """A broker; its port, or ``None`` where there is none."""
    found = mosquitto()
    if found is None:
        yield None
        return
    program, libraries = found
    port = _free_port()
    config = directory / "mosquitto.conf"
    # "user root": whoever runs this; otherwise root's broker looks for a user that may be missing.
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        "set_tcp_nodelay true\nuser root\n"
    )
    log = directory / "mosquitto.log"
    with running([str(program), "-c", str(config)], log, _with(libraries)) as process:
        until(_listens(port), "mosquitto listens", process)
        yield port


@contextlib.asynccontextmanager
async def mqtt_caller(port: int) -> AsyncIterator[Call]:
    """Calls through the broker."""
    waiting: dict[str, asyncio.Future[bytes]] = {}
    number = 0
    async with aiomqtt.Client("127.0.0.1", port, socket_options=_AT_ONCE) as client:
        await client.subscribe("replies/+", qos=1)

        async def listen() -> None:
            async for message in client.messages:
                found = waiting.pop(message.topic.value.rpartition("/")[2], None)
                if found is not None:
                    found.set_result(bytes(message.payload))

        async def call(responder: int, data: bytes) -> bytes:
            nonlocal number
            number += 1
            waiting[str(number)] = answer = asyncio.get_running_loop().create_future()
            await client.publish(f"requests/{responder}/{number}", data, qos=1)
            return await answer

        listening = asyncio.create_task(listen())
        yield call
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _respond_mqtt(port: int, ready: Path) -> None:
    async with aiomqtt.Client("127.0.0.1", port, socket_options=_AT_ONCE) as client:
        await client.subscribe("requests/+/+", qos=1)
        _touch(ready)
        async for message in client.messages:
            number = message.topic.value.rpartition("/")[2]
            await client.publish(f"replies/{number}", message.payload, qos=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["nats", "mqtt"])
    parser.add_argument("port", type=int)
    parser.add_argument("ready", type=Path)
    given = parser.parse_args()
    respond = _respond_nats if given.kind == "nats" else _respond_mqtt
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(respond(given.port, given.ready))
