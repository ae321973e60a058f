"""A cluster with devices and clients in which anything is killed, any link cut, while they call.

What happens, to whom and when comes from one seed; how it falls into what the programs do just then
does not. Blows fall where calls are under way: those that need the victim begin just before.

Not handled here: what must be true of it (``test_call_chaos``), and one call (``calling_client``).
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from .agents import LIMIT_S, AgentProcess
from .call_world import ENTRIES, HOMES, ClientProcess, Link, World
from .calling_client import Order

KINDS = ("node", "engine", "agent", "client")
LONGEST_DEAD_S = 3.0
LONGEST_CUT_S = 3.0
LONGEST_PAUSE_S = 2.0


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
            wanted = calls * (number + 1) // kills - len(self.orders)
            if self.draw.random() < 0.6:
                link = self._cut()
                self._order(wanted // 3, entry=link.entry, home=link.home)
            self._order(wanted // 3)
            self._pass(self.draw.uniform(0.0, longest_pause_s))
            bag = bag or self.draw.sample(KINDS, len(KINDS))
            self._kill(bag.pop(), calls=calls * (number + 1) // kills - len(self.orders))
        while self._later:
            self._pass(max(self._later[0][0] - time.monotonic(), 0.0))

    # --- calls ----------------------------------------------------------------------------------

    def _order(self, calls: int, *, entry: int | None = None, home: int | None = None) -> None:
        """Have calls made; from ``entry`` to ``home``, where that is said."""
        ways = [
            (client, place)
            for client in self.world.clients
            for place in HOMES
            if place != client.entry and entry in (None, client.entry) and home in (None, place)
        ]
        for _ in range(calls):
            client, place = self.draw.choice(ways)
            order = self._drawn(client, client.handles[place])
            self.orders[order.number] = order
            client.give(order)

    def _drawn(self, client: ClientProcess, handle: str) -> Order:
        draw = self.draw
        number = len(self.orders)
        is_read = draw.random() < 0.25
        action = "read" if is_read else "do"
        return Order(
            number=number,
            url=client.url,
            handle=handle,
            action=action,
            data="" if is_read else f"effect-{number}",
            ttl_s=draw.choice([1.0, 2.0, 4.0, 15.0, 120.0, 120.0, 120.0, 120.0]),
            max_age_s=draw.choice([0, 2]) if is_read else 0,
            cancel=draw.random() < 0.08,
            capability=client.grants[handle][action],
        )

    # --- blows ----------------------------------------------------------------------------------

    def _kill(self, kind: str, *, calls: int) -> None:
        """Kill one of a kind while ``calls`` calls begin that need it, and see to its return."""
        draw, world = self.draw, self.world
        if kind == "node":
            number = draw.choice(world.cluster.numbers)
            if number in HOMES and (number not in ENTRIES or draw.random() < 0.5):
                self._order(calls, home=number)
            else:
                self._order(calls, entry=number)
            self._moment()
            self._kill_node(number)
        elif kind == "engine":
            self._order(calls)
            self._moment()
            self._kill_engine(draw.choice(world.cluster.numbers))
        elif kind == "agent":
            at = draw.randrange(len(HOMES))
            self._order(calls, home=HOMES[at])
            if draw.random() < 0.8:
                self._until_at_work(world.agents[at])
                self._pass(draw.uniform(0.0, 0.2))
            self._kill_process(kind, world.agents[at])
        else:
            client = draw.choice(world.clients)
            self._order(calls, entry=client.entry)
            self._moment()
            self._kill_process(kind, client)

    def _moment(self) -> None:
        """A little time, short as what calls take."""
        self._pass(self.draw.choice([0.0, 0.1, 0.4]) * self.draw.random())

    def _until_at_work(self, agent: AgentProcess) -> None:
        """Wait until a handler of the device begins, for a while."""
        begun = agent.layout.handlers_dir / "begun"
        before = begun.stat().st_size if begun.exists() else 0
        until_s = time.monotonic() + LONGEST_PAUSE_S
        while time.monotonic() < until_s:
            if begun.exists() and begun.stat().st_size > before:
                return
            self._pass(0.01)

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

    def _cut(self) -> Link:
        """Cut a link for a while, or let requests through it and no answers."""
        link = self.draw.choice(self.draw.choice(self.world.links))
        self.draw.choice([link.cut.cut, link.cut.deafen])()
        self.cuts += 1
        self._do_later(self.draw.uniform(0.1, LONGEST_CUT_S), link.cut.mend)
        return link

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
