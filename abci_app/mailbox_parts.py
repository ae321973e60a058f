"""The part of a node that is about requests to its devices: the mailbox and its two desks.

Not handled here: pairing (``device_parts``), HTTP, and in which order parts start and stop.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.authority import Authority
from edgistry.kv import KeyValue

from .admin_mailbox import mailbox_admin_routes
from .admin_requests import AdminRoute
from .exchange_desk import ExchangeDesk
from .mailbox_desk import MailboxDesk
from .mailbox_writer import MailboxWriter
from .metrics import NodeMetrics
from .mirror_reader import MirrorReader
from .own_requests import OwnRequestDesk
from .pairing import Pairings
from .request_desk import RequestDesk


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxParts:
    """An open mailbox; ``running`` has to run."""

    writer: MailboxWriter
    requests: RequestDesk
    own: OwnRequestDesk
    exchanges: ExchangeDesk

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run while the node does."""
        return [self.writer.run()]

    def admin_routes(self) -> list[AdminRoute]:
        """What the operator asks about mailboxes."""
        return mailbox_admin_routes(MailboxDesk(self.writer, self.exchanges))

    def watch(self, metrics: NodeMetrics) -> None:
        """Show numbers of it; none of a single device or client."""
        desk, boxes, cache = self.exchanges, self.writer.boxes, self.requests.answers.cache
        for name, help_text, read in (
            ("mailbox_outstanding", "Requests that have not ended.", lambda: len(boxes.live)),
            ("mailbox_waiting", "Exchanges that wait for work.", lambda: desk.waiting),
            ("mailbox_exchanges", "Exchanges since the start.", lambda: desk.exchanges),
            ("mailbox_refused", "Exchanges that were refused.", lambda: desk.refused),
            ("mailbox_cached", "Requests answered from earlier answers.", lambda: cache.hits),
            ("mailbox_ignored", "Results that were of no use.", lambda: desk.ignored),
        ):
            metrics.watch(name, help_text, read)


def open_mailbox_parts(
    store: KeyValue, woofs: DurableWoofs, pairings: Pairings, authority: Authority
) -> MailboxParts:
    """The mailbox in ``store``, written together with ``woofs``; for the devices in ``pairings``.

    Called in the node's event loop.
    """
    writer = MailboxWriter(store, woofs.committer)
    requests = RequestDesk(
        writer, pairings, authority.guard, mirrors=MirrorReader(store, woofs.woofs)
    )
    return MailboxParts(
        writer=writer,
        requests=requests,
        own=OwnRequestDesk(writer, pairings, requests.keys),
        exchanges=ExchangeDesk(writer, pairings, authority),
    )
