"""Calls through other nodes of a real cluster than the device's own, while either of them dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.adapters.service_caller import CallTracker, ServiceCaller
from edgistry.calls import CallResult, Ticket
from edgistry.capability import Capability
from edgistry.codec import replace
from edgistry.errors import BadTagError, NoEpochKeyError
from edgistry.requests_api import RequestAnswer

from .agents import device_manifest
from .harness import Cluster
from .sleeping import SleepingDevice

pytestmark = pytest.mark.engine

ENTRY, HOME = 0, 1
COMMAND_S = 60.0
HANDLERS = """
@handler
async def read(context, woof, seq, element):
    note(element)
    return b"did " + element

@handler
async def unlock(context, woof, seq, element):
    return await read(context, woof, seq, b"unlocked")
"""


class Device(SleepingDevice):
    """A sleeping device beside the cluster, paired with one of its nodes."""

    def __init__(self, cluster: Cluster, type_name: str = "thermometer") -> None:
        super().__init__(
            cluster.parent / f"device-{type_name}",
            manifest=device_manifest(type_name, read="read = true", unlock=""),
            handlers=HANDLERS,
        )
        code = cluster.command("pair-code", str(cluster.directory(HOME).root))
        self.agent("pair", "--node", cluster.api(HOME), "--code", "-", typed=code)


class Client:
    """A client with keys of its own, at one node."""

    def __init__(self, cluster: Cluster, node: int, handle: str, keys: ClientKeys) -> None:
        self._url = cluster.api(node)
        self._handle = handle

        async def ask() -> Capability:
            async with HttpClient(self._url) as http:
                grant = await request_grant(http, keys, handle)
            return Capability.from_bytes(grant.granted[0].capability)

        self.capability = asyncio.run(ask())

    def ticket(self, data: bytes) -> Ticket:
        """A call that is still to be given to a node."""
        caller = ServiceCaller(HttpClient(self._url), self.capability)
        return caller.ticket(self._handle, "read", data)

    def submit(self, ticket: Ticket) -> RequestAnswer:
        """Give a call to the node; it has it durably."""

        async def submit() -> RequestAnswer:
            async with HttpClient(self._url) as http:
                return await CallTracker(http, ticket).submit()

        return asyncio.run(submit())

    def give(self, data: bytes) -> tuple[Ticket, RequestAnswer]:
        """Make a call and give it to the node."""
        ticket = self.ticket(data)
        return ticket, self.submit(ticket)

    def look(self, ticket: Ticket, answer: RequestAnswer) -> RequestAnswer:
        """How the call is doing."""

        async def look() -> RequestAnswer:
            async with HttpClient(self._url) as http:
                tracker = CallTracker(http, ticket)
                tracker.known_as(answer.id)
                return await tracker.look()

        return asyncio.run(look())

    def result(self, ticket: Ticket, answer: RequestAnswer) -> CallResult:
        """Its proven result, which is acknowledged."""

        async def result() -> CallResult:
            async with HttpClient(self._url) as http:
                tracker = CallTracker(http, ticket)
                tracker.known_as(answer.id)
                return await tracker.result(await tracker.wait(answer, COMMAND_S))

        return asyncio.run(result())


def handles_by_type(cluster: Cluster, number: int, keys: ClientKeys) -> dict[str, str]:
    """The client's handles of the devices' services that a node lists."""
    with (
        contextlib.suppress(NoEpochKeyError),
        BlockingNodeClient(cluster.api(number), keys=keys) as node,
    ):
        found = node.discover(near=(46.0, 8.0), radius_km=20.0).services
        return {each.type: each.handle for each in found}
    return {}


def _forged(ticket: Ticket) -> Ticket:
    envelope = bytes([*ticket.envelope[:-1], ticket.envelope[-1] ^ 1])
    return replace(ticket, envelope=envelope)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes that run; a test leaves them running."""
    with Cluster() as four:
        four.start()
        yield four


@pytest.fixture(scope="module")
def device(cluster: Cluster) -> Device:
    """A device at home at one node, ready and asleep."""
    return Device(cluster)


@pytest.fixture(scope="module")
def client(cluster: Cluster, device: Device) -> Client:
    """A client at another node."""

    keys = ClientKeys.generate()

    def listed() -> str | None:
        device.wake()
        found = handles_by_type(cluster, ENTRY, keys)
        return next(iter(found.values()), None)

    return Client(cluster, ENTRY, cluster.wait_until("the service listed", listed), keys)


def test_client_at_one_node_calls_a_sleeping_device_at_home_at_another(
    device: Device, client: Client
) -> None:
    ticket, answer = client.give(b"first")
    assert (answer.state, device.effects()) == ("QUEUED", [])
    device.wake()
    result = client.result(ticket, answer)
    assert (result.payload, result.by_node, device.effects()) == (b"did first", False, ["first"])


def test_forged_call_is_refused_through_another_node(device: Device, client: Client) -> None:
    before = device.effects()
    with pytest.raises(BadTagError):
        client.submit(_forged(client.ticket(b"forged")))
    device.wake()
    assert device.effects() == before


def test_call_given_while_the_home_node_was_dead_outlives_the_entry_node_too(
    cluster: Cluster, device: Device, client: Client
) -> None:
    before = device.effects()
    cluster.kill_node(HOME)
    given = [client.give(b"%d" % number) for number in range(5)]
    assert {answer.state for _, answer in given} == {"QUEUED"}
    cluster.kill_node(ENTRY)
    cluster.start(ENTRY, HOME)
    home = str(cluster.directory(HOME).root)
    cluster.wait_until(
        "the calls at home",
        lambda: cluster.command_json("mailbox", "show", home)["outstanding"] == len(given),
    )
    device.wake()
    results = [client.result(*each).payload for each in given]
    assert results == [b"did %d" % number for number in range(5)]
    assert sorted(device.effects()[len(before) :]) == [str(number) for number in range(5)]


def test_outcome_outlives_the_home_node_at_the_entry_node(
    cluster: Cluster, device: Device, client: Client
) -> None:
    ticket, answer = client.give(b"late")
    device.wake()
    cluster.wait_until("the outcome here", lambda: client.look(ticket, answer).final)
    cluster.kill_node(HOME)
    assert client.result(ticket, answer).payload == b"did late"
    cluster.start(HOME)
