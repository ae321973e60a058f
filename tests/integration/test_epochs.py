"""Four nodes with the real engine share the keys of privacy epochs, whoever is killed meanwhile."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest

from abci_app.epoch_store import EpochSecrets
from edgistry.adapters.leveldb import LevelKeyValue

from .harness import Cluster

pytestmark = pytest.mark.engine

EPOCH_S = 12


def short_epochs(state: dict[str, Any]) -> None:
    state["epoch_s"] = EPOCH_S


def key_epoch(cluster: Cluster, number: int) -> int:
    """The epoch whose key a node makes handles with."""
    with urllib.request.urlopen(f"{cluster.api(number)}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name, _, value = line.partition(" ")
            if name == "edgistry_epoch_key":
                return int(float(value))
    raise AssertionError("the metrics do not tell of an epoch key")


def keys_on_disk(cluster: Cluster, number: int) -> dict[int, bytes]:
    store = LevelKeyValue(cluster.directory(number).queues_db)
    try:
        return EpochSecrets(store).keys
    finally:
        store.close()


def test_keys_rotate_and_reach_a_node_that_was_killed() -> None:
    with Cluster() as cluster:
        cluster.edit_genesis(short_epochs)
        cluster.start()

        def all_in(epoch: int, *numbers: int) -> bool:
            return all(key_epoch(cluster, number) >= epoch for number in numbers)

        cluster.wait_until("all have a second key", lambda: all_in(2, 0, 1, 2, 3))
        cluster.kill_node(3)
        reached = max(key_epoch(cluster, number) for number in (0, 1, 2))
        # The killed one may have been next: the others wait for it to ask, a minute at most.
        cluster.wait_until("three go on", lambda: all_in(reached + 1, 0, 1, 2), seconds=150.0)
        cluster.start(3)
        cluster.wait_until(
            "the fourth has the key again", lambda: all_in(reached + 1, 0, 1, 2, 3), seconds=90.0
        )
        for number in cluster.numbers:
            cluster.stop(number)
        found = [keys_on_disk(cluster, number) for number in cluster.numbers]
        newest = min(max(keys) for keys in found)
        assert len({keys[newest] for keys in found}) == 1
