"""A cluster whose node directories are on this machine: what is running, and is it well.

Rules kept here:

* A node runs when a process holds its directory's lock; how it is doing it says itself, over its
  public API.
* Only what does not run is started. A cluster is ready when every node answers, has a block and
  is not catching up any more.

Not handled here: making the directories (``initialize``), processes (``launch``), output.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters import config as toml
from edgistry.adapters.node_client import NodeClient
from edgistry.api import StatusAnswer
from edgistry.codec import Document
from edgistry.errors import DirectoryError, NodeFailedError, Refused, TimedOutError

from .addresses import is_loopback, url_host
from .config import PORTS_PER_NODE
from .config_cluster import ClusterConfig
from .directory import NodeDirectory, open_directory, running_pid
from .initialize import CLUSTER_FILE
from .launch import last_words, start_node

STATUS_TIMEOUT_S = 3.0
TELL_EVERY_S = 3.0
_POLL_S = 0.2
_LATE_AND_LEFT = "the nodes go on trying, and `cluster logs` shows what they do"
_LATE_AND_STOPPED = (
    "the nodes started here are stopped again, and `cluster logs` shows what they did; --wait gives"
    " them longer, --detach leaves them running"
)

Tell = Callable[[str], None]
Started = dict["ClusterNode", "subprocess.Popen[bytes]"]
"""Nodes that were started, and their processes."""


class NodeStatus(Document):
    """One node of a cluster; what only a running node knows is null when it does not answer."""

    node: str
    api: str
    running: bool
    height: int | None = None
    app_hash: str | None = None
    block_time: str | None = None
    peers: int | None = None
    catching_up: bool | None = None
    services: int | None = None
    outbox: int | None = None


class ClusterStatus(Document):
    """All nodes, in order."""

    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """A node of a cluster: its directory here, and where its API answers."""

    directory: NodeDirectory
    api: str
    is_local: bool
    name: str


def open_cluster(root: Path) -> tuple[ClusterConfig, tuple[ClusterNode, ...]]:
    """The cluster in ``root``.

    Raises:
        DirectoryError: it is none, or a node's directory is missing.
        ConfigError: one of its files is wrong.
    """
    root = root.absolute()
    if not (root / CLUSTER_FILE).exists():
        advice = f"`edgistry-node cluster init {root}` makes one"
        if (root / "node.toml").exists():
            advice = f"it is a single node: use `edgistry-node run {root}`"
        raise DirectoryError(f"{root} is no cluster's directory (it has no cluster.toml); {advice}")
    cluster = toml.load(root / CLUSTER_FILE, ClusterConfig)
    return cluster, tuple(
        _node(root / name, host, cluster.base_port + PORTS_PER_NODE * number)
        for number, (name, host) in enumerate(zip(cluster.names, cluster.hosts, strict=True))
    )


def _node(path: Path, host: str, api_port: int) -> ClusterNode:
    if not is_loopback(host):
        # Its directory is a copy to take elsewhere: only the host says where it runs.
        return ClusterNode(
            directory=NodeDirectory(path),
            api=f"http://{url_host(host)}:{api_port}",
            is_local=False,
            name=path.name,
        )
    directory, config = open_directory(path)
    return ClusterNode(directory=directory, api=config.api_url, is_local=True, name=config.name)


async def node_status(node: ClusterNode) -> NodeStatus:
    """How ``node`` is doing now."""
    alive = node.is_local and running_pid(node.directory) is not None
    if node.is_local and not alive:
        return NodeStatus(node=node.name, api=node.api, running=False)
    try:
        async with NodeClient(node.api, timeout_s=STATUS_TIMEOUT_S) as client:
            answer = await client.status()
    except Refused:
        # A process that does not answer is there all the same; elsewhere nobody can tell.
        return NodeStatus(node=node.name, api=node.api, running=alive)
    return status_of(node.name, node.api, answer)


async def node_remarks(node: ClusterNode) -> list[str]:
    """Why writes to ``node`` wait, and what its operator should do something about."""
    try:
        async with NodeClient(node.api, timeout_s=STATUS_TIMEOUT_S) as client:
            ready = await client.ready()
    except Refused:
        return []
    return [
        *(f"writes wait: {reason}" for reason in ready.reasons),
        *(f"warning: {warning}" for warning in ready.warnings),
    ]


def status_of(name: str, api: str, answer: StatusAnswer) -> NodeStatus:
    """What a node that runs says about itself."""
    return NodeStatus(
        node=name,
        api=api,
        running=True,
        height=answer.height,
        app_hash=answer.app_hash,
        block_time=answer.block_time,
        peers=answer.peers,
        catching_up=answer.catching_up,
        services=answer.services,
        outbox=answer.outbox,
    )


async def cluster_status(nodes: Sequence[ClusterNode]) -> ClusterStatus:
    """How all ``nodes`` are doing now, asked at once."""
    return ClusterStatus(nodes=tuple(await asyncio.gather(*map(node_status, nodes))))


def is_ready(status: NodeStatus) -> bool:
    """Whether a node takes part: it answers, has a block, and has caught up."""
    return status.running and bool(status.height) and status.catching_up is False


def start_missing(nodes: Sequence[ClusterNode], started: Started, *, tell: Tell) -> None:
    """Start what does not run, and put it into ``started``.

    Raises:
        DirectoryError: a node belongs to another machine; nothing was started.
    """
    elsewhere = [node for node in nodes if not node.is_local]
    if elsewhere:
        raise DirectoryError(
            f"{elsewhere[0].name} belongs to another machine ({elsewhere[0].api}): copy its"
            f" directory there and run `edgistry-node run` on it; do not run the original as well"
        )
    for node in nodes:
        if running_pid(node.directory) is None:
            tell(f"starting {node.name} ({node.api})")
            started[node] = start_node(node.directory)


async def wait_ready(
    nodes: Sequence[ClusterNode], started: Started, *, wait_s: float, stays: bool, tell: Tell
) -> None:
    """Wait until all ``nodes`` are ready, those that were ``started`` and the others.

    ``stays`` says whether the started ones are left running when they are late.

    Raises:
        NodeFailedError: a node ended again; what it printed is in the detail.
        TimedOutError: not ready in time.
    """
    deadline = time.monotonic() + wait_s
    told_at, told_ready = time.monotonic(), 0
    while True:
        status = await cluster_status(nodes)
        for node, process in started.items():
            if process.poll() is not None:
                raise NodeFailedError(
                    f"{node.name} ended with exit code {process.returncode}; it printed:\n"
                    + last_words(node.directory)
                )
        late = [each for each in status.nodes if not is_ready(each)]
        if not late:
            return
        ready, now = len(nodes) - len(late), time.monotonic()
        waiting = ", ".join(f"{each.node} ({_why(each)})" for each in late)
        if ready > told_ready or now - told_at >= TELL_EVERY_S:
            tell(f"{ready} of {len(nodes)} nodes are ready; waiting for {waiting}")
            told_at, told_ready = now, ready
        if now > deadline:
            raise TimedOutError(
                f"after {wait_s:g} s still waiting for {waiting}; "
                + (_LATE_AND_LEFT if stays else _LATE_AND_STOPPED)
            )
        await asyncio.sleep(_POLL_S)


def _why(status: NodeStatus) -> str:
    if not status.running:
        return "starting"
    if status.height is None:
        return "not answering yet"
    if not status.height:
        return "no block yet"
    return f"catching up, height {status.height}"
