"""From the area of a discover query to the cells it covers.

Rules kept here:

* A cover depends on the area alone, so covers of circles and of regions (one version of a region
  never changes) are kept while there is room. Queries for circles cannot push out regions.
* What takes longer than about a millisecond is handed back as work for a thread: an event loop
  has others to answer.
* Polygons come from strangers and seldom come twice: they are covered afresh.

Pure. Not handled here: threads (``discover_service``), the search (``discovery``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from edgistry.api import CellArea, NearArea, RegionArea
from edgistry.cover import Cover, CoverCache
from edgistry.errors import UnknownRegionError
from edgistry.geojson import parse_geojson
from edgistry.region import cover_cell, cover_near, cover_polygon, cover_region, parse_cell
from edgistry.transactions import unpack_cells

from .schema import StoredRegion

QUICK_RADIUS_KM = 50.0
"""A circle of that radius is covered in about a millisecond; the largest, of 500 km, in 11."""


class RegionSource(Protocol):
    """Where the committed regions are."""

    def region(self, name: str) -> StoredRegion | None: ...
    def region_version(self, name: str) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverWork:
    """A cover still to be made: ``keep`` what ``make`` returns; ``make`` may run in a thread.

    ``make`` raises ``Refused`` for an area over a limit.
    """

    make: Callable[[], Cover]
    keep: Callable[[Cover], None]


class Covers:
    """Covers of areas, from one thread; ``regions`` gives the committed regions."""

    def __init__(self, regions: RegionSource) -> None:
        self._source = regions
        self._circles = CoverCache(max_ranges=200_000)
        self._regions = CoverCache(max_ranges=800_000)

    def of(self, area: RegionArea | NearArea | CellArea) -> Cover | CoverWork:
        """The published cells whose centre lies in ``area``, or the work that finds them.

        Raises:
            UnknownRegionError: no region of that name.
            MalformedError: not a cell.
            InvalidValueError: a value out of range.
            LimitExceededError: too large or too fine an area.
        """
        match area:
            case RegionArea(name=name):
                return self._of_region(name)
            case NearArea(latitude=latitude, longitude=longitude, radius_km=radius_km):
                return self._of_circle((latitude, longitude, radius_km))
            case CellArea(cell=cell):
                return cover_cell(parse_cell(cell))

    def _of_region(self, name: str) -> Cover | CoverWork:
        version = self._source.region_version(name)
        kept = self._regions.get((name, version))
        if kept is not None:
            return kept
        region = self._source.region(name)
        if region is None:
            raise UnknownRegionError(f"there is no region {name!r} on this chain")
        return CoverWork(
            make=partial(_cover_packed, region.cells),
            keep=partial(self._regions.put, (name, region.version)),
        )

    def _of_circle(self, circle: tuple[float, float, float]) -> Cover | CoverWork:
        kept = self._circles.get(circle)
        if kept is not None:
            return kept
        keep = partial(self._circles.put, circle)
        if circle[2] > QUICK_RADIUS_KM:
            return CoverWork(make=partial(cover_near, *circle), keep=keep)
        cover = cover_near(*circle)
        keep(cover)
        return cover


def cover_geojson(geojson: Mapping[str, Any]) -> Cover:
    """The published cells whose centre lies in a GeoJSON polygon; may take a second.

    Raises:
        MalformedError: not a GeoJSON area.
        InvalidValueError: a polygon that is none.
        LimitExceededError: too large or too entangled an area.
    """
    return cover_polygon(parse_geojson(geojson))


def _cover_packed(cells: bytes) -> Cover:
    return cover_region(unpack_cells(cells))
