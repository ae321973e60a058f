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

from measure import ROOT, Rounds, report

sys.path.insert(0, str(ROOT))

import _call_rivals as rivals
import _call_world as world

from edgistry.adapters.http import run
from edgistry.adapters.service_caller import CallTracker, ServiceCaller
from edgistry.calls import call_result

BENCH = "call"
DATA = b"x" * 64
ROUNDS = 25
ALONE = 8
"""Calls of each kind in one round."""

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


def quantile(rounds: list[list[float]], share: float) -> float:
    every = sorted(each for calls in rounds for each in calls)
    return every[min(int(len(every) * share), len(every) - 1)]


# --- one awake device ----------------------------------------------------------------------------


def ours(caller: ServiceCaller, handle: str, action: str = "echo") -> Subject:
    """Calls of one device; acknowledged when the clock stands."""
    http = caller._http  # a call in its steps, to stop the clock between them

    async def calls() -> list[float]:
        seconds = []
        for _ in range(ALONE):
            began = time.perf_counter()
            ticket = caller.ticket(handle, action, DATA)
            tracker = CallTracker(http, ticket)
            answer = await tracker.wait(await tracker.submit(), 30.0)
            result = call_result(ticket.request, answer)
            seconds.append(time.perf_counter() - began)
            if result.payload != DATA:
                raise SystemExit("bench: another answer than the one that was to come")
            await tracker.acknowledge()
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
        stack.enter_context(rivals.responders("nats", port, 1, directory))
        call, after = await callers.enter_async_context(rivals.jetstream_caller(port))
        found["jetstream"] = rival(call, after)
        broker = stack.enter_context(rivals.mqtt(directory))
        if broker is not None:
            stack.enter_context(rivals.responders("mqtt", broker, 1, directory))
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
            world.caller(home, capability) as caller,
            rival_subjects(stack, directory) as subjects,
        ):
            subjects["call"] = ours(caller, handle)
            found = await in_turns(subjects, ROUNDS)
    _report_awake(found)


def _report_awake(found: dict[str, list[list[float]]]) -> None:
    medians = Rounds(
        {name: [statistics.median(calls) for calls in each] for name, each in found.items()}
    )
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


PARTS = {"awake": awake}


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
