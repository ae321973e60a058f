"""What stands around the public API: who may ask how much, when answers leave, what is noted.

Rules kept here:

* In this order, outermost first: slots, budgets, notes. So refusals of a budget leave at the edges
  of slots too, and are not noted.
* What is noted of a question (``note``) is noted when it has been answered.

Not handled here: slots (``slot_gate``), budgets (``purse``), what is noted (``query_audit``).
"""

from __future__ import annotations

from collections.abc import Callable

from edgistry.adapters.http import Handler, Request, Response
from edgistry.query_cost import BASE

from .askers import address_of, claimed_tag
from .config import NodeConfig
from .metrics import NodeMetrics
from .purse import PartyBudget, Purse
from .slot_gate import SlotGate

Note = Callable[[str, Request, Response | None, bytes], None]
"""Told of a question that was answered, or not (no response), and who asked: a client's tag, or
what stands for an address."""


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
