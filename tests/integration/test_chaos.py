"""Killing nodes and engines at any moment while devices are registered: nothing is lost or twice.

A round is one blow. Which one, on whom and when comes from a seed; ``EDGISTRY_CHAOS_SEED`` sets
another. Recovery is measured from the moment everything that was killed is started again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .harness import Cluster
from .registering import CENTER, TYPE, Writers, check_shown

pytestmark = pytest.mark.engine

RECOVERY_S = 60.0
"""Required: a cluster recovers from any kill in this time."""
SEED = int(os.environ.get("EDGISTRY_CHAOS_SEED", "20260301"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """What is killed in one round: ``what`` of each of ``nodes`` nodes."""

    what: tuple[str, ...]
    """"node", "engine" or both."""
    nodes: int
    again: bool = False
    """Whether they are killed once more while they recover."""


BLOWS = (
    Blow(what=("node",), nodes=1),
    Blow(what=("engine",), nodes=1),
    Blow(what=("engine", "node"), nodes=1),
    Blow(what=("node",), nodes=2),
    Blow(what=("engine",), nodes=2),
    Blow(what=("node",), nodes=1, again=True),
    Blow(what=("node",), nodes=4),
    Blow(what=("engine",), nodes=4),
    Blow(what=("engine", "node"), nodes=4),
    Blow(what=("engine", "node"), nodes=4, again=True),
)
"""Ten rounds."""


def test_nothing_confirmed_is_lost_or_doubled_in_ten_rounds_of_kills() -> None:
    survive(rounds=len(BLOWS))


@pytest.mark.soak
def test_nothing_confirmed_is_lost_or_doubled_in_fifty_rounds_of_kills() -> None:
    survive(rounds=50)


def survive(*, rounds: int) -> None:
    """Deal ``rounds`` blows, and check after each that everything is there, everywhere, once."""
    seeded = random.Random(SEED)
    with Cluster() as cluster, Writers(cluster, seed=SEED) as writers:
        cluster.start()
        by_command: set[str] = set()
        for number, blow in enumerate(blows(seeded, rounds)):
            victims = seeded.sample(cluster.numbers, blow.nodes)
            print(f"seed {SEED}, round {number}: {blow} on {victims}")
            writers.begin()
            writers.wait_confirmed(seeded.randint(1, 8))
            moment(seeded)
            deal(cluster, blow, victims, seeded)
            if blow.nodes == 1 and not blow.again:
                # The others go on: what comes back has something to catch up with.
                writers.wait_confirmed(seeded.randint(1, 8))
            deadline = time.monotonic() + RECOVERY_S
            revive(cluster)
            if blow.again:
                moment(seeded)
                deal(cluster, blow, victims, seeded)
                deadline = time.monotonic() + RECOVERY_S
                revive(cluster)
            writers.finish(deadline - time.monotonic())
            cluster.wait_agreement(seconds=deadline - time.monotonic())
            print(f"recovered in {RECOVERY_S - (deadline - time.monotonic()):.1f} s")
            by_command.add(register_by_command(cluster, seeded.choice(victims), f"by-{number}"))
            agreed = cluster.wait_agreement()
            expected = writers.expected | by_command
            assert agreed.services == len(expected)
            check_shown(cluster, expected)


def blows(seeded: random.Random, rounds: int) -> Iterator[Blow]:
    """``rounds`` blows: every kind equally often, in a random order."""
    waiting: list[Blow] = []
    for _ in range(rounds):
        if not waiting:
            waiting = seeded.sample(BLOWS, len(BLOWS))
        yield waiting.pop()


def moment(seeded: random.Random) -> None:
    """Let a little time pass, so that a blow falls anywhere in the making of a block."""
    time.sleep(seeded.uniform(0.0, 0.5))


def deal(cluster: Cluster, blow: Blow, victims: list[int], seeded: random.Random) -> None:
    """Kill as ``blow`` says, in any order; what is dead at this moment stays so."""
    targets = [(what, number) for number in victims for what in blow.what]
    for what, number in seeded.sample(targets, len(targets)):
        if what == "node":
            if cluster.is_running(number):
                cluster.kill_node(number)
            continue
        pid = cluster.engine_pid(number)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def revive(cluster: Cluster) -> None:
    """Start every node that does not run; engines are their nodes' business."""
    dead = [number for number in cluster.numbers if not cluster.is_running(number)]
    if dead:
        cluster.start(*dead, wait=False)


def register_by_command(cluster: Cluster, number: int, name: str) -> str:
    """Register a device by the command line; its handle, once the chain has confirmed it."""
    answer = cluster.command_json(
        "device", "register", str(cluster.directory(number).root), "--type", TYPE,
        "--lat", str(CENTER[0]), "--lon", str(CENTER[1]), "--name", name,
    )  # fmt: skip
    assert (answer["added"], answer["tentative"], answer["rejected"]) == (1, 0, []), answer
    return str(answer["handle"])
