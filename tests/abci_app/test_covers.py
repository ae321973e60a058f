"""From the area of a query to its cover."""

from __future__ import annotations

from typing import Any

import pytest

from abci_app.covers import Covers, CoverWork, cover_geojson
from abci_app.schema import StoredRegion
from edgistry.api import CellArea, NearArea, RegionArea
from edgistry.cover import Cover
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


class Regions:
    """Committed regions by name."""

    def __init__(self, **regions: StoredRegion) -> None:
        self.regions = regions

    def region(self, name: str) -> StoredRegion | None:
        return self.regions.get(name)

    def region_version(self, name: str) -> int | None:
        found = self.regions.get(name)
        return None if found is None else found.version


def cover(covers: Covers, area: RegionArea | NearArea | CellArea) -> Cover:
    """The cover of ``area``, its work done and kept where there is some."""
    found = covers.of(area)
    if isinstance(found, CoverWork):
        found.keep(found.make())
        found = covers.of(area)
    assert isinstance(found, Cover)
    return found


def test_every_kind_of_area_has_its_cover() -> None:
    box = compact_region(parse_geojson(BOX))
    covers = Covers(Regions(box=region(1, box)))
    cell = published_cell(10.5, 10.5, 6)
    assert cover(covers, RegionArea(name="box")) == cover_region(box)
    assert cover_geojson(BOX) == cover_region(box)
    assert cover(covers, CellArea(cell=cell_text(cell))) == cover_cell(cell)
    for radius_km in (20.0, 120.0):
        near = NearArea(latitude=10.5, longitude=10.5, radius_km=radius_km)
        assert cover(covers, near) == cover_near(10.5, 10.5, radius_km)


def test_a_region_put_again_is_covered_anew() -> None:
    regions = Regions(here=region(1, [published_cell(10, 10)]))
    covers = Covers(regions)
    before = cover(covers, RegionArea(name="here"))
    assert covers.of(RegionArea(name="here")) is before
    regions.regions["here"] = region(2, [published_cell(20, 20)])
    after = cover(covers, RegionArea(name="here"))
    assert published_cell(20, 20) in after
    assert published_cell(10, 10) not in after


def test_work_that_ends_after_the_region_changed_does_not_cover_the_new_one() -> None:
    regions = Regions(here=region(1, [published_cell(10, 10)]))
    covers = Covers(regions)
    work = covers.of(RegionArea(name="here"))
    assert isinstance(work, CoverWork)
    regions.regions["here"] = region(2, [published_cell(20, 20)])
    work.keep(work.make())
    assert published_cell(20, 20) in cover(covers, RegionArea(name="here"))


def test_a_circle_asked_for_again_is_not_covered_again() -> None:
    covers = Covers(Regions())
    near = NearArea(latitude=10.5, longitude=10.5, radius_km=20.0)
    assert covers.of(near) is covers.of(near)


def test_what_takes_long_is_left_to_the_caller() -> None:
    covers = Covers(Regions(here=region(1, [published_cell(10, 10)])))
    wide = NearArea(latitude=10.5, longitude=10.5, radius_km=500.0)
    for area in (wide, RegionArea(name="here")):
        assert isinstance(covers.of(area), CoverWork)


def test_an_unknown_region_is_refused_by_name() -> None:
    with pytest.raises(UnknownRegionError, match="atlantis"):
        Covers(Regions()).of(RegionArea(name="atlantis"))


@pytest.mark.parametrize("text", ["", "872830828fffff", "8f2830828ffffff ", "zzz"])
def test_text_that_is_no_cell_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        Covers(Regions()).of(CellArea(cell=text))


def test_a_cell_that_is_too_fine_is_refused() -> None:
    with pytest.raises(LimitExceededError, match="finer than 7"):
        Covers(Regions()).of(CellArea(cell="8828308281fffff"))


def test_a_polygon_that_is_none_is_malformed() -> None:
    with pytest.raises(MalformedError):
        cover_geojson({"type": "Point", "coordinates": [1, 2]})
