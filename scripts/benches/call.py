"""Calls of devices, against NATS JetStream and MQTT, and what sleeping devices cost their node.

Everything that is compared is measured in turns in one run, on one disk (--directory; a temporary
one by default). Every figure is a ratio; absolute ones only orient.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

from measure import RESULTS, ROOT, Rounds, report

sys.path.insert(0, str(ROOT))

import _call_many as many
import _call_rivals as rivals
import _call_world as world
from _call_exchange import full_and_empty, idle_wake, ready_device
from _call_sleepers import sleepers
from _call_table1 import PAPER, chain, end_to_end, row_of, write_plot, write_table
from _clusters import command

from edgistry.adapters.http import HttpClient, run
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.service_caller import ServiceCaller
from edgistry.capability import Capability

BENCH = "call"
DATA = b"x" * 64
ROUNDS = 25
ALONE = 8
"""Calls of each kind in one round."""
DEVICES = 100
SUSTAINED_S = 3.0
SUSTAINED_ROUNDS = 5
EXCHANGES = 40
SLEEPERS = 10_000
PERIOD_S = 600.0
SLEEPERS_S = 60.0
WAKES = 5

Subject = Callable[[], Awaitable[list[float]]]
"""Calls a few times, one after the other; how many seconds each call took."""


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def skipped(name: str, why: str) -> None:
    print(json.dumps({"bench": BENCH, "name": name, "skipped": why}), flush=True)


async def in_turns(subjects: Mapping[str, Subject], rounds: int) -> dict[str, list[list[float]]]:
    """Seconds of every call of every subject, by rounds; one round before them is not counted."""
    found: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for number in range(-1, rounds):
        for name in list(subjects) if number % 2 else list(subjects)[::-1]:
            seconds = await subjects[name]()
            if number >= 0:
                found[name].append(seconds)
    return found


def medians_of(found: Mapping[str, list[list[float]]]) -> Rounds:
    """The median call of each round."""
    return Rounds(
        {name: [statistics.median(calls) for calls in each] for name, each in found.items()}
    )


def quantile(rounds: list[list[float]], share: float) -> float:
    every = sorted(each for calls in rounds for each in calls)
    return every[min(int(len(every) * share), len(every) - 1)]


# --- one awake device ----------------------------------------------------------------------------


def ours(
    http: HttpClient,
    capability: Capability,
    handle: str,
    action: str = "echo",
    *,
    max_age_s: int = 0,
) -> Subject:
    """Calls of one device. That an outcome is known goes with the next call, so within its time."""
    caller = ServiceCaller(http, capability)

    async def calls() -> list[float]:
        seconds = []
        for _ in range(ALONE):
            began = time.perf_counter()
            result = await caller.call(handle, action, DATA, max_age_s=max_age_s)
            seconds.append(time.perf_counter() - began)
            if result.payload != DATA:
                raise SystemExit("bench: another answer than the one that was to come")
        return seconds

    return calls


def rival(call: rivals.Call, after: rivals.After) -> Subject:
    """Calls of one responder; acknowledged when the clock stands."""

    async def calls() -> list[float]:
        seconds = []
        for _ in range(ALONE):
            began = time.perf_counter()
            if await call(0, DATA) != DATA:
                raise SystemExit("bench: another answer than the one that was to come")
            seconds.append(time.perf_counter() - began)
            await after()
        return seconds

    return calls


async def nothing() -> None:
    """MQTT's client has acknowledged by itself."""


@asynccontextmanager
async def rival_subjects(stack: ExitStack, directory: Path) -> AsyncIterator[dict[str, Subject]]:
    """The rivals that run here, each with one responder."""
    found: dict[str, Subject] = {}
    async with AsyncExitStack() as callers:
        port = stack.enter_context(rivals.jetstream(directory))
        stack.enter_context(rivals.responders("nats", port, directory))
        call, after = await callers.enter_async_context(rivals.jetstream_caller(port))
        found["jetstream"] = rival(call, after)
        broker = stack.enter_context(rivals.mqtt(directory))
        if broker is not None:
            stack.enter_context(rivals.responders("mqtt", broker, directory))
            found["mqtt"] = rival(
                await callers.enter_async_context(rivals.mqtt_caller(broker)), nothing
            )
        yield found


async def awake(directory: Path) -> None:
    with ExitStack() as stack:
        home = stack.enter_context(world.node(directory / "node"))
        await asyncio.to_thread(world.new_device, directory / "device", home)
        stack.enter_context(world.device(directory / "device"))
        (handle,) = await world.handles(home)
        capability = (await world.grants(home, handle))["echo"]
        async with (
            HttpClient(home.url) as http,
            rival_subjects(stack, directory) as subjects,
        ):
            subjects["call"] = ours(http, capability, handle)
            found = await in_turns(subjects, ROUNDS)
    _report_awake(found)


def _report_awake(found: dict[str, list[list[float]]]) -> None:
    medians = medians_of(found)
    shown = {
        f"{name}_ms": [round(quantile(each, share) * 1e3, 2) for share in (0.5, 0.99)]
        for name, each in found.items()
    }
    name = "awake device, durable at every hop, p50 of a call, of JetStream's"
    report(BENCH, name, medians.ratio("call", "jetstream"), at_most=2, **shown)
    ratio = quantile(found["call"], 0.99) / quantile(found["jetstream"], 0.99)
    report(BENCH, "the same, p99", ratio, at_most=2)
    name = "the same, p50, of MQTT's with QoS 1, which keeps nothing on the disk"
    if "mqtt" in medians.seconds:
        report(BENCH, name, medians.ratio("call", "mqtt"))
    else:
        skipped(name, "mosquitto is not installed, and its package cannot be unpacked")


# --- many awake devices --------------------------------------------------------------------------


async def sustained(directory: Path) -> None:
    """100 devices, or responders, in one process each; one call of each is always under way."""
    with ExitStack() as stack:
        home = stack.enter_context(world.node(directory / "node"))
        stack.enter_context(many.fleet(directory, home, devices=DEVICES, period_s=0, durable=True))
        port = stack.enter_context(rivals.jetstream(directory))
        stack.enter_context(rivals.responders("nats", port, directory))
        async with (
            HttpClient(home.url) as http,
            rivals.jetstream_caller(port) as (rival_call, acknowledge),
        ):
            call = await many.callers_of(home, http, DEVICES)

            async def of_rival(number: int) -> None:
                await rival_call(number, DATA)
                await acknowledge()

            subjects = {"call": call, "jetstream": of_rival}
            found: dict[str, list[float]] = {name: [] for name in subjects}
            for turn in range(-1, SUSTAINED_ROUNDS):
                for name in list(subjects) if turn % 2 else list(subjects)[::-1]:
                    rate = await many.sustained(
                        subjects[name], workers=DEVICES, seconds=SUSTAINED_S
                    )
                    if turn >= 0:
                        found[name].append(rate)
    rounds = Rounds(found)
    report(
        BENCH,
        "calls a second with 100 awake devices, durable at every hop, of JetStream's",
        rounds.ratio("call", "jetstream"),
        at_least=0.5,
        calls_a_second=round(statistics.median(found["call"])),
        jetstream_calls_a_second=round(statistics.median(found["jetstream"])),
    )


# --- one exchange --------------------------------------------------------------------------------


async def exchange(directory: Path) -> None:
    rounds = Rounds(await full_and_empty(directory, EXCHANGES))
    report(
        BENCH,
        "an exchange with 20 answers up and 20 requests down, of an empty one",
        rounds.ratio("full", "empty"),
        at_most=3,
        full_ms=round(rounds.microseconds("full") / 1000, 2),
        empty_ms=round(rounds.microseconds("empty") / 1000, 2),
    )


async def wire(directory: Path) -> None:
    wakes = await idle_wake(directory, WAKES)
    up, down = max(wakes, key=sum)
    report(
        BENCH,
        "bytes of an idle wake above TCP, both ways, the most of some wakes, of 600",
        (up + down) / 600,
        at_most=1,
        up=up,
        down=down,
        wakes=len(wakes),
    )


# --- ten thousand that sleep ---------------------------------------------------------------------


async def asleep(directory: Path) -> None:
    cost = await sleepers(directory, count=SLEEPERS, period_s=PERIOD_S, seconds=SLEEPERS_S)
    name = (
        f"{cost.devices} devices on a 10-minute cycle, idle wakes, share of a core that the node"
        f" takes, of 0.1 ({cost.seconds:.0f} s of the cycle, at its pace)"
    )
    report(
        BENCH,
        name,
        cost.cpu_share / 0.1,
        at_most=1,
        cpu_share=round(cost.cpu_share, 4),
        wakes=cost.wakes,
        cpu_ms_a_wake=round(cost.cpu_share * cost.seconds / cost.wakes * 1000, 2),
    )
    report(
        BENCH,
        f"the same, memory of the node when it has met all {cost.devices}, of 400 MB",
        cost.resident_mib * 2**20 / 400e6,
        at_most=1,
        resident_mib=round(cost.resident_mib, 1),
        before_mib=round(cost.empty_mib, 1),
    )


# --- what the node answers in the device's place -------------------------------------------------


async def cached(directory: Path) -> None:
    """A call that the node answers with what it has, against a page of services."""
    with world.node(directory / "node") as home:
        handle = await ready_device(directory / "device", home)
        add_stations(directory / "stations.csv", home)
        capability = (await world.grants(home, handle))["look"]
        async with NodeClient(home.url, capability) as client, HttpClient(home.url) as http:
            with world.device(directory / "device"):
                await client.call(handle, "look", DATA, max_age_s=86_400)
            # The device is gone now: nobody but the node can answer.
            subjects = {
                "call": ours(http, capability, handle, "look", max_age_s=86_400),
                "discover": lambda: discovers(client),
            }
            found = await in_turns(subjects, ROUNDS)
    rounds = medians_of(found)
    report(
        BENCH,
        "a call that the node answers from its cache, durably, of a discover call (20 services)",
        rounds.ratio("call", "discover"),
        at_most=2,
        call_ms=round(rounds.microseconds("call") / 1000, 2),
        discover_ms=round(rounds.microseconds("discover") / 1000, 2),
    )


def add_stations(path: Path, home: world.Node) -> None:
    """Services around the device, more than one page of them."""
    with path.open("w") as file:
        file.write("id,name,lat,lon,type\n")
        for number in range(200):
            lat = world.LAT + number % 20 / 1000
            file.write(f"s{number},station,{lat},{world.LON},station\n")
    command("edgistry-node", "fleet", "import", str(home.directory), "--csv", str(path))


async def discovers(client: NodeClient) -> list[float]:
    seconds = []
    for _ in range(ALONE):
        began = time.perf_counter()
        page = await client.discover(near=(world.LAT, world.LON), radius_km=10.0, type="station")
        seconds.append(time.perf_counter() - began)
        if len(page.services) != 20:
            raise SystemExit(f"bench: {len(page.services)} services in a page")
    return seconds


# --- from the device to the cloud ----------------------------------------------------------------


async def table1(directory: Path) -> None:
    """The path of the paper's Table 1, beside its figures."""
    RESULTS.mkdir(exist_ok=True)
    with ExitStack() as stack:
        home, host = await asyncio.to_thread(stack.enter_context, chain(directory))
        seconds = await end_to_end(home, host)
    row = row_of(seconds)
    rows = [*PAPER, row]
    print(write_table(rows), file=sys.stderr)
    write_plot(rows, seconds)
    report(
        BENCH,
        "device to node to cloud function, 100 runs, coefficient of variation, of the paper's",
        row.variation / PAPER[-1].variation,
        mean_ms=round(row.mean, 2),
        sd_ms=round(row.sd, 2),
        max_ms=round(row.highest, 2),
        variation=round(row.variation, 3),
        paper_variation=round(PAPER[-1].variation, 4),
    )


PARTS = {
    "awake": awake,
    "sustained": sustained,
    "exchange": exchange,
    "asleep": asleep,
    "wire": wire,
    "cached": cached,
    "table1": table1,
}


async def main(parts: list[str], parent: Path | None) -> None:
    for name in parts:
        directory = Path(tempfile.mkdtemp(prefix="edgb-call-", dir=parent))
        try:
            await PARTS[name](directory)
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--directory", type=Path, help="where to make the databases")
    words = parser.parse_args()
    if unknown := set(words.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    run(main(words.parts or list(PARTS), words.directory))
