"""Whether rings are simple: the check that finds where a polygon crosses itself.

Rules kept here:

* Exact: the side of a line on which a point lies is decided by rational arithmetic where floating
  point could be wrong. So the answer does not depend on rounding.
* A ring may not touch itself, but where one edge follows another. Two rings of one polygon may
  touch in a point; they may not cross or share a stretch. A crossing that goes through a corner
  of both rings is not noticed; it only makes the hole what lies inside its outer ring.
* Edges are compared only where both their boxes overlap, in one sweep; a budget bounds the work.

Not handled here: what the rings enclose (``edgistry.outline``).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from .errors import LimitExceededError
from .outline import Polygon, Position, Ring

STEPS_PER_CORNER = 300
FREE_STEPS = 10_000
"""Steps of about 0.1 µs that one polygon may take: so many, and more for each of its corners.

A ragged coast of 10 000 corners takes about 200 a corner; a comb with 10 000 long teeth would take
5 000, and seconds. Linear in the corners, so that many polygons cost no more than one."""

_CLASH_STEPS = 8
"""What it costs to compare two edges whose boxes overlap, in steps of finding that they do not."""

# Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997: the rounding error of the
# difference of two products of differences is at most (3 + 16 eps) eps of the sum of both.
_ROUNDING = 3.3306690738754716e-16


class _Edge(NamedTuple):
    """An edge and its box; ``ring`` and ``place`` say where it came from."""

    low: float
    high: float
    across_low: float
    across_high: float
    start: Position
    end: Position
    ring: int
    place: int


class Crossing(NamedTuple):
    """Two edges that meet where they should not: ring number and edge number of each, from 0."""

    ring: int
    edge: int
    other_ring: int
    other_edge: int


def find_crossing(polygon: Polygon) -> Crossing | None:
    """A place where the rings of ``polygon`` cross or touch as they may not; ``None``: nowhere.

    Rings are given without the repeated last corner and without zero-length edges, and have at
    least three corners.

    Raises:
        LimitExceededError: too many pairs of edges would have to be compared.
    """
    axis = _sweep_axis(polygon)
    lengths = [len(ring) for ring in polygon]
    edges = [edge for number, ring in enumerate(polygon) for edge in _edges(ring, number, axis)]
    edges.sort()
    open_edges: list[_Edge] = []
    steps_left = FREE_STEPS + STEPS_PER_CORNER * len(edges)
    for edge in edges:
        low, _, across_low, across_high, *_ = edge
        open_edges = [other for other in open_edges if other[1] >= low]
        steps_left -= len(open_edges)
        if steps_left < 0:
            raise LimitExceededError(
                "this polygon is too entangled to check: simplify it, or split it into several"
            )
        for other in open_edges:
            if other[2] <= across_high and other[3] >= across_low:
                steps_left -= _CLASH_STEPS
                if _clash(edge, other, lengths):
                    return Crossing(edge.ring, edge.place, other.ring, other.place)
        open_edges.append(edge)
    return None


def _sweep_axis(polygon: Polygon) -> int:
    """The axis along which edges are short compared with the whole: fewer are open at a time."""
    shares = []
    for axis in (0, 1):
        values = [position[axis] for ring in polygon for position in ring]
        length = sum(
            abs(ring[at][axis] - ring[at - 1][axis]) for ring in polygon for at in range(len(ring))
        )
        extent = max(values) - min(values)
        shares.append(length / extent if extent else float("inf"))
    return 0 if shares[0] <= shares[1] else 1


def _edges(ring: Ring, number: int, axis: int) -> list[_Edge]:
    edges = []
    for place, start in enumerate(ring):
        end = ring[(place + 1) % len(ring)]
        low, high = sorted((start[axis], end[axis]))
        across_low, across_high = sorted((start[1 - axis], end[1 - axis]))
        edges.append(_Edge(low, high, across_low, across_high, start, end, number, place))
    return edges


def _clash(one: _Edge, two: _Edge, lengths: Sequence[int]) -> bool:
    """Whether two edges whose boxes overlap meet in a way that rings may not."""
    if one.ring != two.ring:
        return _cross(one, two) or _share_a_stretch(one, two)
    length = lengths[one.ring]
    if (one.place + 1) % length == two.place or (two.place + 1) % length == one.place:
        return _share_a_stretch(one, two)
    return _meet(one, two)


def _cross(one: _Edge, two: _Edge) -> bool:
    """Whether each edge passes through the other, ends not counted."""
    return (
        side_of(one.start, one.end, two.start) * side_of(one.start, one.end, two.end) < 0
        and side_of(two.start, two.end, one.start) * side_of(two.start, two.end, one.end) < 0
    )


def _meet(one: _Edge, two: _Edge) -> bool:
    """Whether two edges whose boxes overlap have a point in common."""
    # On one line, overlapping boxes mean a common point; else each must reach the other's line.
    return (
        side_of(one.start, one.end, two.start) * side_of(one.start, one.end, two.end) <= 0
        and side_of(two.start, two.end, one.start) * side_of(two.start, two.end, one.end) <= 0
    )


def _share_a_stretch(one: _Edge, two: _Edge) -> bool:
    """Whether two edges lie on one line and overlap in more than a point."""
    if side_of(one.start, one.end, two.start) or side_of(one.start, one.end, two.end):
        return False
    low, high = max(one.low, two.low), min(one.high, two.high)
    across_low = max(one.across_low, two.across_low)
    across_high = min(one.across_high, two.across_high)
    return low < high or across_low < across_high


def side_of(start: Position, end: Position, point: Position) -> int:
    """On which side of the line from ``start`` to ``end`` the point is: 1 left, -1 right, 0 on."""
    if point in (start, end):
        return 0
    (ax, ay), (bx, by), (px, py) = start, end, point
    left = (bx - ax) * (py - ay)
    right = (by - ay) * (px - ax)
    cross = left - right
    if abs(cross) <= _ROUNDING * (abs(left) + abs(right)):
        exact = (Fraction(bx) - Fraction(ax)) * (Fraction(py) - Fraction(ay)) - (
            Fraction(by) - Fraction(ay)
        ) * (Fraction(px) - Fraction(ax))
        return (exact > 0) - (exact < 0)
    return 1 if cross > 0.0 else -1
