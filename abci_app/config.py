"""What an operator can set: ``node.toml`` of one node, ``cluster.toml`` of a local cluster.

Rules kept here: pure values with their ranges; which engine a directory was made for is recorded
here and cannot be changed later, since blocks and keys of one engine mean nothing to the other.

Not handled here: reading the files (``edgistry.adapters.config``), where they are
(``directory``), and consensus parameters, which live in the chain's genesis.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from edgistry.adapters.config import section, setting, tables
from edgistry.adapters.log import Level
from edgistry.cell import FINEST_PUBLISHED, check_published_resolution
from edgistry.errors import InvalidValueError
from edgistry.grants_api import MAX_TTL_S
from edgistry.handlers import check_module
from edgistry.policy import MAX_CROWD, MAX_NOISE_M, PolicyLimits
from edgistry.slots import DEFAULT_SLOT_US
from edgistry.woof import check_handler, split_name
from edgistry.woof_uri import parse_woof_uri

from .config_guards import AuditConfig, BudgetsConfig, check_slot

EngineKind = Literal["solo", "cometbft", "none"]
EngineLevel = Literal["debug", "info", "error", "none"]

DEFAULT_BASE_PORT = 27000
PORTS_PER_NODE = 10
"""Node i of a cluster has base + 10 i: API, + 1 p2p, + 2 engine RPC, + 3 link."""
P2P_OFFSET, RPC_OFFSET, PEER_LINK_OFFSET = 1, 2, 3
MAX_NODES = 100
"""Votes grow with the square of the validators; CometBFT is used with up to a few hundred."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,49}")
_CLIENT_ID = re.compile(r"[0-9a-f]{16}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PEER = re.compile(r"([0-9a-f]{40})@(\[[0-9a-fA-F:.]+\]|[^@:\[\]]+):([0-9]{1,5})")


def check_name(name: str) -> None:
    """Raises InvalidValueError unless ``name`` may name a node."""
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            "a node name has up to 50 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
        )


def check_port(port: int) -> None:
    """Raises InvalidValueError unless ``port`` can be listened on by number."""
    if not 1 <= port <= 65535:
        raise InvalidValueError(f"a port is a number from 1 to 65535, not {port}")


def check_host(host: str) -> None:
    """Raises InvalidValueError unless ``host`` is an IP address or a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise InvalidValueError(f"{host!r} is neither an IP address nor a host name") from None


def check_peers(peers: tuple[str, ...]) -> None:
    """Raises InvalidValueError unless every peer is ``id@host:port``."""
    for peer in peers:
        match = _PEER.fullmatch(peer)
        if match is None:
            raise InvalidValueError(
                f"{peer!r} is not ID@HOST:PORT with an ID of 40 hexadecimal digits"
            )
        check_host(match[2].strip("[]"))
        check_port(int(match[3]))


def peer_id_of(peer: str) -> str:
    """The peer id in a checked ``id@host:port``."""
    return peer.partition("@")[0]


def peer_host_of(peer: str) -> str:
    """The host in a checked ``id@host:port``, without brackets."""
    return peer.partition("@")[2].rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether ``host`` means this machine and can be reached from nowhere else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_host(host: str) -> str:
    """``host`` as it stands before a colon and a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """Where clients and devices reach this node over HTTP."""

    host: str = setting(
        "127.0.0.1", help="Address to listen on; 0.0.0.0 for all interfaces.", check=check_host
    )
    port: int = setting(DEFAULT_BASE_PORT, help="Port of the HTTP API.", check=check_port)


def check_link_host(host: str) -> None:
    """Raises InvalidValueError unless ``host`` is empty, an IP address or a host name."""
    if host:
        check_host(host)


def check_link_port(port: int) -> None:
    """Raises InvalidValueError unless ``port`` is 0 or can be listened on by number."""
    if port:
        check_port(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Where other nodes, and devices that pair, reach this node over TLS."""

    host: str = setting(
        "", help='Address to listen on; "" for that of the API.', check=check_link_host
    )
    port: int = setting(
        0, help="Port; 0 for the third after that of the API.", check=check_link_port
    )
    peers: tuple[str, ...] = setting(
        (),
        help=(
            "The links of the other nodes, as ID@HOST:PORT, with the ids that the registry has.\n"
            "Requests to services of a node that is not named here are refused."
        ),
        check=check_peers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """How the engine reaches the other nodes of the cluster (cometbft only)."""

    host: str = setting(
        "127.0.0.1", help="Address the engine listens on for other nodes.", check=check_host
    )
    port: int = setting(
        DEFAULT_BASE_PORT + P2P_OFFSET, help="Port for other nodes.", check=check_port
    )
    members: tuple[str, ...] = setting(
        (),
        help="The other nodes, as ID@HOST:PORT. Anybody else who connects is turned away.",
        check=check_peers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The consensus engine beside this node (cometbft only)."""

    rpc_port: int = setting(
        DEFAULT_BASE_PORT + RPC_OFFSET,
        help="Port of the engine's RPC, always on 127.0.0.1. It has no authentication.",
        check=check_port,
    )
    log_level: EngineLevel = setting(
        "info", help='Level of logs/engine.log: "debug", "info", "error" or "none".'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlersConfig:
    """The functions that run when something is put."""

    module: str = setting(
        "",
        help=(
            "Python module with the handlers: a file in the directory handlers/ beside this file,\n"
            'without ".py", or an installed module. "" for none.'
        ),
        check=check_module,
    )


def check_woof(name: str) -> None:
    """Raises InvalidValueError unless ``name`` may be a WooF's."""
    split_name(name)


def check_woof_uri(uri: str) -> None:
    """Raises MalformedError or InvalidValueError unless ``uri`` names a WooF at a node."""
    parse_woof_uri(uri)


def check_forward_handler(name: str) -> None:
    """Raises InvalidValueError unless ``name`` is empty or may name a handler."""
    if name:
        check_handler(name)


def check_capability_file(name: str) -> None:
    """Raises InvalidValueError unless ``name`` may be a file's, and no capability itself."""
    if not name or "\0" in name or ":" in name:
        # Never quoted: somebody may have put the secret itself here.
        raise InvalidValueError("name the file that holds the capability, without ':'")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardConfig:
    """A WooF whose elements go onward to another runtime."""

    woof: str = setting(help="The WooF here: namespace/woof.", check=check_woof)
    to: str = setting(help="The WooF there: woof://HOST:PORT/namespace/woof.", check=check_woof_uri)
    capability_file: str = setting(
        help=(
            "File (mode 0600) with a capability that allows to put there; a relative path begins\n"
            "at this directory. Read again when it is refused, so it can be replaced."
        ),
        check=check_capability_file,
    )
    handler: str = setting(
        "",
        help='Handler there that is to run on each element; "" for none.',
        check=check_forward_handler,
    )


def check_client_ids(ids: tuple[str, ...]) -> None:
    """Raises InvalidValueError unless every id is a client's."""
    for text in ids:
        if not _CLIENT_ID.fullmatch(text):
            raise InvalidValueError(f"{text[:40]!r} is no client id: 16 of 0-9 and a-f")


def check_grant_ttl(seconds: int) -> None:
    """Raises InvalidValueError unless ``seconds`` is a time that something may be granted for."""
    if not 1 <= seconds <= MAX_TTL_S:
        raise InvalidValueError(f"{seconds} is not from 1 to {MAX_TTL_S}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantsConfig:
    """Who is granted capabilities on the services of this node's devices."""

    anyone: Literal["read", "all", "none"] = setting(
        "read",
        help=(
            'What anyone is granted: "read", the actions that their owner declared so in the\n'
            'manifest; "all" actions; or "none".'
        ),
    )
    clients: tuple[str, ...] = setting(
        (),
        help="Clients that are granted all actions: ids, as `edgistry grant id` prints its own.",
        check=check_client_ids,
    )
    max_ttl_s: int = setting(
        30 * 86_400, help="The longest time to grant for, in seconds.", check=check_grant_ttl
    )


def check_noise(noise_m: int) -> None:
    """Raises InvalidValueError unless ``noise_m`` is a radius that may be asked for."""
    if not 0 <= noise_m <= MAX_NOISE_M:
        raise InvalidValueError(f"{noise_m} is not from 0 to {MAX_NOISE_M}")


def check_crowd(crowd: int) -> None:
    """Raises InvalidValueError unless ``crowd`` is a number of owners that may be asked for."""
    if not 1 <= crowd <= MAX_CROWD:
        raise InvalidValueError(f"{crowd} is not from 1 to {MAX_CROWD}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What the policies of devices may show, and what the time of answers tells."""

    finest_resolution: int = setting(
        FINEST_PUBLISHED,
        help="The finest cells that devices may be published in: 7 (about 5 km²), 6 or 5.",
        check=check_published_resolution,
    )
    least_noise_m: int = setting(0, help="The least radius of noise, in metres.", check=check_noise)
    least_crowd: int = setting(
        1, help="The least number of owners to be shown among.", check=check_crowd
    )
    slot_ms: int = setting(
        DEFAULT_SLOT_US // 1000,
        help=(
            "Whatever is answered about one service leaves at edges of slots of this length, so\n"
            "that the time it took tells nothing; 0: at once, for one's own devices and clients."
        ),
        check=check_slot,
    )
    jitter_ms: int = setting(
        0, help="And then later by up to this time, drawn for each answer.", check=check_slot
    )

    @property
    def limits(self) -> PolicyLimits:
        """These settings as rules."""
        return PolicyLimits(
            finest_resolution=self.finest_resolution,
            least_noise_m=self.least_noise_m,
            least_crowd=self.least_crowd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The node's own log."""

    level: Level = setting(
        "info", help='Level of logs/node.log: "debug", "info", "warning" or "error".'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node directory's ``node.toml``."""

    name: str = setting(help="Name of this node, unique in its cluster.", check=check_name)
    engine: EngineKind = setting(
        "solo",
        help=(
            'What makes blocks: "solo" (this node alone), "cometbft" (a cluster), or "none": a\n'
            "host, which has WooFs and handlers, and no registry.\n"
            "Recorded when the directory was made; it cannot be changed afterwards."
        ),
    )
    api: ApiConfig = section(
        ApiConfig, help="The HTTP API. Without a capability it can only be read."
    )
    link: LinkConfig = section(
        LinkConfig, help="The link over TLS: for devices that pair, and between nodes."
    )
    peers: PeerConfig = section(PeerConfig, help="The other nodes of the cluster.")
    cometbft: EngineConfig = section(EngineConfig, help="The CometBFT engine beside this node.")
    handlers: HandlersConfig = section(
        HandlersConfig, help="Functions that run when something is put into a WooF."
    )
    grants: GrantsConfig = section(
        GrantsConfig, help="Capabilities on the services of devices that are paired with this node."
    )
    privacy: PrivacyConfig = section(
        PrivacyConfig,
        help=(
            "What the policies of devices may show (one that shows more is refused, not changed),\n"
            "and when answers about them leave."
        ),
    )
    budgets: BudgetsConfig = section(BudgetsConfig, help="How much one client may ask.")
    audit: AuditConfig = section(AuditConfig, help="What was asked, for the operator.")
    log: LogConfig = section(LogConfig, help="Logs are in the directory logs/, by size.")
    forward: tuple[ForwardConfig, ...] = tables(
        help=(
            "Elements of a WooF go onward to another node or host, each once and in order. One\n"
            "such table for each WooF."
        )
    )

    def __post_init__(self) -> None:
        forwarded = [each.woof for each in self.forward]
        for woof in forwarded:
            if forwarded.count(woof) > 1:
                raise InvalidValueError(f"{woof} is forwarded twice; a WooF has one [[forward]]")
        for each in self.forward:
            place = parse_woof_uri(each.to)
            if (place.node, place.name) == (self.api_url, each.woof):
                raise InvalidValueError(f"{each.woof} is forwarded to itself, for ever")
        ports = [self.api.port]
        if self.engine != "none":
            check_port(self.link_port)
            ports.append(self.link_port)
        if self.engine == "cometbft":
            ports += [self.peers.port, self.cometbft.rpc_port]
        if len(set(ports)) < len(ports):
            raise InvalidValueError(
                f"api, link, peers and cometbft need different ports, not {ports}"
            )

    @property
    def link_host(self) -> str:
        """Where the link listens."""
        return self.link.host or self.api.host

    @property
    def link_port(self) -> int:
        """The port on which the link listens."""
        return self.link.port or self.api.port + PEER_LINK_OFFSET

    @property
    def api_url(self) -> str:
        """Where this machine reaches the node's API."""
        host = "127.0.0.1" if self.api.host in {"0.0.0.0", "::"} else self.api.host  # noqa: S104
        return f"http://{url_host(host)}:{self.api.port}"


def _check_hosts(hosts: tuple[str, ...]) -> None:
    if not 1 <= len(hosts) <= MAX_NODES:
        raise InvalidValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {len(hosts)}")
    for host in hosts:
        check_host(host)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """``cluster.toml``: the nodes whose directories were made together, in order."""

    chain_id: str = setting(help="Chain id of the cluster.")
    base_port: int = setting(
        help="Node i listens on base_port + 10 i (API), + 1 (peers), + 2 (engine RPC).",
        check=check_port,
    )
    hosts: tuple[str, ...] = setting(
        help="Host of node i, as the other nodes reach it.", check=_check_hosts
    )

    @property
    def names(self) -> tuple[str, ...]:
        """``node0``, ``node1`` …: names of the nodes and of their directories."""
        return tuple(f"node{number}" for number in range(len(self.hosts)))

    @property
    def is_local(self) -> bool:
        """Whether all nodes run on this machine."""
        return all(is_loopback(host) for host in self.hosts)


def check_base_port(base_port: int, nodes: int) -> None:
    """Raises InvalidValueError unless ``nodes`` nodes find their ports from ``base_port`` on."""
    last = base_port + PORTS_PER_NODE * (nodes - 1) + PEER_LINK_OFFSET
    if base_port < 1 or last > 65535:
        raise InvalidValueError(
            f"ports {base_port} to {last} are needed; choose a base port from 1"
            f" to {65535 - (last - base_port)}"
        )
