"""``cluster.toml``: the nodes that were made together, and the ports that they take.

Pure. Not handled here: the settings of each node (``config``), making them (``initialize``).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgistry.adapters.config import setting
from edgistry.errors import InvalidValueError

from .addresses import check_host, check_port, is_loopback
from .config import PEER_LINK_OFFSET, PORTS_PER_NODE

MAX_NODES = 100
"""Votes grow with the square of the validators; CometBFT is used with up to a few hundred."""


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
