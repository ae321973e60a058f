"""Registering devices with a cluster that is being broken, and counting what it must then show.

Rules kept here:

* Whoever gets no answer asks again with the same rows, as people run an import again. A row has
  one handle for ever, whichever answer told it.
* ``expected`` is exact: after the writers have finished, every node must show these handles and
  no others.

Not handled here: breaking anything (the tests do).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from abci_app.admin_api import DeviceRow, SettledAnswer
from abci_app.admin_client import AdminClient
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.errors import CannotReachError, NotFoundError, TimedOutError

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
        actions=("read",),
    )


def register(cluster: Cluster, number: int, *identities: str) -> list[str]:
    """Register these devices with a node; their handles, as soon as the node has accepted them."""
    rows = [device_row(identity, seeded=random.Random(identity)) for identity in identities]
    with AdminClient(cluster.directory(number)) as client:
        outcomes = client.register(rows).outcomes
    assert all(outcome.outcome == "added" for outcome in outcomes), outcomes
    return [outcome.handle for outcome in outcomes]


def wait_shown(cluster: Cluster, expected: Iterable[str], seconds: float = READY_S) -> None:
    """Wait until all nodes agree on as many devices as are ``expected``; check that it is they."""
    wanted = list(expected)

    def counted() -> bool:
        answer = cluster.agreed()
        return answer is not None and answer.services == len(wanted)

    cluster.wait_until(f"{len(wanted)} devices on all nodes", counted, seconds)
    check_shown(cluster, wanted)


def discovered(cluster: Cluster, number: int) -> list[str]:
    """The handles of all devices near ``CENTER`` that a node shows, in its order."""
    with BlockingNodeClient(cluster.api(number)) as client:
        services = client.services(near=CENTER, radius_km=RADIUS_KM, type=TYPE, limit=1000)
        return [service.handle for service in services]


def check_shown(cluster: Cluster, expected: Iterable[str], numbers: Iterable[int] = ()) -> None:
    """Every one of these nodes (all if none is named) shows exactly the ``expected`` handles."""
    wanted = sorted(expected)
    for number in numbers or cluster.numbers:
        shown = sorted(discovered(cluster, number))
        missing, extra = set(wanted) - set(shown), set(shown) - set(wanted)
        assert shown == wanted, (
            f"node {number} shows {len(shown)} of {len(wanted)} devices; missing {missing},"
            f" not expected {extra}\n{cluster.report()}"
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
