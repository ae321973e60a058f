"""Areas on the globe as cells: an adaptive descent through the cell tree, and the circle.

Rules kept here:

* A cell belongs to an area when its *centre* lies in it. ``cells_in`` gives exactly the cells of
  resolution 7 for which that holds, compacted while descending: a subtree that is known to lie
  inside is one cell, one that is known to lie outside is never visited.
* What is known rests on ``REACH_KM``: how far the centre of a descendant of resolution 7 can be
  from its ancestor's centre, anywhere on the globe.
* The cost follows the length of an area's edge, not its size, and a budget bounds it.
* Pure: where a cell lies is a function given by the caller (``edgistry.region``).

The globe is a sphere of the radius that H3 uses. Not handled here: polygons
(``edgistry.outline``), ranges (``edgistry.cover``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import cos, pi, radians, sin
from typing import Protocol

from .cell import FINEST_PUBLISHED, children_of, completes_siblings, parent_of, resolution_of
from .errors import LimitExceededError

EARTH_RADIUS_KM = 6371.007180918475
"""The authalic radius of WGS 84, as in H3."""

CenterOf = Callable[[int], tuple[float, float]]
"""A cell to the latitude and longitude of its centre, degrees."""

REACH_KM = (1485.0, 563.0, 212.0, 79.0, 28.9, 9.9, 2.72, 0.0)
"""By resolution: no descendant of resolution 7 has its centre farther from its ancestor's.

The greatest distances between the centres of a cell and its child are 913.5, 347.3, 131.4, 49.67,
18.78, 7.10 and 2.69 km for resolutions 0 to 6 (all 2 million pairs to resolution 4 measured; below
that the cells around the greatest). These are their sums from the fine end, and 1 % more.
"""


class Area(Protocol):
    """What the descent asks an area about."""

    @property
    def cost(self) -> int:
        """What one question costs, in steps of about 2 µs; at least 1."""

    def narrow(self, latitude: float, longitude: float, resolution: int) -> Area | bool:
        """Where the subtree of the cell of that resolution with that centre lies.

        True: every centre within ``REACH_KM[resolution]`` is inside. False: none is. Otherwise an
        area that agrees with this one within that distance, and may be quicker to ask.
        """

    def contains(self, latitude: float, longitude: float) -> bool:
        """Whether the point is inside."""


def cells_in(
    area: Area, *, starts: Iterable[int], center_of: CenterOf, max_cells: int, max_steps: int
) -> list[int]:
    """The resolution-7 cells under ``starts`` whose centre lies in ``area``, partly compacted.

    ``starts`` are cells of resolution 6 or coarser, none inside another. The result is in tree
    order. Seven siblings may remain where their parent would do (``compacted`` finishes that).

    Raises:
        LimitExceededError: more than ``max_cells`` cells, or more than ``max_steps`` steps, in
            the measure of ``Area.cost``, before the end.
    """
    found: list[int] = []
    # The stack holds the cells still to visit, the next one last, with the area to ask.
    stack = [(cell, area) for cell in sorted(starts, reverse=True)]
    steps = 0
    while stack:
        cell, within = stack.pop()
        level = resolution_of(cell)
        latitude, longitude = center_of(cell)
        narrowed = within.narrow(latitude, longitude, level)
        steps += within.cost
        if narrowed is False:
            continue
        if narrowed is True:
            found.append(cell)
        elif level == FINEST_PUBLISHED - 1:
            contains = narrowed.contains
            found += [child for child in children_of(cell) if contains(*center_of(child))]
            steps += 7 * narrowed.cost
        else:
            stack += [(child, narrowed) for child in reversed(children_of(cell))]
        if len(found) > max_cells or steps > max_steps:
            raise LimitExceededError(
                "this area is too large, or its outline too long, to be turned into cells: it "
                f"takes more than {max_cells} cells or {max_steps} steps"
            )
    return found


def compacted(cells: Iterable[int]) -> list[int]:
    """``cells``, in tree order and disjoint, with every complete set of siblings made its parent.

    The result is in tree order.
    """
    found: list[int] = []
    for cell in cells:
        found.append(cell)
        while completes_siblings(found[-1]):
            parent = parent_of(found[-1], resolution_of(found[-1]) - 1)
            siblings = children_of(parent)
            if found[-len(siblings) :] != siblings:
                break
            found[-len(siblings) :] = [parent]
    return found


class Circle:
    """All points within ``radius_km`` of a point, along the surface."""

    cost = 1

    __slots__ = ("_cosine", "_inside", "_latitude", "_longitude", "_outside", "_radius")

    def __init__(self, *, latitude: float, longitude: float, radius_km: float) -> None:
        self._latitude = radians(latitude)
        self._longitude = radians(longitude)
        self._cosine = cos(self._latitude)
        self._radius = _haversine(radius_km)
        # By resolution: a centre this near has its whole subtree inside, one farther than that
        # has all of it outside. Distances stay in the form that needs no square root.
        self._inside = tuple(_haversine(radius_km - reach) for reach in REACH_KM)
        self._outside = tuple(_haversine(radius_km + reach) for reach in REACH_KM)

    def narrow(self, latitude: float, longitude: float, resolution: int) -> Circle | bool:
        distance = self._distance(latitude, longitude)
        if distance <= self._inside[resolution]:
            return True
        return self if distance <= self._outside[resolution] else False

    def contains(self, latitude: float, longitude: float) -> bool:
        return self._distance(latitude, longitude) <= self._radius

    def _distance(self, latitude: float, longitude: float) -> float:
        """The haversine of the angle to the point: it grows with distance, 0 to 1."""
        latitude *= _RADIANS
        north = sin((latitude - self._latitude) * 0.5)
        east = sin((longitude * _RADIANS - self._longitude) * 0.5)
        return north * north + self._cosine * cos(latitude) * east * east


_RADIANS = pi / 180.0


def _haversine(distance_km: float) -> float:
    """The haversine of the angle that spans a distance; -1 for a negative distance."""
    if distance_km < 0.0:
        return -1.0
    return sin(min(distance_km / EARTH_RADIUS_KM, pi) * 0.5) ** 2
