"""A cluster with devices and clients in which anything is killed, any link cut, while they call.

Blows fall where calls are under way: those that need the victim begin just before.

Not handled here: blows themselves (``blows``), what must be true of it (``test_call_chaos``), and
one call (``calling_client``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .blows import KINDS, Blows
from .call_world import ENTRIES, HOMES, ClientProcess, World
from .calling_client import Order


@dataclass
class Chaos(Blows[World]):
    """What is done to a ``world`` while calls are made in it."""

    orders: dict[int, Order] = field(default_factory=dict)

    def rage(self, *, calls: int, kills: int, longest_pause_s: float) -> None:
        """Have ``calls`` calls made while there are ``kills`` kills; in the end all is well."""
        bag: list[str] = []
        for number in range(kills):
            wanted = calls * (number + 1) // kills - len(self.orders)
            if self.draw.random() < 0.6:
                link = self.cut()
                self._order(wanted // 3, entry=link.entry, home=link.home)
            self._order(wanted // 3)
            self.let_pass(self.draw.uniform(0.0, longest_pause_s))
            bag = bag or self.draw.sample(KINDS, len(KINDS))
            self._kill(bag.pop(), calls=calls * (number + 1) // kills - len(self.orders))
        self.wait_for_returns()

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
            self.moment()
            self.kill_node(number)
        elif kind == "engine":
            self._order(calls)
            self.moment()
            self.kill_engine(draw.choice(world.cluster.numbers))
        elif kind == "agent":
            at = draw.randrange(len(HOMES))
            self._order(calls, home=HOMES[at])
            if draw.random() < 0.8:
                self.until_at_work(world.agents[at].layout.handlers_dir / "begun")
                self.let_pass(draw.uniform(0.0, 0.2))
            self.kill_process(kind, world.agents[at])
        else:
            client = draw.choice(world.clients)
            self._order(calls, entry=client.entry)
            self.moment()
            self.kill_process(kind, client)
