"""What an operator can set: ``node.toml`` of one node.

Rules kept here: pure values with their ranges; which engine a directory was made for is recorded
here and cannot be changed later, since blocks and keys of one engine mean nothing to the other.

Not handled here: what is set for clients (``config_guards``), ``cluster.toml``
(``config_cluster``), reading the files (``edgistry.adapters.config``), where they are
(``directory``), and consensus parameters, which live in the chain's genesis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgistry.adapters.config import section, setting, tables
from edgistry.adapters.log import Level
from edgistry.errors import InvalidValueError
from edgistry.handlers import check_module
from edgistry.woof import check_handler, split_name
from edgistry.woof_uri import parse_woof_uri

from .addresses import check_host, check_peers, check_port, url_host
from .config_guards import AuditConfig, BudgetsConfig, GrantsConfig, PrivacyConfig

EngineKind = Literal["solo", "cometbft", "none"]
EngineLevel = Literal["debug", "info", "error", "none"]

DEFAULT_BASE_PORT = 27000
PORTS_PER_NODE = 10
"""Node i of a cluster has base + 10 i: API, + 1 p2p, + 2 engine RPC, + 3 link."""
P2P_OFFSET, RPC_OFFSET, PEER_LINK_OFFSET = 1, 2, 3

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,49}")


def check_name(name: str) -> None:
    """Raises InvalidValueError unless ``name`` may name a node."""
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            "a node name has up to 50 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
        )


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
