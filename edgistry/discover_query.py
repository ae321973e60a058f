"""A discover request, from untrusted text or JSON to a checked value, and back.

Rules kept here:

* Pure; one set of checks for ``GET`` parameters, ``POST`` bodies and the command line.
* Exactly one area; numbers are finite and in range; names have the form of the registry's names.
  An unknown parameter is refused: a misspelled filter must not silently widen an answer.
* ``400 malformed`` is text that cannot be read, ``422`` a value out of its range or over a limit.

Not handled here: cells and polygons beyond their outer form (``edgistry.region``), whether the
region exists, and what a cursor holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .api import (
    DEFAULT_RESULTS,
    MAX_DISCOVER_BYTES,
    MAX_RADIUS_KM,
    MAX_RESULTS,
    Area,
    CellArea,
    DiscoverBody,
    DiscoverQuery,
    NearArea,
    PolygonArea,
    RegionArea,
)
from .codec import decode_json, encode_json
from .errors import InvalidValueError, LimitExceededError, MalformedError, UnknownRegionError
from .position import check_position
from .transactions import check_region_name, check_service_names

MAX_CURSOR_CHARACTERS = 200
MAX_REGION_CHARACTERS = 64
MAX_HEIGHT = (1 << 63) - 1

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_CELL = re.compile(r"8[0-9a-f]{14}")
_CURSOR = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_CURSOR_CHARACTERS}}}")


def parse_discover_parameters(parameters: Mapping[str, str]) -> DiscoverQuery:
    """The query in the parameters of ``GET /v1/discover``.

    Raises:
        MalformedError: an unknown parameter, not exactly one area, or unreadable text.
        UnknownRegionError: a region name that no region can have.
        InvalidValueError: a value outside its range.
        LimitExceededError: a radius or a number of results over its limit.
    """
    fields: dict[str, Any] = {}
    for name, text in parameters.items():
        parse = _FIELDS.get(name)
        if parse is None:
            raise MalformedError(
                f"unknown query parameter {name[:50]!r}; known are {', '.join(_FIELDS)}"
            )
        fields[name] = parse(name, text)
    return check_discover_body(DiscoverBody(**fields))


def parse_discover_body(data: bytes) -> DiscoverQuery:
    """The query in the body of ``POST /v1/discover``; raises as ``parse_discover_parameters``."""
    return check_discover_body(decode_json(data, DiscoverBody, limit=MAX_DISCOVER_BYTES))


def check_discover_body(body: DiscoverBody) -> DiscoverQuery:
    """``body`` as a checked query; raises as ``parse_discover_parameters``."""
    area = _check_area(body)
    if body.type is not None:
        check_service_names(body.type, ())
    if body.limit > MAX_RESULTS:
        raise LimitExceededError(f"limit {body.limit}: an answer has at most {MAX_RESULTS}")
    if body.limit < 1:
        raise InvalidValueError(f"limit {body.limit}: ask for at least 1")
    if body.cursor is not None and not _CURSOR.fullmatch(body.cursor):
        raise MalformedError("cursor: not one that a node gave out (the value of next)")
    if body.min_height is not None and not 0 <= body.min_height <= MAX_HEIGHT:
        raise InvalidValueError(f"min_height {body.min_height}: heights are 0 to {MAX_HEIGHT}")
    return DiscoverQuery(
        area=area,
        type=body.type,
        limit=body.limit,
        cursor=body.cursor,
        min_height=body.min_height,
    )


def discover_parameters(query: DiscoverQuery) -> dict[str, str] | None:
    """``query`` as parameters for ``GET``; ``None`` when it needs a body (a polygon)."""
    parameters: dict[str, str]
    match query.area:
        case RegionArea(name=name):
            parameters = {"region": name}
        case CellArea(cell=cell):
            parameters = {"cell": cell}
        case NearArea(latitude=latitude, longitude=longitude, radius_km=radius_km):
            parameters = {"near": f"{latitude!r},{longitude!r}", "radius_km": repr(radius_km)}
        case PolygonArea():
            return None
    if query.type is not None:
        parameters["type"] = query.type
    if query.limit != DEFAULT_RESULTS:
        parameters["limit"] = str(query.limit)
    if query.cursor is not None:
        parameters["cursor"] = query.cursor
    if query.min_height is not None:
        parameters["min_height"] = str(query.min_height)
    return parameters


def discover_body(query: DiscoverQuery) -> bytes:
    """``query`` as a body for ``POST``."""
    fields: dict[str, Any]
    match query.area:
        case RegionArea(name=name):
            fields = {"region": name}
        case CellArea(cell=cell):
            fields = {"cell": cell}
        case NearArea(latitude=latitude, longitude=longitude, radius_km=radius_km):
            fields = {"near": (latitude, longitude), "radius_km": radius_km}
        case PolygonArea(geojson=geojson):
            fields = {"polygon": geojson}
    for name in ("type", "limit", "cursor", "min_height"):
        value = getattr(query, name)
        if value is not None:
            fields[name] = value
    return encode_json(fields)


def parse_point(name: str, text: str) -> tuple[float, float]:
    """``LAT,LON`` in degrees; ``name`` is for the message.

    Raises:
        MalformedError: not two numbers.
        InvalidValueError: outside -90..90, -180..180.
    """
    latitude, comma, longitude = text.partition(",")
    if not comma:
        raise MalformedError(f"{name} {text[:50]!r}: give LAT,LON, such as 37.77,-122.42")
    return check_point(
        name, _number(name, latitude.strip(" ")), _number(name, longitude.strip(" "))
    )


def check_point(name: str, latitude: float, longitude: float) -> tuple[float, float]:
    """Raises ``InvalidValueError`` unless both are finite and in range."""
    try:
        check_position(latitude, longitude)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name}: {error.detail}") from None
    return latitude, longitude


def _check_area(body: DiscoverBody) -> Area:
    given = [
        name for name in ("region", "cell", "near", "polygon") if getattr(body, name) is not None
    ]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise MalformedError(f"give exactly one of region, cell, near, polygon; got {found}")
    if body.radius_km is not None and body.near is None:
        raise MalformedError("radius_km goes with near")
    if body.region is not None:
        return RegionArea(name=_check_region(body.region))
    if body.cell is not None:
        if not _CELL.fullmatch(body.cell):
            raise MalformedError(
                f"cell {body.cell[:50]!r}: an H3 cell has 15 lower-case hex digits"
            )
        return CellArea(cell=body.cell)
    if body.near is not None:
        return _check_near(body.near, body.radius_km)
    return PolygonArea(geojson=body.polygon or {})


def _check_region(name: str) -> str:
    """A name that no region can have is as unknown as one that none has; noise is malformed."""
    try:
        check_region_name(name)
    except MalformedError as error:
        if 0 < len(name) <= MAX_REGION_CHARACTERS and name.isprintable():
            raise UnknownRegionError(f"no region {name!r}; {error}") from None
        raise
    return name


def _check_near(near: str | tuple[float, float], radius_km: float | None) -> NearArea:
    if isinstance(near, str):
        latitude, longitude = parse_point("near", near)
    else:
        latitude, longitude = check_point("near", *near)
    if radius_km is None:
        raise MalformedError("near needs radius_km")
    if math.isnan(radius_km) or radius_km <= 0.0:
        raise InvalidValueError(f"radius_km {radius_km:g}: give a number above 0")
    if radius_km > MAX_RADIUS_KM:
        raise LimitExceededError(f"radius_km {radius_km:g}: at most {MAX_RADIUS_KM:g}")
    return NearArea(latitude=latitude, longitude=longitude, radius_km=radius_km)


def _text(_: str, text: str) -> str:
    return text


def _number(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise MalformedError(f"{name} {text[:50]!r}: not a number")
    return float(text)


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise MalformedError(f"{name} {text[:50]!r}: not a whole number")
    return int(text)


_FIELDS = {
    "region": _text,
    "cell": _text,
    "near": _text,
    "radius_km": _number,
    "type": _text,
    "limit": _integer,
    "cursor": _text,
    "min_height": _integer,
}
