"""GeoJSON from strangers: what is accepted, and what each refusal says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.codec import decode_json
from edgistry.errors import (
    InvalidValueError,
    LimitExceededError,
    MalformedError,
    Refused,
)
from edgistry.geojson import MAX_GEOJSON_BYTES, MAX_POSITIONS, parse_geojson
from edgistry.outline import Polygon

REGIONS = sorted((Path(__file__).parents[2] / "node_configs" / "regions").glob("*.geojson"))

SQUARE = [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [0.0, 0.0]]
HOLE = [[1.0, 1.0], [1.0, 3.0], [3.0, 3.0], [3.0, 1.0], [1.0, 1.0]]
CORNERS = [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)]


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def read(data: bytes) -> tuple[Polygon, ...]:
    """A document as the command lines and the node read it."""
    return parse_geojson(decode_json(data, dict[str, Any], limit=MAX_GEOJSON_BYTES))


def moved(ring: list[list[float]], east: float) -> list[list[float]]:
    return [[x + east, y] for x, y in ring]


# --- accepted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        polygon(SQUARE),
        {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
        {"type": "Feature", "properties": None, "geometry": polygon(SQUARE)},
        {
            "type": "FeatureCollection",
            "name": "ignored",
            "features": [{"type": "Feature", "id": 7, "geometry": polygon(SQUARE)}],
        },
        {**polygon(SQUARE), "bbox": [0, 0, 4, 4], "crs": None},
        polygon([[*position, 120.5] for position in SQUARE]),
        polygon([[int(x), int(y)] for x, y in SQUARE]),
        polygon([SQUARE[0], *SQUARE]),
    ],
    ids=["polygon", "multi", "feature", "collection", "extras", "heights", "integers", "repeats"],
)
def test_every_form_of_the_same_square_reads_the_same(value: Any) -> None:
    assert [[list(ring) for ring in rings] for rings in parse_geojson(value)] == [[CORNERS]]


def test_polygons_of_all_features_are_read() -> None:
    features = [
        {"type": "Feature", "geometry": polygon(SQUARE)},
        {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[moved(SQUARE, 10)], [moved(SQUARE, 20), moved(HOLE, 20)]],
            },
        },
    ]
    polygons = parse_geojson({"type": "FeatureCollection", "features": features})
    assert [len(rings) for rings in polygons] == [1, 1, 2]


def test_rings_may_turn_either_way() -> None:
    assert len(parse_geojson(polygon(SQUARE[::-1], HOLE))) == 1
    assert len(parse_geojson(polygon(SQUARE, HOLE[::-1]))) == 1


def test_a_hole_may_touch_its_outer_ring_in_a_point() -> None:
    touching = [[0.0, 0.0], [1.0, 3.0], [3.0, 1.0], [0.0, 0.0]]
    (rings,) = parse_geojson(polygon(SQUARE, touching))
    assert len(rings) == 2


def test_edges_of_the_world_are_in_range() -> None:
    world = [[-180, -90], [0, -90], [180, -90], [180, 90], [0, 90], [-180, 90], [-180, -90]]
    assert len(parse_geojson(polygon(world))) == 1


@pytest.mark.parametrize("path", REGIONS, ids=lambda path: path.stem)
def test_the_regions_that_come_along_are_accepted(path: Path) -> None:
    assert read(path.read_bytes())
    assert json.loads(path.read_text())["properties"]["name"] == path.stem


# --- refused -----------------------------------------------------------------------------------


def test_an_open_ring_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidValueError, match="ring 1 is not closed; repeat its first position"):
        parse_geojson(polygon(SQUARE[:-1]))


def test_a_ring_that_crosses_itself_is_refused_with_the_place() -> None:
    bow_tie = [[10, 50], [14, 54], [14, 50], [10, 54], [10, 50]]
    with pytest.raises(InvalidValueError, match=r"crosses or touches itself.*longitude 1[0-4]"):
        parse_geojson(polygon(bow_tie))


def test_a_ring_that_runs_back_on_itself_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="crosses or touches itself"):
        parse_geojson(polygon([[0, 0], [4, 0], [4, 4], [4, 1], [0, 0]]))


def test_a_hole_across_its_outer_ring_is_refused_with_both_rings() -> None:
    with pytest.raises(InvalidValueError, match="rings 1 and 2 that cross"):
        parse_geojson(polygon(SQUARE, moved(HOLE, 2)))


def test_a_hole_beside_its_outer_ring_is_refused_with_the_way_to_write_two_areas() -> None:
    with pytest.raises(InvalidValueError, match="MultiPolygon"):
        parse_geojson(polygon(SQUARE, moved(SQUARE, 10)))


def test_a_hole_around_its_outer_ring_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="outside of its outer ring"):
        parse_geojson(polygon(HOLE, SQUARE))


@pytest.mark.parametrize(
    "ring",
    [
        [[179, 0], [-179, 0], [-179, 2], [179, 2], [179, 0]],
        [[170, 0], [-170, 1], [175, 5], [170, 0]],
        [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]],
    ],
)
def test_rings_across_the_antimeridian_are_refused_with_how_to_cut(ring: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"antimeridian.*MultiPolygon"):
        parse_geojson(polygon(ring))


@pytest.mark.parametrize(
    ("position", "text"),
    [
        ([181.0, 2.0], "longitude 181 is outside"),
        ([-180.1, 2.0], "longitude"),
        ([2.0, 90.5], "latitude 90.5 is outside.*longitude, latitude"),
        ([2.0, -1e300], "latitude"),
        ([float("nan"), 2.0], "longitude nan"),
        ([2.0, float("inf")], "latitude inf"),
        ([10**400, 2], "out of any range"),
    ],
)
def test_positions_out_of_range_are_refused_with_their_place(position: Any, text: str) -> None:
    ring = [SQUARE[0], SQUARE[1], position, SQUARE[3], SQUARE[4]]
    with pytest.raises(InvalidValueError, match=f"polygon 1, ring 1, position 3.*{text}"):
        parse_geojson(polygon(ring))


@pytest.mark.parametrize("position", [None, 5, "1,2", [], [1], [1, 2, 3, 4], ["1", 2], [True, 2]])
def test_what_is_no_position_is_malformed(position: Any) -> None:
    with pytest.raises(MalformedError, match="position 2"):
        parse_geojson(polygon([SQUARE[0], position, *SQUARE[2:]]))


@pytest.mark.parametrize("ring", [[], [[0, 0]], [[0, 0], [0, 0]], [[0, 0], [1, 1], [0, 0]]])
def test_rings_without_an_area_are_refused(ring: Any) -> None:
    with pytest.raises(InvalidValueError):
        parse_geojson(polygon(ring))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "Polygon",
        {},
        {"type": None},
        {"type": ["Polygon"]},
        {"type": "Point", "coordinates": [0, 0]},
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE)]},
        {"type": "polygon", "coordinates": [SQUARE]},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": {}},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [None]},
        {"type": "MultiPolygon", "coordinates": []},
        {"type": "Feature", "geometry": None},
        {"type": "FeatureCollection", "features": []},
        {"type": "FeatureCollection", "features": [polygon(SQUARE)]},
        {"type": "FeatureCollection", "features": None},
    ],
)
def test_what_encloses_no_area_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedError):
        parse_geojson(value)


def test_too_many_positions_are_refused_with_the_limit_whatever_ring_they_are_in() -> None:
    steps = MAX_POSITIONS // 2 - 10
    teeth = [[x / steps, 1.0 + x % 2 / 10] for x in range(steps)]
    ring = [[0.0, 0.0], *teeth, [1.0, 0.0], [0.0, 0.0]]
    assert parse_geojson(polygon(ring))
    two = {"type": "MultiPolygon", "coordinates": [[ring], [moved(ring, 3)]]}
    assert len(parse_geojson(two)) == 2
    three = {"type": "MultiPolygon", "coordinates": [[ring], [moved(ring, 3)], [moved(ring, 6)]]}
    with pytest.raises(LimitExceededError, match=str(MAX_POSITIONS)):
        parse_geojson(three)


def test_too_many_holes_are_refused() -> None:
    outer = [[0.0, 0.0], *([x / 1000, -1.0 - x % 2] for x in range(1, 3000)), [3.0, 0.0]]
    outer += [[3.0, 3.0], [0.0, 3.0], [0.0, 0.0]]
    holes = [
        [[x, y], [x + 0.01, y], [x, y + 0.01], [x, y]]
        for x in (at * 0.1 + 0.1 for at in range(20))
        for y in (at * 0.1 + 0.1 for at in range(20))
    ]
    with pytest.raises(LimitExceededError, match="too many holes"):
        parse_geojson(polygon(outer, *holes))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b'{"type":NaN}', b"\xff\xfe{}", b'{"a":' * 100_000]
)
def test_bytes_that_are_no_json_object_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read(data)


# --- anything ----------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_polygons_or_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data)


NUMBERS = st.integers(-5, 5) | st.floats() | st.integers()
POSITIONS = st.lists(NUMBERS, max_size=4)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS | st.sampled_from(["Polygon", "MultiPolygon", "Feature", "FeatureCollection"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["type", "coordinates", "geometry", "features"]) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)
GEOMETRIES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Polygon", "MultiPolygon"]),
        "coordinates": st.lists(
            st.lists(POSITIONS | st.lists(POSITIONS, max_size=6), max_size=7), max_size=3
        ),
    }
)


@settings(max_examples=150, deadline=None)
@given(JSON | GEOMETRIES)
def test_any_json_value_is_polygons_or_refused(value: Any) -> None:
    try:
        polygons = parse_geojson(value)
    except Refused:
        return
    for rings in polygons:
        for ring in rings:
            assert len(ring) >= 3
            assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in ring)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good document with a few bytes changed, cut or doubled."""
    data = bytearray(json.dumps(polygon(SQUARE, HOLE)).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=2))
    return bytes(data)


@settings(max_examples=150, deadline=None)
@given(damaged())
def test_damaged_documents_are_polygons_or_refused(data: bytes) -> None:
    try:
        polygons = read(data)
    except Refused:
        return
    assert len(polygons) == 1
