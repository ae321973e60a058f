"""Averaging: ten thousand readings of one device's published place tell no more than the first.

The attacker guesses the middle of all centres it was ever told, over all nodes, restarts, expiries
and registrations with a GPS position that trembles (privacy.md, *Attack tests*, 1).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from edgistry.placing import Placement, noisy_position, place
from edgistry.policy import PrivacyPolicy
from edgistry.region import cell_center, distance_km, published_cell

READINGS = 10_000
DEVICES = 9
POLICY = PrivacyPolicy(noise_m=5000)
TREMBLE_DEGREES = 0.0002
"""About 20 m, as a GPS receiver has it."""

Reading = tuple[float, float]
Publish = Callable[[random.Random, Reading, bytes], Callable[[], Reading]]
"""(randomness, true position, seed) to a function that gives one more reading."""


def trembling(draw: random.Random, position: Reading) -> Reading:
    return (
        position[0] + draw.gauss(0, TREMBLE_DEGREES),
        position[1] + draw.gauss(0, TREMBLE_DEGREES),
    )


def ours(draw: random.Random, position: Reading, seed: bytes) -> Callable[[], Reading]:
    """What nodes publish: after a restart from what is stored, elsewhere from the seed alone."""
    nodes: list[Placement | None] = [None] * 4

    def read() -> Reading:
        at = draw.randrange(4)
        # Now and then a node has forgotten the device, which then pairs with it again.
        known = None if draw.random() < 0.01 else nodes[at]
        found = place(POLICY, trembling(draw, position), seed=seed, known=known)
        nodes[at] = found
        return cell_center(found.cell)

    return read


def fresh_noise(draw: random.Random, position: Reading, _: bytes) -> Callable[[], Reading]:
    """Naive: noise is drawn for each answer."""

    def read() -> Reading:
        noisy = noisy_position(position, radius_m=5000, seed=draw.randbytes(32), moves=0)
        return cell_center(published_cell(*noisy))

    return read


def noise_of_coordinates(draw: random.Random, position: Reading, _: bytes) -> Callable[[], Reading]:
    """Naive: noise is a function of the coordinates, so that trembling draws it anew."""

    def read() -> Reading:
        found = trembling(draw, position)
        seed = repr(found).encode().ljust(32, b"\0")[:32]
        return cell_center(
            published_cell(*noisy_position(found, radius_m=5000, seed=seed, moves=0))
        )

    return read


def error_ratio(publish: Publish) -> float:
    """The attacker's median error after all readings, as a share of that after the first."""
    draw = random.Random(20)
    first, last = [], []
    for _ in range(DEVICES):
        position = draw.uniform(40, 50), draw.uniform(-120, -110)
        read = publish(draw, position, draw.randbytes(32))
        readings = [read() for _ in range(READINGS)]
        middle = (
            statistics.fmean(latitude for latitude, _ in readings),
            statistics.fmean(longitude for _, longitude in readings),
        )
        first.append(distance_km(position, readings[0]))
        last.append(distance_km(position, middle))
    return statistics.median(last) / statistics.median(first)


def test_the_error_after_ten_thousand_readings_is_that_of_the_first() -> None:
    assert error_ratio(ours) >= 0.95


@pytest.mark.parametrize("naive", [fresh_noise, noise_of_coordinates])
def test_naive_noise_is_averaged_away(naive: Publish) -> None:
    assert error_ratio(naive) < 0.5
