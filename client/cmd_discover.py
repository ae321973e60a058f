"""``edgistry discover``: find services by place and type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.api import (
    DEFAULT_RESULTS,
    MAX_DISCOVER_BYTES,
    DiscoverAnswer,
    DiscoverBody,
    DiscoverQuery,
    ServiceEntry,
)
from edgistry.codec import decode_json
from edgistry.discover_query import check_discover_body
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError, Refused

from .output import print_json, print_table, remark
from .params import CELL, POINT, json_option, node_options, option

_COLUMNS = ("handle", "type", "cell", "center", "accuracy", "actions", "state", "wake")


@click.command("discover")
@option("--region", metavar="NAME", help="A named region; see `edgistry region list`.")
@option("--cell", type=CELL, metavar="CELL", help="An H3 cell, resolution 7 or coarser.")
@option("--near", type=POINT, metavar="LAT,LON", help="A point in degrees.")
@option("--radius-km", type=float, metavar="R", help="Radius around --near, at most 500.")
@option(
    "--polygon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A GeoJSON file with a Polygon or MultiPolygon.",
)
@option(
    "--type",
    "type_name",
    metavar="TYPE",
    envvar="EDGISTRY_DISCOVER_TYPE",
    help="Only services of this type.",
)
@option(
    "--limit",
    type=int,
    metavar="N",
    default=DEFAULT_RESULTS,
    show_default=True,
    help="Services to show, at most 1000.",
)
@option("--cursor", metavar="CURSOR", help="Go on after an earlier answer (its `next`).")
@option(
    "--min-height",
    type=int,
    metavar="HEIGHT",
    help="Answer only from this height on (read your own writes); waits up to 5 s.",
)
@node_options
@json_option
def discover(node: str, timeout_s: float, as_json: bool, **options: Any) -> None:
    """Find services in one area.

    Give exactly one of --region, --cell, --near with --radius-km, or --polygon. A service is found
    when the centre of its published cell lies in the area; nobody learns where in its cell it is.
    Services come in a fixed order, --limit at a time; --cursor gets the next ones.

    \b
    Examples:
      edgistry discover --region california --type weather-station
      edgistry discover --near 37.77,-122.42 --radius-km 20 --json
    """
    query = _query(**options)
    answer = run(_ask(node, timeout_s, query))
    if as_json:
        print_json(answer)
    else:
        _show(answer)


async def _ask(node: str, timeout_s: float, query: DiscoverQuery) -> DiscoverAnswer:
    async with NodeClient(node, timeout_s=timeout_s) as client:
        return await client.answer_query(query)


def _query(polygon: Path | None, type_name: str | None, **fields: Any) -> DiscoverQuery:
    geojson = None if polygon is None else _read_polygon(polygon)
    body = DiscoverBody(polygon=geojson, type=type_name, **fields)
    try:
        return check_discover_body(body)
    except (MalformedError, InvalidValueError) as error:
        raise click.UsageError(_as_options(error), click.get_current_context()) from None
    except LimitExceededError as error:
        raise LimitExceededError(_as_options(error)) from None


def _as_options(error: Refused) -> str:
    """The core names the fields of the API; options have dashes in front and for a "_"."""
    return error.detail.replace("radius_km", "radius-km").replace("min_height", "min-height")


def _read_polygon(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(MAX_DISCOVER_BYTES + 1)
    try:
        return decode_json(data, dict[str, Any], limit=MAX_DISCOVER_BYTES)
    except MalformedError as error:
        raise MalformedError(f"{path}: not a JSON object: {error}") from None


def _show(answer: DiscoverAnswer) -> None:
    count = len(answer.services)
    title = f"{count} service{'' if count == 1 else 's'}"
    when = f"at height {answer.height}, {answer.block_time}"
    print_table(f"{title} {when}", _COLUMNS, [_row(each) for each in answer.services])
    if not answer.services:
        remark(f"No services found {when}.")
    if answer.next is not None:
        remark(f"There are more: add --cursor {answer.next}")


def _row(service: ServiceEntry) -> tuple[str, ...]:
    latitude, longitude = service.center
    return (
        service.handle,
        service.type,
        service.cell,
        f"{latitude:.5f},{longitude:.5f}",
        f"{service.accuracy_m} m",
        ",".join(service.actions) or "-",
        service.state,
        service.wake,
    )
