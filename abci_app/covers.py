"""From the area of a discover query to the cells it covers.

Rules kept here:

* A cover depends on the area alone, so covers of circles and of regions (one version of a region
  never changes) are kept while there is room. Queries for circles cannot push out regions.
* Polygons come from strangers and seldom come twice: they are covered afresh.

Pure. A polygon may take 0.5 s each to check and to cover (``edgistry.geojson``,
``edgistry.region``); a server does that in a thread. ``of`` may be called from several threads
for polygons, from one for anything else. Not handled here: the search (``discovery``).
"""

from __future__ import annotations

from collections.abc import Callable

from edgistry.api import Area, CellArea, NearArea, PolygonArea, RegionArea
from edgistry.cover import Cover, CoverCache
from edgistry.errors import UnknownRegionError
from edgistry.geojson import parse_geojson
from edgistry.region import cover_cell, cover_near, cover_polygon, cover_region, parse_cell
from edgistry.transactions import unpack_cells

from .schema import StoredRegion


class Covers:
    """Covers of areas; ``region`` gives the committed region of a name."""

    def __init__(self, region: Callable[[str], StoredRegion | None]) -> None:
        self._region = region
        self._circles = CoverCache(max_ranges=200_000)
        self._regions = CoverCache(max_ranges=800_000)

    def of(self, area: Area) -> Cover:
        """The published cells whose centre lies in ``area``.

        Raises:
            UnknownRegionError: no region of that name.
            MalformedError: neither a cell nor a GeoJSON area.
            InvalidValueError: a value out of range, or a polygon that is none.
            LimitExceededError: too large, too fine or too entangled an area.
        """
        match area:
            case RegionArea(name=name):
                return self._of_region(name)
            case NearArea(latitude=latitude, longitude=longitude, radius_km=radius_km):
                circle = (latitude, longitude, radius_km)
                return self._circles.get(circle, lambda: cover_near(*circle))
            case CellArea(cell=cell):
                return cover_cell(parse_cell(cell))
            case PolygonArea(geojson=geojson):
                return cover_polygon(parse_geojson(geojson))

    def _of_region(self, name: str) -> Cover:
        region = self._region(name)
        if region is None:
            raise UnknownRegionError(f"there is no region {name!r} on this chain")
        cells = region.cells
        return self._regions.get((name, region.version), lambda: cover_region(unpack_cells(cells)))
