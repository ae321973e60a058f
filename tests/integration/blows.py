"""Blows that fall on a cluster with devices and clients: kills, and links that are cut.

What happens, to whom and when comes from one seed; how it falls into what the programs do just then
does not. What was killed comes back after a while, what was cut is mended.

Not handled here: when blows fall, and what calls are under way (``call_chaos``, ``any_chaos``).
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
from pathlib import Path
from typing import Generic, TypeVar

from .agents import LIMIT_S, Killable
from .linked_world import Link, LinkedWorld

KINDS = ("node", "engine", "agent", "client")
LONGEST_DEAD_S = 3.0
LONGEST_CUT_S = 3.0
LONGEST_PAUSE_S = 2.0

W = TypeVar("W", bound=LinkedWorld)


@dataclass
class Blows(Generic[W]):
    """What is done to a ``world``, drawn by ``draw``."""

    world: W
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    """By kind."""
    cuts: int = 0
    long_dead_s: float = LONGEST_DEAD_S
    """The longest that one node in five that are killed stays dead."""
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    """When to do what: to start again, and to mend."""
    _numbers: Iterator[int] = field(default_factory=count)
    _resting: set[int] = field(default_factory=set)
    """Nodes that are dead as they should be."""

    # --- blows ----------------------------------------------------------------------------------

    def kill_node(self, number: int) -> None:
        """Kill a node once it runs, and see to its return."""
        cluster = self.world.cluster
        while not cluster.is_running(number):
            self.let_pass(0.05)
        cluster.kill_node(number)
        self.kills["node"] += 1
        self._resting.add(number)

        def revive() -> None:
            cluster.start(number, wait=False)
            self._resting.discard(number)

        longest_s = LONGEST_DEAD_S
        if self.long_dead_s > longest_s and self.draw.random() < 0.2:
            longest_s = self.long_dead_s
        self.do_later(self.draw.uniform(0.0, longest_s), revive)

    def kill_engine(self, number: int) -> None:
        """Kill the engine of a node, which starts another."""
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
            self.let_pass(0.05)

    def kill_process(self, kind: str, victim: Killable) -> None:
        """Kill a program once it runs, and see to its return."""
        self.when_running(victim)
        victim.kill()
        self.kills[kind] += 1
        self.do_later(self.draw.uniform(0.0, LONGEST_DEAD_S), victim.start)

    def when_running(self, program: Killable) -> None:
        """Until ``program`` runs, which may be dead still."""
        deadline_s = time.monotonic() + LIMIT_S
        while not program.is_running:
            assert time.monotonic() < deadline_s, f"it is dead\n{self.world.last_words()}"
            self.let_pass(0.05)

    def cut(self) -> Link:
        """Cut a link for a while, or let requests through it and no answers."""
        link = self.draw.choice(self.draw.choice(self.world.links))
        self.draw.choice([link.cut.cut, link.cut.deafen])()
        self.cuts += 1
        self.do_later(self.draw.uniform(0.1, LONGEST_CUT_S), link.cut.mend)
        return link

    # --- time -----------------------------------------------------------------------------------

    def do_later(self, seconds: float, do: Callable[[], None]) -> None:
        """Have ``do`` done while time passes, after so long."""
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), do))

    def let_pass(self, seconds: float) -> None:
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

    def moment(self) -> None:
        """A little time, short as what calls take."""
        self.let_pass(self.draw.choice([0.0, 0.1, 0.4]) * self.draw.random())

    def until_at_work(self, begun: Path) -> None:
        """Wait until a handler begins, which makes the file ``begun`` longer; for a while."""
        before = begun.stat().st_size if begun.exists() else 0
        until_s = time.monotonic() + LONGEST_PAUSE_S
        while time.monotonic() < until_s:
            if begun.exists() and begun.stat().st_size > before:
                return
            self.let_pass(0.01)

    def wait_for_returns(self) -> None:
        """Until all that was killed was started again, and all that was cut is mended."""
        while self._later:
            self.let_pass(max(self._later[0][0] - time.monotonic(), 0.0))

    def check_alive(self) -> None:
        """Nobody has ended that was not killed."""
        cluster = self.world.cluster
        for number in cluster.numbers:
            assert number in self._resting or cluster.is_running(number), (
                f"node {number} ended by itself\n{self.world.last_words()}"
            )
        for each in self.world.others:
            assert not each.has_ended, f"it ended by itself: {each.last_words()}"
