"""The part of a node that is about other nodes: links to them, and requests for their devices.

Not handled here: listening (``device_parts``), and in which order parts start and stop (``node``).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from edgistry.adapters.group_commit import GroupCommitter
from edgistry.adapters.http import Handler, Route
from edgistry.adapters.log import get_logger
from edgistry.errors import ConfigError
from edgistry.kv import KeyValue
from edgistry.transactions import NodeId

from .addresses import peer_id_of
from .any_grants import AnyGrants
from .anycast_parts import AnycastParts
from .config import NodeConfig
from .discover_service import Outstanding
from .entry_book import EntryBook
from .entry_courier import Courier
from .entry_desk import EntryDesk, FindService, GrantForwarder
from .handle_opening import OpeningKeys
from .http_any import any_handlers
from .http_grants import PublicGrants, grant_handlers
from .http_requests import PublicExchange, device_handlers
from .mailbox_boxes import Boxes
from .metrics import NodeMetrics
from .parties import party_of_client
from .peer_link import MemberWay, PeerLink
from .peer_routes import peer_routes
from .request_desk import RequestDesk
from .schema import Member

logger = get_logger("edgistry.node.peers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerParts:
    """Requests and grants, wherever they belong; ``running`` has to run."""

    requests: EntryDesk
    grants: GrantForwarder
    book: EntryBook
    courier: Courier
    keys: OpeningKeys
    links: Mapping[NodeId, PeerLink]
    routes: list[Route]
    """What other nodes ask of this one, over the link."""

    def handlers(
        self, exchanges: PublicExchange, anycast: AnycastParts | None = None
    ) -> Mapping[str, Handler]:
        """The part of the public API that is about devices; ``exchanges`` are with this node's."""
        requests = self.requests if anycast is None else anycast.watched(self.requests)
        any_service = {} if anycast is None else any_handlers(anycast.desk)
        return {
            **device_handlers(requests, exchanges, self.keys),
            **grant_handlers(self.grants),
            **any_service,
        }

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run while the node does."""
        return [self.courier.run()]

    def watch(self, metrics: NodeMetrics) -> None:
        """Show numbers of it; none of a single node, service or client."""
        book = self.book
        for name, help_text, read in (
            (
                "entry_requests",
                "Requests to services of other nodes, in any state.",
                lambda: len(book),
            ),
            (
                "entry_waiting_bytes",
                "Bytes of requests that wait for other nodes.",
                lambda: book.waiting_bytes,
            ),
        ):
            metrics.watch(name, help_text, read)


def under_way(boxes: Boxes, book: EntryBook) -> Outstanding:
    """How many requests clients have under way: to this node's devices by grants that name them,
    and to those of other nodes by this one."""

    def count(service: bytes, client: bytes) -> int:
        here = boxes.count(service, party_of_client(client)).outstanding
        return here + book.outstanding(service, client)

    return count


def open_peer_parts(
    config: NodeConfig,
    *,
    seed: bytes,
    node_id: NodeId,
    members: Callable[[], Mapping[NodeId, Member]],
    store: KeyValue,
    committer: GroupCommitter,
    find: FindService,
    requests: RequestDesk,
    grants: PublicGrants,
    keys: OpeningKeys,
    any_grants: AnyGrants,
) -> PeerParts:
    """Requests that entered are in ``store``; ``requests`` and ``grants`` are this node's own.

    ``members`` gives those who are members now. ``keys`` open the handles that clients name
    services by.

    Called in the node's event loop.

    Raises:
        ConfigError: a link to this node, or two to one.
        CorruptDatabaseError: what is stored cannot be read.
    """
    links = links_of(config, seed=seed, node_id=node_id, members=members)
    book = EntryBook(store, committer)
    courier = Courier(book, links)
    return PeerParts(
        requests=EntryDesk(requests, book, courier, node_id=node_id, find=find),
        grants=GrantForwarder(grants, links, node_id=node_id, find=find, keys=keys),
        book=book,
        courier=courier,
        keys=keys,
        links=links,
        routes=peer_routes(requests, grants, any_grants, is_member=lambda node: node in members()),
    )


def links_of(
    config: NodeConfig,
    *,
    seed: bytes,
    node_id: NodeId,
    members: Callable[[], Mapping[NodeId, Member]],
) -> dict[NodeId, PeerLink]:
    """The links that the configuration names, not yet connected; raises as above."""
    links: dict[NodeId, PeerLink] = {}
    known = members()
    for peer in config.link.peers:
        node = NodeId(bytes.fromhex(peer_id_of(peer)))
        if node == node_id:
            raise ConfigError(f"[link] peers: {peer} is this node itself")
        if node in links:
            raise ConfigError(f"[link] peers: {peer} is the second link to that node")
        if node not in known:
            # It may have left, or join later, or this node has yet to learn of it.
            logger.warning("a link in node.toml leads to no member of the chain", peer=peer)
        url = f"https://{peer.partition('@')[2]}"
        links[node] = PeerLink(node, MemberWay(node, url, seed=seed, members=members))
    without = len(known.keys() - links.keys() - {node_id})
    if without > 0:
        logger.warning("some nodes have no link in node.toml, section [link]", nodes=without)
    return links
