"""Two of four nodes are away: the others make no blocks, but answer, accept, and forget nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from abci_app.admin_client import AdminClient

from .flooding import Flooder, fill_mempool, flood
from .harness import Cluster, tail
from .outages import freeze, outage
from .registering import CENTER, TYPE, check_shown, register, wait_shown

pytestmark = pytest.mark.engine

flooder = Flooder()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes that run; a test leaves them running."""
    with Cluster() as four:
        four.edit_genesis(flooder.join)
        four.start()
        yield four


@pytest.fixture(scope="module")
def shown(cluster: Cluster) -> set[str]:
    """The devices that all nodes show; tests add what they registered."""
    handles = {register(cluster, n, f"first-{n}")[0] for n in cluster.numbers}
    wait_shown(cluster, handles)
    return handles


def test_a_minority_answers_and_accepts_and_publishes_when_healed(
    cluster: Cluster, shown: set[str], tmp_path: Path
) -> None:
    csv = tmp_path / "fleet.csv"
    csv.write_text(
        "name,lat,lon\n"
        + "".join(f"station {n},{CENTER[0]},{CENTER[1] + n / 1000}\n" for n in range(40))
    )
    directories = [str(cluster.directory(number).root) for number in cluster.numbers]

    def import_fleet(*options: str) -> tuple[int, ...]:
        answer = cluster.command_json(
            "fleet", "import", directories[1], "--csv", str(csv), "--type", TYPE, *options
        )
        assert answer["rejected"] == []
        return tuple(answer[key] for key in ("added", "updated", "unchanged", "tentative"))

    with outage(cluster, 2, 3):
        check_shown(cluster, shown, (0, 1))
        one = cluster.command_json(
            "device", "register", directories[0], "--type", TYPE,
            "--lat", str(CENTER[0]), "--lon", str(CENTER[1]), "--wait", "1s",
        )  # fmt: skip
        assert (one["added"], one["tentative"]) == (1, 1)
        assert import_fleet("--wait", "1s") == (40, 0, 0, 40)
        for number in (0, 1):
            status, ready = cluster.status(number), cluster.ready(number)
            assert status is not None
            assert status.outbox >= 1
            assert ready is not None
            assert (ready.ready, ready.writes) == (True, False)
            assert any("cut off" in reason for reason in ready.reasons), ready
        check_shown(cluster, shown, (0, 1))

        # What was accepted outlives the process that accepted it, and the mempools it was in.
        engine = cluster.kill_engine(1)
        cluster.kill_node(0)
        cluster.wait_until("a new engine", lambda: cluster.engine_pid(1) not in {None, engine})
        cluster.start(0, wait=False)
        cluster.wait_until("node 0 answers again", lambda: cluster.status(0))
        check_shown(cluster, shown, (0, 1))
    with AdminClient(cluster.directory(1)) as client:
        imported = {device.handle for device in client.devices()} - shown
    assert len(imported) == 40
    shown |= {one["handle"], *imported}
    wait_shown(cluster, shown)
    assert import_fleet() == (0, 0, 40, 0)
    cluster.wait_until(
        "writes get through again",
        lambda: all(takes_writes(cluster, number) for number in cluster.numbers),
    )


def takes_writes(cluster: Cluster, number: int) -> bool:
    answer = cluster.ready(number)
    return answer is not None and answer.writes


def test_two_frozen_nodes_thaw_and_catch_up(cluster: Cluster, shown: set[str]) -> None:
    with freeze(cluster, 0, 3):
        accepted = cluster.command_json(
            "device", "register", str(cluster.directory(1).root), "--type", TYPE,
            "--lat", str(CENTER[0]), "--lon", str(CENTER[1]), "--wait", "1s",
        )  # fmt: skip
        assert (accepted["added"], accepted["tentative"]) == (1, 1)
        check_shown(cluster, shown, (1, 2))
    shown.add(accepted["handle"])
    wait_shown(cluster, shown)


def test_a_full_mempool_loses_nothing_that_was_accepted(cluster: Cluster, shown: set[str]) -> None:
    leases = flooder.leases(cluster)
    stop = threading.Event()

    def learned(number: int) -> bool:
        log = tail(cluster.directory(number).logs_dir / "node.log", 50)
        return "mempool is full" in log

    with ThreadPoolExecutor(1) as thread:
        try:
            with outage(cluster, 2, 3):
                # The mempool fills up in the middle of what the outbox has in flight.
                fill_mempool(cluster, 0, leases, room=8)
                accepted = one_by_one(cluster, 0, 30)
                cluster.wait_until("node 0 met a full mempool", lambda: learned(0))
                # What node 0's engine holds reaches node 1's: that is full before anything came.
                accepted += one_by_one(cluster, 1, 5)
                cluster.wait_until("node 1 met a full mempool", lambda: learned(1))
                check_shown(cluster, shown, (0, 1))
                # The flood goes on while the chain does: every place that gets free is fought for.
                flooding = thread.submit(flood, cluster, 0, leases, lambda: not stop.is_set())
            cluster.wait_until(
                "everything accepted is on the chain",
                lambda: all(waiting(cluster, number) == 0 for number in cluster.numbers),
            )
        finally:
            stop.set()
    assert flooding.result() > 0
    shown.update(accepted)
    wait_shown(cluster, shown)


def one_by_one(cluster: Cluster, number: int, count: int) -> list[str]:
    """Register devices in as many transactions; their handles."""
    return [register(cluster, number, f"flooded {number}-{n}")[0] for n in range(count)]


def waiting(cluster: Cluster, number: int) -> int | None:
    """Transactions in a node's outbox; ``None`` when it does not answer."""
    answer = cluster.status(number)
    return answer.outbox if answer else None
