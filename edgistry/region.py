"""Where cells lie on the earth: from positions and areas to published cells and covers.

This is the only module that imports h3, and it uses five of its functions: point to cell, cell to
centre, cell to boundary, cell to area, and the cells around a cell.

Rules kept here (privacy.md, *Geography*):

* A position becomes a cell at once, and only the cell goes on.
* The cell of resolution 7 comes first; a coarser published cell is its ancestor. Indexing the
  point again at the coarser resolution would give another cell for about 7 % of points, and both
  together would tell where near their border the point is.
* An area matches a service by the centre of its published cell, whatever its resolution.
* Limits are checked before or while an area is turned into cells, never after.

Not handled here: noise and crowds, and which services are in a cover (``abci_app.discovery``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import h3.api.basic_int as h3

from .area import EARTH_RADIUS_KM, REACH_KM, Area, Circle, cells_in, compacted
from .cell import (
    FINEST_PUBLISHED,
    CellIndex,
    base_cell,
    cell_text,
    check_cell,
    check_published_resolution,
    is_cell,
    parent_of,
    parse_cell,
    resolution_of,
)
from .cover import Cover, cover_of, cover_of_walk
from .errors import InvalidValueError, LimitExceededError, MalformedError
from .outline import Outline, Polygon
from .position import check_position, sphere_km
from .transactions import MAX_REGION_CELLS

__all__ = [
    "CellIndex",
    "Cover",
    "accuracy_m",
    "cell_area_km2",
    "cell_boundary",
    "cell_center",
    "cell_text",
    "cells_around",
    "check_cell",
    "check_position",
    "check_region_cells",
    "compact_region",
    "cover_cell",
    "cover_near",
    "cover_polygon",
    "cover_region",
    "parse_cell",
    "published_cell",
    "resolution_of",
]

MAX_RADIUS_KM = 500.0
"""A circle of that radius falls into about 1 400 ranges and takes 10 ms to cover."""

MAX_CELLS_FOUND = 16_384
"""Cells of an area before compaction; about 8 192 compacted ones, or 5 000 ranges."""

MAX_STEPS = 250_000
"""Work spent on covering one area; about 0.5 s."""

# By resolution, fine first: every descendant of resolution 7 whose centre is within this many
# kilometres of a point is under a cell at most 2 steps from the point's own. It is the least
# distance of cells 3 steps apart, less the greatest radius of a cell, less REACH_KM (86.3 - 28.7
# - 28.9, 225 - 75.9 - 79, 638 - 201 - 212, 1779 - 530 - 563; measured over all cells).
_DISK_KM = ((4, 28.0), (3, 70.0), (2, 225.0), (1, 685.0))


def published_cell(
    latitude: float, longitude: float, resolution: int = FINEST_PUBLISHED
) -> CellIndex:
    """The cell under which a service at that position (degrees) is published.

    Raises:
        InvalidValueError: a coordinate out of range or NaN, or a resolution other than 5, 6, 7.
    """
    check_position(latitude, longitude)
    check_published_resolution(resolution)
    return parent_of(h3.latlng_to_cell(latitude, longitude, FINEST_PUBLISHED), resolution)


@lru_cache(maxsize=8192)
def cell_center(cell: int) -> tuple[float, float]:
    """Latitude and longitude of the centre of a valid cell, degrees."""
    latitude, longitude = h3.cell_to_latlng(cell)
    return latitude, longitude


@lru_cache(maxsize=8192)
def accuracy_m(cell: int) -> int:
    """The greatest distance from the centre of a valid cell to its vertices, metres, rounded up."""
    center = h3.cell_to_latlng(cell)
    return math.ceil(max(distance_km(center, vertex) for vertex in h3.cell_to_boundary(cell)) * 1e3)


def cell_boundary(cell: int) -> list[tuple[float, float]]:
    """The vertices of a valid cell in order, latitude and longitude in degrees."""
    return list(h3.cell_to_boundary(cell))


def cell_area_km2(cell: int) -> float:
    """The area of a valid cell, square kilometres."""
    area: float = h3.cell_area(cell, unit="km^2")
    return area


def cells_around(cell: int) -> list[int]:
    """A valid cell and its neighbours, seven (six at a pentagon), ascending."""
    return sorted(h3.grid_disk(cell, 1))


def distance_km(one: tuple[float, float], two: tuple[float, float]) -> float:
    """The distance along the surface of the sphere between two (latitude, longitude), degrees."""
    return sphere_km(one, two)


def cover_cell(cell: int) -> Cover:
    """The cover of one cell: it, its descendants, and ancestors with the same centre.

    Raises:
        MalformedError: not an H3 cell.
        LimitExceededError: finer than resolution 7.
    """
    if not is_cell(cell):
        raise MalformedError(f"{cell_text(cell)} is not an H3 cell")
    if resolution_of(cell) > FINEST_PUBLISHED:
        parent = cell_text(parent_of(cell, FINEST_PUBLISHED))
        raise LimitExceededError(
            f"cell {cell_text(cell)} has resolution {resolution_of(cell)}; nothing finer than "
            f"{FINEST_PUBLISHED} is known. The cell of that resolution around it is {parent}"
        )
    return cover_of([cell])


def cover_near(latitude: float, longitude: float, radius_km: float) -> Cover:
    """The published cells whose centre is within ``radius_km`` of a position (degrees).

    Raises:
        InvalidValueError: a coordinate out of range, a radius that is not above 0, or NaN.
        LimitExceededError: a radius above 500 km.
    """
    check_position(latitude, longitude)
    if not radius_km > 0.0:
        raise InvalidValueError(f"radius {radius_km:g} km: give a number above 0")
    if radius_km > MAX_RADIUS_KM:
        raise LimitExceededError(f"radius {radius_km:g} km: at most {MAX_RADIUS_KM:g} km")
    circle = Circle(latitude=latitude, longitude=longitude, radius_km=radius_km)
    return cover_of_walk(_cells_in(circle, latitude, longitude, radius_km))


def cover_polygon(polygons: Sequence[Polygon]) -> Cover:
    """The published cells whose centre lies in checked polygons (``geojson.parse_geojson``).

    Raises:
        LimitExceededError: more than 5 000 ranges, or an outline too long to follow.
    """
    return cover_of_walk(compacted(_cells_in_polygons(polygons)))


def compact_region(polygons: Sequence[Polygon]) -> list[int]:
    """The cells of a named region: those of resolution 7 with their centre in checked polygons.

    Compacted, ascending; what ``transactions.pack_cells`` packs.

    Raises:
        InvalidValueError: no cell has its centre there.
        LimitExceededError: more than 8 192 compacted cells, or an outline too long to follow.
    """
    cells = compacted(_cells_in_polygons(polygons))
    if not cells:
        raise InvalidValueError(
            "this area holds the centre of no cell of resolution 7 (about 5 km²); draw it larger"
        )
    if len(cells) > MAX_REGION_CELLS:
        raise LimitExceededError(
            f"this area takes {len(cells)} compacted cells, a region may have {MAX_REGION_CELLS}; "
            "simplify its outline or split it"
        )
    return sorted(cells)


def check_region_cells(cells: Iterable[int]) -> None:
    """Raises ``MalformedError`` unless all are H3 cells of resolution 7 or coarser."""
    for cell in cells:
        if not is_cell(cell) or resolution_of(cell) > FINEST_PUBLISHED:
            raise MalformedError(f"{cell_text(cell)} is not an H3 cell of resolution 7 or coarser")


def cover_region(cells: Iterable[int]) -> Cover:
    """The cover of a named region's cells; their number alone bounds its ranges.

    Raises:
        MalformedError: one of them is not an H3 cell of resolution 7 or coarser.
    """
    return cover_of(cells, max_ranges=None)


def _cells_in_polygons(polygons: Sequence[Polygon]) -> list[int]:
    corners = [corner for polygon in polygons for corner in polygon[0]]
    longitudes = [longitude for longitude, _ in corners]
    latitudes = [latitude for _, latitude in corners]
    south, north, west, east = min(latitudes), max(latitudes), min(longitudes), max(longitudes)
    center = (south + north) / 2, (west + east) / 2
    # Of a box at most 180 degrees wide, a corner is farthest from the centre.
    radius_km = max(distance_km(center, (latitude, west)) for latitude in (south, north))
    if east - west > 180.0:
        radius_km = math.pi * EARTH_RADIUS_KM
    return _cells_in(Outline.of(polygons), *center, radius_km)


def _cells_in(area: Area, latitude: float, longitude: float, radius_km: float) -> list[int]:
    """The cells of an area that lies within a circle, in tree order."""
    return cells_in(
        area,
        starts=_starts(latitude, longitude, radius_km),
        center_of=h3.cell_to_latlng,
        max_cells=MAX_CELLS_FOUND,
        max_steps=MAX_STEPS,
    )


def _starts(latitude: float, longitude: float, radius_km: float) -> list[int]:
    """Cells, none in another, under which every cell with its centre in the circle is."""
    for resolution, reached_km in _DISK_KM:
        if radius_km <= reached_km:
            cell = h3.latlng_to_cell(latitude, longitude, resolution)
            around: list[int] = h3.grid_disk(cell, 2)
            return around
    reached_km = radius_km + REACH_KM[0]
    return [
        cell
        for cell in map(base_cell, range(122))
        if distance_km((latitude, longitude), h3.cell_to_latlng(cell)) <= reached_km
    ]
