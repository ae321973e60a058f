"""What users of other device platforms have reported, and what happens here instead.

A real node, real agents that wake only when told, and the commands that people use. The numbers
are those of the reports in the issue trackers of the systems named.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from client.keyring import Keyring
from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker, ServiceCaller
from edgistry.calls import CallResult, Ticket
from edgistry.capability import Capability
from edgistry.errors import MailboxFullError
from edgistry.requests_api import RequestAnswer
from tests.cut_link import CutLink

from .sleeping import Person, SleepingDevice, SleepingWorld

pytestmark = pytest.mark.engine

HANDLERS = """
@handler(attempts=1)
async def read(context, woof, seq, element):
    note(element)
    if element == b"number":
        return 21.5
    if element == b"long":
        return bytes(65537)
    if element == b"broken":
        raise RuntimeError("the sensor is gone")
    return b"did " + element
"""
SHARE = 16
"""Requests of one client that wait at one device."""
ATTEMPTS = 10


@pytest.fixture(scope="module")
def world() -> Iterator[SleepingWorld]:
    with SleepingWorld() as world:
        yield world


class Hut:
    """A sleeping thermometer, and somebody who may read it."""

    def __init__(self, world: SleepingWorld, type_name: str) -> None:
        self.device: SleepingDevice = world.device(type_name, HANDLERS)
        self.person: Person = world.person()
        self.handle = self.person.handle(type_name)
        self.person.edgistry("grant", "request", self.handle)

    @property
    def capability(self) -> Capability:
        """What the person was granted."""
        entries, _ = Keyring(self.person.home / "edgistry" / "keyring").entries()
        return entries[0].capability

    def call(self, data: str, *words: str) -> str:
        """Give a call without waiting; its id."""
        return self.person.call(self.handle, "read", "--data", data, *words)


@pytest.fixture(scope="module")
def hut(world: SleepingWorld) -> Hut:
    return Hut(world, "thermometer")


def test_call_to_a_device_that_is_offline_is_not_called_delivered(hut: Hut) -> None:
    """thingsboard#7123: a command is shown as delivered while its device is offline."""
    request = hut.call("offline")
    assert hut.person.state(request) == "QUEUED"
    hut.device.wake()
    assert hut.person.json("request", "list")["requests"][0]["state"] == "RESPONDED"
    assert hut.person.answer(request) == "did offline"
    assert hut.person.json("request", "list") == {"requests": []}, "delivered, and only now"


def test_calls_that_wait_outlive_a_server_that_is_killed(world: SleepingWorld, hut: Hut) -> None:
    """thingsboard#11642: pending requests are lost, or stuck, after a restart of the server."""
    waiting = [hut.call(f"waiting{number}") for number in range(3)]
    world.node.kill()
    world.node.start()
    assert [hut.person.state(each) for each in waiting] == ["QUEUED"] * 3
    hut.device.wake()
    world.node.kill()
    world.node.start()
    answers = [hut.person.answer(each) for each in waiting]
    assert answers == [f"did waiting{number}" for number in range(3)]
    assert sorted(each for each in hut.device.effects() if each.startswith("waiting")) == [
        f"waiting{number}" for number in range(3)
    ]


def test_odd_answers_hold_up_no_other_call(hut: Hut) -> None:
    """thingsboard#8712: one response of an unexpected form blocks all requests after it."""
    odd = [hut.call(data) for data in ("number", "long", "broken")]
    plain = hut.call("plain")
    hut.device.wake()
    assert hut.person.answer(plain) == "did plain"
    for request in odd:
        told = hut.person.edgistry("request", "status", request, check=False)
        assert (told.exit_code, "the device's handler failed" in told.stderr) == (1, True)


def test_call_to_a_sleeping_device_is_queued_and_no_error(hut: Hut) -> None:
    """leshan#1286: "client is sleeping" is thrown instead of queueing the request."""
    told = hut.person.edgistry(
        "call", hut.handle, "read", "--data", "asleep", "--wait", "100ms", check=False
    )
    assert told.exit_code == 4, "waiting is over, the call is not"
    assert "the device wakes within" in told.stderr
    assert "edgistry request status" in told.stderr
    ((request),) = [each["id"] for each in hut.person.json("request", "list")["requests"]]
    hut.device.wake()
    assert hut.person.answer(request) == "did asleep"


def give(hut: Hut, world: SleepingWorld, count: int) -> list[tuple[Ticket, RequestAnswer]]:
    """So many calls, from a program."""

    async def give() -> list[tuple[Ticket, RequestAnswer]]:
        given = []
        async with HttpClient(world.node.url) as http:
            caller = ServiceCaller(http, hut.capability)
            for number in range(count):
                ticket = caller.ticket(hut.handle, "read", b"%d" % number)
                given.append((ticket, await CallTracker(http, ticket).submit()))
        return given

    return asyncio.run(give())


def results(world: SleepingWorld, given: list[tuple[Ticket, RequestAnswer]]) -> list[bytes]:
    """What these calls were answered."""

    async def fetch(http: HttpClient, ticket: Ticket, answer: RequestAnswer) -> CallResult:
        tracker = CallTracker(http, ticket)
        tracker.known_as(answer.id)
        return await tracker.result(await tracker.wait(answer, 30.0))

    async def fetch_all() -> list[bytes]:
        async with HttpClient(world.node.url) as http:
            return [(await fetch(http, *each)).payload for each in given]

    return asyncio.run(fetch_all())


def test_limit_that_is_met_says_which_and_when_to_come_back(world: SleepingWorld, hut: Hut) -> None:
    """azure-iot-sdk-java#23: the 51st message to a device is dropped, and nobody is told."""
    given = give(hut, world, SHARE)
    with pytest.raises(MailboxFullError, match="16 of your requests") as refusal:
        give(hut, world, 1)
    assert refusal.value.retry_after_s >= 60, "the device has been there by then"
    told = hut.person.edgistry("call", hut.handle, "read", check=False)
    assert (told.exit_code, "16 of your requests" in told.stderr) == (1, True)
    hut.device.wake()
    assert results(world, given) == [b"did %d" % number for number in range(SHARE)]
    request = hut.call("room")
    hut.device.wake()
    assert hut.person.answer(request) == "did room"


def test_call_that_never_arrives_is_counted_and_ends(world: SleepingWorld) -> None:
    """azure-iot-sdk-csharp#2737: the delivery count stays 0, and a bad message comes for ever."""
    with CutLink(world.node.port) as link:
        hut = Hut(world, "hygrometer")
        hut.device.pair(world.node, url=f"http://127.0.0.1:{link.port}")
        request = hut.call("poison", "--ttl", "1d")
        link.break_answers()
        attempts: list[int] = []
        for _ in range(ATTEMPTS + 1):
            assert hut.device.wake(check=False) == 3, "no node has answered"
            told = hut.person.edgistry("request", "status", request, "--json", check=False)
            if told.exit_code == 0:
                attempts.append(json.loads(told.stdout)["attempts"])
        link.mend()
        assert attempts == list(range(1, ATTEMPTS + 1))
        assert (told.exit_code, "was given the call several times" in told.stderr) == (1, True)
        letters = world.node.command("mailbox", "dead-letters", "DIR")
        assert "it was handed down 10 times and never arrived" in letters
        good = hut.call("good")
        hut.device.wake()
        assert hut.person.answer(good) == "did good"
        assert hut.device.effects() == ["good"]


def test_call_ends_at_its_deadline_and_says_so(world: SleepingWorld, hut: Hut) -> None:
    """iotagent-node-lib#460 and #509: commands never expire, or expire and nobody is told."""
    request = hut.call("late", "--ttl", "1s")
    kept = hut.call("kept")

    def has_ended() -> bool:
        every = hut.person.json("request", "list")["requests"]
        return "EXPIRED" in [each["state"] for each in every if each["id"] == request]

    world.node.until(has_ended, "the end of the call")
    told = hut.person.edgistry("request", "status", request, check=False)
    assert told.exit_code == 1
    assert "did not take it before its deadline" in told.stderr
    hut.device.wake()
    assert hut.person.answer(kept) == "did kept"
    assert "late" not in hut.device.effects()


def test_device_with_nothing_to_say_gets_its_calls(hut: Hut) -> None:
    """iotagent-ul#234: a device has to send made-up measurements to get its commands."""
    request = hut.call("silent")
    hut.device.wake()
    account = json.loads(hut.device.agent("energy", "--json").stdout)
    assert hut.person.answer(request) == "did silent"
    assert account["wakes"][-1]["exchanges"] == 2, "one that brings it, one with the answer"


def test_service_of_a_device_that_left_is_gone_and_its_calls_have_ended(
    world: SleepingWorld,
) -> None:
    """consul#679: registrations of what is gone stay, and come back."""
    hut = Hut(world, "barometer")
    request = hut.call("waiting")
    hut.device.agent("unpair")
    world.node.until(lambda: not world.handles("barometer"), "the end of the listing")
    told = hut.person.edgistry("request", "status", request, check=False)
    assert (told.exit_code, "not paired with this node any more" in told.stderr) == (1, True)
    world.node.kill()
    world.node.start()
    assert world.handles("barometer") == []
    late = hut.person.edgistry("call", hut.handle, "read", check=False)
    assert (late.exit_code, "no service with this handle" in late.stderr) == (1, True)


def test_service_is_listed_only_when_calls_of_it_can_be_answered(world: SleepingWorld) -> None:
    """zenoh#588: what has just been announced cannot be reached yet."""
    device = world.device("anemometer", HANDLERS, ready=False)
    device.pair(world.node)
    assert world.handles("anemometer") == []
    world.set_up(device, "anemometer")
    person = world.person()
    handle = person.handle("anemometer")
    person.edgistry("grant", "request", handle)
    request = person.call(handle, "read", "--data", "first")
    device.wake()
    assert person.answer(request) == "did first"
