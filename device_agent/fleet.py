"""Thousands of simulated devices in one process, against real nodes.

Rules kept here:

* Each is a device of its own: its secret, id, capability, rhythm and connection. To its node, and
  to clients, it is like any other.
* They come to their node evenly over a period, and not all at once, in each privacy epoch anew.
* A device that cannot be reached, or that a node refuses, backs off like any other; one that ends,
  because somebody has its identity, ends alone. It leaves no connection, and its last wake counts.

Not handled here: what the devices are made of (``simulated.py``), showing how they do
(``cli_fleet.py``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.log import get_logger
from edgistry.errors import Refused
from edgistry.issuer import Issuer
from edgistry.pairing import PairingCode, PairingOffer, encode_device_id

from .agent import Agent, Batch, Connected
from .clock import Clock
from .directory import FIRST_EPOCH
from .energy import Spending
from .executor import Executor
from .homes import Home
from .link import HttpLink, Link
from .manifest import Action, Manifest, Service
from .offer import offer_of
from .pair_link import ask_to_pair
from .pairing import pairing_of
from .rhythm import wake_key
from .runtime import Habits
from .simulated import simulated_executor
from .tally import Wake
from .whereabouts import begun

logger = get_logger("edgistry.agent.fleet")

PAIRING_AT_ONCE: Final = 16
PAIRING_TIMEOUT_S: Final = 60.0
KM_PER_DEGREE: Final = 111.2
ACTION: Final = "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What a fleet is like."""

    devices: int
    url: str
    """The API of the node that they are paired with."""
    type: str
    lat: float
    lon: float
    radius_km: float
    """They are scattered this far around that place."""
    habits: Habits
    seed: bytes = field(repr=False)
    """All secrets come from it: 32 random bytes."""
    durable: Path | None = None
    """Where each has a database, synced as on a device; in memory if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDevice:
    """One device that is paired."""

    number: int
    id: str
    issuer: Issuer = field(repr=False)
    home: Home


@dataclass(slots=True)
class FleetTally:
    """What the devices of a fleet did so far."""

    spending: Spending = field(default_factory=Spending)
    exchanges: int = 0
    failures: int = 0
    requests: int = 0
    ended: int = 0
    """Devices that do not run any more."""
    slowest_wake_s: float = 0.0

    def note(self, wake: Wake) -> None:
        """A wake is over."""
        self.spending += wake.spending
        self.exchanges += wake.exchanges
        self.failures += wake.failures
        self.requests += wake.requests
        self.slowest_wake_s = max(self.slowest_wake_s, wake.spending.awake_s)


def offer_for(plan: FleetPlan, number: int) -> tuple[PairingOffer, Issuer]:
    """What device ``number`` offers, and the issuer that it is. The same for the same plan."""
    secret = _drawn(plan, number, b"secret")
    draw = Random(_drawn(plan, number, b"place"))  # noqa: S311 - where it stands is no secret
    bearing, distance_km = draw.random() * 2 * math.pi, plan.radius_km * math.sqrt(draw.random())
    lat = plan.lat + distance_km / KM_PER_DEGREE * math.cos(bearing)
    shrunk = max(math.cos(math.radians(lat)), 0.01)
    lon = plan.lon + distance_km / KM_PER_DEGREE / shrunk * math.sin(bearing)
    manifest = Manifest(
        name=f"simulated {number}",
        lat=min(max(lat, -90.0), 90.0),
        lon=(lon + 180.0) % 360.0 - 180.0,
        service=(Service(type=plan.type, action=(Action(name=ACTION, read=True),)),),
    )
    offer = offer_of(
        manifest,
        begun(manifest.position, seed=_drawn(plan, number, b"noise")),
        period_s=round(plan.habits.cycle.period_s),
        device=encode_device_id(_drawn(plan, number, b"id")[:16]),
        secret=secret,
        epoch=FIRST_EPOCH,
        role="primary",
    )
    return offer, Issuer.from_secret(secret, epoch=FIRST_EPOCH)


def _drawn(plan: FleetPlan, number: int, what: bytes) -> bytes:
    return hashlib.sha256(plan.seed + what + number.to_bytes(8, "big")).digest()


async def pair_fleet(
    plan: FleetPlan, codes: Sequence[PairingCode], *, told: Callable[[int], None]
) -> list[FleetDevice]:
    """Pair every device of ``plan`` by a code of its own; ``told`` hears how many are.

    Raises:
        Refused: the first refusal; the others may be paired or not. To try again with the same
            codes and the same seed is safe.
    """
    turns = asyncio.Semaphore(PAIRING_AT_ONCE)
    paired: list[FleetDevice] = []

    async def pair(number: int, code: PairingCode) -> None:
        async with turns:
            paired.append(await _pair(plan, number, code))
            told(len(paired))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(plan.devices):
                group.create_task(pair(number, codes[number]))
    except BaseExceptionGroup as errors:
        refusal = next((each for each in errors.exceptions if isinstance(each, Refused)), None)
        raise refusal or errors.exceptions[0] from None
    return sorted(paired, key=lambda each: each.number)


async def _pair(plan: FleetPlan, number: int, code: PairingCode) -> FleetDevice:
    offer, issuer = offer_for(plan, number)
    answer = await ask_to_pair(offer, url=plan.url, code=code, timeout_s=PAIRING_TIMEOUT_S)
    pairing = pairing_of(
        answer,
        role="primary",
        url=plan.url,
        device=offer.device,
        epoch=offer.epoch,
        node_key=code.node_key,
    )
    return FleetDevice(number=number, id=offer.device, issuer=issuer, home=pairing.home)


def _http_link(home: Home) -> Link:
    return HttpLink(home.url)


class Fleet:
    """The paired ``devices`` of ``plan``, at work."""

    def __init__(
        self,
        plan: FleetPlan,
        devices: Sequence[FleetDevice],
        *,
        clock: Clock,
        link_to: Callable[[Home], Link] = _http_link,
    ) -> None:
        self.tally = FleetTally()
        self._link_to = link_to
        self._plan = plan
        self._devices = devices
        self._clock = clock

    async def run(self) -> None:
        """Run all devices until cancelled, or until none runs any more."""
        async with asyncio.TaskGroup() as group:
            for device in self._devices:
                group.create_task(self._run(device))

    async def _run(self, device: FleetDevice) -> None:
        draw = Random(_drawn(self._plan, device.number, b"rhythm"))  # noqa: S311 - no secret
        habits = self._plan.habits
        first_s = self._clock.now_s() + draw.random() * habits.cycle.period_s
        await self._clock.sleep_until(first_s)
        link = self._link_to(device.home)
        try:
            async with self._executor(device) as executor:
                agent = self._agent(device, executor, draw, link)
                try:
                    await agent.run()
                finally:
                    agent.finish()
        except Refused as error:
            self.tally.ended += 1
            logger.warning("a device has ended", number=device.number, why=error.detail)
        finally:
            await link.close()

    def _agent(self, device: FleetDevice, executor: Executor, draw: Random, link: Link) -> Agent:
        return Agent(
            device.id,
            [Connected(home=device.home, link=link)],
            executor,
            habits=self._plan.habits,
            batch=Batch(),
            clock=self._clock,
            instance=draw.randbytes(8),
            wake_key=wake_key(_drawn(self._plan, device.number, b"secret")),
            spread=draw.random,
            on_wake=self.tally.note,
        )

    @asynccontextmanager
    async def _executor(self, device: FleetDevice) -> AsyncIterator[Executor]:
        respond = self._reading_of(device)
        if self._plan.durable is None:
            yield simulated_executor(device.issuer, handlers={ACTION}, respond=respond)
            return
        async with AsyncExitStack() as parts:
            store = LevelKeyValue(self._plan.durable / f"device{device.number}.ldb")
            parts.callback(store.close)
            woofs = DurableWoofs(store)
            parts.push_async_callback(woofs.close)
            yield simulated_executor(
                device.issuer, handlers={ACTION}, respond=respond, store=store, woofs=woofs
            )

    def _reading_of(self, device: FleetDevice) -> Callable[[str, bytes], bytes]:
        """A temperature that goes up and down with the day, a little different for each device."""
        offset = Random(_drawn(self._plan, device.number, b"reading")).uniform(-3, 3)  # noqa: S311

        def respond(_handler: str, _element: bytes) -> bytes:
            hour = self._clock.wall_us() / 3_600_000_000 % 24
            degrees = 15.0 + offset + 6.0 * math.sin((hour - 9.0) / 24.0 * 2 * math.pi)
            return json.dumps({"celsius": round(degrees, 2)}).encode()

        return respond
