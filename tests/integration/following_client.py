"""What programs have in common that call services for tests, and go on when they were killed.

Such a program reads orders from ``FOLDER/orders``, one JSON object in a line, as they are appended.
It keeps the ticket of a call before the call is sent, as ``edgistry call`` does, and appends what
it was told in the end to ``FOLDER/outcomes``; it looks at each outcome twice before it acknowledges
it. A process that finds tickets of an earlier one goes on with those.

Not handled here: making calls (``calling_client``, ``any_client``), judging outcomes (the tests).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from client.tickets import Kept, Tickets
from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker, keys_of_attempts
from edgistry.calls import Ticket, call_result
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
AWAY = (CannotReachError, TimedOutError, UnavailableError)
"""A node is not there, or not now."""


class AnOrder(Protocol):
    """One call that is to be made."""

    @property
    def number(self) -> int: ...
    @property
    def url(self) -> str:
        """Of the node that the client talks to."""


O = TypeVar("O", bound=AnOrder)  # noqa: E741


def key_of(order: AnOrder) -> bytes:
    """The idempotency key."""
    return b"call %d" % order.number


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
        except (*AWAY, MailboxFullError):
            await asyncio.sleep(AGAIN_S)


class Follower(ABC, Generic[O]):
    """One run of the client in ``folder``, which follows orders of the kind ``ORDER``."""

    ORDER: ClassVar[Callable[..., AnOrder]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tickets = Tickets(folder / "tickets")
        self.told: dict[int, int] = defaultdict(int)
        """How often an outcome was seen and recorded, by the number of the call."""
        self._outcomes = folder / "outcomes"
        for line in read_lines(self._outcomes):
            self.told[int(str(line["number"]))] += 1
        self._kept = {each.ticket.idempotency_key: each for each in self.tickets.all()}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._nodes: dict[str, HttpClient] = {}

    async def run(self) -> None:
        """Follow orders until killed."""
        seen: set[int] = set()
        async with asyncio.TaskGroup() as calls:
            while True:
                for line in read_lines(self.folder / "orders"):
                    order = self.ORDER(**line)
                    if order.number not in seen:
                        seen.add(order.number)
                        await self._places.acquire()
                        calls.create_task(self._follow(order))  # type: ignore[arg-type]
                await asyncio.sleep(0.05)

    async def _follow(self, order: O) -> None:
        try:
            found = [self._kept.get(each) for each in keys_of_attempts(key_of(order))]
            kept = next((each for each in found if each is not None), None)
            if kept is not None:
                await self.go_on(order, kept)
            elif not self.told[order.number]:
                await self.call(order)
        finally:
            self._places.release()

    @abstractmethod
    async def call(self, order: O) -> None:
        """Make a call that was never made, and follow it to its end."""

    async def go_on(self, order: O, kept: Kept) -> None:
        """Follow a call that was made to its end; what no node has told an id of is sent again."""
        ticket = kept.ticket
        tracker = CallTracker(self.node(order.url), ticket)
        if kept.is_sent:
            tracker.known_as(kept.name)
            await self.to_the_end(order, ticket, tracker, kept.name)
        else:
            await self.submit(order, ticket, tracker)

    async def submit(self, order: O, ticket: Ticket, tracker: CallTracker) -> None:
        """Give a call to the node, and follow it to its end."""
        try:
            answer = await until_answered(tracker.submit)
        except Refused as error:
            self.turned_away(order, error, ticket)
            return
        self.tickets.sent(ticket, answer.id)
        await self.submitted(order, tracker)
        await self.to_the_end(order, ticket, tracker, answer.id)

    async def submitted(self, order: O, tracker: CallTracker) -> None:
        """The node has just taken a call."""

    async def to_the_end(self, order: O, ticket: Ticket, tracker: CallTracker, name: str) -> None:
        """Look until the call has ended, and again; acknowledge its outcome and forget it."""
        while self.told[order.number] < 2:
            try:
                answer = await until_answered(lambda: tracker.look(WAIT_S))
            except UnknownRequestError:
                self.record(order, ticket, Outcome(kind="lost"))
                return
            if answer.final:
                self.record(order, ticket, outcome_of(ticket, answer))
        with contextlib.suppress(UnknownRequestError):
            await until_answered(tracker.acknowledge)
        self.tickets.remove(name)

    def turned_away(self, order: O, error: Refused, ticket: Ticket | None) -> None:
        """No node has taken the call."""
        # First the ticket: a later run must not send again what its client was told is not taken.
        for each in list(self.tickets.all()):
            if ticket is not None and each.ticket.envelope == ticket.envelope:
                self.tickets.remove(each.name)
        self.record(order, ticket, Outcome(kind="turned away", code=error.code))

    def record(self, order: O, ticket: Ticket | None, outcome: Outcome) -> None:
        """Durably, that this is how a call ended."""
        now_s = time.time()
        deadline_s = now_s if ticket is None else ticket.request.envelope.deadline / 1e6
        line = {"number": order.number, "at_s": now_s, "deadline_s": deadline_s}
        append(self._outcomes, {**line, **asdict(outcome)})
        self.told[order.number] += 1

    def node(self, url: str) -> HttpClient:
        """The connections to the node at ``url``."""
        if url not in self._nodes:
            self._nodes[url] = HttpClient(url)
        return self._nodes[url]
