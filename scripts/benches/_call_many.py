"""Many awake devices at one node: how many calls a second.

Rules kept here:

* The devices are the program's own fleet, one process, paired as any other. Each has a database,
  synced as on a device.
* Callers are one process too, for us and for the rival; each device has one call under way.

Not handled here: what is reported (``call.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import _call_world as world
from _clusters import BIN, command

from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import ServiceCaller

ACTION: Final = "read"
"""Of the fleet's devices."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")

OneCall = Callable[[int], Awaitable[object]]
"""Calls the device, or responder, of that number."""


@contextlib.contextmanager
def fleet(
    directory: Path, home: world.Node, *, devices: int, period_s: int, durable: bool
) -> Iterator[None]:
    """A fleet that is paired with ``home``, or about to be."""
    codes = directory / "codes"
    made = command(
        *("edgistry-node", "pair-code", str(home.directory)),
        *("--count", str(devices), "--ttl", "1h"),
    )
    codes.write_text(made)
    codes.chmod(0o600)
    words = [
        *(str(BIN / "edgistry-agent"), "fleet", "run", "--node", home.url),
        *("--devices", str(devices), "--codes", str(codes), "--period", str(period_s)),
        *("--type", world.TYPE, "--lat", str(world.LAT), "--lon", str(world.LON)),
        *("--radius-km", "1"),
    ]
    if durable:
        words += ["--durable", str(directory / "fleet")]
    with world.running(words, directory / "fleet.log"):
        yield


async def callers_of(home: world.Node, http: HttpClient, count: int) -> OneCall:
    """Calls of the fleet's ``count`` devices."""
    handles = await world.handles(home, count)
    given = [(await world.grants(home, handle))[ACTION] for handle in handles]
    callers = [ServiceCaller(http, capability) for capability in given]

    async def call(number: int) -> None:
        await callers[number].call(handles[number], ACTION, b"x" * 64)

    return call


async def sustained(call: OneCall, *, workers: int, seconds: float) -> float:
    """Calls a second, when each of ``workers`` has one under way for so long."""
    done = 0
    end = time.perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(number)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(workers)))
    return done / (time.perf_counter() - began)


def cpu_seconds(pid: int) -> float:
    """Of a process, since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
