"""Leases and outages: a halted chain ages nobody's records, a node that is away ages its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from edgistry.errors import CannotReachError, TimedOutError

from .harness import POLL_S, Cluster
from .outages import outage
from .registering import discovered, missing, register, wait_shown

pytestmark = pytest.mark.engine

LEASE_S = 27
"""Renewed every 9 s. An outage leaves what was left of it, less one beat: enough for a node that
comes back a little later than the others."""
DELETE_AFTER_S = 1


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Four nodes whose records are deleted one second after they lapsed."""
    with Cluster(lease_s=LEASE_S) as four:
        four.edit_genesis(lambda state: state.update(delete_after_s=DELETE_AFTER_S))
        four.start()
        yield four


def block_time_s(cluster: Cluster, number: int) -> float:
    """Time of a node's last block, seconds since 1970; 0 when it does not answer."""
    answer = cluster.status(number)
    return datetime.fromisoformat(answer.block_time).timestamp() if answer else 0.0


@contextlib.contextmanager
def never_fewer(cluster: Cluster, handles: Iterable[str]) -> Iterator[None]:
    """While the block runs, no answer of any node lacks one of ``handles``."""
    over = threading.Event()
    looks = 0

    def watch() -> None:
        nonlocal looks
        while not over.wait(POLL_S):
            for number in cluster.numbers:
                try:
                    shown = discovered(cluster, number)
                except (CannotReachError, TimedOutError):
                    continue
                lacks = missing(shown, handles)
                assert not lacks, f"node {number} hides {lacks}\n{cluster.report()}"
                looks += 1

    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(watch)
        try:
            yield
        finally:
            over.set()
        watching.result()
    assert looks > 0


def test_an_outage_longer_than_the_lease_hides_and_deletes_nothing(cluster: Cluster) -> None:
    handles = [register(cluster, number, f"of {number}")[0] for number in cluster.numbers]
    wait_shown(cluster, handles)
    with never_fewer(cluster, handles):
        with outage(cluster, 2, 3):
            halted_s = block_time_s(cluster, 0)
            lapsed_s = halted_s + LEASE_S + DELETE_AFTER_S
            cluster.wait_until(
                "an outage longer than the lease", lambda: time.time() > lapsed_s, 2 * LEASE_S
            )
            assert block_time_s(cluster, 0) == halted_s
            (tentative,) = register(cluster, 1, "during the outage")
        cluster.wait_until(
            "block time beyond all leases of before",
            lambda: all(block_time_s(cluster, number) > lapsed_s for number in cluster.numbers),
        )
    wait_shown(cluster, [*handles, tentative])


@pytest.mark.soak
def test_a_node_that_is_away_loses_its_records_and_can_publish_them_again(
    cluster: Cluster,
) -> None:
    handles = [register(cluster, number, f"of {number}")[0] for number in cluster.numbers]
    wait_shown(cluster, handles)
    cluster.kill_node(3)

    def hidden() -> bool:
        return all(
            discovered(cluster, n).total() == 3 and not missing(discovered(cluster, n), handles[:3])
            for n in (0, 1, 2)
        )

    def deleted() -> bool:
        answer = cluster.agreed((0, 1, 2))
        return answer is not None and answer.services == 3

    cluster.wait_until("the record of node 3 is hidden", hidden, 4 * LEASE_S)
    cluster.wait_until("the record of node 3 is deleted", deleted)
    cluster.start(3)
    cluster.wait_agreement()
    # The same device: the node knows it still, so it keeps its handle.
    assert register(cluster, 3, "of 3") == handles[3:]
    wait_shown(cluster, handles)
