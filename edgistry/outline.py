"""Polygons as areas: which cell centres lie inside a set of rings.

Coordinates are degrees, (longitude, latitude) as in GeoJSON, and an edge is the straight line
between two positions in that plane (RFC 7946 §3.1.1), not a great circle.

Rules kept here:

* A point is inside where the rings wind around it at least once. Outer rings are turned
  counterclockwise and holes clockwise, whatever way they came, so polygons may overlap (they
  unite), and a hole takes away from its own polygon.
* Narrowing keeps the edges that may come near, and remembers how often the rings wind around one
  point; any other point near it differs only by the kept edges between the two.
* Only edges are crossed, never the antimeridian: rings lie within longitudes -180 to 180.

Not handled here: reading and checking rings (``edgistry.geojson``). A point exactly on an edge may
count either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import asin, cos, degrees, radians, sin

from .area import EARTH_RADIUS_KM, REACH_KM

Position = tuple[float, float]
"""Longitude, latitude; degrees."""

Ring = Sequence[Position]
"""The corners of a closed ring; the last is joined to the first, and need not repeat it."""

Polygon = Sequence[Ring]
"""An outer ring, and holes in it."""

_Edge = tuple[float, float, float, float]
"""From (x, y) to (x, y)."""

_REACH = tuple(reach / EARTH_RADIUS_KM for reach in REACH_KM)
_REACH_DEGREES = tuple(degrees(angle) * (1 + 1e-9) for angle in _REACH)
_REACH_SINE = tuple(sin(angle) * (1 + 1e-9) for angle in _REACH)

_OUTSIDE_ALL: Position = (0.0, -91.0)
"""A point that no ring winds around."""


class Outline:
    """The area within polygons, or the part of one that matters near a point."""

    __slots__ = ("_edges", "_known", "_winding", "cost")

    def __init__(self, edges: list[_Edge], *, known: Position, winding: int) -> None:
        self.cost = 1 + len(edges) // 8
        self._edges = edges
        self._known = known
        self._winding = winding
        """How often the rings wind around ``known``, counterclockwise."""

    @classmethod
    def of(cls, polygons: Iterable[Polygon]) -> Outline:
        """The union of ``polygons``."""
        edges: list[_Edge] = []
        for polygon in polygons:
            for number, ring in enumerate(polygon):
                corners = list(ring)
                if (signed_area(corners) > 0.0) == (number > 0):
                    corners.reverse()
                for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
                    if ax != bx or ay != by:
                        edges.append((ax, ay, bx, by))
        return cls(edges, known=_OUTSIDE_ALL, winding=0)

    def narrow(self, latitude: float, longitude: float, resolution: int) -> Outline | bool:
        high = _REACH_DEGREES[resolution]
        wide = 360.0
        if abs(latitude) + high < 90.0:
            wide = degrees(asin(_REACH_SINE[resolution] / cos(radians(latitude))))
        if longitude - wide < -180.0 or longitude + wide > 180.0:
            # Around a pole or across the antimeridian: what is near has any longitude.
            near = _edges_between(self._edges, latitude - high, latitude + high)
        else:
            near = _edges_near(self._edges, longitude, latitude, wide, high)
        winding = self._winding_at(longitude, latitude)
        if not near:
            return winding > 0
        return Outline(near, known=(longitude, latitude), winding=winding)

    def contains(self, latitude: float, longitude: float) -> bool:
        return self._winding_at(longitude, latitude) > 0

    def _winding_at(self, x: float, y: float) -> int:
        """Walk from the known point, first along its meridian, then along the parallel of y."""
        known_x, known_y = self._known
        winding = self._winding
        for ax, ay, bx, by in self._edges:
            # An edge holds its lower end but not its upper one, so a walk through a corner
            # crosses one of the two edges that meet there, not both or neither.
            if (ax <= known_x) != (bx <= known_x):
                crossing = ay + (known_x - ax) * ((by - ay) / (bx - ax))
                if (crossing > known_y) != (crossing > y):
                    winding += 1 if (bx > ax) == (y > known_y) else -1
            if (ay <= y) != (by <= y):
                crossing = ax + (y - ay) * ((bx - ax) / (by - ay))
                if (crossing > known_x) != (crossing > x):
                    winding += 1 if (by < ay) == (x > known_x) else -1
        return winding


def signed_area(ring: Ring) -> float:
    """The area of a ring in square degrees; positive when it runs counterclockwise."""
    # Relative to the first corner: products of large coordinates would cost the last digits.
    origin_x, origin_y = ring[0]
    double = 0.0
    before_x, before_y = 0.0, 0.0
    for x, y in ring:
        x -= origin_x
        y -= origin_y
        double += before_x * y - x * before_y
        before_x, before_y = x, y
    return double / 2.0


def _edges_between(edges: list[_Edge], south: float, north: float) -> list[_Edge]:
    return [
        edge
        for edge in edges
        if (edge[1] <= north or edge[3] <= north) and (edge[1] >= south or edge[3] >= south)
    ]


def _edges_near(edges: list[_Edge], x: float, y: float, wide: float, high: float) -> list[_Edge]:
    """The edges that touch the box of half-width ``wide`` and half-height ``high`` around (x, y).

    An edge misses the box when it lies beyond one of its sides, or when all four of its corners
    are on one side of the line through the edge.
    """
    west, east, south, north = x - wide, x + wide, y - high, y + high
    near = []
    for edge in edges:
        ax, ay, bx, by = edge
        if (
            (ax > east and bx > east)
            or (ax < west and bx < west)
            or (ay > north and by > north)
            or (ay < south and by < south)
        ):
            continue
        along_x, along_y = bx - ax, by - ay
        offset = along_x * (y - ay) - along_y * (x - ax)
        if abs(offset) <= abs(along_x) * high + abs(along_y) * wide:
            near.append(edge)
    return near
