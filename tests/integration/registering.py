"""Registering devices with a cluster that is being broken, and counting what it must then show.

Rules kept here:

* Whoever gets no answer asks again with the same rows, as people run an import again. A row has
  one handle for ever, whichever answer told it.
* ``expected`` is exact: after the writers have finished, every node must show these devices and
  no others. Records are named as operators do; clients have handles, so that a device is known by
  an action that only it has.

Not handled here: breaking anything (the tests do).
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from abci_app.admin_api import DeviceRow, SettledAnswer
from abci_app.admin_client import AdminClient
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.api import ServiceEntry
from edgistry.errors import CannotReachError, NoEpochKeyError, NotFoundError, TimedOutError

from .harness import READY_S, Cluster

T = TypeVar("T")

CENTER = (34.4, -119.8)
RADIUS_KM = 60.0
TYPE = "probe"
ASK_AGAIN_S = 0.1
LARGEST_BATCH = 20


def device_row(identity: str, *, seeded: random.Random) -> DeviceRow:
    """A device near ``CENTER`` that its owner calls ``identity``."""
    return DeviceRow(
        line=1,
        id=identity,
        name=f"name of {identity}",
        lat=CENTER[0] + seeded.uniform(-0.2, 0.2),
        lon=CENTER[1] + seeded.uniform(-0.2, 0.2),
        type=TYPE,
        actions=(f"a.{hashlib.sha256(identity.encode()).hexdigest()[:16]}", "read"),
    )


_ACTIONS: dict[str, tuple[str, ...]] = {}
"""What devices can do, by the names of their records; the others are registered by command."""
_PLAIN = ("read",)


def know(rows: Iterable[DeviceRow], records: Iterable[str]) -> None:
    """The ``records`` are those of the devices in ``rows``."""
    _ACTIONS.update({name: row.actions for row, name in zip(rows, records, strict=True)})


def missing(shown: Counter[tuple[str, ...]], records: Iterable[str]) -> Counter[tuple[str, ...]]:
    """What of ``records`` is not ``shown``, by what the devices can do."""
    return Counter(_ACTIONS.get(name, _PLAIN) for name in records) - shown


def register(cluster: Cluster, number: int, *identities: str) -> list[str]:
    """Register these devices with a node; their records, as soon as the node has accepted them."""
    rows = [device_row(identity, seeded=random.Random(identity)) for identity in identities]
    with AdminClient(cluster.directory(number)) as client:
        outcomes = client.register(rows).outcomes
    assert all(outcome.outcome == "added" for outcome in outcomes), outcomes
    records = [outcome.handle for outcome in outcomes]
    know(rows, records)
    return records


def wait_shown(cluster: Cluster, expected: Iterable[str], seconds: float = READY_S) -> None:
    """Wait until all nodes agree on as many devices as are ``expected``; check that it is they."""
    wanted = list(expected)

    def counted() -> bool:
        answer = cluster.agreed()
        return answer is not None and answer.services == len(wanted)

    cluster.wait_until(f"{len(wanted)} devices on all nodes", counted, seconds)
    check_shown(cluster, wanted)


def discovered(cluster: Cluster, number: int) -> Counter[tuple[str, ...]]:
    """What all devices near ``CENTER`` can do that a node shows."""
    services = services_of(cluster, number, ClientKeys.generate())
    return Counter(service.actions for service in services)


def services_of(cluster: Cluster, number: int, keys: ClientKeys) -> list[ServiceEntry]:
    """All devices near ``CENTER`` as a node shows them to a client, in its order."""

    def look() -> list[ServiceEntry] | None:
        with (
            contextlib.suppress(NoEpochKeyError),
            BlockingNodeClient(cluster.api(number), keys=keys) as client,
        ):
            return list(client.services(near=CENTER, radius_km=RADIUS_KM, type=TYPE, limit=1000))
        return None

    found = look()
    if found is None:
        cluster.wait_until(f"node {number} to have handles", lambda: look() is not None, 120)
        found = look()
    assert found is not None
    return found


def check_shown(cluster: Cluster, expected: Iterable[str], numbers: Iterable[int] = ()) -> None:
    """Every one of these nodes (all if none is named) shows exactly the ``expected`` records."""
    wanted = list(expected)
    for number in numbers or cluster.numbers:
        shown = discovered(cluster, number)
        lacks = missing(shown, wanted)
        assert (lacks, shown.total()) == (Counter(), len(wanted)), (
            f"node {number} shows {shown.total()} of {len(wanted)} devices; missing {lacks}"
            f"\n{cluster.report()}"
        )


class Writers:
    """One writer for each node: registers devices, and withdraws some, until told to finish.

    with Writers(cluster, seed=7) as writers:
        writers.begin()
        …
        writers.finish()
        check_shown(cluster, writers.expected)
    """

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self._cluster = cluster
        self._writers = [
            _Writer(cluster, number, random.Random(f"{seed} writer {number}"))
            for number in cluster.numbers
        ]
        self._threads = ThreadPoolExecutor(len(self._writers))
        self._running: list[Future[None]] = []
        self._stop = threading.Event()
        self._abandon = threading.Event()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._abandon.set()
        self._threads.shutdown()

    @property
    def expected(self) -> set[str]:
        """The handles of all devices that are registered. Exact when the writers have finished."""
        return {handle for writer in self._writers for handle in writer.handles.values()}

    @property
    def confirmed(self) -> int:
        """How often the chain has confirmed something."""
        return sum(writer.confirmed for writer in self._writers)

    def begin(self) -> None:
        """Write from now on."""
        self._stop.clear()
        self._running = [
            self._threads.submit(writer.run, self._stop, self._abandon) for writer in self._writers
        ]

    def check(self) -> None:
        """Raises what made a writer give up."""
        for running in self._running:
            if running.done():
                running.result()

    def wait_confirmed(self, count: int) -> None:
        """Wait until the chain has confirmed ``count`` more than now."""
        wanted = self.confirmed + count

        def enough() -> bool:
            self.check()
            return self.confirmed >= wanted

        self._cluster.wait_until(f"{count} more confirmed", enough)

    def finish(self, seconds: float = READY_S) -> None:
        """Wait until the chain has confirmed what the writers have begun, and they have ended."""
        self._stop.set()

        def ended() -> bool:
            self.check()
            return all(running.done() for running in self._running)

        self._cluster.wait_until("every writer's last write confirmed", ended, seconds)


class _Writer:
    """Writes through one node, one request after another."""

    def __init__(self, cluster: Cluster, number: int, seeded: random.Random) -> None:
        self.handles: dict[str, str] = {}
        """Handle of each registered device by its owner's name."""
        self.confirmed = 0
        self._cluster = cluster
        self._number = number
        self._seeded = seeded
        self._made = 0
        self._abandon = threading.Event()

    def run(self, stop: threading.Event, abandon: threading.Event) -> None:
        self._abandon = abandon
        with AdminClient(self._cluster.directory(self._number)) as client:
            while not stop.is_set():
                self._register(client)
                if self._seeded.random() < 0.3:
                    self._withdraw(client)

    def _register(self, client: AdminClient) -> None:
        first, self._made = self._made, self._made + self._seeded.randint(1, LARGEST_BATCH)
        rows = [
            device_row(f"{self._number}-{made}", seeded=self._seeded)
            for made in range(first, self._made)
        ]
        answer = self._until_answered(lambda: client.register(rows))
        for row, outcome in zip(rows, answer.outcomes, strict=True):
            assert outcome.outcome != "rejected", outcome
            assert row.id is not None
            self.handles[row.id] = outcome.handle
        know(rows, [outcome.handle for outcome in answer.outcomes])
        self._confirm(client, [outcome.sequence for outcome in answer.outcomes])
        again = self._until_answered(lambda: client.register(rows))
        for outcome, before in zip(again.outcomes, answer.outcomes, strict=True):
            assert (outcome.outcome, outcome.handle) == ("unchanged", before.handle)

    def _withdraw(self, client: AdminClient) -> None:
        name = self._seeded.choice(list(self.handles))
        handle = self.handles[name]

        def withdraw() -> int:
            try:
                return client.withdraw([handle]).sequence
            except NotFoundError:
                return 0  # an answer was lost, and the device is forgotten by now

        sequence = self._until_answered(withdraw)
        self._confirm(client, [sequence])
        del self.handles[name]

    def _confirm(self, client: AdminClient, sequences: list[int]) -> None:
        """Wait until the chain has taken all of them; 0 waits for nothing."""
        first, last = min(sequences), max(sequences)

        def look() -> SettledAnswer:
            return client.settled(first=max(first, 1), last=last, timeout_s=1.0)

        while True:
            answer = self._until_answered(look)
            assert not answer.refused, answer
            if answer.through >= last:
                self.confirmed += 1
                return

    def _until_answered(self, ask: Callable[[], T]) -> T:
        while not self._abandon.is_set():
            try:
                return ask()
            except (CannotReachError, TimedOutError):
                self._abandon.wait(ASK_AGAIN_S)
        raise AbandonedError(f"the writer of node {self._number} was told to give up")


class AbandonedError(Exception):
    """The test has ended before the writer had its answer."""
