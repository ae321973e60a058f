"""Bisection: however areas are chosen, no answer narrows a place down below the published cell.

The attacker asks for circles and squares, each chosen after the answers so far, knows how answers
are made, and keeps the points at which the device could be to give all of them (privacy.md,
*Attack tests*, 2).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from abci_app.discovery import ServiceIndex
from abci_app.epoch_keys import ARITHMETIC
from abci_app.profiles import Listed, listed
from abci_app.schema import stored_service
from edgistry.cover import Cover
from edgistry.handles import HandleKey
from edgistry.placing import place
from edgistry.policy import PrivacyPolicy
from edgistry.region import cover_near, cover_polygon, distance_km, published_cell
from edgistry.transactions import ServiceRecord

QUERIES = 10_000
HOME = bytes(20)
KEY = bytes(16)
ORDER = HandleKey(1, bytes(32), ARITHMETIC).order(bytes(16))
TRUTH = (47.6062, -122.3321)
Point = tuple[float, float]


@dataclass(frozen=True)
class Query:
    """A circle, or the square around it."""

    center: Point
    radius_km: float
    is_square: bool

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """South, north, west, east."""
        (latitude, longitude), high = self.center, self.radius_km / 111.2
        wide = high * 1.48
        return latitude - high, latitude + high, longitude - wide, longitude + wide

    def holds(self, point: Point) -> bool:
        """Whether the point itself lies in the area."""
        if not self.is_square:
            return distance_km(self.center, point) <= self.radius_km
        south, north, west, east = self.corners
        return south <= point[0] <= north and west <= point[1] <= east

    def cover(self) -> Cover:
        if not self.is_square:
            return cover_near(*self.center, self.radius_km)
        south, north, west, east = self.corners
        return cover_polygon([[[(west, south), (east, south), (east, north), (west, north)]]])


def grid(point: Point) -> list[Point]:
    """6 400 points over some 120 km² around ``point``: each stands for 0.02 km²."""
    step = 0.1 / 80
    return [
        (point[0] + (row - 40) * step, point[1] + 1.48 * (column - 40) * step)
        for row in range(80)
        for column in range(80)
    ]


def service_at(cell: int) -> Listed:
    record = ServiceRecord(
        key=KEY, type="thermometer", cell=cell, actions=("read",), wake=0, commitment=bytes(32),
        owner=bytes(8), crowd=1,
    )  # fmt: skip
    found = listed(stored_service(HOME, record), cell)
    assert found is not None
    return found


def posterior(
    answer: Callable[[Query], bool], could: Callable[[Query, list[Point]], list[bool]]
) -> set[Point]:
    """The points that agree with all answers; ``could`` says how points would be answered."""
    draw = random.Random(11)
    left = grid(TRUTH)
    for _ in range(QUERIES):
        center = draw.choice(left)
        spread = max(distance_km(center, draw.choice(left)) for _ in range(4))
        query = Query(center, max(spread * draw.uniform(0.3, 1.0), 0.01), draw.random() < 0.5)
        found = answer(query)
        kept = [
            point for point, would in zip(left, could(query, left), strict=True) if would == found
        ]
        left = kept or left
    return set(left)


def test_what_is_left_of_a_place_is_its_published_cell() -> None:
    published = place(PrivacyPolicy(), TRUTH, seed=bytes(32)).cell
    index = ServiceIndex()
    index.rebuild([(KEY, service_at(published))])
    cells = {point: published_cell(*point) for point in grid(TRUTH)}
    covers: dict[Query, Cover] = {}

    def answer(query: Query) -> bool:
        covers.clear()
        covers[query] = query.cover()
        page = index.search(
            covers[query],
            None,
            limit=1,
            order=ORDER,
            is_visible=lambda _: True,
        )
        return bool(page.items)

    def could(query: Query, points: list[Point]) -> list[bool]:
        inside = {cell: cell in covers[query] for cell in {cells[point] for point in points}}
        return [inside[cells[point]] for point in points]

    left = posterior(answer, could)

    assert left == {point for point, cell in cells.items() if cell == published}


def test_matching_the_exact_position_gives_it_away() -> None:
    def could(query: Query, points: list[Point]) -> list[bool]:
        return [query.holds(point) for point in points]

    left = posterior(lambda query: query.holds(TRUTH), could)

    assert len(left) <= 2
