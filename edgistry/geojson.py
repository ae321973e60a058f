"""GeoJSON (RFC 7946) from untrusted values to checked polygons.

Rules kept here:

* ``Polygon`` and ``MultiPolygon``, alone, as ``Feature`` or in a ``FeatureCollection``. Their
  polygons unite. Other members (properties, bbox, ids) and heights are ignored.
* Every position is finite and in range; every ring is closed, has at least three corners, and is
  simple; holes lie in their outer ring; nothing crosses the antimeridian. Repeated positions in a
  row count once. Rings may turn either way.
* Any JSON value gives polygons or a refusal that says what to do. The work grows
  with the number of positions, of which there are at most ``MAX_POSITIONS``.

Not handled here: bytes to JSON values (``edgistry.codec``), other coordinate systems than WGS 84
degrees, and what the polygons contain (``edgistry.outline``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import InvalidValueError, LimitExceededError, MalformedError
from .outline import Outline, Polygon, Position, Ring
from .rings import Crossing, find_crossing

MAX_GEOJSON_BYTES = 1_000_000
MAX_POSITIONS = 10_000
"""Positions in all rings together. A country at map scale 1:10 million has a few thousand; cells
of resolution 7 are 2.4 km apart, so finer outlines change next to nothing."""
MAX_HOLE_STEPS = 500_000
"""Holes times corners of their outer ring, all together; about 0.2 s."""

_AREA_TYPES = "use a Polygon or MultiPolygon, alone, as Feature or in a FeatureCollection"
_ORDER = "GeoJSON positions are [longitude, latitude] in degrees"
_CUT = "cut the polygon at longitude 180 and give both parts as a MultiPolygon (RFC 7946, 3.1.9)"
_REPAIR = "repair it, for example with 'Fix geometries' in QGIS or make_valid of Shapely"
_SIMPLIFY = "simplify it, for example with 'mapshaper -simplify 10%'"


def parse_geojson(value: object) -> tuple[Polygon, ...]:
    """The polygons in a GeoJSON object, given as dicts, lists and numbers; at least one.

    Rings come without the repeated last position, and without positions repeated in a row.

    Raises:
        MalformedError: not a GeoJSON object of a type that encloses an area.
        InvalidValueError: a position out of range, or a ring that is not closed, or that crosses
            itself, another ring of its polygon, or the antimeridian.
        LimitExceededError: too many positions, or rings too entangled to check.
    """
    reader = _Reader()
    polygons = tuple(
        reader.polygon(rings, f"polygon {number}")
        for number, rings in enumerate(_polygons(value), start=1)
    )
    if not polygons:
        raise MalformedError(f"this GeoJSON holds no polygon; {_AREA_TYPES}")
    return polygons


def _polygons(value: object) -> Iterator[object]:
    """The coordinates of each polygon in a GeoJSON object, whatever wraps it."""
    match _type_of(value):
        case "FeatureCollection":
            for feature in _list(_member(value, "features"), "features"):
                if _type_of(feature) != "Feature":
                    raise MalformedError("'features' holds something that is no Feature")
                yield from _geometry(_member(feature, "geometry"))
        case "Feature":
            yield from _geometry(_member(value, "geometry"))
        case _:
            yield from _geometry(value)


def _geometry(value: object) -> Iterator[object]:
    match _type_of(value):
        case "Polygon":
            yield _member(value, "coordinates")
        case "MultiPolygon":
            yield from _list(_member(value, "coordinates"), "coordinates")
        case None:
            raise MalformedError(f"{_shown(value)} is no GeoJSON geometry; {_AREA_TYPES}")
        case other:
            raise MalformedError(f"GeoJSON type {_shown(other)} encloses no area; {_AREA_TYPES}")


def _type_of(value: object) -> object:
    return _member(value, "type")


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


class _Reader:
    """Reads polygons, and counts what all of them cost together."""

    def __init__(self) -> None:
        self._positions_left = MAX_POSITIONS
        self._hole_steps_left = MAX_HOLE_STEPS

    def polygon(self, value: object, where: str) -> Polygon:
        rings = [
            self._ring(ring, f"{where}, ring {number}")
            for number, ring in enumerate(_list(value, where), start=1)
        ]
        if not rings:
            raise MalformedError(f"{where} has no ring")
        crossing = find_crossing(rings)
        if crossing is not None:
            raise InvalidValueError(f"{where} {_crossing_text(crossing, rings)}; {_REPAIR}")
        self._check_holes(rings, where)
        return rings

    def _ring(self, value: object, where: str) -> Ring:
        positions = _list(value, where)
        self._positions_left -= len(positions)
        if self._positions_left < 0:
            raise LimitExceededError(
                f"this GeoJSON has more than {MAX_POSITIONS} positions; {_SIMPLIFY}"
            )
        ring: list[Position] = []
        for number, position in enumerate(positions, start=1):
            point = _position(position, f"{where}, position {number}")
            if ring and abs(point[0] - ring[-1][0]) > 180.0:
                raise InvalidValueError(
                    f"{where} crosses the antimeridian before position {number} (or an edge spans "
                    f"more than half of the globe: add positions along it); {_CUT}"
                )
            if not ring or point != ring[-1]:
                ring.append(point)
        if len(ring) < 2 or ring[0] != ring[-1]:
            raise InvalidValueError(f"{where} is not closed; repeat its first position at the end")
        ring.pop()
        if len(ring) < 3:
            raise InvalidValueError(f"{where} has {len(ring)} corners; an area needs at least 3")
        return ring

    def _check_holes(self, rings: Polygon, where: str) -> None:
        outer, *holes = rings
        self._hole_steps_left -= len(holes) * len(outer)
        if self._hole_steps_left < 0:
            raise LimitExceededError(f"{where} has too many holes to check; leave small ones out")
        inside = Outline.of(((outer,),))
        for number, hole in enumerate(holes, start=2):
            # Rings do not cross, so a hole lies inside altogether or not at all; some of its
            # corners may touch the outer ring and so tell nothing.
            if not any(inside.contains(latitude, longitude) for longitude, latitude in hole[:3]):
                raise InvalidValueError(
                    f"{where}, ring {number} is a hole outside of its outer ring; separate areas "
                    "are separate polygons of a MultiPolygon"
                )


def _position(value: object, where: str) -> Position:
    if not isinstance(value, list) or len(value) not in (2, 3):
        raise MalformedError(f"{where} is {_shown(value)}; {_ORDER}")
    longitude, latitude = (_number(number, where) for number in value[:2])
    # Written so that NaN, which compares false, is refused as well.
    if not -90.0 <= latitude <= 90.0:
        raise InvalidValueError(f"{where}: latitude {latitude:g} is outside -90..90; {_ORDER}")
    if not -180.0 <= longitude <= 180.0:
        raise InvalidValueError(
            f"{where}: longitude {longitude:g} is outside -180..180; {_ORDER}; "
            f"if it crosses the antimeridian, {_CUT}"
        )
    return longitude, latitude


def _number(value: object, where: str) -> float:
    # bool is a kind of int to Python, but not to JSON.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError(f"{where} holds {_shown(value)} where a number belongs; {_ORDER}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidValueError(f"{where} holds a number out of any range; {_ORDER}") from None


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {_shown(value)} where a list belongs")
    return value


def _shown(value: object) -> str:
    """A short text for a JSON value in an error; never the whole of a large one."""
    match value:
        case None:
            return "missing or null"
        case str():
            return repr(value[:40])
        case bool() | float():
            return repr(value).lower()
        case list() | dict():
            return f"a {type(value).__name__} of {len(value)}"
    return "a number" if isinstance(value, int) else "something else"


def _crossing_text(crossing: Crossing, rings: Polygon) -> str:
    longitude, latitude = rings[crossing.ring][crossing.edge]
    near = f"near longitude {longitude:.5g}, latitude {latitude:.5g}"
    if crossing.ring == crossing.other_ring:
        return f"crosses or touches itself in ring {crossing.ring + 1}, {near}"
    one, two = sorted((crossing.ring + 1, crossing.other_ring + 1))
    return f"has rings {one} and {two} that cross, {near}"
