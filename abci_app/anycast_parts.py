"""The part of a node that chooses services for clients.

Not handled here: what is granted (``grants``), and in which order parts start and stop (``node``).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from edgistry.mac import KEY_BYTES
from edgistry.transactions import NodeId

from .any_desk import AnycastDesk
from .any_grants import AnyGrants
from .choices import Choices
from .epoch_keys import EpochKeys
from .http_any import ChosenRequests
from .http_requests import PublicRequests
from .memberships import Listing, Memberships
from .metrics import NodeMetrics
from .peer_link import PeerLink
from .schema import StoredService


class AnycastReader(Protocol):
    """What choosing needs of the registry."""

    def service(self, key: bytes) -> StoredService | None: ...
    def is_visible(self, node_id: bytes) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnycastParts:
    """What chooses services."""

    desk: AnycastDesk
    choices: Choices

    def watched(self, requests: PublicRequests) -> ChosenRequests:
        """``requests``, with what becomes of those that follow a choice taken note of."""
        return ChosenRequests(requests, self.choices)

    def watch(self, metrics: NodeMetrics) -> None:
        """Show numbers of it; none of a single client or service."""
        metrics.watch(
            "anycast_choices", "Services chosen since the start.", lambda: self.desk.chosen
        )
        metrics.watch(
            "anycast_under_way",
            "Choices whose requests have not ended.",
            lambda: len(self.choices),
        )


def open_anycast_parts(
    listing: Listing,
    *,
    node_id: NodeId,
    keys: EpochKeys,
    reader: AnycastReader,
    local: AnyGrants,
    links: Mapping[NodeId, PeerLink],
) -> AnycastParts:
    """Chooses among what ``listing`` lists; ``local`` grants on the node's own services."""
    choices = Choices()
    desk = AnycastDesk(
        Memberships(listing, is_visible=reader.is_visible, seed=secrets.token_bytes(KEY_BYTES)),
        choices,
        node_id=node_id,
        keys=keys,
        find=reader.service,
        is_visible=reader.is_visible,
        local=local,
        links=links,
    )
    return AnycastParts(desk=desk, choices=choices)
