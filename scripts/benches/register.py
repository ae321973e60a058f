"""Records a second of a fleet import into one of four nodes, against one-record transactions."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import threading
import time
import urllib.request
from pathlib import Path

from _clusters import (
    NODES,
    EdgistryCluster,
    add_members,
    command,
    init_cluster,
    new_directory,
    resident_mib,
)
from commit import CLIENTS, Signer, rate, request_bytes, single
from measure import report

from edgistry.adapters.http import HttpClient

SYNC = "broadcast_tx_sync"


def write_fleet(path: Path, count: int) -> None:
    """Stations spread over the land-free globe: positions do not matter, their number does."""
    draw = random.Random(2)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "name", "lat", "lon"))
        for number in range(count):
            latitude = round(draw.uniform(-60, 70), 5)
            longitude = round(draw.uniform(-180, 180), 5)
            writer.writerow((f"s{number}", f"station {number}", latitude, longitude))


class Probe(threading.Thread):
    """Asks one node for twenty services, twenty times a second, while an import runs."""

    def __init__(self, api: str) -> None:
        super().__init__(daemon=True)
        self.url = f"{api}/v1/discover?near=48.1,11.6&radius_km=100"
        self.seconds: list[float] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            began = time.perf_counter()
            with urllib.request.urlopen(self.url, timeout=30) as answer:
                answer.read()
            self.seconds.append(time.perf_counter() - began)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def register_singles(cluster: EdgistryCluster, seconds: float) -> float:
    """Devices a second, each registered by itself at one node, by fifty clients that wait."""
    client = HttpClient(cluster.node(0) / "run" / "admin.sock", timeout_s=60)
    done = 0
    stop_at = time.monotonic() + seconds

    async def one(number: int) -> None:
        nonlocal done
        while time.monotonic() < stop_at:
            row = {"line": 1, "id": f"single-{number}-{done}", "name": "", "lat": 1.0, "lon": 1.0}
            row |= {"type": "weather-station", "actions": ["read"], "resolution": 7}
            answer = await client.request(
                "POST", "/admin/devices", body=json.dumps({"rows": [row]}).encode()
            )
            sequence = json.loads(answer.body)["outcomes"][0]["sequence"]
            await client.request(
                "GET", "/admin/settled", query={"last": str(sequence), "timeout_s": "30"}
            )
            done += 1

    await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    await client.close()
    return done / seconds


def import_fleet(cluster: EdgistryCluster, path: Path) -> tuple[dict[str, int], float]:
    began = time.perf_counter()
    answer = json.loads(
        command(
            *("edgistry-node", "fleet", "import", str(cluster.node(0)), "--csv", str(path)),
            *("--type", "weather-station", "--wait", "600s", "--json"),
        )
    )
    return answer, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench register", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=12, metavar="S")
    parser.add_argument("--base-port", type=int, default=28000, metavar="PORT")
    options = parser.parse_args()

    cluster = EdgistryCluster(init_cluster("reg", options.base_port), options.base_port)
    signers = [Signer() for _ in range(CLIENTS)]
    chain_id = add_members(cluster, [signer.public_key for signer in signers])
    each = int(60 * (options.seconds + 3))
    work = [[request_bytes(SYNC, single(s, chain_id)) for _ in range(each)] for s in signers]
    path = new_directory("csv") / "fleet.csv"
    write_fleet(path, options.records)

    with cluster.running():
        singles = rate(cluster, work, options.seconds)
        one_by_one = asyncio.run(register_singles(cluster, options.seconds))
        probe = Probe(cluster.api(0))
        probe.start()
        answer, seconds = import_fleet(cluster, path)
        probe.done.set()
        probe.join()
        again, again_seconds = import_fleet(cluster, path)
        nodes = json.loads(
            command("edgistry-node", "cluster", "status", str(cluster.directory), "--json")
        )["nodes"]
        memory = [round(resident_mib(cluster.pid(node)), 1) for node in range(NODES)]
        mapped = [round(resident_mib(cluster.pid(node), "RssFile"), 1) for node in range(NODES)]
        engines = [round(resident_mib(cluster.engine_pid(node)), 1) for node in range(NODES)]

    failed = answer["tentative"] or answer["added"] != options.records or answer["rejected"]
    report(
        "register",
        "fleet import, records/s / one-record transactions/s",
        options.records / seconds / singles.rate,
        at_least=10,
        records=options.records,
        import_s=round(seconds, 1),
        records_per_s=round(options.records / seconds),
        one_record_transactions_per_s=round(singles.rate),
        failed=bool(failed),
        second_import_s=round(again_seconds, 1),
        second_import_unchanged=again["unchanged"],
    )
    report(
        "register",
        "fleet import, records/s / devices registered one by one at the same node",
        options.records / seconds / one_by_one,
        devices_one_by_one_per_s=round(one_by_one, 1),
        clients=CLIENTS,
    )
    report(
        "register",
        "records on all four nodes / records imported and sent",
        min(node["services"] for node in nodes) / options.records,
        at_least=1,
        services=[node["services"] for node in nodes],
        app_hashes=len({node["app_hash"] for node in nodes}),
    )
    report(
        "register",
        "discover p99 during the import / 1 s",
        probe.percentile(0.99),
        at_most=1,
        p50_ms=round(probe.percentile(0.5) * 1e3, 1),
        p99_ms=round(probe.percentile(0.99) * 1e3, 1),
        requests=len(probe.seconds),
    )
    report(
        "register",
        "resident memory of the Python process / 200 MB",
        max(memory) * 1.048576 / 200,
        at_most=1,
        records=options.records,
        node_mib=memory,
        mapped_mib=mapped,
        engine_mib=engines,
    )


if __name__ == "__main__":
    main()
