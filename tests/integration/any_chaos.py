"""Calls of any service while anything is killed, any link cut, and devices vanish for good.

Blows fall where calls are under way: those that enter where it hurts begin just before.

Not handled here: blows themselves (``blows``), what must be true of it (``test_any_chaos``), and
one call (``any_client``).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

from .any_client import AnyCall
from .any_service_world import ALL, TYPE, AnyWorld, Crowd
from .blows import KINDS, Blows

WAYS = ("silently", "by_owner", "by_operator")
READS = 0.3
"""The part of calls that only read."""
LONGEST_REST_S = 10.0


@dataclass
class AnyChaos(Blows[AnyWorld]):
    """What is done to a ``world`` while calls of any service are made in it."""

    longest_ttl_s: float = 60.0
    vanish_at_work: bool = True
    """Whether devices vanish with calls that they have taken."""
    orders: dict[int, AnyCall] = field(default_factory=dict)
    vanished: Counter[str] = field(default_factory=Counter)
    """Devices, by the way in which they vanished."""

    def rage(self, *, calls: int, kills: int, vanish: int, longest_pause_s: float) -> None:
        """Have ``calls`` calls made while there are ``kills`` kills; ``vanish`` devices vanish.

        In the end all is well but for those.
        """
        before = len(self.orders)
        bag: list[str] = []
        ways: list[str] = []
        for number in range(kills):
            due = before + calls * (number + 1) // kills
            if self.draw.random() < 0.5:
                link = self.cut()
                self.order((due - len(self.orders)) // 3, entry=link.entry)
            self.order((due - len(self.orders)) // 3)
            self.let_pass(self.draw.uniform(0.0, longest_pause_s))
            if vanish * (number + 1) // kills > self.vanished.total():
                ways = ways or self.draw.sample(WAYS, len(WAYS))
                self._vanish(ways.pop(), calls=(due - len(self.orders)) // 2)
            bag = bag or self.draw.sample(KINDS, len(KINDS))
            self._kill(bag.pop(), calls=due - len(self.orders))
        self.wait_for_returns()

    # --- calls ----------------------------------------------------------------------------------

    def order(
        self, calls: int, *, entry: int | None = None, patience_s: float | None = None
    ) -> None:
        """Have calls made, at random nodes or at ``entry``.

        Their clients soon try another service, or have ``patience_s`` and wait twice as long.
        """
        for _ in range(calls):
            client = self.world.clients[self.draw.choice(ALL) if entry is None else entry]
            order = self._drawn(client.url)
            if patience_s is not None:
                wait_s = 2 * patience_s
                order = replace(order, ttl_s=wait_s, wait_s=wait_s, patience_s=patience_s)
            self.orders[order.number] = order
            client.give(order)

    def _drawn(self, url: str) -> AnyCall:
        draw = self.draw
        number = len(self.orders)
        is_read = draw.random() < READS
        return AnyCall(
            number=number,
            url=url,
            type=TYPE,
            action="read" if is_read else "do",
            data="" if is_read else f"effect-{number}",
            ttl_s=draw.choice([4.0, *[self.longest_ttl_s] * 4]),
            wait_s=draw.choice([6.0, 12.0]),
            patience_s=draw.choice([1.0, 2.0, 3.0]),
        )

    # --- blows ----------------------------------------------------------------------------------

    def _kill(self, kind: str, *, calls: int) -> None:
        """Kill one of a kind while ``calls`` calls begin that may need it."""
        draw, world = self.draw, self.world
        number = draw.choice(ALL)
        if kind == "node":
            self.order(calls, entry=number if draw.random() < 0.5 else None)
            self.moment()
            self.kill_node(number)
        elif kind == "engine":
            self.order(calls)
            self.moment()
            self.kill_engine(number)
        elif kind == "agent":
            crowd = world.crowds[number]
            self.order(calls)
            if draw.random() < 0.8:
                self.until_at_work(crowd.begun)
                self.let_pass(draw.uniform(0.0, 0.2))
            self.kill_process(kind, crowd)
        else:
            self.order(calls, entry=number)
            self.moment()
            self.kill_process(kind, world.clients[number])

    def _vanish(self, way: str, *, calls: int) -> None:
        """Have a device vanish that is at work, of the node that has most of them."""
        crowd: Crowd = max(self.world.crowds, key=lambda each: len(each.there))
        self.when_running(crowd)
        if self.vanish_at_work:
            self.order(calls)
            self.until_at_work(crowd.begun)
            self.let_pass(self.draw.uniform(0.0, 0.15))
            self.when_running(crowd)
            device = crowd.last_at_work() or self.draw.choice(crowd.there)
        else:
            self._until_at_rest(crowd)
            device = self.draw.choice(crowd.there)
        if way == "by_operator":
            while not self.world.vanish_by_operator(crowd, device):
                self.let_pass(0.1)
        else:
            crowd.kill()
            self.kills["agent"] += 1
            if way == "by_owner":
                self.world.vanish_by_owner(crowd, device)
            else:
                self.world.vanish_silently(crowd, device)
            crowd.start()
        self.vanished[way] += 1

    def _until_at_rest(self, crowd: Crowd) -> None:
        """Until no call waits for any of ``crowd``, for a while."""
        until_s = time.monotonic() + LONGEST_REST_S
        while self.world.outstanding(crowd.home) != 0 and time.monotonic() < until_s:
            self.let_pass(0.1)
