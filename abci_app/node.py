"""One running node: its parts, in the order in which they start and stop.

Rules kept here:

* Start: handlers' module, databases, application, ABCI socket, engine, use cases and handlers,
  the link, the operator's socket, HTTP. A node that cannot have one of them says why and starts
  nothing further.
* Stop, in the reverse order, on SIGTERM or Ctrl-C: nobody is answered by half a node, and the
  engine ends while the application still answers it.
* What only a bug or damaged data can cause stops the node: halting is safe, diverging is not.

Not handled here: what the parts do; the lock on the directory (``directory.hold``), which the
caller keeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from edgistry import __version__
from edgistry.adapters.crypto import public_key_of, signer
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.log import get_logger
from edgistry.errors import ChainMismatchError, ConfigError, UnavailableError
from edgistry.transactions import NodeId, node_id_of, owner_tag

from .abci_server import ABCIServer
from .addresses import peer_id_of
from .admin_audit import audit_admin_routes
from .admin_forwards import forward_routes
from .admin_issuing import issuing_routes
from .admin_server import admin_server
from .any_grants import AnyGrantDesk
from .anycast_parts import open_anycast_parts
from .application import RegistryApplication
from .comet_config import Genesis, read_genesis
from .config import NodeConfig
from .consensus import CometConsensus, Consensus, SoloConsensus, check_port_free
from .device_parts import listen_on_link, open_device_parts
from .directory import NodeDirectory, read_registry_seed
from .doors import Doors, party_budget
from .grants import GrantDesk
from .handler_desk import HandlerDesk
from .http_server import public_server
from .issuing_desk import IssuingDesk
from .mailbox_parts import open_mailbox_parts
from .members_desk import MembersDesk, member_routes
from .metrics import NodeMetrics
from .over_limits import OverLimits
from .pairing import PairingTable
from .peer_parts import open_peer_parts, under_way
from .query_audit import open_query_audit
from .running import Running, stop_signal
from .schema import Member, genesis_members
from .service import NodeService
from .woof_parts import load_node_handlers, open_woof_parts

logger = get_logger("edgistry.node")

Tell = Callable[[str], None]


async def run_node(
    directory: NodeDirectory,
    config: NodeConfig,
    *,
    engine_binary: Path | None,
    tell: Tell,
) -> None:
    """Run the node of ``directory`` until SIGTERM or Ctrl-C; then everything has stopped.

    ``engine_binary`` is CometBFT's, ``None`` for a solo node.

    Raises:
        Refused: the node cannot run as it is; the detail says what to do.
        Exception: a bug; the node has stopped.
    """
    if config.engine == "none":
        raise ConfigError(
            f"{directory.root} is a host, without a registry; `edgistry-node host` runs it"
        )
    stop = stop_signal()
    async with AsyncExitStack() as parts:
        seed = read_registry_seed(directory)
        public_key = public_key_of(seed)
        node_id = node_id_of(public_key)
        genesis = read_genesis(directory.genesis_file)
        first_members = genesis_members(genesis.state)
        if node_id not in first_members and not directory.member_card_file.exists():
            raise ConfigError(
                f"{directory.genesis_file}: this node's key is not among the members; the files of"
                " two nodes or clusters are mixed up"
            )
        handlers = load_node_handlers(directory, config)
        await check_port_free(config.api.host, config.api.port, "api")
        await check_port_free(config.link_host, config.link_port, "link")
        app = _open_application(parts, directory, config, genesis)
        local = open_woof_parts(parts, directory, config, handlers)
        consensus = _consensus(directory, config, app, genesis, engine_binary)
        parts.push_async_callback(consensus.stop)
        await consensus.start()
        over_limits = OverLimits(local.queues, config.privacy.limits)
        service = NodeService(
            name=config.name,
            engine=config.engine,
            chain_id=genesis.chain_id,
            node_id=node_id,
            owner=owner_tag(public_key),
            sign=signer(seed),
            store=local.queues,
            reader=app.reader,
            sink=consensus.sink,
            view=lambda: consensus.view,
            warnings=lambda: [*local.forwards.warnings(), *over_limits.warnings()],
            limits=config.privacy.limits,
        )
        pairings = PairingTable(local.queues)
        mail = open_mailbox_parts(local.queues, local.woofs, pairings, local.authority)
        devices = open_device_parts(
            config,
            seed=seed,
            store=local.queues,
            woofs=local.woofs,
            authority=local.authority,
            registrar=service.registrar,
            moves=service.moves,
            queue=mail.own,
            handlers=handlers,
        )
        mail.exchanges.on_exchange = devices.stand_ins.heard
        mail.exchanges.epoch_ends_us = lambda: service.epochs.keys.chain_ends_us

        def members() -> Mapping[NodeId, Member]:
            return app.reader.members() or first_members

        budget = party_budget(config)
        if budget is not None:
            mail.requests.budget = budget
        grants = GrantDesk(
            pairings,
            config.grants,
            service.epochs.keys,
            epoch_ends_us=lambda: service.epochs.keys.ends_us,
        )
        any_grants = AnyGrantDesk(grants)
        peers = open_peer_parts(
            config,
            seed=seed,
            node_id=node_id,
            members=members,
            store=local.queues,
            committer=local.woofs.committer,
            find=app.reader.service,
            requests=mail.requests,
            grants=grants,
            any_grants=any_grants,
            keys=service.epochs.keys,
        )
        anycast = open_anycast_parts(
            service.discoverer,
            node_id=node_id,
            keys=service.epochs.keys,
            reader=app.reader,
            local=any_grants,
            links=peers.links,
        )
        service.discoverer.outstanding = under_way(mail.writer.boxes, peers.book)
        parts.push_async_callback(peers.courier.close)
        audit = open_query_audit(config, local.woofs, seed=seed)
        tasks = Running(
            consensus.run(),
            service.run(),
            over_limits.run(),
            *local.running(),
            *mail.running(),
            *devices.running(),
            *peers.running(),
            *([] if audit is None else [audit.run()]),
        )
        async with tasks as running, AsyncExitStack() as doors:
            metrics = NodeMetrics()
            local.watch(metrics)
            mail.watch(metrics)
            devices.watch(metrics)
            service.watch_metrics(metrics)
            peers.watch(metrics)
            anycast.watch(metrics)
            guards = Doors.of(config, note=None if audit is None else audit.note)
            guards.watch(metrics)
            http = public_server(
                service,
                local.door,
                version=__version__,
                metrics=metrics,
                devices=peers.handlers(mail.exchanges, anycast),
                around=guards.around,
            )
            link = await listen_on_link(
                config,
                devices,
                seed=seed,
                members=lambda: frozenset(each.public_key for each in members().values()),
                more=peers.routes,
            )
            doors.push_async_callback(link.stop)
            desk = HandlerDesk(local.runtime, module=config.handlers.module, outbox=service.outbox)
            issuing = IssuingDesk(local.authority, local.woofs.committer)
            more = [
                *forward_routes(local.forwards),
                *issuing_routes(issuing),
                *member_routes(MembersDesk(app.reader, service.outbox, node_id=node_id)),
                *devices.admin_routes(),
                *mail.admin_routes(),
                *audit_admin_routes(audit),
            ]
            admin = admin_server(service, desk, more=more)
            doors.push_async_callback(admin.stop)
            await admin.listen_unix(directory.admin_socket)
            # Last: whoever is answered over HTTP finds the other doors open too.
            doors.push_async_callback(http.stop)
            await http.listen_tcp(config.api.host, config.api.port)
            logger.info("the node runs", name=config.name, api=config.api_url)
            tell(f"{config.name} runs: {config.api_url} (engine {config.engine}); Ctrl-C stops it")
            await running.until(stop)
            logger.info("the node stops, as asked")
    logger.info("the node has stopped")


async def run_abci(
    directory: NodeDirectory, config: NodeConfig, *, port: int | None, tell: Tell
) -> None:
    """Serve only the application of ``directory``, until SIGTERM or Ctrl-C.

    Raises:
        Refused: it cannot be served as it is.
        Exception: a bug; nothing is served any more.
    """
    stop = stop_signal()
    async with AsyncExitStack() as parts:
        genesis = read_genesis(directory.genesis_file)
        app = _open_application(parts, directory, config, genesis)
        if port is None:
            server = ABCIServer(app, path=directory.abci_socket)
            where = f"unix://{directory.abci_socket}"
        else:
            server = ABCIServer(app, port=port)
            where = f"tcp://127.0.0.1:{port}"
        async with Running(server.serve()) as running:
            tell(f"ABCI server of {config.name} on {where}, height {app.reader.head.height}")
            await running.until(stop)


def _open_application(
    parts: AsyncExitStack, directory: NodeDirectory, config: NodeConfig, genesis: Genesis
) -> RegistryApplication:
    registry = LevelKeyValue(directory.registry_db)
    parts.callback(registry.close)
    allowed = frozenset(peer_id_of(member) for member in config.peers.members)
    app = RegistryApplication(registry, allowed_peer_ids=allowed.__contains__)
    with contextlib.suppress(UnavailableError):  # no chain has begun here
        found = app.reader.parameters.chain_id
        if found != genesis.chain_id:
            raise ChainMismatchError(
                f"{directory.registry_db} belongs to chain {found!r},"
                f" {directory.genesis_file} to {genesis.chain_id!r}"
            )
    return app


def _consensus(
    directory: NodeDirectory,
    config: NodeConfig,
    app: RegistryApplication,
    genesis: Genesis,
    engine_binary: Path | None,
) -> Consensus:
    if engine_binary is None:
        return SoloConsensus(app, genesis)
    return CometConsensus(directory, config, app, engine_binary)
