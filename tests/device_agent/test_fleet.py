"""Simulated devices: one alone, and many of them with a clock wound by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from device_agent import cli_fleet
from device_agent.duty_cycle import Cycle
from device_agent.fleet import Fleet, FleetDevice, FleetPlan, offer_for
from device_agent.homes import Home
from device_agent.link import Answer
from device_agent.runtime import Habits
from device_agent.simulated import simulated_executor
from edgistry.authority import Authority
from edgistry.capability import BoundRequest
from edgistry.capability_chain import Entry
from edgistry.envelope import Operation, Reply, Status
from edgistry.errors import CannotReachError, TwoAgentsError
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.messages import (
    MESSAGES_VERSION,
    ExchangeDown,
    RequestResult,
    decode_up,
    encode_down,
)
from edgistry.operations import encode_get, encode_woof_shape
from edgistry.pairing import check_offer, device_object
from edgistry.replay import Outcome
from edgistry.rights import Right
from edgistry.verifier import Checked

from .device_world import HOME, ISSUER, NOW_US, Requests, down
from .wound_clock import WoundClock

PLAN = FleetPlan(
    devices=40,
    url="http://node",
    type="thermometer",
    lat=47.6,
    lon=-122.3,
    radius_km=20.0,
    habits=Habits(cycle=Cycle(period_s=600.0)),
    seed=bytes(32),
)


# --- one device ---------------------------------------------------------------------------------


async def answers(*batches: list[BoundRequest]) -> dict[int, Reply]:
    """What a simulated device answers to these, by number, one batch after the other."""
    executor = simulated_executor(
        ISSUER, handlers={"read"}, respond=lambda handler, element: b"21.5 for " + element
    )
    asked: list[BoundRequest] = []
    for batch in batches:
        first = len(asked)
        asked += batch
        handed = [down(each, first + number) for number, each in enumerate(batch)]
        await executor.execute(HOME, handed, now_us=NOW_US)
    assert not executor.is_at_work
    told = executor.report(HOME, limit=1 << 20)
    return {
        number: asked[number].open_reply(each.reply)
        for each in told
        for number in [int.from_bytes(each.request_id, "big")]
    }


def set_up(requests: Requests) -> list[BoundRequest]:
    shape = encode_woof_shape(history=10)
    return [
        requests.bind(Operation.NAMESPACE_CREATE, "meter"),
        requests.bind(Operation.WOOF_CREATE, "meter/read", shape),
    ]


async def test_simulated_device_does_what_a_node_asks_of_a_new_one() -> None:
    replies = await answers(set_up(Requests()))
    assert {each.status for each in replies.values()} == {Status.OK}


async def test_simulated_device_answers_a_call_at_once_and_keeps_the_request() -> None:
    requests = Requests()
    call = requests.bind(payload=b"me", handler="read")
    get = requests.bind(Operation.GET, payload=encode_get())
    replies = await answers(set_up(requests), [call], [get])
    assert (replies[2].status, replies[2].payload) == (Status.OK, b"21.5 for me")
    assert replies[3].payload == b"me"


async def test_simulated_device_knows_no_other_handlers() -> None:
    requests = Requests()
    replies = await answers(set_up(requests), [requests.bind(handler="open")])
    assert replies[2].status == Status.NO_HANDLER


async def test_simulated_device_executes_an_envelope_once() -> None:
    requests = Requests()
    call = requests.bind(payload=b"me", handler="read")
    get = requests.bind(Operation.LATEST)
    replies = await answers(set_up(requests), [call], [call], [get])
    assert replies[2] == replies[3]
    assert int.from_bytes(replies[4].payload[8:], "big") == 1


async def test_simulated_device_refuses_what_a_device_refuses() -> None:
    stranger = Issuer.from_secret(bytes(32), epoch=1).mint(serial=1)
    forged = stranger.bind(
        Operation.GET, "meter/read", encode_get(), client=bytes(8), sequence=NOW_US, deadline=NOW_US
    )
    executor = simulated_executor(ISSUER, handlers=set(), respond=lambda *_: b"")
    await executor.execute(HOME, [down(forged, 1)], now_us=NOW_US)
    (told,) = executor.report(HOME, limit=1 << 20)
    assert told.kind == 2


# --- the plan -----------------------------------------------------------------------------------


def test_devices_of_a_fleet_are_others_each_and_the_same_every_time() -> None:
    offers = [offer_for(PLAN, number) for number in range(20)]
    assert len({offer.device for offer, _ in offers}) == 20
    assert len({issuer.danger_key() for _, issuer in offers}) == 20
    assert offer_for(PLAN, 3) == offers[3]
    other = replace(PLAN, seed=bytes(31) + b"1")
    assert offer_for(other, 3)[0].device != offers[3][0].device


@pytest.mark.parametrize(("lat", "lon"), [(47.6, -122.3), (90.0, 0.0), (-89.9, 179.99)])
def test_devices_stand_around_the_place_that_was_named(lat: float, lon: float) -> None:
    plan = replace(PLAN, lat=lat, lon=lon)
    for number in range(50):
        offer = check_offer(offer_for(plan, number)[0])
        assert offer.lat is not None
        assert offer.lon is not None
        assert -90 <= offer.lat <= 90
        assert -180 <= offer.lon <= 180
        if abs(lat) < 60:
            north = (offer.lat - lat) * 111.2
            east = (offer.lon - lon) * 111.2 * math.cos(math.radians(offer.lat))
            assert math.hypot(north, east) <= 20.1


# --- many devices -------------------------------------------------------------------------------


@dataclass
class ManyBoxes:
    """A node for a fleet: one request for each device, handed down until it is answered."""

    clock: WoundClock
    issuer: Issuer = field(default_factory=lambda: Issuer.from_secret(b"n" * 32, epoch=0))
    requests: dict[str, BoundRequest] = field(default_factory=dict)
    results: dict[str, RequestResult] = field(default_factory=dict)
    exchanges: dict[str, list[float]] = field(default_factory=dict)
    away: bool = False
    refused: str = ""
    epoch_ends_us: int = 0
    opened: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self.authority = Authority(MemoryKeyValue(), self.issuer)

    def home_of(self, number: int, device: str) -> Home:
        entry = Entry(Right.PUT | Right.GET | Right.LATEST | Right.POLL, device_object(device))
        capability = self.issuer.mint(serial=number + 1, entries=(entry,))
        return Home(id=bytes(20), url="http://node", capability=capability)

    def link_to(self, _home: Home) -> ManyBoxes:
        self.opened += 1
        return self

    async def post(self, body: bytes, *, wait_s: int, timeout_s: float) -> Answer:
        if self.away:
            raise CannotReachError("the node is away")
        reply = self.authority.answer(body, self._exchange, now_us=self.clock.wall_us())
        return Answer(reply=reply, sent=len(body), received=len(reply))

    async def close(self) -> None:
        self.closed += 1

    def _exchange(self, checked: Checked) -> Outcome:
        device = checked.envelope.target.partition("/")[2]
        if device == self.refused:
            raise TwoAgentsError("two agents")
        up = decode_up(checked.envelope.payload)
        self.exchanges.setdefault(device, []).append(self.clock.now_s())
        for result in up.results:
            self.results[device] = result
        request = self.requests.get(device) if device not in self.results else None
        answer = ExchangeDown(
            version=MESSAGES_VERSION,
            now_us=self.clock.wall_us(),
            requests=() if request is None else (down(request, 1),),
            confirmed=tuple(each.request_id for each in up.results),
            epoch_ends_us=self.epoch_ends_us,
        )
        return Outcome(payload=encode_down(answer))


@contextlib.asynccontextmanager
async def running(
    node: ManyBoxes, plan: FleetPlan = PLAN
) -> AsyncIterator[tuple[Fleet, list[FleetDevice]]]:
    devices = []
    for number in range(PLAN.devices):
        offer, issuer = offer_for(PLAN, number)
        home = node.home_of(number, offer.device)
        devices.append(FleetDevice(number=number, id=offer.device, issuer=issuer, home=home))
        node.requests[offer.device] = issuer.mint(serial=1).bind(
            Operation.NAMESPACE_CREATE,
            "meter",
            client=bytes(8),
            sequence=NOW_US + number,
            deadline=NOW_US + 86_400_000_000,
        )
    fleet = Fleet(plan, devices, clock=node.clock, link_to=node.link_to)
    task = asyncio.create_task(fleet.run())
    try:
        yield fleet, devices
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_device_of_a_fleet_wakes_in_its_own_rhythm_and_is_answered() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US))
    async with running(node) as (fleet, devices):
        await node.clock.advance(3 * 600.0)
        wakes = {device: sorted(set(times)) for device, times in node.exchanges.items()}
        assert {len(times) for times in wakes.values()} == {3}
        assert len({round(times[0], 3) for times in wakes.values()}) > PLAN.devices / 2
        assert len(node.results) == len(devices)
        assert fleet.tally.requests == len(devices)
        assert fleet.tally.spending.wakes == 3 * len(devices)


async def test_devices_of_a_fleet_do_not_wake_together_when_an_epoch_begins() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US), epoch_ends_us=NOW_US + 3600_000_000)
    async with running(node) as (_, devices):
        await node.clock.advance(3700.0)
        begun_s = node.clock.now_s()
        node.epoch_ends_us += 86_400_000_000
        await node.clock.advance(4000.0)
        after = [
            sorted({each for each in node.exchanges[device.id] if each > begun_s + 2000.0})
            for device in devices
        ]
        assert {len(each) for each in after} <= {3, 4}
        assert {round(each[1] - each[0]) for each in after} == {600}
        minutes = Counter(int(each[0] % 600.0 // 60.0) for each in after)
        assert max(minutes.values()) < PLAN.devices / 4
        firsts = [min(e for e in node.exchanges[device.id] if e > begun_s) for device in devices]
        assert len({round(each) for each in firsts}) > PLAN.devices / 2


async def test_fleet_comes_back_after_its_node_was_away() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US))
    node.away = True
    async with running(node) as (fleet, devices):
        await node.clock.advance(600.0)
        assert fleet.tally.failures > len(devices)
        node.away = False
        await node.clock.advance(2 * 3600.0)
        assert len(node.results) == len(devices)


async def test_device_that_ends_ends_alone() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US))
    node.refused = offer_for(PLAN, 7)[0].device
    async with running(node) as (fleet, devices):
        await node.clock.advance(600.0)
        assert fleet.tally.ended == 1
        assert len(node.results) == len(devices) - 1


async def test_device_that_ends_leaves_no_connection() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US))
    node.refused = offer_for(PLAN, 7)[0].device
    always = replace(PLAN, habits=Habits(cycle=Cycle(period_s=0.0), exchange_timeout_s=2.0))
    async with running(node, always) as (fleet, devices):
        await node.clock.advance(5.0)
        assert (fleet.tally.ended, node.closed) == (1, 1)
    assert node.closed == node.opened == len(devices)


async def test_wakes_that_do_not_end_count_when_the_fleet_is_stopped() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US))
    always = replace(PLAN, habits=Habits(cycle=Cycle(period_s=0.0), exchange_timeout_s=2.0))
    async with running(node, always) as (fleet, devices):
        await node.clock.advance(5.0)
        assert fleet.tally.spending.wakes == 0
    assert fleet.tally.spending.wakes == len(devices)
    assert fleet.tally.exchanges == sum(map(len, node.exchanges.values()))


def test_ctrl_c_ends_a_fleet_that_is_still_being_paired(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def endless(*_args: object, **_more: object) -> list[FleetDevice]:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(cli_fleet, "pair_fleet", endless)
    answer = asyncio.run(asyncio.wait_for(cli_fleet._run(PLAN, [], ends_after_s=None), 20.0))
    assert (answer.wakes, answer.ran_s) == (0, 0.0)
    assert "revoke those that are" in capsys.readouterr().err


async def test_reading_of_a_device_follows_the_day() -> None:
    node = ManyBoxes(WoundClock(wall_us=NOW_US))
    fleet = Fleet(PLAN, [], clock=node.clock)
    device = FleetDevice(number=1, id="a" * 26, issuer=ISSUER, home=node.home_of(1, "a" * 26))
    respond = fleet._reading_of(device)
    first = json.loads(respond("read", b""))["celsius"]
    await node.clock.advance(4 * 3600.0)
    assert json.loads(respond("read", b""))["celsius"] != first
    assert -10 < first < 40
