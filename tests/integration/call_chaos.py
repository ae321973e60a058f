"""A cluster with devices and clients in which anything is killed, any link cut, while they call.

Everything is a process of its own: nodes with their engines, agents, clients. Between clients and
nodes, devices and nodes, and nodes and nodes are links that can be cut. What happens, to whom and
when comes from one seed; how it falls into what the programs do just then does not.

Not handled here: what must be true of it (``test_call_chaos``), and one call (``calling_client``).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from device_agent.config import AgentConfig, CycleConfig, HandlersConfig, RadioConfig
from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.capability import Capability
from edgistry.captext import danger_text

from ..cut_link import CutLink
from .agents import LIMIT_S, ROOT, AgentProcess
from .calling_client import Order, append, read_lines
from .harness import Cluster

ENTRIES = (0, 1, 2)
"""The nodes of the clients."""
HOMES = (1, 2, 3)
"""The nodes of the devices. Nobody calls a device of his own node."""
EFFECTS = "ledger/effects"
ACTIONS = ("do", "read")
LINK_OFFSET = 3
KINDS = ("node", "engine", "agent", "client")
LONGEST_DEAD_S = 3.0
LONGEST_CUT_S = 3.0

HANDLERS = """
import asyncio
from edgistry.handlers import handler

@handler(first_wait_s=0.1, longest_wait_s=0.5)
async def do(context, woof, seq, element):
    await context.put("ledger/effects", element)
    await asyncio.sleep(0.02)
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
        cycle=CycleConfig(period_s=period_s, shortest_sleep_s=0.1),
        radio=RadioConfig(timeout_s=5.0, first_wait_s=0.2, longest_wait_s=1.0),
        handlers=HandlersConfig(module="station"),
    )


class ClientProcess:
    """The client in ``folder``, which talks to node ``entry`` at ``url``."""

    def __init__(self, folder: Path, *, entry: int, url: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.entry = entry
        self.url = url
        self.grants: dict[str, dict[str, str]] = {}
        """Capabilities by handle and action."""
        self._process: subprocess.Popen[bytes] | None = None

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

    @property
    def is_running(self) -> bool:
        """Whether it was started and lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_ended(self) -> bool:
        """Whether it ended without having been killed here."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL; it may be dead already."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait(LIMIT_S)

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


class World:
    """Four nodes, a device each at three of them, and three clients."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack) -> None:
        self.cluster = cluster
        self.links: list[CutLink] = []
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

    def _link(self, port: int) -> CutLink:
        link = self._stack.enter_context(CutLink(port))
        self.links.append(link)
        return link

    def _configure(self) -> None:
        """Have every node reach every other by a link of its own, and grant everything."""
        cluster = self.cluster
        for number in cluster.numbers:
            file = cluster.directory(number).config_file
            text = file.read_text()
            for other in cluster.numbers:
                if other != number:
                    port = cluster.port(other) + LINK_OFFSET
                    link = self._link(port)
                    assert f"127.0.0.1:{port}" in text, text
                    text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{link.port}")
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
        link = self._link(self.cluster.port(entry))
        folder = self.cluster.parent / f"client{entry}"
        client = ClientProcess(folder, entry=entry, url=f"http://127.0.0.1:{link.port}")
        self._stack.callback(client.kill)
        return client

    def begin(self) -> None:
        """Start everything; services are listed everywhere, and clients have their grants."""
        self.cluster.start()
        for home, agent in zip(HOMES, self.agents, strict=True):
            code = self.cluster.command("pair-code", str(self.cluster.directory(home).root))
            agent.pair(f"http://127.0.0.1:{self._link(self.cluster.port(home)).port}", code.strip())
            agent.start()
        for client in self.clients:
            handles = self.cluster.wait_until("services", lambda: self._handles(client.entry))  # noqa: B023
            foreign = [handles[at] for at, home in enumerate(HOMES) if home != client.entry]
            client.grants = asyncio.run(self._grants(client.entry, foreign))
            client.start()

    def _handles(self, number: int) -> list[str] | None:
        """Of the devices' services, in their order, when a node has all."""
        with BlockingNodeClient(self.cluster.api(number)) as node:
            found = {
                each.type: each.handle for each in node.services(near=(46.0, 8.0), radius_km=20.0)
            }
        wanted = [f"station{at}" for at in range(len(HOMES))]
        return [found[each] for each in wanted] if found.keys() >= set(wanted) else None

    async def _grants(self, entry: int, handles: list[str]) -> dict[str, dict[str, str]]:
        keys = ClientKeys.generate()
        found = {}
        async with HttpClient(self.cluster.api(entry)) as http:
            for handle in handles:
                grant = await request_grant(http, keys, handle, actions=ACTIONS)
                found[handle] = {
                    each.action: danger_text(Capability.from_bytes(each.capability))
                    for each in grant.granted
                }
        return found

    def last_words(self) -> str:
        """What everybody said last."""
        words = [self.cluster.report()]
        words += [each.last_words() for each in self.others]
        return "\n".join(words)


@dataclass
class Chaos:
    """What is done to a ``world``, drawn by ``draw``."""

    world: World
    draw: random.Random
    orders: dict[int, Order] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    """By kind."""
    cuts: int = 0
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    """When to do what: to start again, and to mend."""
    _numbers: Iterator[int] = field(default_factory=count)
    _resting: set[int] = field(default_factory=set)
    """Nodes that are dead as they should be."""

    def rage(self, *, calls: int, kills: int, longest_pause_s: float) -> None:
        """Have ``calls`` calls made while there are ``kills`` kills; in the end all is well."""
        bag: list[str] = []
        for number in range(kills):
            for _ in range(calls * (number + 1) // kills - len(self.orders)):
                self._order()
            if self.draw.random() < 0.6:
                self._cut()
            self._pass(self.draw.uniform(0.0, longest_pause_s))
            bag = bag or self.draw.sample(KINDS, len(KINDS))
            self._kill(bag.pop())
        while self._later:
            self._pass(max(self._later[0][0] - time.monotonic(), 0.0))

    # --- calls ----------------------------------------------------------------------------------

    def _order(self) -> None:
        draw = self.draw
        number = len(self.orders)
        client = draw.choice(self.world.clients)
        handle = draw.choice(list(client.grants))
        is_read = draw.random() < 0.25
        action = "read" if is_read else "do"
        order = Order(
            number=number,
            url=client.url,
            handle=handle,
            action=action,
            data="" if is_read else f"effect-{number}",
            ttl_s=draw.choice([1.0, 4.0, 15.0, 120.0, 120.0, 120.0]),
            max_age_s=draw.choice([0, 2]) if is_read else 0,
            cancel=draw.random() < 0.08,
            capability=client.grants[handle][action],
        )
        self.orders[number] = order
        client.give(order)

    # --- blows ----------------------------------------------------------------------------------

    def _kill(self, kind: str) -> None:
        """Kill one of a kind, and see to its return."""
        draw, world = self.draw, self.world
        if kind == "node":
            self._kill_node(draw.choice(world.cluster.numbers))
        elif kind == "engine":
            self._kill_engine(draw.choice(world.cluster.numbers))
        elif kind == "agent":
            self._kill_process(kind, draw.choice(world.agents))
        else:
            self._kill_process(kind, draw.choice(world.clients))

    def _kill_node(self, number: int) -> None:
        cluster = self.world.cluster
        while not cluster.is_running(number):
            self._pass(0.05)
        cluster.kill_node(number)
        self.kills["node"] += 1
        self._resting.add(number)

        def revive() -> None:
            cluster.start(number, wait=False)
            self._resting.discard(number)

        self._do_later(self.draw.uniform(0.0, LONGEST_DEAD_S), revive)

    def _kill_engine(self, number: int) -> None:
        # Another kill may have taken the engine with its node: one comes with it.
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            pid = self.world.cluster.engine_pid(number)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills["engine"] += 1
                    return
            assert time.monotonic() < deadline_s, f"no engine\n{self.world.last_words()}"
            self._pass(0.05)

    def _kill_process(self, kind: str, victim: AgentProcess | ClientProcess) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not victim.is_running:  # dead still
            assert time.monotonic() < deadline_s, f"no {kind}\n{self.world.last_words()}"
            self._pass(0.05)
        victim.kill()
        self.kills[kind] += 1
        self._do_later(self.draw.uniform(0.0, LONGEST_DEAD_S), victim.start)

    def _cut(self) -> None:
        link = self.draw.choice(self.world.links)
        self.draw.choice([link.cut, link.deafen])()
        self.cuts += 1
        self._do_later(self.draw.uniform(0.1, LONGEST_CUT_S), link.mend)

    # --- time -----------------------------------------------------------------------------------

    def _do_later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), do))

    def _pass(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        until_s = time.monotonic() + seconds
        while True:
            now_s = time.monotonic()
            while self._later and self._later[0][0] <= now_s:
                heapq.heappop(self._later)[2]()
            self.check_alive()
            if now_s >= until_s:
                return
            next_s = min(until_s, self._later[0][0]) if self._later else until_s
            time.sleep(min(max(next_s - now_s, 0.0), 0.5))

    def check_alive(self) -> None:
        """Nobody has ended that was not killed."""
        cluster = self.world.cluster
        for number in cluster.numbers:
            assert number in self._resting or cluster.is_running(number), (
                f"node {number} ended by itself\n{self.world.last_words()}"
            )
        for each in self.world.others:
            assert not each.has_ended, f"it ended by itself: {each.last_words()}"


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Four nodes and what belongs to them, not started."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        yield World(cluster, stack)
