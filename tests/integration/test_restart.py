"""Stopping all nodes in order, losing the registry, and starting again: the same state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from .harness import Cluster
from .registering import Writers, check_shown

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes that run; a test leaves them running."""
    with Cluster() as four:
        four.start()
        yield four


@pytest.fixture(scope="module")
def writers(cluster: Cluster) -> Iterator[Writers]:
    """Writers that have written some blocks; ``expected`` is what all nodes show."""
    with Writers(cluster, seed=3) as writers:
        writers.begin()
        writers.wait_confirmed(20)
        writers.finish()
        cluster.wait_agreement()
        yield writers


def header_hash(cluster: Cluster, number: int, height: int) -> str:
    """The app hash after block ``height``, as the header of the block after it has it."""
    block = cluster.engine_rpc(number, "block", height=str(height + 1))
    return str(block["block"]["header"]["app_hash"]).lower()


def test_nothing_accepted_is_lost_when_all_nodes_are_stopped_while_they_write(
    cluster: Cluster, writers: Writers
) -> None:
    writers.begin()
    writers.wait_confirmed(5)
    assert cluster.stop() == dict.fromkeys(cluster.numbers, 0)
    cluster.start()
    writers.finish()
    agreed = cluster.wait_agreement()
    assert agreed.services == len(writers.expected)
    check_shown(cluster, writers.expected)


@pytest.mark.parametrize("wiped", [(1,), (0, 1, 2, 3)], ids=["of one node", "of all nodes"])
def test_a_wiped_registry_is_replayed_to_the_same_app_hash(
    cluster: Cluster, writers: Writers, wiped: tuple[int, ...]
) -> None:
    before = cluster.wait_agreement()
    cluster.stop(*wiped)
    for number in wiped:
        shutil.rmtree(cluster.directory(number).registry_db)
    cluster.start(*wiped)
    after = cluster.wait_agreement(height=before.height + 1)
    for number in cluster.numbers:
        assert header_hash(cluster, number, before.height) == before.app_hash
    assert after.services == before.services
    check_shown(cluster, writers.expected)
