"""Four nodes with the real engine: one is removed, another joins, while the chain runs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from abci_app.comet_config import read_public_keys
from abci_app.epoch_store import EpochSecrets
from edgistry.adapters.leveldb import LevelKeyValue

from .harness import Cluster
from .test_epochs import key_epoch

pytestmark = pytest.mark.engine

REMOVED, JOINED = 3, 4


def decide(cluster: Cluster, file: Path, *words: str) -> None:
    """Node 0 proposes, nodes 1 and 2 sign on their own, and the chain takes it."""
    root = str(cluster.directory(0).root)
    cluster.command("member", words[0], root, *words[1:], "--out", str(file))
    for number in (1, 2):
        cluster.command("member", "sign", str(cluster.directory(number).root), str(file))
    done = cluster.command_json("member", "submit", root, str(file))
    assert not done["tentative"]


def register(cluster: Cluster, number: int, name: str) -> None:
    cluster.command(
        "device", "register", str(cluster.directory(number).root), "--name", name,
        "--type", "thermometer", "--lat", "46", "--lon", "8",
    )  # fmt: skip


def services(cluster: Cluster, number: int) -> int:
    answer = cluster.status(number)
    return -1 if answer is None else answer.services


def validators(cluster: Cluster) -> set[bytes]:
    found = cluster.engine_rpc(0, "validators")["validators"]
    return {base64.b64decode(each["pub_key"]["value"]) for each in found}


def validator_keys(cluster: Cluster, *numbers: int) -> set[bytes]:
    return {read_public_keys(cluster.directory(number))[0] for number in numbers}


def test_a_node_is_removed_and_another_joins_while_the_chain_runs() -> None:
    with Cluster() as cluster:
        cluster.start()
        stay = (0, 1, 2)
        cluster.wait_until(
            "all have a key", lambda: all(key_epoch(cluster, number) for number in range(4))
        )
        register(cluster, REMOVED, "theirs")
        cluster.wait_until("it is listed", lambda: services(cluster, 0) == 1)

        decide(cluster, cluster.parent / "removal.json", "propose-removal", "node3")

        def says_so() -> bool:
            answer = cluster.ready(REMOVED)
            return answer is not None and any("a member no more" in why for why in answer.reasons)

        cluster.wait_until("the removed one says so", says_so)
        cluster.wait_until(
            "its record is withdrawn", lambda: all(services(cluster, each) == 0 for each in stay)
        )
        invitation = cluster.parent / "invitation.json"
        invitation.write_text(cluster.command("member", "invite", str(cluster.directory(0).root)))
        joined = cluster.root / f"node{JOINED}"
        cluster.command(
            "join", str(joined), "--invitation", str(invitation), "--name", "node4",
            "--base-port", str(cluster.port(JOINED)),
        )  # fmt: skip
        card = joined / "member.json"
        decide(cluster, cluster.parent / "join.json", "propose-join", str(card))
        cluster.size = JOINED + 1
        cluster.start(JOINED)
        cluster.wait_until(
            "there is a key that the removed one does not get, and the joined one does",
            lambda: min(key_epoch(cluster, number) for number in (*stay, JOINED)) >= 2,
            seconds=150.0,
        )
        assert key_epoch(cluster, REMOVED) == 1
        # All four are needed for a block when one of them is away: the joined one votes.
        assert validators(cluster) == validator_keys(cluster, *stay, JOINED)
        cluster.stop(2)
        register(cluster, JOINED, "ours")
        cluster.wait_until("it is listed", lambda: services(cluster, 0) == 1)
        members = cluster.command_json("member", "list", str(cluster.directory(0).root))
        assert [each["name"] for each in members["members"]] == ["node0", "node1", "node2", "node4"]
        assert json.loads(card.read_text())["name"] == "node4"
        cluster.stop()
        store = LevelKeyValue(cluster.directory(REMOVED).queues_db)
        try:
            assert set(EpochSecrets(store).keys) == {1}
        finally:
            store.close()
