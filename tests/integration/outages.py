"""Taking part of a cluster away for a while, so that the others make no blocks."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from .harness import Cluster


@contextlib.contextmanager
def outage(cluster: Cluster, *away: int) -> Iterator[None]:
    """Two of four nodes are killed while the block runs, then started, and all four agree.

    When the block begins, the others have noticed and make no more blocks.
    """
    for number in away:
        cluster.kill_node(number)
    try:
        wait_cut_off(cluster, [number for number in cluster.numbers if number not in away])
        yield
    finally:
        # Also for the tests that follow a failed one.
        for number in cluster.numbers:
            if not cluster.is_running(number):
                cluster.start(number, wait=False)
    cluster.wait_ready()
    cluster.wait_agreement()


@contextlib.contextmanager
def freeze(cluster: Cluster, *frozen: int) -> Iterator[None]:
    """These nodes and their engines stand still while the block runs: nobody hangs up on them."""
    engines = [cluster.engine_pid(number) for number in frozen]
    _signal_all(cluster, frozen, engines, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_all(cluster, frozen, engines, signal.SIGCONT)
    cluster.wait_agreement()


def _signal_all(
    cluster: Cluster, numbers: tuple[int, ...], engines: list[int | None], signum: int
) -> None:
    for number, engine in zip(numbers, engines, strict=True):
        assert engine is not None
        os.kill(engine, signum)
        cluster.kill_node(number, signum)


def wait_cut_off(cluster: Cluster, left: list[int]) -> None:
    """Wait until the nodes that are left know only each other, and are at the same height."""

    def alone() -> bool:
        answers = [cluster.status(number) for number in left]
        return all(answer and answer.peers < len(left) for answer in answers)

    cluster.wait_until(f"{left} are cut off", alone)
    # A block whose votes were already under way may still come; then no more.
    cluster.wait_agreement(*left)
