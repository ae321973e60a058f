"""``edgistry-node init | run | status | abci``: one node."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click

from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.adapters.http import run as run_loop
from edgistry.adapters.log import close_logging, get_logger, setup_logging
from edgistry.codec import Document
from edgistry.errors import CannotReachError, Refused

from .cli_cluster import print_status
from .cli_shared import chain_options
from .cluster import ClusterNode, ClusterStatus, node_remarks, node_status
from .config import EngineKind, NodeConfig
from .directory import NodeDirectory, hold, open_directory
from .engine import find_engine
from .initialize import init_host, init_node, new_chain_id

logger = get_logger("edgistry.node")


class InitAnswer(Document):
    """A node's directory that was made."""

    directory: str
    node: str
    engine: str
    chain_id: str


@click.command("init")
@directory_argument
@option(
    "--engine",
    env="EDGISTRY_ENGINE_KIND",
    type=click.Choice(["solo", "cometbft", "none"]),
    metavar="solo|cometbft|none",
    default="solo",
    help="What makes blocks, none for a host; recorded in DIR, and there is no conversion.",
)
@option("--name", env="EDGISTRY_NAME", metavar="NAME", default="node0", help="Name of the node.")
@chain_options(ports="Port of the HTTP API; cometbft takes the two after it as well.")
@json_option
def init(
    directory: Path,
    engine: str,
    name: str,
    base_port: int,
    chain_id: str | None,
    lease_s: int,
    epoch_s: int,
    as_json: bool,
) -> None:
    """Make a single node in DIR, which must be empty or missing.

    For several nodes that agree with each other see `edgistry-node cluster init`. With --engine
    none it is a host: WooFs, handlers and forwards, for a server in the cloud or a laptop, without
    a registry (--chain-id, --lease-s and --epoch mean nothing there).

    Never run a copy of the directory beside the original, and never restore an old one of a
    cometbft node: two nodes with one key sign different blocks.
    """
    if engine == "none":
        chain_id = ""
        made = init_host(directory, name=name, base_port=base_port)
    else:
        chain_id = chain_id or new_chain_id()
        made = init_node(
            directory,
            name=name,
            engine=cast(EngineKind, engine),
            base_port=base_port,
            chain_id=chain_id,
            lease_s=lease_s,
            epoch_s=epoch_s,
        )
    if as_json:
        print_json(
            InitAnswer(directory=str(made.root), node=name, engine=engine, chain_id=chain_id)
        )
        return
    what = f"host {name}" if engine == "none" else f"node {name} ({engine})"
    click.echo(f"{what} is in {directory.absolute()}")
    click.echo(f"run it: edgistry-node {'host' if engine == 'none' else 'run'} {directory}")


console_option = option(
    "--console/--no-console",
    env="EDGISTRY_CONSOLE",
    default=None,
    help="Also show on stderr what happens.  [default: when it is a terminal]",
)


@click.command("run")
@directory_argument
@console_option
def run(directory: Path, console: bool | None) -> None:
    """Run the node in DIR until SIGTERM or Ctrl-C.

    One process that starts and watches its consensus engine, serves the HTTP API and takes the
    operator's commands on DIR/run/admin.sock. Logs are in DIR/logs.
    """
    layout, config = open_directory(directory)
    run_directory(layout, config, console=console)


def run_directory(layout: NodeDirectory, config: NodeConfig, *, console: bool | None) -> None:
    """Run what is in ``layout``, a node or a host, until SIGTERM or Ctrl-C.

    ``console``: whether to show on stderr what happens; ``None``: if that is a terminal.
    """
    shown = sys.stderr.isatty() if console is None else console
    with hold(layout), _logging(layout, config, shown):
        try:
            say = tell if shown else _silent
            # Loaded here: the other commands start in half the time without it.
            if config.engine == "none":
                from .host import run_host

                run_loop(run_host(layout, config, tell=say))
            else:
                from .node import run_node

                binary = find_engine() if config.engine == "cometbft" else None
                run_loop(run_node(layout, config, engine_binary=binary, tell=say))
        except Refused as refusal:
            logger.error("the node stops", code=refusal.code, reason=refusal.detail)
            raise
        except Exception:
            logger.critical("the node stops: this is a bug", exc_info=True)
            raise


@click.command("abci")
@directory_argument
@option(
    "--port",
    env="EDGISTRY_ABCI_PORT",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Listen on this port of 127.0.0.1 instead of DIR/run/abci.sock.",
)
def abci(directory: Path, port: int | None) -> None:
    """Run only the ABCI server of the node in DIR, without an engine, until SIGTERM or Ctrl-C.

    For protocol tests with an ABCI client: whoever connects can commit blocks.
    """
    from .node import run_abci

    layout, config = open_directory(directory)
    with hold(layout), _logging(layout, config, sys.stderr.isatty()):
        run_loop(run_abci(layout, config, port=port, tell=tell))


@contextlib.contextmanager
def _logging(layout: NodeDirectory, config: NodeConfig, console: bool) -> Iterator[None]:
    setup_logging(level=config.log.level, path=layout.logs_dir / "node.log", console=console)
    try:
        yield
    finally:
        close_logging()


def _silent(_text: str) -> None:
    """Nobody is watching."""


@click.command("status")
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show how the node in DIR is doing; exits with 3 if it does not run."""
    layout, config = open_directory(directory)
    node = ClusterNode(directory=layout, api=config.api_url, is_local=True, name=config.name)
    answer = run_loop(node_status(node))
    if as_json:
        print_json(answer)
    else:
        print_status(ClusterStatus(nodes=(answer,)))
        for remark in run_loop(node_remarks(node)) if answer.running else ():
            tell(remark)
    if not answer.running or answer.height is None:
        why = "does not answer" if answer.running else "does not run"
        raise CannotReachError(f"{config.name} {why}; `edgistry-node run {directory}` starts it")
