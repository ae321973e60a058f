"""A client of any service of a type as a program that can be killed at any moment, and goes on.

    python -m tests.integration.any_client FOLDER

It is whoever has the keys in ``FOLDER/identity``. What ``call_any`` did, and how long that took, is
in ``FOLDER/told``. A call that has been made, and whose end ``call_any`` did not tell, is followed
by its ticket until it ends, as ``edgistry request status`` does.

Not handled here: orders, tickets and outcomes (``following_client``).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.following import NO_WORD
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.node_client import NodeClient
from edgistry.calls import Ticket
from edgistry.errors import CallPendingError, Refused
from edgistry.requests_api import RequestAnswer

from .following_client import Follower, append, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyCall:
    """One call that is to be made."""

    number: int
    url: str
    """Of the node that the client talks to."""
    type: str
    action: str
    data: str
    ttl_s: float
    wait_s: float
    patience_s: float


AREA: dict[str, Any] = {"near": (46.0, 8.0), "radius_km": 20.0}


def write_identity(folder: Path, keys: ClientKeys) -> None:
    """Have the client in ``folder`` be whoever has these ``keys``."""
    text = json.dumps({"signing": keys.signing.hex(), "sealing": keys.sealing.hex()})
    (folder / "identity").write_text(text)


def _read_identity(folder: Path) -> ClientKeys:
    kept = json.loads((folder / "identity").read_text())
    return ClientKeys(**{name: bytes.fromhex(text) for name, text in kept.items()})


class _Tickets:
    """The tickets of one call as ``call_any`` makes them: only the last one is kept."""

    def __init__(self, program: AnyProgram) -> None:
        self._tickets = program.tickets
        self.last: Ticket | None = None
        self.name = ""
        """What the last one is kept as."""
        self.is_sent = False

    def keep(self, ticket: Ticket) -> None:
        if self.name:
            self._tickets.remove(self.name)
        self.last, self.name, self.is_sent = ticket, self._tickets.keep(ticket), False

    def news(self, answer: RequestAnswer) -> None:
        if not self.is_sent:
            assert self.last is not None
            self._tickets.sent(self.last, answer.id)
            self.name, self.is_sent = answer.id, True


class AnyProgram(Follower[AnyCall]):
    """One run of the client."""

    ORDER = AnyCall

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._keys = _read_identity(folder)
        self._clients: dict[str, NodeClient] = {}

    async def call(self, order: AnyCall) -> None:
        kept = _Tickets(self)
        began_s = time.time()
        refusal: Refused | None = None
        payload = ""
        try:
            result = await self._client(order.url).call_any(
                order.action,
                order.data.encode(),
                type=order.type,
                keys=self._keys,
                wait_s=order.wait_s,
                patience_s=order.patience_s,
                keep=kept.keep,
                news=kept.news,
                acknowledge=False,
                ttl_s=order.ttl_s,
                idempotency_key=key_of(order),
                **AREA,
            )
            payload = result.payload.decode()
        except Refused as error:
            refusal = error
        line = {"number": order.number, "wait_s": order.wait_s, "payload": payload}
        code = "" if refusal is None else refusal.code
        append(self.folder / "told", {**line, "took_s": time.time() - began_s, "code": code})
        await self._follow_up(order, kept, refusal)

    async def _follow_up(self, order: AnyCall, kept: _Tickets, refusal: Refused | None) -> None:
        """Find out about a call whose end was not told, or look at it again."""
        ticket = kept.last
        if not kept.is_sent and not isinstance(refusal, (CallPendingError, *NO_WORD)):
            assert refusal is not None, "it was answered, and no node has told an id"
            self.turned_away(order, refusal, ticket)
        elif ticket is None:
            assert refusal is not None
            self.turned_away(order, refusal, None)
        else:
            await self.go_on(order, self.tickets.get(kept.name))

    def _client(self, url: str) -> NodeClient:
        if url not in self._clients:
            self._clients[url] = NodeClient(url)
        return self._clients[url]


if __name__ == "__main__":
    asyncio.run(AnyProgram(Path(sys.argv[1])).run())
