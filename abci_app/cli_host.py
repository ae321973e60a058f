"""``edgistry-node host``: WooFs, handlers and forwards without a registry."""

from __future__ import annotations

from pathlib import Path

import click

from edgistry.adapters.commands import directory_argument
from edgistry.errors import ConfigError

from .cli_node import console_option, run_directory
from .directory import open_directory


@click.command("host")
@directory_argument
@console_option
def host(directory: Path, console: bool | None) -> None:
    """Run the host in DIR until SIGTERM or Ctrl-C.

    A host is what a server in the cloud, or a laptop, has instead of a node: the same WooFs,
    handlers, forwards and operations, no registry and no engine. Make one with
    `edgistry-node init DIR --engine none`.
    """
    layout, config = open_directory(directory)
    if config.engine != "none":
        raise ConfigError(
            f"{layout.config_file}: engine: {directory} is a node with a registry;"
            f" `edgistry-node run {directory}` runs it"
        )
    run_directory(layout, config, console=console)
