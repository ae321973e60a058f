"""Table 1 of the paper: from a device by way of Edgistry to a function in the cloud.

Rules kept here:

* The device's reading is put at its node, which forwards it to a host in the cloud, where a
  function sees it and says so: each of these steps is durable before the next one begins. The
  clock runs from before the device's request until the function has spoken.
* Ours is one machine, so only what does not depend on distance can be compared: how much the
  time varies from run to run, as a share of its mean.

Not handled here: the paper's figures for other systems, which need those systems.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import _call_world as world
from _clusters import command
from _settings import unguarded
from measure import RESULTS

from edgistry.adapters.node_client import NodeClient
from edgistry.captext import parse_text
from edgistry.errors import Refused

RUNS: Final = 100
WARM_UP: Final = 10
DEVICE_WOOF, CLOUD_WOOF, SPOKEN_WOOF = "sensors/air", "cloud/air", "cloud/spoken"

FUNCTION: Final = """\
from edgistry.handlers import Context, handler


@handler
async def arrived(context: Context, woof: str, seq: int, element: bytes) -> None:
    await context.put("cloud/spoken", element)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """End to end times, ms."""

    name: str
    mean: float
    sd: float
    highest: float

    @property
    def variation(self) -> float:
        """The coefficient of variation."""
        return self.sd / self.mean


PAPER: Final = (
    Row(name="AWS IoT and Lambda (the paper)", mean=5578, sd=265, highest=6843),
    Row(name="Edgistry to AWS (the paper)", mean=608, sd=5.78, highest=652),
)


def row_of(seconds: list[float]) -> Row:
    """Our row of the table."""
    times = [each * 1000 for each in seconds]
    return Row(
        name="ours, one machine",
        mean=statistics.mean(times),
        sd=statistics.stdev(times),
        highest=max(times),
    )


@contextmanager
def chain(directory: Path) -> Iterator[tuple[world.Node, world.Node]]:
    """A node, and the host in the cloud that it forwards to; both run."""
    cloud, edge = directory / "cloud", directory / "edge"
    _make(cloud, "none")
    (cloud / "handlers").mkdir(exist_ok=True)
    (cloud / "handlers" / "cloud_functions.py").write_text(FUNCTION)
    _set(cloud, 'module = ""', 'module = "cloud_functions"')
    with world.node(cloud, make=False, run="host") as host:
        asyncio.run(_create(host, "cloud", CLOUD_WOOF, SPOKEN_WOOF))
        _make(edge, "solo")
        secret = edge / "keys" / "cloud.cap"
        rights = ("--object", CLOUD_WOOF, "--allow", "put,invoke")
        command("edgistry-node", "cap", "mint", str(cloud), *rights, "--out", str(secret))
        with (edge / "node.toml").open("a") as settings:
            settings.write(
                f'\n[[forward]]\nwoof = "{DEVICE_WOOF}"\n'
                f'to = "woof://127.0.0.1:{host.port}/{CLOUD_WOOF}"\n'
                f'capability_file = "{secret}"\nhandler = "arrived"\n'
            )
        with world.node(edge, make=False) as home:
            asyncio.run(_create(home, "sensors", DEVICE_WOOF))
            yield home, host


def _make(directory: Path, engine: str) -> None:
    base = str(world.free_base_port())
    command("edgistry-node", "init", str(directory), "--engine", engine, "--base-port", base)
    unguarded(directory)


def _set(directory: Path, old: str, new: str) -> None:
    settings = directory / "node.toml"
    text = settings.read_text()
    if old not in text:
        raise SystemExit(f"bench: {settings} does not say {old}")
    settings.write_text(text.replace(old, new, 1))


def client_of(home: world.Node) -> NodeClient:
    """A client that may do everything there."""
    secret = home.directory / "keys" / "bench.cap"
    if not secret.exists():
        command("edgistry-node", "cap", "mint", str(home.directory), "--out", str(secret))
    return NodeClient(home.url, parse_text(secret.read_text().strip()))


async def _create(home: world.Node, namespace: str, *woofs: str) -> None:
    async with client_of(home) as client:
        await client.create_namespace(namespace)
        for woof in woofs:
            await client.create(woof, history=10_000)


async def end_to_end(home: world.Node, host: world.Node) -> list[float]:
    """Seconds of each run, with pauses as chance has them."""
    draw = random.Random(1)
    seconds = []
    async with client_of(home) as device, client_of(host) as cloud:
        spoken = cloud.follow(SPOKEN_WOOF, 1)
        try:
            for number in range(-WARM_UP, RUNS):
                await asyncio.sleep(draw.uniform(0.02, 0.1))
                reading = b"reading %d" % number
                began = time.perf_counter()
                await device.put(DEVICE_WOOF, reading)
                _, heard = await anext(spoken)
                taken = time.perf_counter() - began
                if heard != reading:
                    raise SystemExit("bench: a reading was lost")
                if number >= 0:
                    seconds.append(taken)
        except Refused as error:
            raise SystemExit(f"bench: {error}") from None
        finally:
            await spoken.aclose()
    return seconds


def write_table(rows: list[Row]) -> str:
    """The table, also as bench-results/call-table1.md."""
    lines = [
        "| end to end, 100 runs | mean, ms | sd, ms | max, ms | coefficient of variation |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = f"{row.mean:.1f} | {row.sd:.2f} | {row.highest:.1f} | {row.variation:.3f}"
        lines.append(f"| {row.name} | {figures} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "call-table1.md").write_text(text)
    return text


def write_plot(rows: list[Row], seconds: list[float]) -> None:
    """Every run of ours, and how much the times vary; bench-results/call-table1.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (runs, bars) = pyplot.subplots(1, 2, figsize=(11, 4))
    runs.plot([each * 1000 for each in seconds], marker=".", linewidth=0.6)
    runs.axhline(rows[-1].mean, color="grey", linewidth=0.8)
    runs.set_ylim(bottom=0)
    runs.set_xlabel("run")
    runs.set_ylabel("ms, device to function in the cloud")
    runs.set_title("ours, one machine")
    bars.barh([row.name for row in rows], [row.variation for row in rows])
    bars.invert_yaxis()
    bars.set_xlabel("standard deviation / mean")
    bars.set_title("how much it varies, 100 runs")
    for axis in (runs, bars):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "call-table1.png", dpi=120)
