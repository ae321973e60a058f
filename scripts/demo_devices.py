"""The part of the demonstration in which a client calls devices that sleep.

Three stations in Seattle answer with real readings: the day of today in a year from 2012 to 2014 of
`seattle-weather` of the `vega_datasets` package (NOAA, in the public domain).
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgistry.adapters.capability_file import read_capability
from edgistry.adapters.secret_files import write_secret
from edgistry.capability import Capability
from edgistry.captext import danger_text

if TYPE_CHECKING:
    from demo import Demo

BIN = Path(sys.executable).parent
STATIONS = (
    # name, latitude, longitude, year of its readings
    ("Ballard", 47.6687, -122.3846, 2012),
    ("Capitol Hill", 47.6230, -122.3197, 2013),
    ("West Seattle", 47.5667, -122.3868, 2014),
)
PERIOD_S = 10
HOME, ENTRY, OTHER = 0, 2, 1
AREA = ("--near", "47.6062,-122.3321", "--radius-km", "15")

HANDLERS = '''\
"""The newest reading of this station: it is drawn from a file here, a sensor elsewhere."""

import csv
import json
from pathlib import Path

from edgistry.handlers import Context, handler

ROWS = {
    row["date"][5:]: row
    for row in csv.DictReader(Path(__file__).with_name("readings.csv").open(encoding="utf-8"))
}


@handler
async def read(context: Context, woof: str, seq: int, element: bytes) -> bytes:
    row = ROWS[context.now().strftime("%m/%d")]
    return json.dumps(row).encode()


@handler
async def zero(context: Context, woof: str, seq: int, element: bytes) -> bytes:
    return b"the rain gauge begins at zero"
'''


class Stations:
    """The agents of the demonstration, and the clients that call them."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.tell = demo.tell
        self.client = person(demo.directory / "client")
        self.guest = person(demo.directory / "guest")
        self.agents: list[subprocess.Popen[bytes]] = []
        self.watching: subprocess.Popen[str] | None = None
        self.handle = self.whole = self.granted = ""
        self.height = "0"

    def call_sleeping_devices(self) -> None:
        """All of it, in order."""
        self.pair()
        self.call_through_another_node()
        self.ask_again()
        self.delegate()
        self.forge()

    def stop(self) -> None:
        """The agents have ended, and whatever else was begun here."""
        if self.watching is not None and self.watching.poll() is None:
            self.watching.kill()
            self.watching.wait()
        for agent in self.agents:
            if agent.poll() is None:
                agent.send_signal(signal.SIGTERM)
        for agent in self.agents:
            try:
                agent.wait(timeout=20)
            except subprocess.TimeoutExpired:
                agent.kill()

    # --- the story -----------------------------------------------------------------------------

    def pair(self) -> None:
        node = self.demo.node(HOME)
        self.tell.step(f"Three weather stations of Seattle pair with node {HOME}; then they sleep")
        self.watching = watching = self._watch()
        many = ("--count", str(len(STATIONS)))
        codes = self.demo.run("edgistry-node", "pair-code", node, *many).split()
        for position, (name, lat, lon, year) in enumerate(STATIONS):
            directory = self.demo.directory / f"station{position}"
            first = position == 0
            where = ("--lat", str(lat), "--lon", str(lon), "--period", str(PERIOD_S))
            words = ("--type", "weather", "--name", name, *where)
            self.demo.run("edgistry-agent", "init", str(directory), *words, show=first)
            _prepare(directory, year)
            pairing = ("edgistry-agent", "pair", str(directory), "--node", self.demo.url(HOME))
            self.demo.run(*pairing, "--code", "-", typed=codes[position], show=first)
            if first:
                self.tell.command(["edgistry-agent", "run", str(directory)])
            self.agents.append(self._start(directory))
        self.tell.fact(f"and likewise the other two; each wakes every {PERIOD_S} s, for a moment")
        self._show_watched(watching)

    def call_through_another_node(self) -> None:
        entry = self.demo.url(ENTRY)
        self.tell.step(f"A client calls one of them through node {ENTRY}, while it sleeps")
        where = (*AREA, "--min-height", self.height)
        words = ("edgistry", "discover", "--node", entry, *where, "--type", "weather")
        table = self.demo.run(*words, person=self.client)
        self.tell.table(table)
        found = json.loads(self.demo.run(*words, "--json", show=False, person=self.client))
        self.whole = found["services"][0]["handle"]
        self.handle = self.whole[:16]
        asking = ("edgistry", "grant", "request", self.handle, "--node", entry)
        granted = self.demo.run(*asking, person=self.client)
        self.tell.table(granted)
        self.granted = granted.splitlines()[1].split("\t")[0]
        began = time.monotonic()
        reading, _ = self._read(ENTRY, self.client)
        seconds = round(time.monotonic() - began, 1)
        self.demo.facts["called"] = {"at": ENTRY, "reading": json.loads(reading), "s": seconds}
        self.tell.fact(
            f"the device answered when it woke, after {seconds} s; its answer is proven by"
        )
        self.tell.fact(f"a tag, which node {ENTRY} could not have made for another answer")

    def ask_again(self) -> None:
        self.tell.step(f"Node {OTHER} is asked for the same; what is ten minutes old will do")
        reading, remarks = self._read(OTHER, self.client, "--max-age", "10m")
        if "answered by the device's node" not in remarks:
            raise self.demo.failed(f"the device was woken for a reading that was there: {remarks}")
        self.demo.facts["cached"] = {"at": OTHER, "reading": json.loads(reading)}
        self.tell.fact("and the device slept on")

    def delegate(self) -> None:
        self.tell.step("The client passes on less than it has, without asking anybody")
        capability = str(self.demo.directory / "guest.cap")
        narrow = ("--expires", "1h", "--max-payload", "0", "--seal", "-o", capability)
        self.demo.run("edgistry", "cap", "derive", self.granted, *narrow, person=self.client)
        self._read(OTHER, self.guest, "--capability", capability, "--max-age", "10m")
        self.tell.fact("a guest may read with it, for an hour, and do nothing else:")
        self.demo.facts["delegated"] = {"zero": self._refused(capability)}

    def forge(self) -> None:
        self.tell.step("The guest rewrites its capability: `zero` in the place of `read`")
        forged = self.demo.directory / "forged.cap"
        data = read_capability(self.demo.directory / "guest.cap").danger_bytes()
        capability = Capability.from_bytes(data.replace(b"read", b"zero"))
        write_secret(forged, f"{danger_text(capability)}\n".encode(), force=False)
        self.demo.facts["forged"] = {"zero": self._refused(str(forged))}
        self.tell.fact("its tag fits no longer, and only the device's key makes tags")

    # --- its parts -------------------------------------------------------------------------------

    def _read(self, at: int, person: dict[str, str], *more: str) -> tuple[str, str]:
        """Call `read` and show what is printed; gives the answer, and what was said beside it."""
        # Who was given a handle by somebody else has never seen it before.
        handle = self.handle if person is self.client else self.whole
        words = ("edgistry", "call", handle, "read", "--node", self.demo.url(at), *more)
        done = self.demo.run_fully(*words, person=person)
        self.tell.text(done.stderr + done.stdout)
        return done.stdout, done.stderr

    def _refused(self, capability: str) -> str:
        """The code of the refusal when the guest calls `zero`, which is shown."""
        where = ("--node", self.demo.url(OTHER), "--capability", capability)
        words = ("edgistry", "call", self.handle, "zero", *where)  # it is known here by now
        refusal = self.demo.run_fully(*words, person=self.guest, accept=(1,)).stderr
        self.tell.text(refusal)
        return refusal.partition("[")[2].partition("]")[0]

    def _watch(self) -> subprocess.Popen[str]:
        words = ["edgistry", "watch", "--node", self.demo.url(OTHER), *AREA, "--type", "weather"]
        words += ["--count", str(len(STATIONS))]
        self.tell.command(words)
        return subprocess.Popen(
            [str(BIN / words[0]), *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.client,
            text=True,
        )

    def _show_watched(self, watching: subprocess.Popen[str]) -> None:
        try:
            seen, _ = watching.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            raise self.demo.failed("the stations did not appear in the registry") from None
        self.tell.fact(f"node {OTHER} tells whoever watches the area:")
        self.tell.table(seen)
        self.height = seen.splitlines()[-1].split("\t")[0]
        self.demo.facts["appeared"] = len(seen.splitlines())

    def _start(self, directory: Path) -> subprocess.Popen[bytes]:
        with (directory / "console.log").open("wb") as log:
            return subprocess.Popen(
                [str(BIN / "edgistry-agent"), "run", str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def person(directory: Path) -> dict[str, str]:
    """The environment of somebody with a keyring of their own."""
    return {**os.environ, "XDG_CONFIG_HOME": str(directory / "config")}


def _prepare(directory: Path, year: int) -> None:
    """Give the device in ``directory`` its readings, its functions and what it offers."""
    handlers = directory / "handlers"
    (handlers / "device_handlers.py").write_text(HANDLERS, encoding="utf-8")
    with (handlers / "readings.csv").open("w", newline="", encoding="utf-8") as file:
        rows = seattle_weather(year)
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    manifest = directory / "manifest.toml"
    text = manifest.read_text(encoding="utf-8").replace("fresh_s = 60\n", "fresh_s = 600\n")
    action = '\n[[service.action]]\nname = "zero"\n'
    manifest.write_text(text + action, encoding="utf-8")


def seattle_weather(year: int) -> list[dict[str, str]]:
    """The readings of that year, a day each; 29 February is that of 2012."""
    package = importlib.util.find_spec("vega_datasets")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("vega_datasets; run scripts/setup")
    # The file alone: importing the package loads pandas, which takes longer than all of this.
    path = Path(package.origin).parent / "_data" / "seattle-weather.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        row
        for row in rows
        if row["date"].startswith(str(year)) or (year != 2012 and row["date"] == "2012/02/29")
    ]
