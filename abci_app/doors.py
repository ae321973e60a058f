"""What stands around the public API: who may ask how much, when answers leave, what is noted.

Rules kept here (privacy.md, *Flooding*, *Side channels*):

* Who has spent a budget is refused before anything is looked at. A client pays that has signed,
  as far as its signature was good; else the address that the question came from. Nobody can spend
  what is another's: only an answered question is charged to who is named in it, and once. Nor does
  anybody learn how much is left of it: whom a budget refuses must have signed. An address pays for
  all clients behind it, from a budget ``CLIENTS_BEHIND`` times as large, so that one with many keys
  has not as many budgets.
* What is answered about one service leaves at the edge of a slot, whatever it is: an answer, a
  refusal, a failure of the node. So its latency tells neither how busy a device is nor who had the
  answer.
* What is noted of a question (``note``) is noted when it has been answered.

Not handled here: what questions cost (``edgistry.query_cost``), what is noted (``query_audit``),
answers to other nodes, which are clients' answers on their way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from edgistry.adapters.http import Handler, Request, Response
from edgistry.budget import Budgets
from edgistry.errors import BudgetError, MalformedError, Refused
from edgistry.query_cost import BASE, cost_after, cost_before
from edgistry.requests_api import to_bytes
from edgistry.signed_request import CLIENT_HEADER, NONCE_HEADER, client_tag
from edgistry.slots import until_release_us

from .config import NodeConfig
from .http_signed import Signers
from .metrics import NodeMetrics

CLIENTS_BEHIND: Final = 16
SLOTTED: Final = frozenset(
    {
        "grant",
        "any_grant",
        "request_submit",
        "request_fetch",
        "request_cancel",
        "request_acknowledge",
    }
)
"""Operations on one service, by their names in ``edgistry.routes``."""
SIGNED: Final = frozenset(
    {"discover", "discover_by_body", "watch", "watch_by_body", "grant", "any_grant"}
)
"""Operations that answer nobody who names a client without having signed for it."""
MAX_REMEMBERED: Final = 20_000
"""Questions that were charged to clients, which nobody can have charged again by repeating them."""
_KEY_BYTES: Final = 32
_NONCE_CHARACTERS: Final = 22

Note = Callable[[str, Request, Response | None, bytes], None]
"""Told of a question that was answered, or not (no response), and who asked: a client's tag, or
what stands for an address."""


class SlotGate:
    """Lets answers out at the edges of slots of ``slot_us``; 0: at once."""

    def __init__(
        self,
        *,
        slot_us: int,
        jitter_us: int = 0,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        draw: Callable[[int], int] = secrets.randbits,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._slot_us = slot_us
        self._jitter_us = jitter_us
        self._clock_us = clock_us
        self._draw = draw
        self._sleep = sleep

    def around(self, name: str, handler: Handler) -> Handler:
        """``handler``, whose answers wait for an edge if its operation is about one service."""
        if name not in SLOTTED or not (self._slot_us or self._jitter_us):
            return handler

        async def slotted(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception:
                await self.edge()
                raise
            await self.edge()
            return response

        return slotted

    async def edge(self) -> None:
        """Return at the next edge."""
        wait_us = until_release_us(
            self._clock_us(),
            slot_us=self._slot_us,
            jitter_us=self._jitter_us,
            drawn=self._draw(64) if self._jitter_us else 0,
        )
        if wait_us:
            await self._sleep(wait_us / 1_000_000)


class Purse:
    """The budgets of all who ask: ``rate_per_s`` comes back, up to ``burst``.

    ``signers`` tells whether somebody is who they say.
    """

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: float,
        signers: Signers | None = None,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = Budgets(rate_per_s=rate_per_s, burst=burst)
        self._strangers = Budgets(rate_per_s=rate_per_s, burst=burst)
        self._addresses = Budgets(
            rate_per_s=CLIENTS_BEHIND * rate_per_s, burst=CLIENTS_BEHIND * burst
        )
        self._signers = signers or Signers()
        self._charged: OrderedDict[bytes, None] = OrderedDict()
        """Whose questions were charged to them, oldest first: tag and nonce."""
        self._steady_s = steady_s
        self.refused = 0
        """Questions that were refused since the start."""

    def around(self, name: str, handler: Handler) -> Handler:
        """``handler``, which is asked only by who can pay, if its operation costs something."""
        if name not in BASE:
            return handler

        async def paid(request: Request) -> Response:
            cost = cost_before(name, request.query, len(request.body))
            tag, address = claimed_tag(name, request), address_of(request)
            if tag is not None and self._is_copy(tag, request):
                tag = None
            now_us = self._now_us()
            try:
                if tag is None:
                    self._strangers.spend(address, cost, now_us=now_us)
                else:
                    self._check(tag, cost, request, now_us)
                    self._addresses.spend(address, cost, now_us=now_us)
            except BudgetError:
                self.refused += 1
                raise
            response = await handler(request)
            cost_now = cost_after(name, len(response.body))
            if tag is None:
                self._strangers.take(address, cost_now, now_us=self._now_us())
            else:
                # It has been answered, so it was this client who signed it.
                if not self._is_copy(tag, request):
                    self._clients.take(tag, cost + cost_now, now_us=self._now_us())
                    self._note_charged(tag, request)
                self._addresses.take(address, cost_now, now_us=self._now_us())
            return response

        return paid

    def _is_copy(self, tag: bytes, request: Request) -> bool:
        """Whether the client has paid for this very question: whoever asks it again pays."""
        return _signed_once(tag, request) in self._charged

    def _note_charged(self, tag: bytes, request: Request) -> None:
        self._charged[_signed_once(tag, request)] = None
        if len(self._charged) > MAX_REMEMBERED:
            self._charged.popitem(last=False)

    def _check(self, tag: bytes, cost: float, request: Request, now_us: int) -> None:
        try:
            self._clients.check(tag, cost, now_us=now_us)
        except BudgetError:
            try:
                self._signers.needed(request, limit=len(request.body))
            except Refused:
                # It will be refused for that, as ever: what is left tells what a client has asked.
                return
            raise

    def _now_us(self) -> int:
        return round(self._steady_s() * 1_000_000)


class PartyBudget:
    """What one client, by whichever grants, may ask of this node's devices."""

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: float,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budgets = Budgets(rate_per_s=rate_per_s, burst=burst)
        self._steady_s = steady_s

    def spend(self, party: bytes) -> None:
        """One request of ``party``.

        Raises:
            BudgetError: it has asked for too many.
        """
        self._budgets.spend(party, 1.0, now_us=round(self._steady_s() * 1_000_000))


class Doors:
    """All that stands around a node's operations, in this order: slots, budgets, notes."""

    def __init__(
        self, *, gate: SlotGate | None = None, purse: Purse | None = None, note: Note | None = None
    ) -> None:
        self._gate = gate
        self.purse = purse
        self._note = note

    @classmethod
    def of(cls, config: NodeConfig, *, note: Note | None = None) -> Doors:
        """The doors that node.toml asks for."""
        privacy, budgets = config.privacy, config.budgets
        gate = SlotGate(slot_us=privacy.slot_ms * 1000, jitter_us=privacy.jitter_ms * 1000)
        purse = None
        if budgets.rate_per_s:
            purse = Purse(rate_per_s=budgets.rate_per_s, burst=budgets.burst)
        return cls(gate=gate, purse=purse, note=note)

    def around(self, name: str, handler: Handler) -> Handler:
        """What is called in place of ``handler``."""
        found = handler
        if self._note is not None and name in BASE:
            found = _noted(name, found, self._note)
        if self.purse is not None:
            found = self.purse.around(name, found)
        return found if self._gate is None else self._gate.around(name, found)

    def watch(self, metrics: NodeMetrics) -> None:
        """Show a number of it; nothing of a single client."""
        purse = self.purse
        if purse is not None:
            text = "Questions refused since the start because somebody asked too much."
            metrics.watch("budget_refused", text, lambda: purse.refused)


def party_budget(config: NodeConfig) -> PartyBudget | None:
    """What node.toml allows a client at this node's devices; ``None``: anything."""
    budgets = config.budgets
    if not budgets.rate_per_s:
        return None
    return PartyBudget(rate_per_s=budgets.rate_per_s, burst=budgets.burst)


def claimed_tag(name: str, request: Request) -> bytes | None:
    """The tag of the client that ``request`` for the operation ``name`` says it is from.

    ``None``: nobody has signed it, or nobody looks whether somebody has: what is then said of a
    client is anybody's word.
    """
    text = request.headers.get(CLIENT_HEADER)
    # Some operations answer HEAD before they look at a signature.
    if text is None or name not in SIGNED or request.method == "HEAD":
        return None
    try:
        key = to_bytes(text, CLIENT_HEADER)
    except MalformedError:
        return None
    return client_tag(key) if len(key) == _KEY_BYTES else None


def _signed_once(tag: bytes, request: Request) -> bytes:
    """What tells a question that a client signed from all its others."""
    return tag + request.headers.get(NONCE_HEADER, "")[:_NONCE_CHARACTERS].encode(errors="replace")


def address_of(request: Request) -> bytes:
    """What stands for where ``request`` came from; of IPv6 addresses, the network."""
    address = request.address or "local"
    if ":" in address:
        try:
            found = ipaddress.IPv6Address(address.partition("%")[0])
        except ValueError:
            return address.encode()
        if found.ipv4_mapped is not None:  # what a socket for both kinds says of the older one
            return str(found.ipv4_mapped).encode()
        # Whoever has one address of a /64 has all of them.
        return b"6" + found.packed[:8]
    return address.encode()


def _noted(name: str, handler: Handler, note: Note) -> Handler:
    async def noted(request: Request) -> Response:
        tag = claimed_tag(name, request)
        try:
            response = await handler(request)
        except Exception:
            # Who claims to be somebody may be somebody else: only where from is known.
            note(name, request, None, address_of(request))
            raise
        note(name, request, response, tag or address_of(request))
        return response

    return noted
