"""``edgistry-agent move``: the device is somewhere else.

Rules kept here:

* What is told is durable before it is told, so that all nodes hear the same, and hear it again
  after a crash. The agent may run meanwhile: neither its keys nor its pairings change.
* Who is not far enough from where it was tells nobody where it is: the published place would not
  change, and its node need not know. A device that has moved before says again to where: a node
  that has missed it hears it then.

Not handled here: what a move is (``whereabouts``), and when it shows (the node: with the next
privacy epoch).
"""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from edgistry.adapters.clock import wall_us
from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.adapters.http import run as run_loop
from edgistry.cell import check_cell, parse_cell
from edgistry.codec import Document
from edgistry.errors import CannotReachError, Refused
from edgistry.pairing import Moved
from edgistry.position import SEED_BYTES, Position, check_told

from .directory import (
    AgentDirectory,
    hold_whereabouts,
    open_directory,
    read_epoch,
    read_manifest,
)
from .offer import told_position
from .pair_link import tell_where
from .pairing import Pairing, read_pairings
from .whereabouts import Whereabouts, current_whereabouts, reported, write_whereabouts

TIMEOUT_S = 30.0


class MoveAnswer(Document):
    """What reporting a position did."""

    has_moved: bool
    """Whether it is far enough from where the device was."""
    moves: int
    told: tuple[str, ...]
    """Names of the nodes that know."""
    not_told: tuple[str, ...]


@click.command("move")
@directory_argument
@option("--lat", env="EDGISTRY_LAT", type=float, metavar="DEGREES", help="Latitude.")
@option("--lon", env="EDGISTRY_LON", type=float, metavar="DEGREES", help="Longitude.")
@option("--cell", env="EDGISTRY_CELL", metavar="CELL", help="An H3 cell instead of both.")
@json_option
def move(
    directory: Path, lat: float | None, lon: float | None, cell: str | None, as_json: bool
) -> None:
    """Report where the device in DIR is now, as often as you like; the agent may run.

    It has moved when it is farther from where it was than 1.5 km and than its noise. Its nodes hear
    of that, and publish it there when the next privacy epoch begins: nobody can follow it from cell
    to cell. Of less they hear nothing. Each call says again where it moved last, for a node that
    could not be told; so does the next pairing.

    Arguments are seen by other users of the machine, the variables EDGISTRY_LAT and EDGISTRY_LON
    are not.
    """
    layout, _ = open_directory(directory)
    position = _position(lat, lon, cell)
    manifest = read_manifest(layout)
    check_told(manifest.privacy.policy, position)
    with hold_whereabouts(layout):
        known = current_whereabouts(
            layout.whereabouts_file, manifest, seed=secrets.token_bytes(SEED_BYTES)
        )
        now = reported(known, position, noise_m=manifest.privacy.noise_m)
        if now != known:
            write_whereabouts(layout.whereabouts_file, now)
        told, not_told = _tell_all(layout, now)
    answer = MoveAnswer(
        has_moved=now != known, moves=now.moves, told=tuple(told), not_told=tuple(not_told)
    )
    if as_json:
        print_json(answer)
    else:
        click.echo(_said(answer))
    if not_told and not told:
        raise CannotReachError("no node could be told; call it again")


def _said(answer: MoveAnswer) -> str:
    """What came of it, for people."""
    if answer.has_moved and not answer.told and not answer.not_told:
        return "moved; a node hears of it when the device is paired"
    if answer.has_moved:
        return "moved; it shows when the next privacy epoch begins"
    if answer.told:
        return f"not far enough from where it was to show, as {', '.join(answer.told)} heard again"
    return "not far enough from where it was to show"


def _position(lat: float | None, lon: float | None, cell: str | None) -> Position:
    if cell is not None and lat is None and lon is None:
        return check_cell(parse_cell(cell))
    if cell is not None or lat is None or lon is None:
        raise click.UsageError("give --lat and --lon, or --cell")
    return lat, lon


def _tell_all(layout: AgentDirectory, now: Whereabouts) -> tuple[list[str], list[str]]:
    """Names of the nodes that could be told, and of those that could not."""
    if not now.moves:
        return [], []  # they were told when they were paired
    lat, lon, cell = told_position(now.position)
    moved = Moved(what="edgistry move 1", lat=lat, lon=lon, cell=cell, moves=now.moves)
    told: list[str] = []
    not_told: list[str] = []
    for pairing in read_pairings(layout.root, epoch=read_epoch(layout)):
        names = told if _tell(pairing, moved) else not_told
        names.append(pairing.answer.node_name)
    return told, not_told


def _tell(pairing: Pairing, moved: Moved) -> bool:
    try:
        run_loop(tell_where(pairing, moved, now_us=wall_us(), timeout_s=TIMEOUT_S))
    except Refused as error:
        tell(f"{pairing.answer.node_name}: {error.detail}")
        return False
    return True
