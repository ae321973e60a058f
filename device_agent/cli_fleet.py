"""``edgistry-agent fleet``: many simulated devices at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from edgistry.adapters.commands import json_option, option, print_json, tell
from edgistry.adapters.http import run as run_loop
from edgistry.adapters.log import close_logging, setup_logging
from edgistry.codec import Document
from edgistry.errors import InvalidValueError
from edgistry.pairing import PairingCode, parse_code
from edgistry.transactions import check_service_names

from .cli_shared import period_options, told_cycle
from .clock import SystemClock
from .config import AgentConfig
from .fleet import Fleet, FleetPlan, FleetTally, pair_fleet

SHOW_EVERY_S = 10.0


class FleetAnswer(Document):
    """What a fleet did, as ``--json`` prints it at the end."""

    devices: int
    ended: int
    """That did not run to the end."""
    paired_s: float
    """How long pairing took."""
    ran_s: float
    wakes: int
    exchanges: int
    failures: int
    requests: int
    sent: int
    """Bytes above TCP."""
    received: int
    awake_ms: float
    """Of a wake, on average."""
    slowest_wake_ms: float


@click.group()
def fleet() -> None:
    """Run many simulated devices at once, to try a node or a cluster."""


@fleet.command("run")
@option(
    "--devices", env="EDGISTRY_DEVICES", type=click.IntRange(1, 100_000), metavar="COUNT",
    default=100, help="How many.",
)  # fmt: skip
@option(
    "--node", "url", env="EDGISTRY_NODE", metavar="URL", required=True,
    help="The HTTP API of the node that they are paired with.",
)  # fmt: skip
@option(
    "--codes", env="EDGISTRY_CODES", type=click.File("r"), metavar="FILE", required=True,
    help="Pairing codes of that node, one a line and one a device; - reads standard input.",
)  # fmt: skip
@period_options
@option(
    "--type", "type_name", env="EDGISTRY_TYPE", metavar="TYPE", default="thermometer",
    help="What they are.",
)  # fmt: skip
@option(
    "--lat", env="EDGISTRY_LAT", type=click.FloatRange(-90, 90), metavar="DEGREES",
    default=47.6062, help="Latitude of the middle.",
)  # fmt: skip
@option(
    "--lon", env="EDGISTRY_LON", type=click.FloatRange(-180, 180), metavar="DEGREES",
    default=-122.3321, help="Longitude of the middle.",
)  # fmt: skip
@option(
    "--radius-km", env="EDGISTRY_RADIUS_KM", type=click.FloatRange(0, 500), metavar="KM",
    default=20.0, help="How far around it they are scattered.",
)  # fmt: skip
@option(
    "--for", "ends_after_s", env="EDGISTRY_FOR", type=click.FloatRange(min=0.0), metavar="SECONDS",
    help="Stop after so long; otherwise with Ctrl-C.",
)  # fmt: skip
@option(
    "--durable", env="EDGISTRY_DURABLE", metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Give each a database in this directory, synced as on a device; else in memory.",
)  # fmt: skip
@json_option
def fleet_run(
    devices: int,
    url: str,
    codes: TextIO,
    period_s: int,
    any_period: bool,
    type_name: str,
    lat: float,
    lon: float,
    radius_km: float,
    ends_after_s: float | None,
    durable: Path | None,
    as_json: bool,
) -> None:
    """Pair simulated devices with a node, and run them in this process.

    Each has a secret, a rhythm and a connection of its own, and one service whose action `read`
    answers a temperature. They exist as long as this process: afterwards revoke them at the node.

    edgistry-node pair-code DIR makes the codes.
    """
    check_service_names(type_name, ("read",))
    if durable is not None:
        durable.mkdir(mode=0o700, parents=True, exist_ok=True)
    plan = FleetPlan(
        devices=devices,
        url=url,
        type=type_name,
        lat=lat,
        lon=lon,
        radius_km=radius_km,
        habits=AgentConfig(cycle=told_cycle(period_s, any_period=any_period)).habits,
        seed=secrets.token_bytes(32),
        durable=durable,
    )
    setup_logging(level="warning", path=None, console=True)
    _allow_files()
    try:
        answer = run_loop(_run(plan, _codes(codes, devices), ends_after_s=ends_after_s))
    finally:
        close_logging()
    if as_json:
        print_json(answer)
    else:
        click.echo(_summary(answer))


def _allow_files() -> None:
    """As many open files as the system allows: each device has a connection, and perhaps more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # what there is may be enough
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _codes(file: TextIO, count: int) -> list[PairingCode]:
    found = [parse_code(line) for line in file if line.strip()]
    if len(found) < count:
        raise InvalidValueError(f"{count} devices need as many codes; the file has {len(found)}")
    return found


async def _run(
    plan: FleetPlan, codes: list[PairingCode], *, ends_after_s: float | None
) -> FleetAnswer:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    began_s = time.monotonic()
    pairing = asyncio.create_task(pair_fleet(plan, codes, told=_progress(plan.devices)))
    try:
        await asyncio.wait({pairing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not pairing.done():
            tell("stopped before all devices were paired; revoke those that are, at the node")
            return _answer(plan, FleetTally(), paired_s=time.monotonic() - began_s, ran_s=0.0)
        paired = pairing.result()
    finally:
        pairing.cancel()
        await asyncio.gather(pairing, return_exceptions=True)
    paired_s = time.monotonic() - began_s
    tell(f"{len(paired)} devices are paired, in {paired_s:.1f} s; Ctrl-C stops them")
    running = Fleet(plan, paired, clock=SystemClock())
    began_s = time.monotonic()
    work = asyncio.create_task(running.run())
    shown = asyncio.create_task(_show(running.tally))
    try:
        await asyncio.wait(
            {work, stopped}, timeout=ends_after_s, return_when=asyncio.FIRST_COMPLETED
        )
        if work.done():
            work.result()  # or what it has raised
    finally:
        for task in (work, stopped, shown):
            task.cancel()
        await asyncio.gather(work, stopped, shown, return_exceptions=True)
    return _answer(plan, running.tally, paired_s=paired_s, ran_s=time.monotonic() - began_s)


def _progress(count: int) -> Callable[[int], None]:
    step = max(count // 20, 1)

    def told(paired: int) -> None:
        if sys.stderr.isatty() and paired % step == 0:
            click.echo(f"\rpaired {paired} of {count}", nl=paired == count, err=True)

    return told


async def _show(tally: FleetTally) -> None:
    while True:
        await asyncio.sleep(SHOW_EVERY_S)
        with contextlib.suppress(BrokenPipeError):
            tell(
                f"{tally.spending.wakes} wakes, {tally.exchanges} exchanges,"
                f" {tally.requests} requests, {tally.failures} failures"
            )


def _answer(plan: FleetPlan, tally: FleetTally, *, paired_s: float, ran_s: float) -> FleetAnswer:
    spending = tally.spending
    return FleetAnswer(
        devices=plan.devices,
        ended=tally.ended,
        paired_s=round(paired_s, 3),
        ran_s=round(ran_s, 3),
        wakes=spending.wakes,
        exchanges=tally.exchanges,
        failures=tally.failures,
        requests=tally.requests,
        sent=spending.sent,
        received=spending.received,
        awake_ms=round(spending.awake_s / max(spending.wakes, 1) * 1000, 3),
        slowest_wake_ms=round(tally.slowest_wake_s * 1000, 3),
    )


def _summary(answer: FleetAnswer) -> str:
    wakes = max(answer.wakes, 1)
    ended = f"; {answer.ended} devices ended before" if answer.ended else ""
    return (
        f"{answer.devices} devices in {answer.ran_s:.0f} s: {answer.wakes} wakes,"
        f" {answer.exchanges} exchanges, {answer.requests} requests,"
        f" {answer.failures} failures{ended}\n"
        f"a wake: {answer.awake_ms:.1f} ms (the slowest {answer.slowest_wake_ms:.0f}),"
        f" {answer.sent / wakes:.0f} bytes up, {answer.received / wakes:.0f} down"
    )
