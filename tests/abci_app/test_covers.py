"""From the area of a query to its cover."""

from __future__ import annotations

from typing import Any

import pytest

from abci_app.covers import Covers
from abci_app.schema import StoredRegion
from edgistry.api import CellArea, NearArea, PolygonArea, RegionArea
from edgistry.errors import LimitExceededError, MalformedError, UnknownRegionError
from edgistry.geojson import parse_geojson
from edgistry.region import (
    cell_text,
    compact_region,
    cover_cell,
    cover_near,
    cover_region,
    published_cell,
)
from edgistry.transactions import pack_cells

BOX: dict[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[10, 10], [11, 10], [11, 11], [10, 11], [10, 10]]],
}


def region(version: int, cells: list[int]) -> StoredRegion:
    return StoredRegion(owner=b"o" * 20, version=version, cells=pack_cells(cells))


def nowhere(_: str) -> None:
    return None


def test_every_kind_of_area_has_its_cover() -> None:
    box = compact_region(parse_geojson(BOX))
    covers = Covers({"box": region(1, box)}.get)
    cell = published_cell(10.5, 10.5, 6)
    assert covers.of(RegionArea(name="box")) == cover_region(box)
    assert covers.of(PolygonArea(geojson=BOX)) == cover_region(box)
    assert covers.of(CellArea(cell=cell_text(cell))) == cover_cell(cell)
    near = NearArea(latitude=10.5, longitude=10.5, radius_km=20.0)
    assert covers.of(near) == cover_near(10.5, 10.5, 20.0)


def test_a_region_put_again_is_covered_anew() -> None:
    regions = {"here": region(1, [published_cell(10, 10)])}
    covers = Covers(regions.get)
    before = covers.of(RegionArea(name="here"))
    assert covers.of(RegionArea(name="here")) is before
    regions["here"] = region(2, [published_cell(20, 20)])
    after = covers.of(RegionArea(name="here"))
    assert published_cell(20, 20) in after
    assert published_cell(10, 10) not in after


def test_a_circle_asked_for_again_is_not_covered_again() -> None:
    covers = Covers(nowhere)
    near = NearArea(latitude=10.5, longitude=10.5, radius_km=20.0)
    assert covers.of(near) is covers.of(near)


def test_an_unknown_region_is_refused_by_name() -> None:
    with pytest.raises(UnknownRegionError, match="atlantis"):
        Covers(nowhere).of(RegionArea(name="atlantis"))


@pytest.mark.parametrize("text", ["", "872830828fffff", "8f2830828ffffff ", "zzz"])
def test_text_that_is_no_cell_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        Covers(nowhere).of(CellArea(cell=text))


def test_a_cell_that_is_too_fine_is_refused() -> None:
    with pytest.raises(LimitExceededError, match="finer than 7"):
        Covers(nowhere).of(CellArea(cell="8828308281fffff"))


def test_a_polygon_that_is_none_is_malformed() -> None:
    with pytest.raises(MalformedError):
        Covers(nowhere).of(PolygonArea(geojson={"type": "Point", "coordinates": [1, 2]}))
