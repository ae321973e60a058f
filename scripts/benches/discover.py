"""Discovery with 1 000 against 100 000 records, and against an empty handler over HTTP."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from _clusters import BIN, command, new_directory, resident_mib
from _http_load import Outcome, drive
from _settings import unguarded
from edgistry_abci_app.application import RegistryApplication
from edgistry_abci_app.directory import open_directory
from edgistry_abci_app.discover_service import Discoverer
from edgistry_abci_app.epoch_keys import EpochKeys
from edgistry_abci_app.schema import EpochStates
from measure import ROOT, alternate, report

from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.discover_query import DiscoverQuery, parse_discover_parameters
from edgistry.signed_request import Client

SMALL, LARGE = 1_000, 100_000
CENTRE = (37.77, -122.42)
REGION = "california"
EMPTY = "/healthz"
KEYS = ClientKeys.generate()
BY_REGION = f"/v1/discover?region={REGION}&type=weather-station"
BY_RADIUS = f"/v1/discover?near={CENTRE[0]},{CENTRE[1]}&radius_km=20&type=weather-station"
ROUNDS = 5


def write_fleet(path: Path, count: int) -> None:
    """Stations in California, one in ten within 15 km of one place: a page fills at both sizes."""
    draw = random.Random(3)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "name", "lat", "lon"))
        for number in range(count):
            if number % 10 == 0:
                place = [centre + draw.uniform(-0.1, 0.1) for centre in CENTRE]
            else:
                place = [draw.uniform(33, 42), draw.uniform(-124, -114.5)]
            writer.writerow((f"s{number}", "station", *(round(value, 5) for value in place)))


def free_port() -> int:
    """A port on which nobody listens now; another node there would answer in ours' place."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """A solo node with ``count`` records."""

    def __init__(self, count: int) -> None:
        self.count = count
        port = free_port()
        self.directory = new_directory(f"solo{count}") / "n"
        self.api = f"http://127.0.0.1:{port}"
        command(
            *("edgistry-node", "init", str(self.directory), "--engine", "solo"),
            *("--base-port", str(port)),
        )
        unguarded(self.directory)

    def start(self) -> None:
        with (self.directory / "logs" / "bench.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "edgistry-node"), "run", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.api}/readyz", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit(f"bench: {self.directory} does not start") from None
                time.sleep(0.1)
        # The server on one core, the load on the other.
        os.sched_setaffinity(self.process.pid, {0})

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def fill(self) -> None:
        path = self.directory.parent / "fleet.csv"
        write_fleet(path, self.count)
        geojson = ROOT / "node_configs" / "regions" / f"{REGION}.geojson"
        command(
            *("edgistry-node", "region", "put", str(self.directory)),
            *("--name", REGION, "--geojson", str(geojson)),
        )
        answer = json.loads(
            command(
                *("edgistry-node", "fleet", "import", str(self.directory), "--csv", str(path)),
                *("--type", "weather-station", "--wait", "600s", "--json"),
            )
        )
        if answer["added"] != self.count:
            raise SystemExit(f"bench: {answer}")


class InProcess:
    """Discovery over a stopped node's database, without HTTP."""

    def __init__(self, directory: Path) -> None:
        layout, _ = open_directory(directory)
        self.store = LevelKeyValue(layout.registry_db)
        application = RegistryApplication(self.store, allowed_peer_ids=lambda _: False)
        keys = EpochKeys()
        states = EpochStates(1, None, None, None)
        keys.put({1: bytes(32)}, states, epoch_us=86_400_000_000)
        self.discoverer = Discoverer(application.reader, keys)
        self.client = Client(public_key=ClientKeys.generate().public_key)
        self.loop = asyncio.new_event_loop()

    def ask(self, fields: dict[str, str]) -> Callable[[], object]:
        query: DiscoverQuery = parse_discover_parameters(fields)

        def call() -> object:
            return self.loop.run_until_complete(self.discoverer.discover(query, self.client))

        return call

    def close(self) -> None:
        self.loop.close()
        self.store.close()


def by_rounds(nodes: dict[int, Node], path: str, seconds: float) -> dict[int, list[Outcome]]:
    """Alternate rounds of one request at a time (latency) on every node."""
    found: dict[int, list[Outcome]] = {count: [] for count in nodes}
    for number in range(ROUNDS):
        for count in list(nodes) if number % 2 == 0 else list(nodes)[::-1]:
            found[count].append(drive(nodes[count].api, [path], seconds, connections=1, keys=KEYS))
    return found


def rates(node: Node, paths: dict[str, list[str]], seconds: float) -> dict[str, float]:
    """Requests a second of each kind, median of alternate rounds."""
    found: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(ROUNDS):
        for name in list(paths) if number % 2 == 0 else list(paths)[::-1]:
            found[name].append(drive(node.api, paths[name], seconds, keys=KEYS).rate)
    return {name: statistics.median(values) for name, values in found.items()}


def around(count: int) -> list[str]:
    """Circles of 20 km around many places: more than any cache of covers holds."""
    draw = random.Random(4)
    return [
        f"/v1/discover?near={CENTRE[0] + draw.uniform(-0.05, 0.05):.5f},"
        f"{CENTRE[1] + draw.uniform(-0.05, 0.05):.5f}&radius_km=20&type=weather-station"
        for _ in range(count)
    ]


def over_http(nodes: dict[int, Node], seconds: float) -> None:
    for name, path in (("region", BY_REGION), ("near 20 km", BY_RADIUS)):
        outcomes = by_rounds(nodes, path, seconds)
        p50 = {n: statistics.median(o.p50 for o in found) for n, found in outcomes.items()}
        report(
            "discover",
            f"HTTP p50 by {name}, {LARGE} records / {SMALL}",
            p50[LARGE] / p50[SMALL],
            at_most=1.5,
            p50_us={str(n): round(value * 1e6) for n, value in p50.items()},
        )
    kinds = {
        "empty": [EMPTY],
        "region": [BY_REGION],
        "near": [BY_RADIUS],
        "near, new places": around(20_000),
    }
    found = rates(nodes[LARGE], kinds, seconds)
    common = {"requests_per_s": {name: round(value) for name, value in found.items()}}
    empty = found["empty"]
    report("discover", "HTTP by region / empty", found["region"] / empty, at_least=0.3, **common)
    report("discover", "HTTP near 20 km / empty", found["near"] / empty, at_least=0.1)
    report("discover", "HTTP near 20 km, new places / empty", found["near, new places"] / empty)


def in_process(nodes: dict[int, Node]) -> None:
    opened = {count: InProcess(node.directory) for count, node in nodes.items()}
    place = f"{CENTRE[0]},{CENTRE[1]}"
    questions = {
        "region": {"region": REGION, "type": "weather-station"},
        "near 20 km": {"near": place, "radius_km": "20", "type": "weather-station"},
    }
    for name, fields in questions.items():
        rounds = alternate({str(count): one.ask(fields) for count, one in opened.items()})
        report(
            "discover",
            f"in process by {name}, {LARGE} records / {SMALL}",
            rounds.ratio(str(LARGE), str(SMALL)),
            at_most=1.5,
            p50_us={str(n): round(rounds.microseconds(str(n)), 1) for n in opened},
        )
    for one in opened.values():
        one.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench discover", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, metavar="S", help="of one round")
    options = parser.parse_args()

    nodes = {count: Node(count) for count in (SMALL, LARGE)}
    started: list[Node] = []
    try:
        for node in nodes.values():
            node.start()
            started.append(node)
            node.fill()
        os.sched_setaffinity(0, {1})
        over_http(nodes, options.seconds)
        report(
            "discover",
            "resident memory of a solo node with 100 000 records / 200 MB",
            resident_mib(nodes[LARGE].process.pid) * 1.048576 / 200,
            at_most=1,
            node_mib=round(resident_mib(nodes[LARGE].process.pid), 1),
        )
    finally:
        for node in started:
            node.stop()
    in_process(nodes)
    for node in nodes.values():
        shutil.rmtree(node.directory.parent)


if __name__ == "__main__":
    sys.exit(main())
