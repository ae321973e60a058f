"""Levels: all resolutions together tell exactly the published cell (privacy.md, *Attack tests*, 3).

Whoever sees a device under a coarse cell, and later or elsewhere under a finer one, intersects the
two. Where the coarse cell is made from the position again, the two disagree for about 7 % of
points, and the device is in the sliver between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import h3.api.basic_int as h3

from edgistry.cell import parent_of
from edgistry.placing import place
from edgistry.policy import PrivacyPolicy

POINTS = 2000
Point = tuple[float, float]
Publish = Callable[[Point], list[int]]
"""A position to the cells under which it is seen, at the resolutions 5, 6 and 7."""


def ours(position: Point) -> list[int]:
    seed = bytes(32)
    known = place(PrivacyPolicy(), position, seed=seed)
    found = [
        place(PrivacyPolicy(resolution=resolution), position, seed=seed, known=known).cell
        for resolution in (5, 6)
    ]
    return [*found, known.cell]


def indexed_again(position: Point) -> list[int]:
    """Naive: the library is asked for the cell of the position at each resolution."""
    return [h3.latlng_to_cell(*position, resolution) for resolution in (5, 6, 7)]


def told_more(publish: Publish) -> float:
    """The share of positions of which all levels together tell more than the finest alone."""
    draw = random.Random(5)
    count = 0
    for _ in range(POINTS):
        coarse, middle, fine = publish((draw.uniform(-70, 70), draw.uniform(-180, 180)))
        # A cell and its ancestors say the same as the cell.
        count += parent_of(fine, 6) != middle or parent_of(middle, 5) != coarse
    return count / POINTS


def test_all_levels_together_tell_the_published_cell_and_no_more() -> None:
    assert told_more(ours) == 0


def test_indexing_the_position_again_tells_more() -> None:
    assert told_more(indexed_again) > 0.05
