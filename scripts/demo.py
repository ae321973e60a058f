"""The demonstration behind `scripts/demo`: it uses nothing but the commands a user has.

Weather stations are the airports of the `airportsdata` package. Each node registers one band of
longitude, so that California is registered by one node and discovered from another.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import airportsdata
from demo_devices import Stations, person
from demo_privacy import Privacy

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
REGIONS = ROOT / "node_configs" / "regions"
NODES = 4
# Bands of longitude, west to east, one a node: California lies in the first, Iceland in the third.
BANDS = ((-180.0, -100.0), (-100.0, -30.0), (-30.0, 60.0), (60.0, 180.01))
PORTS_PER_NODE = 10
DEMO_REGIONS = ("california", "iceland", "great-britain", "japan-honshu", "new-south-wales")


def key_epoch(url: str) -> int:
    """The privacy epoch whose key the node at ``url`` makes handles with; 0 while it has none."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name, _, value = line.partition(" ")
            if name == "edgistry_epoch_key":
                return int(float(value))
    return 0


class DemoError(Exception):
    """A step did not do what it promises."""


class Narrator:
    """Prints the page a person reads, or nothing in JSON mode."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.step_number = 0

    def step(self, title: str) -> None:
        self.step_number += 1
        self.say(f"\n{self.step_number}. {title}")

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def command(self, words: list[str]) -> None:
        self.say("   $ " + shlex.join(words))

    def fact(self, text: str) -> None:
        self.say("     " + text)

    def text(self, text: str) -> None:
        """What a command printed."""
        self.say(indent(text))

    def table(self, text: str) -> None:
        """The same, in columns."""
        self.say(indent(aligned(text)))


class Demo:
    def __init__(self, directory: Path, base_port: int, narrator: Narrator) -> None:
        self.directory = directory
        self.base_port = base_port
        self.tell = narrator
        self.facts: dict[str, Any] = {}
        self.stations = Stations(self)

    def node(self, number: int) -> str:
        return str(self.directory / f"node{number}")

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.base_port + PORTS_PER_NODE * number}"

    def run(
        self,
        *words: str,
        show: bool = True,
        accept: tuple[int, ...] = (0,),
        typed: str = "",
        person: dict[str, str] | None = None,
    ) -> str:
        """Run one of our commands, as ``person``; returns what it printed."""
        return self.run_fully(*words, show=show, accept=accept, typed=typed, person=person).stdout

    def run_fully(
        self,
        *words: str,
        show: bool = True,
        accept: tuple[int, ...] = (0,),
        typed: str = "",
        person: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The same; also gives what it said beside its result."""
        if show:
            self.tell.command(list(words))
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            input=typed,
            env=self.somebody if person is None else person,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in accept:
            raise DemoError(
                f"{shlex.join(words)} exited {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def run_json(self, *words: str, show: bool = True, accept: tuple[int, ...] = (0,)) -> Any:
        return json.loads(self.run(*words, "--json", show=show, accept=accept))

    def failed(self, text: str) -> DemoError:
        """What to raise when something did not go as it should."""
        return DemoError(text)

    def status(self) -> list[dict[str, Any]]:
        answer = self.run_json(
            "edgistry-node", "cluster", "status", str(self.directory), show=False, accept=(0, 1)
        )
        nodes: list[dict[str, Any]] = answer["nodes"]
        return nodes

    def agreed(self, numbers: range, at_least: int = 0) -> dict[str, Any] | None:
        """The common state of these nodes, or None while they differ."""
        nodes = self.status()
        chosen = [nodes[number] for number in numbers]
        first = chosen[0]
        for node in chosen:
            same = (node["height"], node["app_hash"], node["services"]) == (
                first["height"],
                first["app_hash"],
                first["services"],
            )
            if not (node["running"] and same):
                return None
        return first if first["services"] >= at_least else None

    def wait(self, what: str, seconds: float, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise DemoError(f"after {seconds:.0f} s still waiting: {what}")
            time.sleep(0.25)

    @property
    def somebody(self) -> dict[str, str]:
        """Who asks where it does not matter who."""
        return person(self.directory / "somebody")

    # --- the story -----------------------------------------------------------------------------

    def start_cluster(self) -> None:
        self.tell.step("Four nodes form a cluster (any one of them may fail)")
        self.run(
            "edgistry-node",
            "cluster",
            "init",
            str(self.directory),
            "--nodes",
            str(NODES),
            "--base-port",
            str(self.base_port),
        )
        began = time.monotonic()
        self.run("edgistry-node", "cluster", "up", str(self.directory), "--detach")
        self.facts["up_s"] = round(time.monotonic() - began, 1)
        self.tell.fact(f"all four up and making blocks after {self.facts['up_s']} s")

    def put_regions(self) -> None:
        self.tell.step("Named regions go on the chain, from GeoJSON")
        files = [REGIONS / f"{name}.geojson" for name in DEMO_REGIONS]
        for position, path in enumerate(files):
            self.run(
                "edgistry-node",
                "region",
                "put",
                self.node(0),
                "--name",
                path.stem,
                "--geojson",
                str(path),
                show=position == 0,
            )
        self.facts["regions"] = [path.stem for path in files]
        self.tell.fact("and likewise " + ", ".join(path.stem for path in files[1:]))

    def import_stations(self) -> None:
        self.tell.step("Weather stations are registered, a band of longitude at each node")
        added = 0
        began = time.monotonic()
        for number, stations in enumerate(station_bands()):
            path = self.directory / f"stations{number}.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("id", "name", "lat", "lon"))
                writer.writerows(stations)
            answer = self.run_json(
                "edgistry-node",
                "fleet",
                "import",
                self.node(number),
                "--csv",
                str(path),
                "--type",
                "weather-station",
            )
            added += answer["added"]
            self.tell.fact(
                f"{answer['added']} added, {len(answer['rejected'])} rejected,"
                f" height {answer['height']}"
            )
        seconds = time.monotonic() - began
        self.facts["stations"] = added
        self.facts["import_s"] = round(seconds, 1)
        self.tell.fact(
            f"{added} stations in {seconds:.1f} s; names and positions stayed at their home nodes"
        )

    def check_agreement(self, title: str) -> None:
        self.tell.step(title)
        expected = self.facts["stations"]
        state = self.wait("all nodes agree", 60, lambda: self.agreed(range(NODES), expected))
        self.tell.command(["edgistry-node", "cluster", "status", str(self.directory)])
        self.tell.say(
            indent(self.run("edgistry-node", "cluster", "status", str(self.directory), show=False))
        )
        self.facts.setdefault("agreed", []).append(
            {key: state[key] for key in ("height", "app_hash", "services")}
        )

    def have_handles(self) -> bool:
        """Whether all nodes have the key that handles are made with."""
        return all(key_epoch(self.url(number)) > 0 for number in range(NODES))

    def discover(self, at: int, region: str, limit: int = 3) -> dict[str, Any]:
        words = ["edgistry", "discover", "--node", self.url(at), "--region", region]
        words += ["--type", "weather-station", "--limit", str(limit)]
        self.tell.say(indent(aligned(self.run(*words))))
        answer: dict[str, Any] = self.run_json(*words, show=False)
        if not answer["services"]:
            raise DemoError(f"no station found in {region} from node {at}")
        text = json.dumps(answer)
        for forbidden in ("KLAX", "KSFO", "Los Angeles", "node0"):
            if forbidden in text:
                raise DemoError(f"the answer gives away {forbidden!r}")
        return answer

    def discover_elsewhere(self) -> None:
        self.tell.step("California was registered at node 0; a client asks node 2")
        self.wait("all nodes have the key that handles are made with", 120, self.have_handles)
        answer = self.discover(2, "california")
        self.facts["discovered"] = {"region": "california", "at": 2, "height": answer["height"]}
        self.tell.fact("cells, not positions; handles, not names: the client learns no more")

    def survive_a_crash(self) -> None:
        victim = self.status()[3]
        pid = int((self.directory / "node3" / "run" / "node.pid").read_text().split()[0])
        self.tell.step("Node 3 is killed without warning; the other three go on")
        self.tell.command(["kill", "-9", str(pid)])
        os.kill(pid, signal.SIGKILL)
        self.wait("node 3 gone", 20, lambda: not self.status()[3]["running"])
        self.discover(1, "iceland")
        answer = self.run_json(
            "edgistry-node",
            "device",
            "register",
            self.node(0),
            "--type",
            "weather-station",
            "--lat",
            "34.1184",
            "--lon",
            "-118.3004",
            "--action",
            "read",
        )
        if answer["tentative"] or not answer["added"]:
            raise DemoError(f"three of four nodes did not commit a registration: {answer}")
        self.facts["stations"] += 1
        self.facts["registered_with_three"] = {"height": answer["height"]}
        self.tell.fact(
            f"committed at height {answer['height']} (node 3 stopped at {victim['height']})"
        )

    def catch_up(self) -> None:
        self.tell.step("Node 3 comes back and catches up by itself")
        began = time.monotonic()
        self.run("edgistry-node", "cluster", "up", str(self.directory), "--detach")
        expected = self.facts["stations"]
        self.wait("node 3 catches up", 90, lambda: self.agreed(range(NODES), expected))
        self.facts["caught_up_s"] = round(time.monotonic() - began, 1)
        self.tell.fact(f"caught up {self.facts['caught_up_s']} s after the restart")

    def tell_story(self) -> None:
        self.tell.say("Edgistry: call devices that sleep, through nodes that may fail.")
        self.start_cluster()
        self.put_regions()
        self.import_stations()
        self.check_agreement("Every node has the same state")
        self.discover_elsewhere()
        self.stations.call_sleeping_devices()
        Privacy(self).show()
        self.facts["stations"] += self.facts["appeared"]
        self.survive_a_crash()
        self.catch_up()
        self.check_agreement("All four agree again")

    def stop(self) -> None:
        self.stations.stop()
        self.run("edgistry-node", "cluster", "down", str(self.directory), show=False)


def indent(text: str) -> str:
    return "\n".join("     " + line for line in text.rstrip().splitlines())


def aligned(table: str) -> str:
    """Tab-separated lines, as our commands print into a pipe, with columns of one width."""
    rows = [line.split("\t") for line in table.rstrip().splitlines()]
    columns = zip(*(row for row in rows if len(row) == len(rows[0])), strict=True)
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def station_bands() -> list[list[tuple[str, str, float, float]]]:
    """The stations of each node: (id, name, latitude, longitude), airports with an IATA code."""
    bands: list[list[tuple[str, str, float, float]]] = [[] for _ in BANDS]
    for code, airport in sorted(airportsdata.load("IATA").items()):
        for number, (west, east) in enumerate(BANDS):
            if west <= airport["lon"] < east:
                row = (code, airport["name"], airport["lat"], airport["lon"])
                bands[number].append(row)
    return bands


def free_base_port(wanted: int) -> int:
    """``wanted``, or the next base from which all ports of the cluster are free."""
    for base in range(wanted, wanted + 4000, 100):
        ports = [base + PORTS_PER_NODE * node + k for node in range(NODES) for k in range(4)]
        if all(port_is_free(port) for port in ports):
            return base
    raise DemoError(f"no free ports found from {wanted} on; name others with --base-port")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    parser.add_argument("--directory", type=Path, help="where to put the cluster (default: new)")
    parser.add_argument("--base-port", type=int, default=27000, help="first port (default 27000)")
    options = parser.parse_args()

    # Unix socket paths are short-lived things of at most 107 bytes: stay close to the root.
    parent = options.directory or Path(tempfile.mkdtemp(prefix="edgistry-demo-", dir="/tmp"))
    demo = Demo(parent / "cluster", options.base_port, Narrator(options.json))
    finished = False
    try:
        demo.base_port = free_base_port(options.base_port)
        demo.tell_story()
        finished = True
    except DemoError as error:
        print(f"\ndemo: {error}\ndemo: logs are in {demo.directory}", file=sys.stderr)
        return 1
    finally:
        if not (options.keep and finished) and demo.directory.exists():
            demo.stop()
    if options.json:
        print(json.dumps(demo.facts, indent=2))
    if options.keep:
        agents = " ".join(str(each.pid) for each in demo.stations.agents)
        demo.tell.say(
            f"\nStill running. Try:\n   edgistry discover --node {demo.url(1)} --near 64.13,-21.94"
            f" --radius-km 50\nand stop it with:\n   kill {agents}"
            f"\n   edgistry-node cluster down {demo.directory}"
        )
    else:
        if options.directory is None:
            shutil.rmtree(parent)
        demo.tell.say("\nStopped and cleaned up; `scripts/demo --keep` leaves the cluster running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
