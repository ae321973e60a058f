"""Finding where rings cross, against exact arithmetic over all pairs of edges."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edgistry.errors import LimitExceededError
from edgistry.outline import Ring, signed_area
from edgistry.rings import find_crossing, side_of

Point = tuple[float, float]

# A small grid: corners on edges, edges on one line and repeated corners are common there.
GRID = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda at: (float(at[0]), float(at[1])))


TRIANGLES = st.lists(GRID, min_size=3, max_size=3, unique=True)


@st.composite
def rings(draw: st.DrawFn) -> list[Point]:
    corners = draw(st.lists(GRID, min_size=3, max_size=7))
    assume(all(corners[at] != corners[at - 1] for at in range(len(corners))))
    return corners


def common(a: Point, b: Point, c: Point, d: Point) -> set[Point] | None:
    """The common points of two segments between points of the grid: none, one, or ``None`` for a
    whole stretch."""
    ax, ay, bx, by, cx, cy, dx, dy = map(int, (*a, *b, *c, *d))
    ux, uy, vx, vy, wx, wy = bx - ax, by - ay, dx - cx, dy - cy, cx - ax, cy - ay
    cross = ux * vy - uy * vx
    if cross:
        s, t = Fraction(wx * vy - wy * vx, cross), Fraction(wx * uy - wy * ux, cross)
        if 0 <= s <= 1 and 0 <= t <= 1:
            return {(float(ax + s * ux), float(ay + s * uy))}
        return set()
    if wx * uy - wy * ux:
        return set()
    length = ux * ux + uy * uy
    ends = sorted(Fraction((x - ax) * ux + (y - ay) * uy, length) for x, y in ((cx, cy), (dx, dy)))
    low, high = max(ends[0], Fraction(0)), min(ends[1], Fraction(1))
    if low > high:
        return set()
    return None if low < high else {(float(ax + low * ux), float(ay + low * uy))}


def edges(ring: Ring) -> list[tuple[Point, Point]]:
    return [(ring[at], ring[(at + 1) % len(ring)]) for at in range(len(ring))]


def is_simple(ring: Ring) -> bool:
    all_edges = edges(ring)
    for one, edge in enumerate(all_edges):
        for two in range(one):
            shared = common(*edge, *all_edges[two])
            neighbours = {(one - two) % len(ring), (two - one) % len(ring)} & {1}
            if shared is None or (shared and not neighbours):
                return False
    return True


@settings(max_examples=150, deadline=None)
@given(rings())
@example([(0.0, 0.0), (2.0, 0.0), (1.0, 0.0)])
@example([(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (1.0, 0.0), (0.0, 2.0)])
def test_a_ring_is_accepted_exactly_when_it_is_simple(ring: list[Point]) -> None:
    assert (find_crossing([ring]) is None) == is_simple(ring)


@settings(max_examples=50, deadline=None)
@given(rings())
def test_the_edges_named_do_meet(ring: list[Point]) -> None:
    crossing = find_crossing([ring])
    assume(crossing is not None)
    assert crossing is not None
    one, two = edges(ring)[crossing.edge], edges(ring)[crossing.other_edge]
    assert common(*one, *two) != set()


@settings(max_examples=150, deadline=None)
@given(TRIANGLES, TRIANGLES)
def test_two_rings_that_cross_inside_their_edges_are_noticed(
    outer: list[Point], hole: list[Point]
) -> None:
    assume(signed_area(outer) and signed_area(hole))
    corners = {*outer, *hole}
    meetings = [common(*one, *two) for one in edges(outer) for two in edges(hole)]
    crosses = any(meeting is None or (meeting and not meeting & corners) for meeting in meetings)
    assert (find_crossing([outer, hole]) is not None) == crosses


@given(rings(), st.integers(0, 6))
def test_where_a_ring_begins_makes_no_difference(ring: list[Point], turn: int) -> None:
    turn %= len(ring)
    turned = ring[turn:] + ring[:turn]
    assert (find_crossing([turned]) is None) == (find_crossing([ring]) is None)


@given(
    st.tuples(st.floats(-180, 180), st.floats(-90, 90)),
    st.tuples(st.floats(-180, 180), st.floats(-90, 90)),
    st.tuples(st.floats(-180, 180), st.floats(-90, 90)),
)
@example((0.1, 0.1), (0.3, 0.3), (0.2, 0.2))
@example((0.1, 0.1), (0.7, 0.7), (0.30000000000000004, 0.3))
def test_the_side_of_a_line_is_exact(start: Point, end: Point, point: Point) -> None:
    (ax, ay), (bx, by), (px, py) = ((Fraction(x), Fraction(y)) for x, y in (start, end, point))
    cross = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
    assert side_of(start, end, point) == (cross > 0) - (cross < 0)


@given(rings())
def test_area_of_a_ring_changes_sign_with_its_direction(ring: list[Point]) -> None:
    double = sum(ax * by - bx * ay for (ax, ay), (bx, by) in edges(ring))
    assert signed_area(ring) == double / 2
    assert signed_area(ring[::-1]) == -signed_area(ring)


def test_too_entangled_a_ring_is_refused() -> None:
    star = [
        ((10 + at % 2 * 80) * math.cos(at / 955), (10 + at % 2 * 80) * math.sin(at / 955))
        for at in range(6000)
    ]
    with pytest.raises(LimitExceededError, match="simplify"):
        find_crossing([star])


def test_a_long_ragged_coast_is_not_too_entangled() -> None:
    coast = [(float(at), float(at * 7919 % 13)) for at in range(9000)]
    assert find_crossing([[*coast, (9000.0, -1.0), (0.0, -1.0)]]) is None
