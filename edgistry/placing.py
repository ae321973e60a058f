"""Where a device is published: noise that is drawn once, and moves that are few.

Rules kept here (privacy.md, *Fuzzing that survives repetition*):

* Pure; seeds and positions are arguments. Whoever asks again, at another node, after a restart or
  another registration, gets the same: noise is a function of the seed and the number of moves,
  never of the coordinates. Fresh noise for each answer could be averaged away: of 500 m, 48 m are
  left after 100 readings, and 14 m after 1000.
* The noise is uniform in the disc of the policy's radius. The noisy position becomes a cell of
  resolution 7 at once; coarser cells are ancestors of that one, never of the position.
* A move is accepted once an epoch, before its end, and only when it is one (``position``).
* A device that keeps count of its moves itself, for all its nodes, gives that count: a node that
  had not heard of some of them draws what the others have drawn.
* Another resolution needs no move; another noise radius waits for one. The cell that has been seen
  cannot be taken back, and a second draw for the same place would only narrow it.

Not handled here: which policy is allowed (``policy``), when an epoch ends, and storing.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

from .area import EARTH_RADIUS_KM
from .cell import cell_text, check_cell, parent_of, resolution_of
from .codec import Meta, Wire, replace
from .errors import InvalidValueError
from .mac import USE_NOISE, mac
from .policy import MAX_NOISE_M, PrivacyPolicy
from .position import SEED_BYTES, Position, check_told, is_elsewhere
from .region import published_cell
from .transactions import Cell

_MAX_MOVES: Final = (1 << 32) - 1
_UNIT: Final = float(1 << 53)


class Placement(Wire):
    """Where a device is for others, and where it was when that was decided. Private to its node."""

    anchor: tuple[float, float] | None
    """Latitude and longitude when the noise was drawn, degrees; ``None`` if it told a cell only."""
    noise_m: Annotated[int, Meta(ge=0, le=MAX_NOISE_M)]
    """The radius it was drawn with."""
    moves: Annotated[int, Meta(ge=0, le=_MAX_MOVES)]
    """Accepted moves: the counter in the noise."""
    finest: Cell
    """The noisy position as a cell of resolution 7, or the cell that the device told."""
    cell: Cell
    """The published cell: ``finest`` or an ancestor."""

    def __repr__(self) -> str:
        return f"<Placement in {cell_text(self.cell)}, {self.moves} moves>"

    __str__ = __repr__


def noisy_position(
    position: tuple[float, float], *, radius_m: float, seed: bytes, moves: int
) -> tuple[float, float]:
    """``position`` (degrees) moved by the noise of ``seed`` after so many moves.

    Uniform in the disc of ``radius_m`` metres; the longitude is between -180 and 180 again.

    Raises:
        InvalidValueError: the seed is not 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise InvalidValueError(f"a noise seed has {SEED_BYTES} bytes")
    if radius_m <= 0:
        return position
    drawn = mac(seed, USE_NOISE + moves.to_bytes(4, "big"))
    # The square root makes equal areas of the disc equally likely.
    angle = math.sqrt(_unit(drawn[:8])) * radius_m / (EARTH_RADIUS_KM * 1000)
    bearing = 2 * math.pi * _unit(drawn[8:16])
    latitude, longitude = map(math.radians, position)
    sine = math.sin(latitude) * math.cos(angle)
    sine += math.cos(latitude) * math.sin(angle) * math.cos(bearing)
    sine = max(-1.0, min(1.0, sine))
    east = math.atan2(
        math.sin(bearing) * math.sin(angle) * math.cos(latitude),
        math.cos(angle) - math.sin(latitude) * sine,
    )
    turned = math.degrees(longitude + east)
    return math.degrees(math.asin(sine)), (turned + 180.0) % 360.0 - 180.0


def place(
    policy: PrivacyPolicy,
    position: Position,
    *,
    seed: bytes,
    known: Placement | None = None,
    is_edge: bool = True,
    moves: int = 0,
) -> Placement:
    """Where a device at ``position`` is published, which was at ``known`` so far.

    ``position`` is latitude and longitude in degrees, or a cell that the device tells instead.
    ``is_edge`` says whether it is for the next epoch: moves wait for one. ``moves`` is how often
    the device has moved as far as it knows itself.

    Raises:
        InvalidValueError: a coordinate out of range; a cell with noise, which needs a position.
        MalformedError: no cell, or one that is finer than 7 or coarser than the policy's.
    """
    if known is None:
        return _drawn(policy, position, seed, moves=moves)
    if is_edge and has_moved(known, position):
        # Who has moved as often as can be counted draws the same from then on.
        count = min(max(known.moves + 1, moves), _MAX_MOVES)
        return _drawn(policy, position, seed, moves=count)
    if resolution_of(known.finest) < policy.resolution:
        return known
    return replace(known, cell=parent_of(known.finest, policy.resolution))


def _drawn(policy: PrivacyPolicy, position: Position, seed: bytes, *, moves: int) -> Placement:
    # Checked before the noise, which would wrap a longitude of 1000 degrees.
    check_told(policy, position)
    if isinstance(position, int):
        finest = check_cell(position)
        anchor = None
    else:
        anchor = position
        noisy = noisy_position(position, radius_m=policy.noise_m, seed=seed, moves=moves)
        finest = published_cell(*noisy)
    return Placement(
        anchor=anchor,
        noise_m=policy.noise_m,
        moves=moves,
        finest=finest,
        cell=parent_of(finest, policy.resolution),
    )


def has_moved(known: Placement, position: Position) -> bool:
    """Whether ``position`` is another place than the one that ``known`` was decided for."""
    before = known.finest if known.anchor is None else known.anchor
    return is_elsewhere(before, position, noise_m=known.noise_m)


def _unit(drawn: bytes) -> float:
    """8 random bytes as a number from 0 to below 1."""
    return (int.from_bytes(drawn, "big") >> 11) / _UNIT
