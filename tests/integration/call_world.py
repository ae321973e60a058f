"""Four nodes, three devices and three clients as processes, and links between them to cut.

Everything is a process of its own: nodes with their engines, agents, clients. Between clients and
nodes, devices and nodes, and nodes and nodes are links that a test can cut.

Not handled here: breaking anything (``call_chaos``), and what a client does (``calling_client``).
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from abci_app.admin_client import AdminClient
from device_agent.config import AgentConfig, CycleConfig, HandlersConfig, RadioConfig
from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.capability import Capability
from edgistry.captext import danger_text
from edgistry.errors import NoEpochKeyError, Refused

from ..cut_link import CutLink
from .agents import ROOT, AgentProcess, Killable
from .calling_client import Order, append, read_lines
from .harness import Cluster

ENTRIES = (0, 1, 2)
"""The nodes of the clients."""
HOMES = (1, 2, 3)
"""The nodes of the devices. Nobody calls a device of his own node."""
EFFECTS = "ledger/effects"
ACTIONS = ("do", "read")
LINK_OFFSET = 3

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
MANIFEST = """
lat = 46.0
lon = 8.0
[[service]]
type = "{type}"
[[service.action]]
name = "do"
history = 10000
[[service.action]]
name = "read"
read = true
fresh_s = 2
history = 10000
[[woof]]
name = "ledger/effects"
history = 100000
"""


def agent_config(period_s: int) -> AgentConfig:
    """Of a device that does not wait long for a node that was killed."""
    return AgentConfig(
        cycle=CycleConfig(period_s=period_s, any_period=True, shortest_sleep_s=0.1),
        radio=RadioConfig(timeout_s=5.0, first_wait_s=0.2, longest_wait_s=1.0),
        handlers=HandlersConfig(module="station"),
    )


class ClientProcess(Killable):
    """The client in ``folder``, which talks to node ``entry`` at ``url``."""

    def __init__(self, folder: Path, *, entry: int, url: str) -> None:
        super().__init__()
        folder.mkdir()
        self.folder = folder
        self.entry = entry
        self.url = url
        self.grants: dict[str, dict[str, str]] = {}
        """Capabilities by handle and action."""
        self.handles: dict[int, str] = {}
        """The client's handles of the devices' services, by home node."""

    def start(self) -> None:
        """Follow orders from now on."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.calling_client", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )

    def give(self, order: Order) -> None:
        """Have it make a call."""
        append(self.folder / "orders", asdict(order))

    def outcomes(self) -> list[dict[str, object]]:
        """What it has recorded."""
        return read_lines(self.folder / "outcomes")

    def tickets(self) -> list[str]:
        """The names of tickets of calls that it has not ended with."""
        return sorted(each.name for each in (self.folder / "tickets").glob("*.ticket"))

    def last_words(self) -> str:
        """The end of what it printed."""
        return f"{self.folder}: {(self.folder / 'log').read_text()[-2000:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link, and the calls that use it: those from ``entry``, those to ``home``, or from to."""

    cut: CutLink
    entry: int | None = None
    home: int | None = None


class World:
    """Four nodes, a device each at three of them, and three clients."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack) -> None:
        self.cluster = cluster
        self.links: list[list[Link]] = [[], [], []]
        """Of clients, of devices, between nodes."""
        self._stack = stack
        self._configure()
        self.agents = [
            self._agent(number, period_s=0 if number == 0 else 1) for number in range(len(HOMES))
        ]
        self.clients = [self._client(entry) for entry in ENTRIES]

    @property
    def others(self) -> list[AgentProcess | ClientProcess]:
        """All that are no nodes."""
        return [*self.agents, *self.clients]

    def _link(self, port: int, *, entry: int | None = None, home: int | None = None) -> int:
        """The port of a new link to ``port``."""
        cut = self._stack.enter_context(CutLink(port))
        kind = 0 if home is None else 1 if entry is None else 2
        self.links[kind].append(Link(cut=cut, entry=entry, home=home))
        return cut.port

    def _configure(self) -> None:
        """Have every node reach every other by a link of its own, and grant everything."""
        cluster = self.cluster
        for number in cluster.numbers:
            file = cluster.directory(number).config_file
            text = file.read_text()
            for home in set(HOMES) - {number} if number in ENTRIES else ():
                port = cluster.port(home) + LINK_OFFSET
                link = self._link(port, entry=number, home=home)
                assert f"127.0.0.1:{port}" in text, text
                text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{link}")
            assert 'anyone = "read"' in text, text
            file.write_text(text.replace('anyone = "read"', 'anyone = "all"'))

    def _agent(self, number: int, *, period_s: int) -> AgentProcess:
        agent = AgentProcess(
            self.cluster.parent / f"device{number}",
            config=agent_config(period_s),
            manifest=MANIFEST.format(type=f"station{number}"),
            handlers=HANDLERS,
        )
        self._stack.callback(agent.kill)
        return agent

    def _client(self, entry: int) -> ClientProcess:
        link = self._link(self.cluster.port(entry), entry=entry)
        folder = self.cluster.parent / f"client{entry}"
        client = ClientProcess(folder, entry=entry, url=f"http://127.0.0.1:{link}")
        self._stack.callback(client.kill)
        return client

    def begin(self) -> None:
        """Start everything; services are listed everywhere, and clients have their grants."""
        self.cluster.start()
        for home, agent in zip(HOMES, self.agents, strict=True):
            with AdminClient(self.cluster.directory(home)) as admin:
                (code,) = admin.pair_codes(1, ttl_s=600, replace=False).codes
            link = self._link(self.cluster.port(home), home=home)
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

    def outstanding(self, home: int) -> int | None:
        """How many requests that have not ended a home node has; ``None`` if it does not say."""
        with contextlib.suppress(Refused), AdminClient(self.cluster.directory(home)) as admin:
            return admin.mailboxes(1).outstanding
        return None

    def last_words(self) -> str:
        """What everybody said last."""
        words = [self.cluster.report()]
        words += [each.last_words() for each in self.others]
        return "\n".join(words)


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Four nodes and what belongs to them, not started."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        yield World(cluster, stack)
