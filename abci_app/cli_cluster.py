"""``edgistry-node cluster``: several nodes whose directories are made together."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edgistry.adapters.commands import (
    directory_argument,
    json_option,
    option,
    print_json,
    print_table,
    tell,
)
from edgistry.adapters.http import run
from edgistry.codec import Document
from edgistry.errors import InvalidValueError
from edgistry.wording import visible

from .cli_shared import DURATION, chain_options
from .cluster import (
    ClusterNode,
    ClusterStatus,
    Started,
    cluster_status,
    open_cluster,
    start_missing,
    wait_ready,
)
from .follow import LogFollower
from .initialize import faults_tolerated, init_cluster, new_chain_id
from .launch import CONSOLE_LOG, end_processes, stop_nodes

FOLLOWED = ("node.log", CONSOLE_LOG)
"""Logs of a node that `cluster logs` and a foreground `cluster up` show."""
_POLL_S = 0.2


class ClusterInitAnswer(Document):
    """The directories of a new cluster, in order."""

    chain_id: str
    directories: tuple[str, ...]


class DownAnswer(Document):
    """How many nodes had to be stopped."""

    stopped: int


@click.group("cluster")
def cluster() -> None:
    """Several nodes on this machine, or their directories for several machines.

    Node i of a cluster in DIR has the directory DIR/nodeI and listens on BASE + 10 I (API),
    + 1 (other nodes) and + 2 (engine RPC). With n nodes, (n - 1) / 3 may fail.
    """


@cluster.command("init")
@directory_argument
@option(
    "--nodes",
    env="EDGISTRY_NODES",
    type=click.IntRange(1, 100),
    metavar="N",
    help="How many nodes.  [default: 4, or the number of hosts]",
)
@option(
    "--hosts",
    env="EDGISTRY_HOSTS",
    metavar="H0,H1,…",
    help="Make directories to copy to these machines, instead of nodes on this one.",
)
@chain_options(ports="First port; ten for each node.")
@json_option
def init(
    directory: Path,
    nodes: int | None,
    base_port: int,
    hosts: str | None,
    chain_id: str | None,
    lease_s: int,
    epoch_s: int,
    as_json: bool,
) -> None:
    """Make the directories of a new cluster in DIR, which must be empty or missing.

    Never run a copy of a node's directory beside the original, and never restore an old one:
    two nodes with one key sign different blocks, and the others shut both out.
    """
    chosen = _hosts(hosts, nodes)
    made = init_cluster(
        directory,
        hosts=chosen,
        base_port=base_port,
        chain_id=chain_id or new_chain_id(),
        lease_s=lease_s,
        epoch_s=epoch_s,
    )
    _say_what_may_fail(len(chosen))
    if as_json:
        paths = tuple(str(directory.absolute() / name) for name in made.names)
        print_json(ClusterInitAnswer(chain_id=made.chain_id, directories=paths))
        return
    click.echo(f"{len(chosen)} nodes of chain {made.chain_id} are in {directory.absolute()}")
    if made.is_local:
        click.echo(f"start them: edgistry-node cluster up {directory}")
    else:
        for name, host in zip(made.names, made.hosts, strict=True):
            click.echo(f"move {name} to {host} and run there: edgistry-node run …/{name}")


def _say_what_may_fail(nodes: int) -> None:
    if nodes in (2, 3):
        tell(
            f"warning: with {nodes} validators none may fail: if one stops, writes stop until it"
            " is back. Four is the smallest number that tolerates a fault."
        )
    elif nodes > 1:
        tell(f"{faults_tolerated(nodes)} of them may fail while the others go on")


def _hosts(hosts: str | None, nodes: int | None) -> tuple[str, ...]:
    if hosts is None:
        return ("127.0.0.1",) * (4 if nodes is None else nodes)
    chosen = tuple(host.strip() for host in hosts.split(",") if host.strip())
    if not chosen:
        raise click.UsageError("--hosts names no host")
    if nodes is not None and nodes != len(chosen):
        raise click.UsageError(f"--nodes says {nodes}, --hosts names {len(chosen)}")
    return chosen


@cluster.command("up")
@directory_argument
@option(
    "--detach",
    "-d",
    env="EDGISTRY_DETACH",
    is_flag=True,
    help="Return when the nodes are ready, and leave them running.",
)
@option(
    "--wait",
    "wait_s",
    env="EDGISTRY_WAIT",
    type=DURATION,
    metavar="DURATION",
    default="120s",
    help="How long the nodes may take to become ready.",
)
@json_option
def up(directory: Path, detach: bool, wait_s: float, as_json: bool) -> None:
    """Start the nodes in DIR that are not running.

    Without --detach it stays, shows their logs, and stops on Ctrl-C the nodes that it started.
    """
    _, nodes = open_cluster(directory)
    began = time.monotonic()
    started: Started = {}
    with _logs_of(nodes) as show:
        try:
            with _interrupts_later():
                start_missing(nodes, started, tell=tell)
            if not detach:
                # Whoever ends this program the polite way ends its nodes as well.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
            run(wait_ready(nodes, started, wait_s=wait_s, stays=detach, tell=tell))
            tell(f"all {len(nodes)} nodes are ready after {time.monotonic() - began:.1f} s")
            if as_json:
                print_json(run(cluster_status(nodes)))
            else:
                for node in nodes:
                    click.echo(f"{node.name}  {node.api}")
            if detach:
                return
            if not started:
                tell("they were running already: `cluster down` stops them")
                return
            tell("Ctrl-C stops them")
            _watch(started, show)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if started and (interrupted or not detach):
                tell(f"stopping {len(started)} nodes")
                end_processes(started.values(), wait_s=30)
            if not interrupted:
                raise


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold a Ctrl-C or SIGTERM back until the block is done, which must be short."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _: caught.append(got)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


def _watch(started: Started, show: Callable[[], None]) -> None:
    """Show the logs until none of the nodes runs."""
    running = dict(started)
    while running:
        time.sleep(_POLL_S)
        show()
        for node, process in list(running.items()):
            if process.poll() is not None:
                tell(f"{node.name} ended with exit code {process.returncode}")
                del running[node]


@cluster.command("status")
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show how the nodes in DIR are doing; exits with 1 unless all run."""
    _, nodes = open_cluster(directory)
    answer = run(cluster_status(nodes))
    if as_json:
        print_json(answer)
    else:
        print_status(answer)
    if not all(node.running for node in answer.nodes):
        raise SystemExit(1)


def print_status(answer: ClusterStatus) -> None:
    """A table for people."""
    header = ("node", "api", "state", "height", "app hash", "peers", "services", "outbox")
    rows = []
    for node in answer.nodes:
        if not node.running:
            state = "stopped"
        elif node.height is None:
            state = "silent"
        else:
            state = "catching up" if node.catching_up else "running"
        facts = (node.height, (node.app_hash or "")[:12] or None, node.peers, node.services)
        shown = ("–" if fact is None else fact for fact in (*facts, node.outbox))
        rows.append((node.node, node.api, state, *shown))
    print_table(header, rows)


@cluster.command("logs")
@directory_argument
@option("--node", env="EDGISTRY_LOGS_NODE", metavar="NAME", help="Only of this node.")
@option(
    "--lines",
    "-n",
    env="EDGISTRY_LOGS_LINES",
    type=click.IntRange(0, 100_000),
    metavar="N",
    default=20,
    help="How many of the last lines of each log.",
)
@option(
    "--engine",
    env="EDGISTRY_LOGS_ENGINE",
    is_flag=True,
    help="The logs of the consensus engines instead.",
)
@option("--follow", "-f", env="EDGISTRY_LOGS_FOLLOW", is_flag=True, help="Go on until Ctrl-C.")
def logs(directory: Path, node: str | None, lines: int, engine: bool, follow: bool) -> None:
    """Print the last lines of the logs of the nodes in DIR."""
    _, nodes = open_cluster(directory)
    if node is not None:
        nodes = tuple(each for each in nodes if each.name == node)
        if not nodes:
            raise InvalidValueError(f"there is no node called {node!r} in {directory}")
    names = ("engine.log",) if engine else FOLLOWED
    with _logs_of(nodes, names=names, lines=lines) as show:
        show()
        with contextlib.suppress(KeyboardInterrupt):
            while follow:
                time.sleep(_POLL_S)
                show()


@cluster.command("down")
@directory_argument
@option(
    "--wait",
    "wait_s",
    env="EDGISTRY_WAIT",
    type=DURATION,
    metavar="DURATION",
    default="30s",
    help="How long a node may take to stop before it is killed.",
)
@json_option
def down(directory: Path, wait_s: float, as_json: bool) -> None:
    """Stop the nodes in DIR that are running."""
    _, nodes = open_cluster(directory)
    local = [node.directory for node in nodes if node.is_local]
    stopped = stop_nodes(local, wait_s=wait_s, tell=tell)
    if as_json:
        print_json(DownAnswer(stopped=stopped))
    else:
        click.echo(f"{stopped} nodes stopped" if stopped else "no node was running")


@contextlib.contextmanager
def _logs_of(
    nodes: tuple[ClusterNode, ...], *, names: tuple[str, ...] = FOLLOWED, lines: int = 0
) -> Iterator[Callable[[], None]]:
    """A function that prints what was added to the nodes' logs since it was called last."""

    def printer(name: str) -> Callable[[str], None]:
        return lambda line: click.echo(f"{name} | {visible(line)}")

    followers = [
        LogFollower(node.directory.logs_dir / name, printer(node.name), lines=lines)
        for node in nodes
        for name in names
    ]

    def show() -> None:
        for follower in followers:
            follower.look()

    try:
        yield show
    finally:
        for follower in followers:
            follower.close()
