"""Four nodes with the real engine share the keys of privacy epochs, whoever is killed meanwhile,
and show what moves with them."""

from __future__ import annotations

import random
import urllib.request
from typing import Any

import pytest

from abci_app.admin_client import AdminClient
from abci_app.epoch_store import EpochSecrets
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.codec import replace

from .harness import Cluster
from .registering import device_row, register, services_of, wait_shown

pytestmark = pytest.mark.engine

EPOCH_S = 6


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


def test_a_device_that_moves_is_seen_in_one_cell_under_each_handle_at_all_nodes() -> None:
    with Cluster() as cluster:
        cluster.edit_genesis(short_epochs)
        cluster.start()
        wait_shown(cluster, register(cluster, 0, "mover"))
        keys = ClientKeys.generate()
        seen: dict[str, set[str]] = {}

        def look() -> set[str]:
            """Where the nodes show it now, one after the other."""
            found = [each for at in cluster.numbers for each in services_of(cluster, at, keys)]
            for each in found:
                seen.setdefault(each.handle, set()).add(each.cell)
            return {each.cell for each in found}

        before = look()
        row = device_row("mover", seeded=random.Random("mover"))
        with AdminClient(cluster.directory(0)) as client:
            client.register([replace(row, lat=row.lat + 0.1)])

        def has_moved() -> bool:
            cells = look()
            return len(cells) == 1 and cells != before

        cluster.wait_until("all show it elsewhere", has_moved, seconds=120.0)
        assert {len(cells) for cells in seen.values()} == {1}
        assert len(seen) > 1
