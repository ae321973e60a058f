"""``edgistry privacy``: what others will see of a place, before anything is published.

Rules kept here:

* The position never leaves this machine, and neither does the noise, which only a device's own seed
  makes: what is shown is the cell that it leads from, and about how many it may lead to.
* A node that is asked what is listed is asked by nobody, and about a wide area: a cell of
  resolution 5, or a coarser one if the noise is wider than that. Where there is noise, the cell of
  the place itself would tell more than what is ever published of it.
* A map has the place in it: its file is for its owner alone.

Not handled here: applying a policy (a device's home node does).
"""

from __future__ import annotations

import math
from pathlib import Path

import click

from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.secret_files import write_secret
from edgistry.api import MAX_RESULTS, CountEntry
from edgistry.cell import COARSEST_PUBLISHED, parent_of
from edgistry.codec import Answer, replace
from edgistry.errors import MissingLibraryError
from edgistry.policy import MAX_NOISE_M

from .cell_map import CellMap
from .output import print_facts, print_json, remark
from .params import json_option, option

_TERMINAL_PIXELS = 64
_PNG_PIXELS = 600


class _Metres(click.IntRange):
    """A whole number of them; a click type's name stands in what is said of another."""

    name = "whole number of metres"


class Explanation(Answer):
    """What is published of a place, as JSON has it."""

    cell: str
    """The published cell; with noise, the one that is as likely as any."""
    resolution: int
    center: tuple[float, float]
    area_km2: float
    accuracy_m: int
    """Nobody is told more than that the device is within so many metres of the centre."""
    noise_m: int
    possible_cells: int
    """About how many cells the noise may lead to; 1 without noise."""
    listed: tuple[CountEntry, ...] | None
    """What is listed in the published cell now; ``None``: no node was asked."""


@click.group("privacy")
def privacy() -> None:
    """See what is published of where a device is."""


@privacy.command("explain")
@option("--lat", type=float, required=True, metavar="DEG", help="Latitude, north is positive.")
@option("--lon", type=float, required=True, metavar="DEG", help="Longitude, east is positive.")
@option(
    "--resolution",
    type=click.IntRange(5, 7),
    default=7,
    show_default=True,
    help="Of the published cell: 7 is about 5 km², 6 about 36 km², 5 about 250 km².",
)
@option(
    "--noise",
    "noise_m",
    type=_Metres(0, MAX_NOISE_M),
    default=0,
    show_default=True,
    metavar="METRES",
    help="Radius of the noise that moves the position, once, before it becomes a cell.",
)
@option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the map as a PNG file too, for you alone to read; one that is there is replaced.",
)
# Not EDGISTRY_NODE: who has that set for other commands has not asked for anybody to be told.
@option("--node", metavar="URL", help="Ask this node what is listed there.")
@option("--type", "type_name", metavar="TYPE", help="Only services of this type; goes with --node.")
@json_option
def explain(
    lat: float,
    lon: float,
    resolution: int,
    noise_m: int,
    png: Path | None,
    node: str | None,
    type_name: str | None,
    as_json: bool,
) -> None:
    """Show what will be published of a place.

    Computed here: the position is sent to nobody. With --node that node is asked, without saying
    who asks, what is listed around there, and how many services of how many owners are in the
    published cell now is shown: among so many a new one would be. It learns that somebody asked
    about an area of resolution 5, or a wider one if the noise is wide.

    The map has the cell in full lines, its neighbours in dots, and a cross where the place is.

    \b
    Examples:
      edgistry privacy explain --lat 47.6062 --lon=-122.3321
      edgistry privacy explain --lat 47.6062 --lon=-122.3321 --resolution 6 --png map.png
      edgistry privacy explain --lat 47.6062 --lon=-122.3321 --node http://127.0.0.1:27000
    """
    if type_name is not None and node is None:
        raise click.UsageError("--type goes with --node, which is asked")
    try:
        from edgistry import region
    except ImportError:
        raise MissingLibraryError("cells need the library h3, which is not installed") from None
    cell = region.published_cell(lat, lon, resolution)
    area_km2 = region.cell_area_km2(cell)
    explanation = Explanation(
        cell=region.cell_text(cell),
        resolution=resolution,
        center=region.cell_center(cell),
        area_km2=round(area_km2, 2),
        accuracy_m=region.accuracy_m(cell),
        noise_m=noise_m,
        possible_cells=1 + round(math.pi * (noise_m / 1000) ** 2 / area_km2),
        listed=None,
    )
    if node is not None:
        asked = COARSEST_PUBLISHED
        while region.accuracy_m(parent_of(cell, asked)) < noise_m:
            asked -= 1
        area = region.cell_text(parent_of(cell, asked))
        listed = run(_listed(node, area, explanation.cell, type_name))
        explanation = replace(explanation, listed=listed)
    around = [region.cell_boundary(each) for each in region.cells_around(cell)]
    outline = region.cell_boundary(cell)

    def drawn(width: int) -> CellMap:
        return CellMap(around, strong=outline, point=(lat, lon), width=width)

    if png is not None:
        write_secret(png, drawn(_PNG_PIXELS).png(), force=True)
    if as_json:
        print_json(explanation)
        return
    print_facts(_facts(explanation))
    for line in drawn(_TERMINAL_PIXELS).braille():
        click.echo(line)
    if png is not None:
        remark(f"Wrote {png}.")


async def _listed(node: str, area: str, cell: str, type_name: str | None) -> tuple[CountEntry, ...]:
    """What is listed in ``cell`` itself, of all that is in the ``area`` around it."""
    found: list[CountEntry] = []
    cursor = None
    async with NodeClient(node) as client:
        while True:
            answer = await client.browse(
                cell=area, type=type_name, limit=MAX_RESULTS, cursor=cursor
            )
            found += (each for each in answer.counts if each.cell == cell)
            if answer.next is None:
                return tuple(found)
            cursor = answer.next


def _facts(found: Explanation) -> list[tuple[str, str]]:
    latitude, longitude = found.center
    facts = [
        ("published", f"cell {found.cell}, resolution {found.resolution}"),
        ("area", f"{found.area_km2:g} km² around {latitude:.5f},{longitude:.5f}"),
        ("accuracy", f"{found.accuracy_m} m; nobody is told more, and never a distance"),
    ]
    if found.noise_m:
        facts.append(
            (
                "noise",
                f"drawn once, up to {found.noise_m} m: any of about {found.possible_cells} cells,"
                " this one if it stays",
            )
        )
    if found.listed is not None:
        facts += [
            (
                f"listed: {each.type}",
                f"{_count(each.services, 'service')} of {_count(each.owners, 'owner')}",
            )
            for each in found.listed
        ] or [("listed", "nothing in this cell now")]
    return facts


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
