"""Options that say where to look, shared by `discover` and `watch`.

Rules kept here: what cannot be read is a usage error, in the words of the options; what is over a
limit is refused like everywhere else.

Not handled here: checking areas (``edgistry.discover_query``), the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edgistry.api import MAX_DISCOVER_BYTES
from edgistry.codec import decode_json
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError, Refused

from .params import CELL, POINT, Command, option


def area_options(command_name: str) -> Callable[[Command], Command]:
    """Add --region, --cell, --near, --radius-km, --polygon and --type to a command."""
    polygon = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = (
        option("--region", metavar="NAME", help="A named region; see `edgistry region list`."),
        option("--cell", type=CELL, metavar="CELL", help="An H3 cell, resolution 7 or coarser."),
        option("--near", type=POINT, metavar="LAT,LON", help="A point in degrees."),
        option("--radius-km", type=float, metavar="R", help="Radius around --near, at most 500."),
        option(
            "--polygon",
            type=polygon,
            metavar="FILE",
            help="A GeoJSON file with a Polygon or MultiPolygon.",
        ),
        option(
            "--type",
            "type_name",
            metavar="TYPE",
            envvar=f"EDGISTRY_{command_name.upper()}_TYPE",
            help="Only services of this type.",
        ),
    )

    def add(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return add


def area_fields(*, polygon: Path | None, type_name: str | None, **fields: Any) -> dict[str, Any]:
    """The fields of a discover or watch body; ``fields`` are named as there already."""
    geojson = None if polygon is None else _read_polygon(polygon)
    return {"polygon": geojson, "type": type_name, **fields}


@contextmanager
def usage_errors() -> Iterator[None]:
    """Around checks of a query: what is wrong with it is said in the words of the options."""
    try:
        yield
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
