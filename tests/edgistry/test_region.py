"""Positions, circles and polygons as cells, against brute force over cell centres."""

from __future__ import annotations

import math

import h3.api.basic_int as h3
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edgistry.area import REACH_KM
from edgistry.cover import Cover
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError
from edgistry.geojson import parse_geojson
from edgistry.outline import Polygon
from edgistry.region import (
    accuracy_m,
    cell_center,
    check_region_cells,
    compact_region,
    cover_cell,
    cover_near,
    cover_polygon,
    cover_region,
    published_cell,
)

from .cells import AWKWARD_PLACES, PLACES, cells


def haversine_km(one: tuple[float, float], two: tuple[float, float]) -> float:
    """An independent statement of the distance on H3's sphere."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (one, two))
    half = (
        math.sin((lat2 - lat1) / 2) ** 2
        + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * 6371.007180918475 * math.asin(min(1.0, math.sqrt(half)))


def moved(place: tuple[float, float], km: float, bearing: float) -> tuple[float, float]:
    """The place ``km`` away in a direction (radians from north), on the sphere."""
    lat, lon = map(math.radians, place)
    angle = km / 6371.007180918475
    there = math.asin(
        math.sin(lat) * math.cos(angle) + math.cos(lat) * math.sin(angle) * math.cos(bearing)
    )
    turn = math.atan2(
        math.sin(bearing) * math.sin(angle) * math.cos(lat),
        math.cos(angle) - math.sin(lat) * math.sin(there),
    )
    degrees = math.degrees(lon + turn)
    return math.degrees(there), (degrees + 180.0) % 360.0 - 180.0


def near_the_edge(distance: float, radius: float) -> bool:
    """Whether rounding may decide."""
    return math.isclose(distance, radius, rel_tol=1e-9, abs_tol=1e-6)


# --- positions ---------------------------------------------------------------------------------


@given(PLACES)
def test_a_position_is_published_as_its_cell_of_resolution_seven(
    place: tuple[float, float],
) -> None:
    assert published_cell(*place) == h3.latlng_to_cell(*place, 7)


@given(PLACES, st.integers(5, 7))
def test_coarser_publications_are_ancestors_and_never_a_second_reading(
    place: tuple[float, float], resolution: int
) -> None:
    finest = published_cell(*place, 7)
    assert published_cell(*place, resolution) == h3.cell_to_parent(finest, resolution)


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (90.1, 0.0),
        (-90.1, 0.0),
        (0.0, 180.1),
        (0.0, -180.1),
        (math.nan, 0.0),
        (0.0, math.nan),
        (math.inf, 0.0),
        (0.0, -math.inf),
    ],
)
def test_positions_off_the_globe_are_refused(latitude: float, longitude: float) -> None:
    with pytest.raises(InvalidValueError, match="outside"):
        published_cell(latitude, longitude)
    with pytest.raises(InvalidValueError, match="outside"):
        cover_near(latitude, longitude, 10)


@pytest.mark.parametrize("resolution", [-1, 0, 4, 8, 15])
def test_other_resolutions_are_not_published(resolution: int) -> None:
    with pytest.raises(InvalidValueError, match="resolution"):
        published_cell(10, 10, resolution)


@given(cells(coarsest=5, finest=7))
def test_accuracy_reaches_every_vertex_and_no_metre_farther(cell: int) -> None:
    center = cell_center(cell)
    farthest_m = max(haversine_km(center, corner) * 1000 for corner in h3.cell_to_boundary(cell))
    assert farthest_m - 1e-3 <= accuracy_m(cell) < farthest_m + 1 + 1e-3


# --- cells -------------------------------------------------------------------------------------


def test_a_cell_covers_itself_its_descendants_and_nothing_beside() -> None:
    cell = published_cell(64.13, -21.94, 6)
    cover = cover_cell(cell)
    assert all(child in cover for child in h3.cell_to_children(cell, 7))
    assert cell in cover
    assert not any(other in cover for other in h3.grid_ring(cell, 1))


def test_a_cell_covers_its_parent_only_when_both_have_the_same_centre() -> None:
    parent = published_cell(64.13, -21.94, 5)
    first, second, *_ = h3.cell_to_children(parent, 6)
    assert parent in cover_cell(first)
    assert parent not in cover_cell(second)


@given(cells(coarsest=8))
def test_cells_finer_than_seven_are_refused_with_the_one_to_use(cell: int) -> None:
    parent = h3.int_to_str(h3.cell_to_parent(cell, 7))
    with pytest.raises(LimitExceededError, match=parent):
        cover_cell(cell)


@given(st.integers(0, (1 << 64) - 1))
def test_integers_that_are_no_cells_cover_nothing(number: int) -> None:
    assume(not h3.is_valid_cell(number))
    with pytest.raises(MalformedError):
        cover_cell(number)


# --- circles -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(PLACES, st.floats(0.1, 12.0))
@example((90.0, 0.0), 12.0)
@example((-90.0, 17.0), 3.0)
@example((-16.5, 180.0), 12.0)
def test_a_small_circle_covers_exactly_the_cells_centred_in_it(
    place: tuple[float, float], radius_km: float
) -> None:
    cover = cover_near(*place, radius_km)
    for resolution, steps in ((7, 10), (6, 5), (5, 3)):
        for cell in h3.grid_disk(h3.latlng_to_cell(*place, resolution), steps):
            distance = haversine_km(place, h3.cell_to_latlng(cell))
            if not near_the_edge(distance, radius_km):
                assert (cell in cover) == (distance < radius_km)


@settings(max_examples=30, deadline=None)
@given(
    PLACES,
    st.floats(1.0, 500.0) | st.sampled_from([28.0, 28.001, 70.0, 70.001, 225.0, 225.001, 500.0]),
    st.lists(
        st.tuples(st.floats(0.0, 2 * math.pi), st.floats(-8.0, 8.0), st.integers(5, 7)),
        min_size=20,
        max_size=40,
    ),
)
def test_a_circle_of_any_size_is_right_along_its_edge(
    place: tuple[float, float], radius_km: float, probes: list[tuple[float, float, int]]
) -> None:
    cover = cover_near(*place, radius_km)
    for bearing, beyond_km, resolution in probes:
        probe = moved(place, max(radius_km + beyond_km, 0.0), bearing)
        cell = h3.latlng_to_cell(*probe, resolution)
        distance = haversine_km(place, h3.cell_to_latlng(cell))
        if not near_the_edge(distance, radius_km):
            assert (cell in cover) == (distance < radius_km)


@pytest.mark.parametrize(
    ("radius_km", "resolution"), [(28.0, 4), (70.0, 3), (225.0, 2), (500.0, 1)]
)
def test_a_circle_around_a_corner_reaches_into_every_cell_around(
    radius_km: float, resolution: int
) -> None:
    # The largest circles for which the descent starts at that resolution, from its worst places.
    starts = [h3.get_pentagons(resolution)[3], h3.latlng_to_cell(48, 11, resolution)]
    for corner in (corner for cell in starts for corner in h3.cell_to_boundary(cell)[::2]):
        cover = cover_near(corner[0], corner[1], radius_km)
        for bearing in range(0, 360, 10):
            probe = moved(corner, radius_km - 2.0, math.radians(bearing))
            cell = h3.latlng_to_cell(*probe, 7)
            distance = haversine_km(corner, h3.cell_to_latlng(cell))
            if not near_the_edge(distance, radius_km):
                assert (cell in cover) == (distance < radius_km)


@pytest.mark.parametrize("place", AWKWARD_PLACES)
def test_circles_hold_as_many_cells_as_brute_force_finds(place: tuple[float, float]) -> None:
    cover = cover_near(*place, 40.0)
    for resolution, steps in ((7, 32), (6, 14), (5, 7)):
        disk = h3.grid_disk(h3.latlng_to_cell(*place, resolution), steps)
        expected = {cell for cell in disk if haversine_km(place, h3.cell_to_latlng(cell)) <= 40.0}
        assert {cell for cell in disk if cell in cover} == expected
        assert count(cover, resolution) == len(expected)


def count(cover: Cover, resolution: int) -> int:
    """How many valid cells of a resolution the ranges hold, counted one by one."""
    found = 0
    step = 1 << 3 * (15 - resolution)
    for low, high in cover:
        if low >> 52 & 15 == resolution:
            found += sum(h3.is_valid_cell(cell) for cell in range(low, high + 1, step))
    return found


@settings(max_examples=8, deadline=None)
@given(PLACES)
@example((0.0, 0.0))
def test_the_largest_circle_stays_within_the_ranges_of_a_query(
    place: tuple[float, float],
) -> None:
    assert 500 < len(cover_near(*place, 500.0)) < 2500


def test_a_circle_between_cell_centres_covers_nothing() -> None:
    latitude, longitude = h3.cell_to_boundary(h3.latlng_to_cell(10, 10, 7))[0]
    assert len(cover_near(latitude, longitude, 0.05)) == 0


@pytest.mark.parametrize("radius_km", [0.0, -1.0, math.nan, -math.inf])
def test_radii_that_are_not_above_zero_are_refused(radius_km: float) -> None:
    with pytest.raises(InvalidValueError, match="radius"):
        cover_near(10, 10, radius_km)


@pytest.mark.parametrize("radius_km", [500.001, 1e300, math.inf])
def test_radii_above_the_limit_are_refused_with_the_limit(radius_km: float) -> None:
    with pytest.raises(LimitExceededError, match="500"):
        cover_near(10, 10, radius_km)


@settings(max_examples=100, deadline=None)
@given(cells(finest=6), st.lists(st.integers(0, 6), min_size=7, max_size=7))
def test_no_descendant_is_farther_from_its_ancestor_than_assumed(
    cell: int, path: list[int]
) -> None:
    resolution = h3.get_resolution(cell)
    descendant = cell
    for step in path[: 7 - resolution]:
        children = h3.cell_to_children(descendant)
        descendant = children[step % len(children)]
    distance = haversine_km(h3.cell_to_latlng(cell), h3.cell_to_latlng(descendant))
    assert distance <= REACH_KM[resolution]


# --- polygons ----------------------------------------------------------------------------------


def geojson(*rings: list[tuple[float, float]]) -> Polygon:
    """A checked polygon from rings of (longitude, latitude)."""
    closed = [[[*corner] for corner in (*ring, ring[0])] for ring in rings]
    (polygon,) = parse_geojson({"type": "Polygon", "coordinates": closed})
    return polygon


@st.composite
def stars(draw: st.DrawFn) -> list[tuple[float, float]]:
    """A simple ring around a middle point that it need not be convex around."""
    radius = draw(st.floats(0.05, 2.0))
    latitude = draw(st.floats(-75.0, 75.0))
    longitude = draw(st.floats(-177.0, 177.0))
    spokes = draw(st.lists(st.floats(0.2, 1.0), min_size=3, max_size=12))
    return [
        (
            longitude + radius * length * math.cos(2 * math.pi * at / len(spokes)),
            latitude + radius * length * math.sin(2 * math.pi * at / len(spokes)),
        )
        for at, length in enumerate(spokes)
    ]


def expanded(compact: list[int]) -> set[int]:
    return set(h3.uncompact_cells(compact, 7))


def h3_fill(polygon: Polygon) -> set[int]:
    outer, *holes = ([(lat, lon) for lon, lat in ring] for ring in polygon)
    return set(h3.polygon_to_cells(h3.LatLngPoly(outer, *holes), 7))


@settings(max_examples=30, deadline=None)
@given(stars())
def test_a_polygon_holds_the_cells_that_h3_fills_it_with(star: list[tuple[float, float]]) -> None:
    polygon = geojson(star)
    expected = h3_fill(polygon)
    assume(expected)
    compact = compact_region([polygon])
    assert expanded(compact) == expected
    assert sorted(h3.compact_cells(expected)) == compact


@settings(max_examples=20, deadline=None)
@given(stars(), st.booleans())
def test_a_hole_is_left_out_whichever_way_it_turns(
    star: list[tuple[float, float]], turn: bool
) -> None:
    middle = (sum(x for x, _ in star) / len(star), sum(y for _, y in star) / len(star))
    hole = [(middle[0] + (x - middle[0]) * 0.1, middle[1] + (y - middle[1]) * 0.1) for x, y in star]
    if turn:
        hole.reverse()
    try:
        polygon = geojson(star, hole)
    except InvalidValueError:
        assume(False)
    expected = h3_fill(polygon)
    assume(expected)
    assert expanded(compact_region([polygon])) == expected


def test_polygons_unite_where_they_overlap() -> None:
    one = geojson([(0, 0), (1, 0), (1, 1), (0, 1)])
    two = geojson([(0.5, 0.5), (1.5, 0.5), (1.5, 1.5), (0.5, 1.5)])
    assert expanded(compact_region([one, two])) == h3_fill(one) | h3_fill(two)


def test_a_polygon_in_the_hole_of_another_counts() -> None:
    ring = geojson(
        [(0, 0), (1, 0), (1, 1), (0, 1)], [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
    )
    island = geojson([(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)])
    assert expanded(compact_region([ring, island])) == h3_fill(ring) | h3_fill(island)


@pytest.mark.parametrize(
    ("west", "south", "east", "north"),
    [
        (179.0, -17.0, 180.0, -16.0),
        (-180.0, -17.0, -179.0, -16.0),
        (-180.0, 84.6, -150.0, 90.0),
        (-30.0, -90.0, 30.0, -85.0),
        (-3.0, -2.0, 3.0, 2.0),
    ],
)
def test_boxes_at_poles_and_antimeridian_hold_the_centres_in_them(
    west: float, south: float, east: float, north: float
) -> None:
    box = geojson([(west, south), (east, south), (east, north), (west, north)])
    cover = cover_polygon([box])
    middle = ((south + north) / 2, (west + east) / 2)
    for resolution, steps in ((7, 30), (6, 20), (5, 40)):
        for start in (middle, (south, west), (north, east)):
            for cell in h3.grid_disk(h3.latlng_to_cell(*start, resolution), steps):
                latitude, longitude = h3.cell_to_latlng(cell)
                inside = south < latitude < north and west < longitude < east
                assert (cell in cover) == inside


def test_a_band_around_the_earth_needs_corners_along_it_and_then_works() -> None:
    band = geojson(
        [(x, 85.5) for x in (-180.0, -60.0, 60.0, 180.0)]
        + [(x, 86.0) for x in (180.0, 60.0, -60.0, -180.0)]
    )
    cover = cover_polygon([band])
    for x in range(-179, 180, 7):
        assert h3.cell_to_center_child(h3.latlng_to_cell(85.75, x, 5), 7) in cover
        assert h3.latlng_to_cell(85.3, x, 7) not in cover


@settings(max_examples=10, deadline=None)
@given(stars())
def test_a_query_polygon_covers_what_the_region_of_it_would(
    star: list[tuple[float, float]],
) -> None:
    polygon = geojson(star)
    assume(h3_fill(polygon))
    assert cover_polygon([polygon]) == cover_region(compact_region([polygon]))


def test_a_polygon_without_a_cell_centre_makes_no_region_but_an_empty_query() -> None:
    latitude, longitude = h3.cell_to_boundary(h3.latlng_to_cell(10, 10, 7))[0]
    sliver = geojson(
        [(longitude, latitude), (longitude + 1e-4, latitude), (longitude, latitude + 1e-4)]
    )
    assert len(cover_polygon([sliver])) == 0
    with pytest.raises(InvalidValueError, match="larger"):
        compact_region([sliver])


@pytest.mark.parametrize("half", [14.0, 30.0, 80.0])
def test_too_large_a_polygon_is_refused(half: float) -> None:
    box = geojson([(-half, -half), (half, -half), (half, half), (-half, half)])
    with pytest.raises(LimitExceededError):
        compact_region([box])
    with pytest.raises(LimitExceededError):
        cover_polygon([box])


def test_a_comb_with_a_thousand_teeth_is_refused_before_it_costs_much() -> None:
    teeth = [corner for at in range(1000) for corner in ((at * 1e-3, 0.0), (at * 1e-3 + 5e-4, 5.0))]
    comb = [[*teeth, (1.0, -1.0)]]
    with pytest.raises(LimitExceededError, match="outline"):
        compact_region([comb])


def test_cells_of_a_region_are_checked() -> None:
    check_region_cells(h3.cell_to_children(h3.latlng_to_cell(10, 10, 5), 7))
    for bad in (0, h3.latlng_to_cell(10, 10, 8)):
        with pytest.raises(MalformedError):
            check_region_cells([bad])
        with pytest.raises(MalformedError):
            cover_region([bad])


def test_a_region_of_many_scattered_cells_can_still_be_searched() -> None:
    scattered = [
        h3.cell_to_children(cell, 7)[3] for cell in h3.grid_disk(h3.latlng_to_cell(10, 10, 5), 42)
    ]
    assert 5000 < len(scattered) <= 8192
    assert len(cover_region(scattered)) == len(scattered)
