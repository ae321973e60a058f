"""Four nodes, three devices and three clients as processes, and links between them to cut.

Everything is a process of its own: nodes with their engines, agents, clients. Between clients and
nodes, devices and nodes, and nodes and nodes are links that a test can cut.

Not handled here: breaking anything (``call_chaos``), and what a client does (``calling_client``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.capability import Capability
from edgistry.captext import danger_text
from edgistry.errors import NoEpochKeyError

from .agents import EFFECTS_WOOF, AgentProcess, device_manifest
from .harness import Cluster
from .linked_world import FollowerProcess, LinkedWorld, agent_config

ENTRIES = (0, 1, 2)
"""The nodes of the clients."""
HOMES = (1, 2, 3)
"""The nodes of the devices. Nobody calls a device of his own node."""
ACTIONS = ("do", "read")

HANDLERS = """
import asyncio
import pathlib
from edgistry.handlers import handler

@handler(first_wait_s=0.1, longest_wait_s=0.5)
async def do(context, woof, seq, element):
    with (pathlib.Path(__file__).parent / "begun").open("ab") as file:
        file.write(b".")
    await context.put("ledger/effects", element)
    await asyncio.sleep(0.2)
    return b"did " + element

@handler
async def read(context, woof, seq, element):
    return b"read"
"""
SETTINGS = {"do": "history = 10000", "read": "read = true\nfresh_s = 2\nhistory = 10000"}


class ClientProcess(FollowerProcess):
    """A client of all devices but those of its own node."""

    MODULE = "calling_client"

    def __init__(self, folder: Path, *, entry: int, url: str) -> None:
        super().__init__(folder, entry=entry, url=url)
        self.grants: dict[str, dict[str, str]] = {}
        """Capabilities by handle and action."""
        self.handles: dict[int, str] = {}
        """The client's handles of the devices' services, by home node."""


class World(LinkedWorld):
    """Four nodes, a device each at three of them, and three clients."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack) -> None:
        super().__init__(cluster, stack, entries=ENTRIES, homes=HOMES)
        self.agents = [
            self._agent(number, period_s=0 if number == 0 else 1) for number in range(len(HOMES))
        ]
        self.clients = [self._client(entry) for entry in ENTRIES]

    @property
    def others(self) -> list[AgentProcess | ClientProcess]:
        """All that are no nodes."""
        return [*self.agents, *self.clients]

    def _agent(self, number: int, *, period_s: int) -> AgentProcess:
        agent = AgentProcess(
            self.cluster.parent / f"device{number}",
            config=agent_config(period_s),
            manifest=device_manifest(f"station{number}", **SETTINGS) + EFFECTS_WOOF,
            handlers=HANDLERS,
        )
        self.stack.callback(agent.kill)
        return agent

    def _client(self, entry: int) -> ClientProcess:
        link = self.link(self.cluster.port(entry), entry=entry)
        folder = self.cluster.parent / f"client{entry}"
        client = ClientProcess(folder, entry=entry, url=f"http://127.0.0.1:{link}")
        self.stack.callback(client.kill)
        return client

    def begin(self) -> None:
        """Start everything; services are listed everywhere, and clients have their grants."""
        self.cluster.start()
        for home, agent in zip(HOMES, self.agents, strict=True):
            (code,) = self.pairing_codes(home, 1)
            link = self.link(self.cluster.port(home), home=home)
            agent.pair(f"http://127.0.0.1:{link}", code)
            agent.start()
        for client in self.clients:
            keys = ClientKeys.generate()
            handles = self.cluster.wait_until(
                "services",
                lambda: self._handles(client.entry, keys),  # noqa: B023
            )
            client.handles = dict(zip(HOMES, handles, strict=True))
            foreign = [client.handles[home] for home in HOMES if home != client.entry]
            client.grants = asyncio.run(self._grants(client.entry, keys, foreign))
            client.start()

    def _handles(self, number: int, keys: ClientKeys) -> list[str] | None:
        """Of the devices' services, in their order, when a node has all."""
        found: dict[str, str] = {}
        with (
            contextlib.suppress(NoEpochKeyError),
            BlockingNodeClient(self.cluster.api(number), keys=keys) as node,
        ):
            found = {
                each.type: each.handle for each in node.services(near=(46.0, 8.0), radius_km=20.0)
            }
        wanted = [f"station{at}" for at in range(len(HOMES))]
        return [found[each] for each in wanted] if found.keys() >= set(wanted) else None

    async def _grants(
        self, entry: int, keys: ClientKeys, handles: list[str]
    ) -> dict[str, dict[str, str]]:
        found = {}
        async with HttpClient(self.cluster.api(entry)) as http:
            for handle in handles:
                grant = await request_grant(http, keys, handle, actions=ACTIONS)
                found[handle] = {
                    each.action: danger_text(Capability.from_bytes(each.capability))
                    for each in grant.granted
                }
        return found


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Four nodes and what belongs to them, not started."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        yield World(cluster, stack)
