"""A client of services as a program that can be killed at any moment, and goes on when it is run.

    python -m tests.integration.calling_client FOLDER

Not handled here: orders, tickets and outcomes (``following_client``).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters.service_caller import CallTracker, ServiceCaller
from edgistry.captext import parse_text
from edgistry.errors import Refused

from .following_client import Follower, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One call that is to be made."""

    number: int
    url: str
    """Of the node that the client talks to."""
    handle: str
    action: str
    data: str
    ttl_s: float
    max_age_s: int
    cancel: bool
    """To be taken back at once."""
    capability: str
    """In its text form."""


class Program(Follower[Order]):
    """One run of the client."""

    ORDER = Order

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._callers: dict[tuple[str, str], ServiceCaller] = {}

    async def call(self, order: Order) -> None:
        ticket = self._caller(order).ticket(
            order.handle,
            order.action,
            order.data.encode(),
            ttl_s=order.ttl_s,
            max_age_s=order.max_age_s,
            idempotency_key=key_of(order),
        )
        self.tickets.keep(ticket)
        await self.submit(order, ticket, CallTracker(self.node(order.url), ticket))

    async def submitted(self, order: Order, tracker: CallTracker) -> None:
        if order.cancel:
            with contextlib.suppress(Refused):
                await tracker.cancel()

    def _caller(self, order: Order) -> ServiceCaller:
        place = (order.handle, order.action)
        if place not in self._callers:
            holder = parse_text(order.capability)
            self._callers[place] = ServiceCaller(self.node(order.url), holder)
        return self._callers[place]


if __name__ == "__main__":
    asyncio.run(Program(Path(sys.argv[1])).run())
