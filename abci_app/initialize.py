"""Making node directories: a single one, or all of a cluster together.

Rules kept here:

* Everything is checked before anything is written; a failure half-way leaves nothing behind.
* All nodes of a cluster get the same genesis, byte for byte, with every node as a member (it may
  write to the registry) and as a validator (it votes).
* Every key is a fresh one of its own: registry, validator, p2p.

Not handled here: layout and permissions (``directory``), the engine's files (``comet_config``).
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters import config as toml
from edgistry.adapters.crypto import generate_signing_key, public_key_of
from edgistry.codec import encode_json
from edgistry.errors import ConfigError, InvalidValueError
from edgistry.transactions import NodeId, check_chain_id, node_id_of

from . import comet_config
from .addresses import check_host, check_peers, check_port, is_loopback, url_host
from .comet_config import Genesis, Validator, genesis_document, peer_id
from .config import (
    P2P_OFFSET,
    PEER_LINK_OFFSET,
    PORTS_PER_NODE,
    RPC_OFFSET,
    ApiConfig,
    EngineConfig,
    EngineKind,
    LinkConfig,
    NodeConfig,
    PeerConfig,
    check_name,
)
from .config_cluster import MAX_NODES, ClusterConfig, check_base_port
from .directory import (
    NodeDirectory,
    check_empty,
    check_socket_paths,
    create_layout,
    fresh,
    read_registry_seed,
    write_config,
)
from .member_files import Invitation, MemberCard
from .schema import GenesisMember, GenesisState, genesis_bytes

LEASE_S = 600
EPOCH_S = 86_400
CLUSTER_FILE = "cluster.toml"
CLUSTER_FILE_TITLE = """\
The nodes that were made together in this directory. The nodes themselves do not read it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Seeds:
    """A node's three secrets: what it writes with, votes with and connects with."""

    registry: bytes
    validator: bytes
    p2p: bytes

    @classmethod
    def generate(cls) -> _Seeds:
        return cls(
            registry=generate_signing_key(),
            validator=generate_signing_key(),
            p2p=generate_signing_key(),
        )


def new_chain_id() -> str:
    """A chain id that no other chain has."""
    return f"edgistry-{secrets.token_hex(4)}"


def init_node(
    root: Path,
    *,
    name: str,
    engine: EngineKind,
    base_port: int,
    chain_id: str,
    lease_s: int = LEASE_S,
    epoch_s: int = EPOCH_S,
) -> NodeDirectory:
    """Afterwards ``root`` is a node that is a chain of its own.

    Raises:
        DirectoryError: ``root`` is not empty, too long for sockets, or cannot be written.
        InvalidValueError, ConfigError: a name, port or period out of range.
    """
    root = root.absolute()
    check_name(name)
    check_base_port(base_port, 1)
    config = NodeConfig(
        name=name,
        engine=engine,
        api=ApiConfig(port=base_port),
        peers=PeerConfig(port=base_port + P2P_OFFSET),
        cometbft=EngineConfig(rpc_port=base_port + RPC_OFFSET),
    )
    seeds = _Seeds.generate()
    genesis = _genesis([(name, seeds)], engine, chain_id, lease_s, epoch_s)
    check_socket_paths(root)
    with fresh(root):
        return _write_node(root, config, seeds, genesis_document(genesis))


def init_host(root: Path, *, name: str, base_port: int) -> NodeDirectory:
    """Afterwards ``root`` is a host: WooFs and handlers, and no registry.

    Raises:
        DirectoryError: ``root`` is not empty, too long for sockets, or cannot be written.
        InvalidValueError: a name or port out of range.
    """
    root = root.absolute()
    check_name(name)
    check_port(base_port)
    config = NodeConfig(name=name, engine="none", api=ApiConfig(port=base_port))
    check_socket_paths(root)
    with fresh(root):
        directory = NodeDirectory(root)
        create_layout(directory, registry_seed=None)
        write_config(directory, config)
    return directory


def init_cluster(
    root: Path,
    *,
    hosts: tuple[str, ...],
    base_port: int,
    chain_id: str,
    lease_s: int = LEASE_S,
    epoch_s: int = EPOCH_S,
) -> ClusterConfig:
    """Afterwards ``root`` holds one node directory for each host, ``node0`` …

    Raises:
        DirectoryError: ``root`` is not empty, too long for sockets, or cannot be written.
        InvalidValueError, ConfigError: a host, port or period out of range.
    """
    root = root.absolute()
    if not 1 <= len(hosts) <= MAX_NODES:
        raise InvalidValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {len(hosts)}")
    for host in hosts:
        check_host(host)
    check_base_port(base_port, len(hosts))
    cluster = ClusterConfig(chain_id=chain_id, base_port=base_port, hosts=hosts)
    seeds = [_Seeds.generate() for _ in hosts]
    named = list(zip(cluster.names, seeds, strict=True))
    genesis = genesis_document(_genesis(named, "cometbft", chain_id, lease_s, epoch_s))
    configs = _cluster_configs(cluster, seeds)
    check_empty(root)
    check_socket_paths(root / cluster.names[-1])
    with fresh(root):
        for config, keys in zip(configs, seeds, strict=True):
            (root / config.name).mkdir(mode=0o700)
            _write_node(root / config.name, config, keys, genesis)
        text = toml.render(cluster, title=CLUSTER_FILE_TITLE)
        (root / CLUSTER_FILE).write_text(text, encoding="utf-8")
    return cluster


def invitation_of(
    directory: NodeDirectory, config: NodeConfig, *, host: str | None = None
) -> Invitation:
    """What a node that is to join the chain of ``directory`` has to know.

    ``host`` is where others reach this node; by default what it listens on.

    Raises:
        ConfigError: no cluster's node, or it cannot tell where others reach it.
        DirectoryError, InvalidValueError.
    """
    if config.engine != "cometbft":
        raise ConfigError(f"{directory.root} has no engine; a node can join a cluster only")
    listens = config.peers.host
    if host is None and listens in {"0.0.0.0", "::"}:  # noqa: S104
        raise ConfigError("this node listens on all addresses; say --host, where others reach it")
    reached = url_host(host or listens)
    check_host(host or listens)
    _, own = comet_config.read_public_keys(directory)
    node_id = node_id_of(public_key_of(read_registry_seed(directory)))
    return Invitation(
        genesis=directory.genesis_file.read_text(encoding="utf-8"),
        peers=(f"{own}@{reached}:{config.peers.port}", *config.peers.members),
        links=(f"{node_id.hex()}@{reached}:{config.link_port}", *config.link.peers),
    )


def init_joining(
    root: Path, invitation: Invitation, *, name: str, host: str, base_port: int
) -> tuple[NodeDirectory, MemberCard]:
    """Afterwards ``root`` is a node that is to join the chain of ``invitation``; its card.

    Raises:
        DirectoryError: ``root`` is not empty, too long for sockets, or cannot be written.
        InvalidValueError, ConfigError: a name, host or port out of range, or no invitation.
    """
    root = root.absolute()
    check_name(name)
    check_host(host)
    check_base_port(base_port, 1)
    check_peers(invitation.peers)
    check_peers(invitation.links)
    data = invitation.genesis.encode()
    genesis = comet_config.parse_genesis_document(data, source="the invitation's genesis")
    seeds = _Seeds.generate()
    config = NodeConfig(
        name=name,
        engine="cometbft",
        api=ApiConfig(host=_listen_host(host), port=base_port),
        link=LinkConfig(peers=invitation.links),
        peers=PeerConfig(
            host=_listen_host(host), port=base_port + P2P_OFFSET, members=invitation.peers
        ),
        cometbft=EngineConfig(rpc_port=base_port + RPC_OFFSET),
    )
    card = MemberCard(
        chain_id=genesis.chain_id,
        name=name,
        public_key=public_key_of(seeds.registry).hex(),
        validator_key=public_key_of(seeds.validator).hex(),
        peer_id=peer_id(public_key_of(seeds.p2p)),
        link=f"{_node_id(seeds).hex()}@{url_host(host)}:{base_port + PEER_LINK_OFFSET}",
    )
    check_socket_paths(root)
    with fresh(root):
        directory = _write_node(root, config, seeds, data)
        directory.member_card_file.write_bytes(encode_json(card, indent=2) + b"\n")
    return directory, card


def faults_tolerated(nodes: int) -> int:
    """How many of ``nodes`` validators may fail while the others go on: less than a third."""
    return (nodes - 1) // 3


def _genesis(
    named: list[tuple[str, _Seeds]],
    engine: EngineKind,
    chain_id: str,
    lease_s: int,
    epoch_s: int,
) -> Genesis:
    check_chain_id(chain_id)
    state = GenesisState(
        chain_id=chain_id,
        lease_s=lease_s,
        epoch_s=epoch_s,
        members=tuple(
            GenesisMember(
                name=name,
                public_key=public_key_of(seeds.registry).hex(),
                validator_key=public_key_of(seeds.validator).hex() if engine == "cometbft" else "",
                peer_id=peer_id(public_key_of(seeds.p2p)) if engine == "cometbft" else "",
            )
            for name, seeds in named
        ),
    )
    genesis_bytes(state)  # checks the ranges
    validators = tuple(
        Validator(name=name, public_key=public_key_of(seeds.validator)) for name, seeds in named
    )
    return Genesis(
        chain_id=chain_id,
        # Whole seconds in the past: a node whose clock is a little behind need not wait.
        time_us=int(time.time()) * 1_000_000,
        validators=validators if engine == "cometbft" else (),
        state=state,
    )


def _cluster_configs(cluster: ClusterConfig, seeds: list[_Seeds]) -> list[NodeConfig]:
    ports = [cluster.base_port + PORTS_PER_NODE * number for number in range(len(seeds))]
    addresses = [
        f"{peer_id(public_key_of(keys.p2p))}@{url_host(host)}:{port + P2P_OFFSET}"
        for host, port, keys in zip(cluster.hosts, ports, seeds, strict=True)
    ]
    links = [
        f"{_node_id(keys).hex()}@{url_host(host)}:{port + PEER_LINK_OFFSET}"
        for host, port, keys in zip(cluster.hosts, ports, seeds, strict=True)
    ]
    return [
        NodeConfig(
            name=name,
            engine="cometbft",
            api=ApiConfig(host=_listen_host(host), port=port),
            link=LinkConfig(peers=tuple(link for link in links if link != own_link)),
            peers=PeerConfig(
                host=_listen_host(host),
                port=port + P2P_OFFSET,
                members=tuple(address for address in addresses if address != own),
            ),
            cometbft=EngineConfig(rpc_port=port + RPC_OFFSET),
        )
        for name, host, port, own, own_link in zip(
            cluster.names, cluster.hosts, ports, addresses, links, strict=True
        )
    ]


def _node_id(keys: _Seeds) -> NodeId:
    return node_id_of(public_key_of(keys.registry))


def _listen_host(host: str) -> str:
    if is_loopback(host):
        return "127.0.0.1" if host == "localhost" else host
    # Nodes on several machines have to reach each other, and clients to reach them.
    return "::" if ":" in host else "0.0.0.0"  # noqa: S104


def _write_node(root: Path, config: NodeConfig, seeds: _Seeds, genesis: bytes) -> NodeDirectory:
    directory = NodeDirectory(root)
    create_layout(directory, registry_seed=seeds.registry)
    directory.genesis_file.write_bytes(genesis)
    if config.engine == "cometbft":
        comet_config.create_home(directory, validator_seed=seeds.validator, p2p_seed=seeds.p2p)
        comet_config.write_config(directory, config)
    write_config(directory, config)
    return directory
