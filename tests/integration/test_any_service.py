"""Any service of a type at a real cluster, through another node, while a home node dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.errors import NoMemberError, Refused

from .agents import agent_command
from .harness import Cluster

pytestmark = pytest.mark.engine

ENTRY, FIRST, SECOND = 0, 1, 2
AREA: dict[str, Any] = {"near": (46.0, 8.0), "radius_km": 20.0}
COMMAND_S = 60.0
TYPE = "thermometer"


class Device:
    """An agent's program, at home at one node; it says which device it is."""

    def __init__(self, cluster: Cluster, home: int) -> None:
        self.root = cluster.parent / f"device{home}"
        self.name = f"device {home}"
        self._agent("init", "--type", TYPE, "--lat", "46", "--lon", "8")
        for path in (self.root / "handlers").glob("*.py"):
            path.write_text(
                "from edgistry.handlers import handler\n\n\n@handler\n"
                "async def read(context, woof, seq, element):\n"
                f"    return {self.name.encode()!r}\n"
            )
        code = cluster.command("pair-code", str(cluster.directory(home).root)).strip()
        self._agent("pair", "--node", cluster.api(home), "--code", "-", text=code)

    def _agent(self, command: str, *words: str, text: str = "") -> None:
        agent_command(self.root, command, *words, text=text)

    def wake(self) -> None:
        self._agent("run", "--once")


@contextmanager
def awake(*devices: Device) -> Iterator[None]:
    """These devices wake again and again."""
    over = threading.Event()

    def wake() -> None:
        while not over.is_set():
            for device in devices:
                device.wake()

    waking = threading.Thread(target=wake)
    waking.start()
    try:
        yield
    finally:
        over.set()
        waking.join(COMMAND_S)


def test_calls_of_any_service_are_answered_while_a_home_node_is_dead() -> None:
    keys = ClientKeys.generate()
    with Cluster() as cluster:
        cluster.start()
        first, second = Device(cluster, FIRST), Device(cluster, SECOND)

        def listed() -> bool:
            first.wake()
            second.wake()
            status = cluster.status(ENTRY)
            return status is not None and status.services == 2

        cluster.wait_until("both are listed", listed)

        def call() -> str:
            with BlockingNodeClient(cluster.api(ENTRY)) as node:
                answer = node.call_any(
                    "read", b"x", type=TYPE, keys=keys, wait_s=60.0, patience_s=8.0, **AREA
                )
            return answer.payload.decode()

        def has_a_key() -> bool:
            try:
                with BlockingNodeClient(cluster.api(ENTRY)) as node:
                    node.call_any("dance", type=TYPE, keys=keys, **AREA)
            except NoMemberError:
                return True
            except Refused:
                return False
            return False

        cluster.wait_until("the entry node makes handles", has_a_key)
        with awake(first, second):
            answers = [call() for _ in range(4)]
        assert sorted(answers) == ["device 1", "device 1", "device 2", "device 2"]
        cluster.kill_node(FIRST)
        with awake(second):
            answers = [call() for _ in range(3)]
        assert set(answers) == {"device 2"}
