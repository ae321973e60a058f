"""``edgistry-node region``: named regions.

Rules kept here: the file is checked by the node, with the checks that clients' polygons get.

Not handled here: turning an area into cells (``edgistry.region``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgistry.adapters.commands import (
    directory_argument,
    json_option,
    option,
    print_json,
    print_table,
)
from edgistry.codec import Document, decode_json
from edgistry.errors import MalformedError, TooLargeError
from edgistry.geojson import MAX_GEOJSON_BYTES
from edgistry.wording import visible

from .cli_shared import read_file
from .cli_waiting import admin_client, not_yet, wait_option, wait_until_settled


class RegionResult(Document):
    """What putting a region did, as ``--json`` prints it."""

    name: str
    version: int
    cells: int
    """Compacted cells."""
    changed: bool
    tentative: bool
    """Whether the chain has not confirmed it yet."""
    height: int


@click.group()
def region() -> None:
    """Put, list and show named regions."""


@region.command("put")
@directory_argument
@option(
    "--name", env="EDGISTRY_REGION", metavar="NAME", required=True,
    help="Name of the region, for everybody on the chain.",
)  # fmt: skip
@option(
    "--geojson", "file", env="EDGISTRY_GEOJSON", metavar="FILE", required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Polygon or MultiPolygon, alone, as Feature or in a FeatureCollection.",
)  # fmt: skip
@wait_option
@json_option
def region_put(directory: Path, name: str, file: Path, wait_s: float, as_json: bool) -> None:
    """Create a named region, or replace one that the node in DIR created.

    The same area again changes nothing.
    """
    geojson = _read_geojson(file)
    with admin_client(directory) as client:
        answer = client.region_put(name, geojson)
        settled, height = wait_until_settled(
            client, answer.sequence, height=answer.height, timeout_s=wait_s
        )
    result = RegionResult(
        name=answer.name,
        version=answer.version,
        cells=answer.cells,
        changed=answer.changed,
        tentative=not settled,
        height=height,
    )
    if as_json:
        print_json(result)
        return
    what = f"version {answer.version}, {answer.cells} cells"
    click.echo(f"{name}: {'' if answer.changed else 'unchanged, '}{what}{not_yet(not settled)}")


@region.command("list")
@directory_argument
@json_option
def region_list(directory: Path, as_json: bool) -> None:
    """List the regions of the chain, as the node in DIR knows it."""
    with admin_client(directory) as client:
        answer = client.regions()
    if as_json:
        print_json(answer)
        return
    rows = [(each.name, each.version, each.cells) for each in answer.regions]
    print_table(("NAME", "VERSION", "CELLS"), rows)


@region.command("show")
@directory_argument
@option("--name", env="EDGISTRY_REGION", metavar="NAME", required=True, help="Name of the region.")
@json_option
def region_show(directory: Path, name: str, as_json: bool) -> None:
    """Show one region with its cells."""
    with admin_client(directory) as client:
        detail = client.region(name)
    if as_json:
        print_json(detail)
        return
    click.echo(f"name     {visible(detail.name)}")
    click.echo(f"version  {detail.version}")
    click.echo(f"owner    {detail.owner}")
    click.echo(f"cells    {len(detail.cells)}")
    for cell in detail.cells:
        click.echo(cell)


def _read_geojson(file: Path) -> dict[str, Any]:
    data = read_file(file, limit=MAX_GEOJSON_BYTES)
    try:
        return decode_json(data, dict[str, Any], limit=MAX_GEOJSON_BYTES)
    except TooLargeError:
        raise TooLargeError(
            f"{file}: more than {MAX_GEOJSON_BYTES} bytes; simplify its outline, for example "
            "with 'mapshaper -simplify 10%'"
        ) from None
    except MalformedError as error:
        raise MalformedError(f"{file}: {error}") from None
