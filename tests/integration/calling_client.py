"""A client of services as a program that can be killed at any moment, and goes on when it is run.

    python -m tests.integration.calling_client FOLDER

Reads orders from ``FOLDER/orders``, one JSON object in a line, as they are appended. It keeps the
ticket of a call before the call is sent, as ``edgistry call`` does, and appends what it was told in
the end to ``FOLDER/outcomes``; it looks at each outcome twice before it acknowledges it. A process
that finds tickets of an earlier one goes on with those.

Not handled here: judging outcomes (the tests do).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from client.tickets import Kept, Tickets
from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker, ServiceCaller
from edgistry.calls import Ticket, call_result
from edgistry.capability import Capability
from edgistry.captext import parse_text
from edgistry.errors import (
    CallEndedError,
    CannotReachError,
    MailboxFullError,
    Refused,
    TimedOutError,
    UnavailableError,
    UnknownRequestError,
)
from edgistry.requests_api import RequestAnswer

T = TypeVar("T")

AT_ONCE = 10
"""Calls under way; a client may have 16 at a service."""
WAIT_S = 30.0
AGAIN_S = 0.2
_AWAY = (CannotReachError, TimedOutError, UnavailableError)


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

    @property
    def key(self) -> bytes:
        """The idempotency key."""
        return b"call %d" % self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a client was told in the end."""

    kind: str
    """"done", "ended", "refused" (a proven refusal), "turned away" (never taken by the node), or
    "lost" (the node has told its id, and does not know it)."""
    state: str = ""
    code: str = ""
    reason: str = ""
    payload: str = ""
    by_node: bool = False
    reply: str | None = None


def append(path: Path, document: object) -> None:
    """Append a line durably; what an earlier process has half written ends with this."""
    with path.open("ab") as file:
        file.write(b"\n" + json.dumps(document).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, object]]:
    """The whole lines of a file; one that nobody finished is none."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            if line:
                found.append(json.loads(line))
    return found


def outcome_of(ticket: Ticket, answer: RequestAnswer) -> Outcome:
    """What ``answer`` says, after its proof."""
    common = {"state": answer.state, "reason": answer.reason, "reply": answer.reply}
    try:
        result = call_result(ticket.request, answer, max_age_s=ticket.max_age_s)
    except CallEndedError:
        return Outcome(kind="ended", **common)  # type: ignore[arg-type]
    except Refused as error:
        return Outcome(kind="refused", code=error.code, **common)  # type: ignore[arg-type]
    payload = result.payload.decode()
    return Outcome(kind="done", payload=payload, by_node=result.by_node, **common)  # type: ignore[arg-type]


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again until the node answers."""
    while True:
        try:
            return await ask()
        except (*_AWAY, MailboxFullError):
            await asyncio.sleep(AGAIN_S)


class Program:
    """One run of the client in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._orders = folder / "orders"
        self._outcomes = folder / "outcomes"
        self._tickets = Tickets(folder / "tickets")
        self._told: dict[int, int] = defaultdict(int)
        """How often an outcome was seen and recorded, by the number of the call."""
        for line in read_lines(self._outcomes):
            self._told[int(str(line["number"]))] += 1
        self._kept = {each.ticket.idempotency_key: each for each in self._tickets.all()}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._nodes: dict[str, HttpClient] = {}
        self._callers: dict[tuple[str, str], ServiceCaller] = {}

    async def run(self) -> None:
        """Follow orders until killed."""
        seen: set[int] = set()
        async with asyncio.TaskGroup() as calls:
            while True:
                for line in read_lines(self._orders):
                    order = Order(**line)  # type: ignore[arg-type]
                    if order.number not in seen:
                        seen.add(order.number)
                        await self._places.acquire()
                        calls.create_task(self._follow(order))
                await asyncio.sleep(0.05)

    async def _follow(self, order: Order) -> None:
        try:
            kept = self._kept.get(order.key)
            if kept is not None or not self._told[order.number]:
                await self._call(order, kept)
        finally:
            self._places.release()

    async def _call(self, order: Order, kept: Kept | None) -> None:
        ticket = self._new_ticket(order) if kept is None else kept.ticket
        tracker = CallTracker(self._node(order.url), ticket)
        if kept is not None and kept.is_sent:
            name = kept.name
            tracker.known_as(name)
        else:
            try:
                answer = await until_answered(tracker.submit)
            except Refused as error:
                self._record(order, ticket, Outcome(kind="turned away", code=error.code))
                self._forget(ticket)
                return
            name = answer.id
            self._tickets.sent(ticket, name)
            if order.cancel:
                with contextlib.suppress(Refused):
                    await tracker.cancel()
        while self._told[order.number] < 2:
            try:
                answer = await until_answered(lambda: tracker.look(WAIT_S))
            except UnknownRequestError:
                self._record(order, ticket, Outcome(kind="lost"))
                return
            if answer.final:
                self._record(order, ticket, outcome_of(ticket, answer))
        with contextlib.suppress(UnknownRequestError):
            await until_answered(tracker.acknowledge)
        self._tickets.remove(name)

    def _new_ticket(self, order: Order) -> Ticket:
        ticket = self._caller(order).ticket(
            order.handle,
            order.action,
            order.data.encode(),
            ttl_s=order.ttl_s,
            max_age_s=order.max_age_s,
            idempotency_key=order.key,
        )
        self._tickets.keep(ticket)
        return ticket

    def _forget(self, ticket: Ticket) -> None:
        for each in list(self._tickets.all()):
            if each.ticket.envelope == ticket.envelope:
                self._tickets.remove(each.name)

    def _record(self, order: Order, ticket: Ticket, outcome: Outcome) -> None:
        deadline_s = ticket.request.envelope.deadline / 1e6
        line = {"number": order.number, "at_s": time.time(), "deadline_s": deadline_s}
        append(self._outcomes, {**line, **asdict(outcome)})
        self._told[order.number] += 1

    def _node(self, url: str) -> HttpClient:
        if url not in self._nodes:
            self._nodes[url] = HttpClient(url)
        return self._nodes[url]

    def _caller(self, order: Order) -> ServiceCaller:
        place = (order.handle, order.action)
        if place not in self._callers:
            holder: Capability = parse_text(order.capability)
            self._callers[place] = ServiceCaller(self._node(order.url), holder)
        return self._callers[place]


if __name__ == "__main__":
    asyncio.run(Program(Path(sys.argv[1])).run())
