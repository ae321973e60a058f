"""Positions and cells as a device tells them, and when it is somewhere else.

Rules kept here:

* Pure, and without an index of cells: devices have none, and follow the same rules as their nodes.
* A move is one only when the device is farther from where its noise was drawn last than
  ``LEAST_MOVE_M`` and than the noise itself. So a device that stands near a border, or whose
  position trembles, does not tell so by changing cells. Who tells cells decides by itself when it
  is in another one.
* A cell that is told must be one that may be published, at least as fine as the policy's; noise
  needs a position.

The globe is a sphere of the radius that H3 uses. Not handled here: publishing (``placing``).
"""

from __future__ import annotations

import math
from typing import Final

from .area import EARTH_RADIUS_KM
from .cell import cell_text, check_cell, resolution_of
from .errors import InvalidValueError, MalformedError
from .policy import PrivacyPolicy

SEED_BYTES: Final = 32
"""Of what noise is drawn from."""
LEAST_MOVE_M: Final = 1500.0
"""About the distance from the centre of a cell of resolution 7 to its corners."""

Position = tuple[float, float] | int
"""Latitude and longitude in degrees, or a cell that is told instead."""


def check_position(latitude: float, longitude: float) -> None:
    """Raises ``InvalidValueError`` unless both are finite degrees, -90..90 and -180..180."""
    # Written so that NaN, which compares false, is refused as well.
    if not -90.0 <= latitude <= 90.0:
        swapped = -180.0 <= latitude <= 180.0 and -90.0 <= longitude <= 90.0
        hint = "; it goes before the longitude" if swapped else ""
        raise InvalidValueError(f"latitude {latitude:g} is outside -90..90{hint}")
    if not -180.0 <= longitude <= 180.0:
        raise InvalidValueError(f"longitude {longitude:g} is outside -180..180")


def check_told(policy: PrivacyPolicy, position: Position) -> None:
    """Return if a device with ``policy`` may tell ``position``.

    Raises:
        InvalidValueError: a coordinate out of range; a cell with noise, which needs a position.
        MalformedError: no cell, or one that is finer than 7 or coarser than the policy's.
    """
    if not isinstance(position, int):
        check_position(*position)
        return
    check_cell(position)
    if policy.noise_m:
        raise InvalidValueError("noise needs a position; a device that tells a cell has none")
    if resolution_of(position) < policy.resolution:
        raise MalformedError(
            f"cell {cell_text(position)} has resolution {resolution_of(position)}, and the policy"
            f" publishes one of {policy.resolution}; choose that resolution or a finer cell"
        )


def sphere_km(one: tuple[float, float], two: tuple[float, float]) -> float:
    """The distance along the surface of the sphere between two (latitude, longitude), degrees."""
    (lat_one, lon_one), (lat_two, lon_two) = (map(math.radians, each) for each in (one, two))
    half = math.sin((lat_two - lat_one) / 2) ** 2
    half += math.cos(lat_one) * math.cos(lat_two) * math.sin((lon_two - lon_one) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))


def is_elsewhere(before: Position, position: Position, *, noise_m: int) -> bool:
    """Whether ``position`` is far enough from ``before``, where noise was drawn last, for a move.

    ``noise_m`` is the radius it was drawn with.
    """
    if isinstance(position, int) or isinstance(before, int) or position == before:
        return position != before
    return sphere_km(before, position) * 1000 > max(LEAST_MOVE_M, float(noise_m))
