"""The engine kills itself at each of the danger points of a block; nothing is lost or twice.

``FAIL_TEST_INDEX=n`` makes a stock engine exit at the n-th place of its life where a crash could
hurt; a block passes ten of them. Only the first engine that a node starts sees the variable.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import Cluster
from .registering import register, wait_shown

pytestmark = pytest.mark.engine

POINTS = range(10)


@pytest.fixture(scope="module")
def alone() -> Iterator[tuple[Cluster, list[str]]]:
    """One validator, which nobody can tell what it forgot, and the devices it shows."""
    with Cluster(nodes=1) as one:
        yield one, []


@pytest.fixture(scope="module")
def four() -> Iterator[tuple[Cluster, list[str]]]:
    """Four validators, and the devices they show."""
    with Cluster() as cluster:
        yield cluster, []


@pytest.mark.parametrize("point", POINTS)
def test_a_validator_alone_recovers_from_a_crash_at_every_point_of_a_block(
    alone: tuple[Cluster, list[str]], point: int
) -> None:
    crash_and_recover(*alone, {0: point})


@pytest.mark.parametrize("first", range(0, len(POINTS), 4))
def test_four_validators_that_crash_at_four_points_of_one_block_recover(
    four: tuple[Cluster, list[str]], first: int
) -> None:
    cluster, _ = four
    crash_and_recover(*four, {number: first + number for number in cluster.numbers})


def crash_and_recover(cluster: Cluster, shown: list[str], points: dict[int, int]) -> None:
    """Start all nodes with engines that die at their ``points`` while devices are registered."""
    cluster.stop()
    before = deaths(cluster, points)
    for number, point in points.items():
        cluster.start(number, wait=False, FAIL_TEST_INDEX=str(point))
    cluster.wait_until("an answer of every node", lambda: all(map(cluster.status, points)))
    for number, point in points.items():
        shown += register(cluster, number, f"{number} at {point}")
    once_more = {number: count + 1 for number, count in before.items()}
    cluster.wait_until("every engine died", lambda: deaths(cluster, points) == once_more)
    wait_shown(cluster, shown)
    assert deaths(cluster, points) == once_more


def deaths(cluster: Cluster, points: dict[int, int]) -> dict[int, int]:
    """How often the engine of each node has killed itself at its point."""
    logs = {number: cluster.directory(number).logs_dir / "engine.log" for number in points}
    return {
        number: log.read_text(errors="replace").count(f"*** fail-test {points[number]} ***")
        for number, log in logs.items()
        if log.exists()
    } or dict.fromkeys(points, 0)
