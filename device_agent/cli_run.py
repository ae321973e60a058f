"""``edgistry-agent init | run``: one device."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgistry.adapters import config as toml
from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.adapters.http import run as run_loop
from edgistry.adapters.log import close_logging, get_logger, setup_logging
from edgistry.codec import Document
from edgistry.errors import NotPairedError, Refused

from .cli_shared import period_options, told_cycle
from .config import AgentConfig, HandlersConfig
from .directory import (
    AgentDirectory,
    create,
    hold,
    open_directory,
    read_device_id,
    read_epoch,
)
from .examples import HANDLERS, HANDLERS_MODULE, manifest_text
from .homes import Home
from .manifest import Manifest
from .pairing import read_pairings

logger = get_logger("edgistry.agent")


class InitAnswer(Document):
    """A device's directory that was made."""

    directory: str
    device: str
    """The device's id."""


@click.command("init")
@directory_argument
@option(
    "--type", "type_name", env="EDGISTRY_TYPE", metavar="TYPE", default="computer",
    help="What it is, for instance thermometer.",
)  # fmt: skip
@option(
    "--lat", env="EDGISTRY_LAT", type=click.FloatRange(-90, 90), metavar="DEGREES",
    help="Latitude, north is positive. Stays at its home node.",
)  # fmt: skip
@option(
    "--lon", env="EDGISTRY_LON", type=click.FloatRange(-180, 180), metavar="DEGREES",
    help="Longitude, east is positive. Stays at its home node.",
)  # fmt: skip
@option(
    "--name", env="EDGISTRY_DEVICE_NAME", metavar="NAME", default="",
    help="Your own name for it. Stays at its home node.",
)  # fmt: skip
@period_options
@json_option
def init(
    directory: Path,
    type_name: str,
    lat: float | None,
    lon: float | None,
    name: str,
    period_s: int,
    any_period: bool,
    as_json: bool,
) -> None:
    """Make a device in DIR, which must be empty or missing.

    It gets a secret and an id of its own, and a manifest with one service to begin with: change
    DIR/manifest.toml and DIR/handlers, then pair the device with a node.

    Never run a copy of the directory beside the original: that is the same device twice.
    """
    config = AgentConfig(
        cycle=told_cycle(period_s, any_period=any_period),
        handlers=HandlersConfig(module=HANDLERS_MODULE),
    )
    # Checked with some position: that there is none yet is no reason to write what cannot be used.
    checked = manifest_text(name=name, type_name=type_name, lat=lat or 0.0, lon=lon or 0.0)
    toml.parse(checked, Manifest, source="manifest.toml")
    manifest = manifest_text(name=name, type_name=type_name, lat=lat, lon=lon)
    made = create(directory, config=config, manifest=manifest, handlers=HANDLERS)
    device = read_device_id(made)
    if as_json:
        print_json(InitAnswer(directory=str(made.root), device=device))
        return
    click.echo(f"device {device} is in {made.root}")
    if lat is None or lon is None:
        click.echo(f"say where it is: lat and lon in {made.manifest_file}")
    click.echo(f"pair it: edgistry-agent pair {directory} --node URL --code CODE")


@click.command("run")
@directory_argument
@option(
    "--once", env="EDGISTRY_ONCE", is_flag=True,
    help="One wake, then exit: 0 when a node has answered, 3 when none has.",
)  # fmt: skip
@option(
    "--console/--no-console", env="EDGISTRY_CONSOLE", default=None,
    help="Also show on stderr what happens.  [default: when it is a terminal]",
)  # fmt: skip
def run(directory: Path, once: bool, console: bool | None) -> None:
    """Run the device in DIR until SIGTERM or Ctrl-C.

    It wakes on its duty cycle, makes one exchange with its node, runs the handlers of the requests
    that came down, and sleeps on. Logs are in DIR/logs. With --once something else wakes it: cron,
    or a timer that switches the power on.
    """
    layout, config = open_directory(directory)
    shown = sys.stderr.isatty() if console is None else console
    with hold(layout), _logging(layout, config, shown):
        run_held(layout, config, once=once, shown=shown)


def run_held(layout: AgentDirectory, config: AgentConfig, *, once: bool, shown: bool) -> None:
    """Run the device in ``layout``, which this process holds."""
    # Loaded here: the other commands start sooner without it.
    from .device import run_device

    try:
        homes = read_homes(layout)
        say = tell if shown else _silent
        run_loop(run_device(layout, config, homes, once=once, tell=say))
    except Refused as refusal:
        logger.error("the device stops", code=refusal.code, reason=refusal.detail)
        raise
    except Exception:
        logger.critical("the device stops: this is a bug", exc_info=True)
        raise


def read_homes(layout: AgentDirectory) -> list[Home]:
    """The nodes that the device is paired with, the primary first.

    Raises:
        NotPairedError: there is none.
    """
    homes = [each.home for each in read_pairings(layout.root, epoch=read_epoch(layout))]
    if not homes:
        raise NotPairedError(f"the device in {layout.root} is not paired with a node")
    return homes


@contextlib.contextmanager
def _logging(layout: AgentDirectory, config: AgentConfig, console: bool) -> Iterator[None]:
    setup_logging(level=config.log.level, path=layout.log_file, console=console)
    try:
        yield
    finally:
        close_logging()


def _silent(_text: str) -> None:
    """Nobody is watching."""
