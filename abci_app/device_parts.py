"""The part of a node that is about devices: pairing, preparing and mirroring them, and the link.

Rules kept here: the link has the node's registry key behind its certificate, and knows members of
the chain by theirs: those of the last block, for each new connection.

Not handled here: mailboxes (``request_desk``), and in which order parts start and stop (``node``).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from edgistry.adapters.crypto import public_key_of
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import HttpServer, Route
from edgistry.adapters.tls import TLSContext, follow, server_context
from edgistry.authority import Authority
from edgistry.handlers import HandlerTable
from edgistry.kv import KeyValue
from edgistry.pairing import MAX_REQUEST_BYTES
from edgistry.transactions import node_id_of

from .admin_pairing import pairing_admin_routes
from .admin_requests import AdminRoute
from .config import NodeConfig
from .device_counts import kinds
from .device_setup import DeviceSetup
from .link_server import link_server, pairing_routes
from .metrics import NodeMetrics
from .mirror_keeper import MirrorKeeper, OwnRequests
from .move_keeper import MoveKeeper
from .pairing_desk import PairingDesk
from .peer_api import MAX_PEER_BODY_BYTES
from .registration import Registrar
from .stand_in_keeper import StandInKeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceParts:
    """What pairs and prepares devices; ``running`` has to run."""

    desk: PairingDesk
    setup: DeviceSetup
    mirrors: MirrorKeeper
    stand_ins: StandInKeeper
    handlers: HandlerTable

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run while the node does."""
        return [self.setup.run(), self.mirrors.run(), self.stand_ins.run()]

    def admin_routes(self) -> list[AdminRoute]:
        """What the operator asks about pairing."""
        return pairing_admin_routes(self.desk, self.mirrors, self.handlers)

    def watch(self, metrics: NodeMetrics) -> None:
        """Show how many devices are paired; none of a single one."""
        counts = self.setup.counts
        metrics.watch_each(
            "paired_devices",
            "Devices paired with this node.",
            ("wake", "state"),
            {kind: functools.partial(counts.count, kind) for kind in kinds()},
        )


def open_device_parts(
    config: NodeConfig,
    *,
    seed: bytes,
    store: KeyValue,
    woofs: DurableWoofs,
    authority: Authority,
    registrar: Registrar,
    moves: MoveKeeper,
    queue: OwnRequests,
    handlers: HandlerTable,
) -> DeviceParts:
    """Pairing over ``store``, for the node with registry key ``seed``; mirrors go to ``woofs``."""
    node_key = public_key_of(seed)
    writing = asyncio.Lock()
    setup = DeviceSetup(
        store,
        queue=queue,
        registrar=registrar,
        node_id=node_id_of(node_key),
        writing=writing,
    )
    desk = PairingDesk(
        store,
        authority=authority,
        followers=setup,
        node_name=config.name,
        node_key=node_key,
        link_port=config.link_port,
        writing=writing,
        require_handler=handlers.require_for_devices,
        limits=config.privacy.limits,
        moves=moves.epochs,
    )
    mirrors = MirrorKeeper(store, woofs, queue=queue, node_id=node_id_of(node_key))
    setup.on_ready = mirrors.watch
    setup.on_forget = mirrors.forget
    return DeviceParts(
        desk=desk,
        setup=setup,
        mirrors=mirrors,
        stand_ins=StandInKeeper(store, followers=setup, writing=writing),
        handlers=handlers,
    )


class _Trust:
    """The TLS of the node of ``seed``, by whose keys are a member's."""

    def __init__(self, seed: bytes, members: Callable[[], frozenset[bytes]]) -> None:
        self._seed = seed
        self._members = members
        self._keys = members()
        self._context = server_context(seed, members=self._keys)

    def current(self) -> TLSContext:
        """It; another one only when the members are others."""
        keys = self._members()
        if keys != self._keys:
            self._keys, self._context = keys, server_context(self._seed, members=keys)
        return self._context


async def listen_on_link(
    config: NodeConfig,
    devices: DeviceParts,
    *,
    seed: bytes,
    members: Callable[[], frozenset[bytes]],
    more: Sequence[Route] = (),
) -> HttpServer:
    """The link, listening; ``members`` gives the registry keys of those who are members now.

    ``more`` are the routes of other parts.

    Raises:
        PortInUseError, ConfigError: it cannot listen where the configuration says.
    """
    routes = [*pairing_routes(devices.desk), *more]
    server = link_server(routes, body_limit=max(MAX_REQUEST_BYTES, MAX_PEER_BODY_BYTES))
    try:
        trust = _Trust(seed, members)
        context = trust.current()
        follow(context, trust.current)
        await server.listen_tcp(config.link_host, config.link_port, tls=context)
    except BaseException:
        await server.stop()
        raise
    return server
