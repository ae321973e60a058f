"""Nodes of a real cluster that lie: whoever stands between client and device is caught.

The home node holds the device's epoch key. It can make any request and any answer, and is trusted
that far (docs/devices.md): only that it passes on what others changed can be tested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.admin_client import AdminClient
from abci_app.devices import parse_handle
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker
from edgistry.calls import CallResult, Ticket
from edgistry.errors import (
    BadReplyError,
    BadTagError,
    CallEndedError,
    UnprovenRefusalError,
)
from edgistry.requests_api import RequestAnswer

from .harness import Cluster
from .lying_node import (
    ENDED,
    OTHER_SERVICE,
    PROGRAM,
    REPLY_LIES,
    REQUEST_LIES,
    UNCHECKED,
    VARIABLE,
)
from .test_peer_link import COMMAND_S, ENTRY, HOME, Client, Device, handles_by_type

KEYS = ClientKeys.generate()

pytestmark = pytest.mark.engine

HONEST = 2
"""Another node that clients can go to."""


class Liar:
    """What a node of the cluster lies about, from now on."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._file = Path(cluster.parent / f"lie{number}")
        self.tell("")
        cluster.programs[number] = PROGRAM
        cluster.start(number, wait=False, **{VARIABLE: str(self._file)})

    def tell(self, lie: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(lie)
        new.replace(self._file)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes; the liars start two of them."""
    with Cluster() as four:
        yield four


@pytest.fixture(scope="module")
def liars(cluster: Cluster) -> tuple[Liar, Liar]:
    """The entry node and the home node, among two honest ones; all run."""
    liars = Liar(cluster, ENTRY), Liar(cluster, HOME)
    cluster.start(*(number for number in cluster.numbers if number not in (ENTRY, HOME)))
    cluster.wait_ready(ENTRY, HOME)
    return liars


@pytest.fixture
def entry(liars: tuple[Liar, Liar]) -> Iterator[Liar]:
    """The entry node; it was honest before."""
    yield liars[0]
    liars[0].tell("")


@pytest.fixture
def home(liars: tuple[Liar, Liar]) -> Iterator[Liar]:
    """The home node; it was honest before."""
    yield liars[1]
    liars[1].tell("")


@pytest.fixture(scope="module")
def devices(cluster: Cluster, liars: tuple[Liar, Liar]) -> tuple[Device, Device]:
    """Two devices at one home node, ready and asleep."""
    return Device(cluster), Device(cluster, "lock")


@pytest.fixture(scope="module")
def handles(cluster: Cluster, devices: tuple[Device, Device]) -> dict[str, str]:
    """The handles of the devices' services, by type."""

    def listed() -> dict[str, str] | None:
        for device in devices:
            device.wake()
        found = handles_by_type(cluster, ENTRY, KEYS)
        return found if len(found) == len(devices) else None

    return cluster.wait_until("both services listed", listed)


@pytest.fixture(scope="module")
def client(cluster: Cluster, handles: dict[str, str]) -> Client:
    """A client of the entry node, who calls the first device."""
    return Client(cluster, ENTRY, handles["thermometer"], KEYS)


def record_of(cluster: Cluster, type_name: str) -> bytes:
    """The record key of the service of that type, as its operator knows it."""
    with AdminClient(cluster.directory(HOME)) as admin:
        (name,) = [each.handle for each in admin.devices() if each.type == type_name]
    return parse_handle(name)


def effects(devices: tuple[Device, Device]) -> list[str]:
    """What both devices have done so far."""
    return [done for device in devices for done in device.effects()]


def wake(devices: tuple[Device, Device]) -> None:
    for device in devices:
        device.wake()


def through(cluster: Cluster, ticket: Ticket, number: int = HONEST) -> RequestAnswer:
    """How the call is doing, as another node finds out for whoever has its ticket."""

    async def give() -> RequestAnswer:
        async with HttpClient(cluster.api(number)) as http:
            return await CallTracker(http, ticket).submit()

    return asyncio.run(give())


def outcome(cluster: Cluster, ticket: Ticket, number: int = HONEST) -> CallResult:
    """The proven outcome of the call, through another node."""

    async def result() -> CallResult:
        async with HttpClient(cluster.api(number)) as http:
            tracker = CallTracker(http, ticket)
            return await tracker.result(await tracker.wait(await tracker.submit(), COMMAND_S))

    return asyncio.run(result())


@pytest.mark.parametrize("lie", [*REQUEST_LIES, OTHER_SERVICE])
def test_request_that_the_entry_node_changed_is_refused_by_the_home_node(
    cluster: Cluster,
    entry: Liar,
    devices: tuple[Device, Device],
    client: Client,
    lie: str,
) -> None:
    before = effects(devices)
    data = f"asked-{lie.strip()}".encode()
    entry.tell(lie + record_of(cluster, "lock").hex() if lie == OTHER_SERVICE else lie)
    ticket = client.ticket(data)
    with pytest.raises(BadTagError, match="tag does not verify"):
        client.submit(ticket)
    wake(devices)
    assert effects(devices) == before
    # Nobody took it, so the same call can be given to a node that does not lie.
    assert through(cluster, ticket).state == "QUEUED"
    wake(devices)
    assert outcome(cluster, ticket).payload == b"did " + data
    assert devices[0].effects()[-1] == data.decode()
    assert len(effects(devices)) == len(before) + 1


@pytest.mark.parametrize("lie", REPLY_LIES)
def test_answer_that_the_entry_node_changed_is_caught_and_the_true_one_is_kept(
    cluster: Cluster, entry: Liar, devices: tuple[Device, Device], client: Client, lie: str
) -> None:
    before = effects(devices)
    data = lie.replace(" ", "-").encode()
    ticket, answer = client.give(data)
    wake(devices)
    entry.tell(lie)
    with pytest.raises(BadReplyError):
        client.result(ticket, answer)
    found = through(cluster, ticket)
    assert (found.id, found.state) == (answer.id, "RESPONDED")
    assert outcome(cluster, ticket).payload == b"did " + data
    assert effects(devices) == [*before, data.decode()]


def test_end_that_the_entry_node_made_up_is_told_as_unproven_and_the_call_goes_on(
    cluster: Cluster, entry: Liar, devices: tuple[Device, Device], client: Client
) -> None:
    before = effects(devices)
    ticket, answer = client.give(b"made-up")
    entry.tell(ENDED)
    with pytest.raises(CallEndedError, match="without proof"):
        client.result(ticket, answer)
    assert through(cluster, ticket).state == "QUEUED"
    wake(devices)
    assert outcome(cluster, ticket).payload == b"did made-up"
    assert effects(devices) == [*before, "made-up"]


@pytest.mark.parametrize("lie", REQUEST_LIES)
def test_request_that_nobody_checked_on_the_way_is_refused_by_the_device(
    cluster: Cluster,
    entry: Liar,
    home: Liar,
    devices: tuple[Device, Device],
    client: Client,
    lie: str,
) -> None:
    before = effects(devices)
    home.tell(UNCHECKED)
    entry.tell(lie)
    ticket, answer = client.give(b"passed-" + lie.encode())
    assert answer.state == "QUEUED"
    wake(devices)
    assert effects(devices) == before
    with pytest.raises(UnprovenRefusalError):
        client.result(ticket, answer)
    home.tell("")
    entry.tell("")
    # The device's word is what every node tells now: it was not carried out.
    assert client.look(ticket, answer).state == "REJECTED"
    again, answer = client.give(b"again-" + lie.encode())
    wake(devices)
    assert client.result(again, answer).payload == b"did again-" + lie.encode()
    assert effects(devices) == [*before, f"again-{lie}"]
