"""Ten thousand devices that sleep, and what they cost the node that they are at home at.

Rules kept here:

* The pairings are written before the node starts, as they are after the set-up; everything that
  is measured goes through the node's HTTP API, with a new connection for each wake.
* First every device wakes once, so that the node has met them all; then they wake as often as they
  do on a cycle of ten minutes, for a part of one: that is what is measured.

Not handled here: what is reported (``call.py``).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import _call_world as world
from _call_many import cpu_seconds
from _clusters import command, resident_mib
from _settings import unguarded
from edgistry_abci_app.directory import open_directory
from edgistry_abci_app.issuing import open_authority
from edgistry_abci_app.pairing import PairingTable, StoredPairing, node_capability
from edgistry_device_agent.fleet import FleetPlan, offer_for
from edgistry_device_agent.homes import Home
from edgistry_device_agent.link import HttpLink
from edgistry_device_agent.runtime import Habits
from edgistry_device_agent.talk import Talk, Wish

from edgistry.adapters.clock import wall_us
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.messages import Account, ExchangeDown

TOGETHER: Final = 32
"""Devices that are awake at one time when all are to be met."""
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What sleeping devices cost a node."""

    devices: int
    wakes: int
    seconds: float
    cpu_share: float
    """Of one core."""
    resident_mib: float
    empty_mib: float
    """What the node took before it met the devices."""


def _plan(home: world.Node, count: int) -> FleetPlan:
    return FleetPlan(
        devices=count,
        url=home.url,
        type=world.TYPE,
        lat=world.LAT,
        lon=world.LON,
        radius_km=20.0,
        habits=Habits(),
        seed=bytes(32),
    )


def pair_beforehand(home: world.Node, count: int) -> list[Talk]:
    """The devices' sides of ``count`` pairings with the node ``home``, which does not run."""
    directory, _ = open_directory(home.directory)
    plan = _plan(home, count)
    store = LevelKeyValue(directory.queues_db)
    try:
        table = PairingTable(store)
        issuer = open_authority(directory, store).issuer
        talks = []
        for number in range(count):
            offer, _ = offer_for(plan, number)
            pairing = StoredPairing(
                offer=offer, serial=number + 1, paired_us=wall_us(), stage="ready"
            )
            store.write(table.put(pairing), sync=False)
            paired = table.by_device(offer.device)
            if paired is None:
                raise SystemExit("bench: a pairing was not written")
            capability = node_capability(issuer, paired)
            node = Home(id=bytes(20), url=home.url, capability=capability)
            instance = hashlib.sha256(offer.device.encode()).digest()[:8]
            talks.append(Talk(node, offer.device, instance=instance))
    finally:
        store.close()
    return talks


async def _wake(talk: Talk) -> None:
    """One idle wake on a new connection."""
    request = talk.request(
        Wish(count=20, size=256 * 1024, back_in_s=600), (), Account(), now_us=wall_us()
    )
    link = HttpLink(talk.home.url)
    answer = await link.post(request.encoded, wait_s=0, timeout_s=TIMEOUT_S)
    await link.close()
    down = talk.understood(request, answer.reply)
    talk.ended(request)
    if not isinstance(down, ExchangeDown) or down.requests:
        raise SystemExit(f"bench: a wake that was to be idle brought {down}")


async def _meet(talks: Sequence[Talk]) -> None:
    """Each device wakes once."""
    waiting = iter(talks)

    async def work() -> None:
        for talk in waiting:
            await _wake(talk)

    await asyncio.gather(*(work() for _ in range(TOGETHER)))


async def _cycle(talks: Iterator[Talk], *, a_second: float, seconds: float) -> int:
    """So many wakes a second, evenly; how many there were."""
    began = time.perf_counter()
    wakes = []
    for number in range(round(a_second * seconds)):
        await asyncio.sleep(max(began + number / a_second - time.perf_counter(), 0.0))
        wakes.append(asyncio.create_task(_wake(next(talks))))
    await asyncio.gather(*wakes)
    return len(wakes)


async def sleepers(directory: Path, *, count: int, period_s: float, seconds: float) -> Cost:
    """What ``count`` devices cost, measured over ``seconds`` of their cycle."""
    base = world.free_base_port()
    command("edgistry-node", "init", str(directory / "node"), "--base-port", str(base))
    unguarded(directory / "node")
    resting = world.Node(directory=directory / "node", port=base, pid=0)
    talks = pair_beforehand(resting, count)
    with world.node(directory / "node", make=False) as home:
        empty = resident_mib(home.pid)
        await _meet(talks)
        cpu, began = cpu_seconds(home.pid), time.perf_counter()
        turns = itertools.cycle(talks)
        wakes = await _cycle(turns, a_second=count / period_s, seconds=seconds)
        taken = time.perf_counter() - began
        return Cost(
            devices=count,
            wakes=wakes,
            seconds=taken,
            cpu_share=(cpu_seconds(home.pid) - cpu) / taken,
            resident_mib=resident_mib(home.pid),
            empty_mib=empty,
        )
