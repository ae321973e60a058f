"""All of the temperature monitor on this machine: a node, the sensor, the application.

python examples/temperature_monitor/run.py
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reader import ALARMS, READINGS, show_alarms, show_newest
from sensor import measure, one_day

from edgistry import BlockingNodeClient, Capability, NodeClient, Refused, Right
from edgistry.captext import parse_text

HERE = Path(__file__).parent
LONGEST_S = 60.0
PROGRAM = Path(sys.executable).with_name("edgistry-node")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as folder:
        directory = Path(folder) / "node"
        address = make_node(directory)
        with running(directory, address):
            owner = mint(directory, Path(folder) / "owner.cap")
            sensor, reader = prepare(address, owner)
            asyncio.run(monitor(address, sensor, reader))


def make_node(directory: Path) -> str:
    """A node that knows the function; its address."""
    port = free_port()
    node_command("init", directory, "--base-port", port)
    (directory / "handlers").mkdir()
    shutil.copy(HERE / "alarms.py", directory / "handlers")
    settings = directory / "node.toml"
    settings.write_text(settings.read_text().replace('module = ""', 'module = "alarms"'))
    return f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A port that is free, as is the third one after it, where the node's link listens.

    They lie below those that the system gives to outgoing connections (32768 and up on Linux), so
    that none of these takes them meanwhile.
    """
    while True:
        port = 20_000 + 10 * secrets.randbelow(600)
        try:
            for each in (port, port + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port


@contextmanager
def running(directory: Path, address: str) -> Iterator[None]:
    """The node runs, and is ready."""
    with subprocess.Popen([PROGRAM, "run", directory], stdout=subprocess.DEVNULL) as node:
        try:
            wait_until_ready(node, address)
            yield
        finally:
            node.terminate()


def wait_until_ready(node: subprocess.Popen[bytes], address: str) -> None:
    with BlockingNodeClient(address) as client:
        while node.poll() is None:
            try:
                if client.ready().ready:
                    return
            except Refused:
                pass  # it does not listen yet
            time.sleep(0.05)
    sys.exit("the node did not start")


def mint(directory: Path, file: Path) -> Capability:
    """What the node's operator gives to the owner of the greenhouse."""
    rights = "namespace-create,woof-create,put,invoke,get,latest"
    node_command(
        "cap", "mint", directory, "--object", "greenhouse", "--allow", rights, "--out", file
    )
    return parse_text(file.read_text())


def prepare(address: str, owner: Capability) -> tuple[Capability, Capability]:
    """The WooFs, and what the owner derives for sensor and application, asking nobody."""
    with BlockingNodeClient(address, owner) as client:
        client.create_namespace("greenhouse")
        client.create(READINGS, history=1000)
        client.create(ALARMS, history=100)
    sensor = owner.derive(
        allow=Right.PUT | Right.INVOKE, object_name=READINGS, handlers=["watch"], max_payload=16
    )
    reader = owner.derive(allow=Right.GET | Right.LATEST)
    return sensor, reader


async def monitor(address: str, sensor: Capability, reader: Capability) -> None:
    """Sensor and application beside each other, a day in a moment."""
    async with asyncio.timeout(LONGEST_S):
        await asyncio.gather(
            measure(address, sensor, one_day(12), every_s=0.01),
            show_alarms(address, reader, count=2),
        )
    await show_newest(address, reader, 3)
    async with NodeClient(address, reader) as client:
        try:
            await client.put(READINGS, b"12.0")
        except Refused as refusal:
            print(f"reader  may not put: {refusal}")


def node_command(*words: object) -> None:
    done = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
