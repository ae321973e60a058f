"""Who may ask how much of this node (privacy.md, *Flooding*).

Rules kept here:

* Who has spent a budget is refused before anything is looked at. A client pays that has signed,
  as far as its signature was good; else the address that the question came from. Nobody can spend
  what is another's: only an answered question is charged to who is named in it, and once. Nor does
  anybody learn how much is left of it: whom a budget refuses must have signed. An address pays for
  all clients behind it, also for what is refused, from a budget ``CLIENTS_BEHIND`` times as large,
  so that one with many keys has not as many budgets.

Not handled here: what questions cost (``edgistry.query_cost``), who is a party (``parties``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edgistry.adapters.clock import steady_us
from edgistry.adapters.http import Handler, Request, Response
from edgistry.budget import Budgets
from edgistry.errors import BudgetError, Refused
from edgistry.query_cost import BASE, cost_after, cost_before
from edgistry.signed_request import NONCE_HEADER

from .askers import address_of, claimed_tag
from .http_signed import Signers

CLIENTS_BEHIND: Final = 16
MAX_REMEMBERED: Final = 20_000
"""Questions that were charged to clients, which nobody can have charged again by repeating them."""
_NONCE_CHARACTERS: Final = 22


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
        clock_us: Callable[[], int] = steady_us,
    ) -> None:
        self._clients = Budgets(rate_per_s=rate_per_s, burst=burst)
        self._strangers = Budgets(rate_per_s=rate_per_s, burst=burst)
        self._addresses = Budgets(
            rate_per_s=CLIENTS_BEHIND * rate_per_s, burst=CLIENTS_BEHIND * burst
        )
        self._signers = signers or Signers()
        self._charged: OrderedDict[bytes, None] = OrderedDict()
        """Whose questions were charged to them, oldest first: tag and nonce."""
        self._now_us = clock_us
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
                    # First, since it pays also for a client whose own budget refuses.
                    self._addresses.spend(address, cost, now_us=now_us)
                    self._check(tag, cost, request, now_us)
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


class PartyBudget:
    """What one party (``parties``) may ask of this node's devices."""

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: float,
        clock_us: Callable[[], int] = steady_us,
    ) -> None:
        self._budgets = Budgets(rate_per_s=rate_per_s, burst=burst)
        self._now_us = clock_us

    def spend(self, party: bytes) -> None:
        """One request of ``party``.

        Raises:
            BudgetError: it has asked for too many.
        """
        self._budgets.spend(party, 1.0, now_us=self._now_us())

    def give_back(self, party: bytes) -> None:
        """The request that ``party`` has paid for last was refused: it costs nothing."""
        self._budgets.give_back(party, 1.0, now_us=self._now_us())


def _signed_once(tag: bytes, request: Request) -> bytes:
    """What tells a question that a client signed from all its others."""
    return tag + request.headers.get(NONCE_HEADER, "")[:_NONCE_CHARACTERS].encode(errors="replace")
