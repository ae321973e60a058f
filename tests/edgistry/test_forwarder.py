"""The forwarder over real committers: links that fail, stores that refuse, programs that stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.forwarder import Forwarder
from edgistry.adapters.woof_server import WoofServer
from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.errors import CannotReachError, FileError, InvalidValueError
from edgistry.forward_actions import State
from edgistry.forward_records import read_envelopes, read_record
from edgistry.forward_requests import Forward
from edgistry.kv import KeyValue, MemoryKeyValue

from .grants import ISSUER, ROOT
from .woof_tools import FailingKeyValue, change_places_before_a_scan

SOURCE, TARGET = "edge/log", "cloud/log"


@dataclass
class Link:
    """To a server in this process. ``cut``: nothing gets through; ``deaf``: no answer does."""

    server: WoofServer
    cut: bool = False
    deaf: bool = False
    held: asyncio.Event | None = None
    asked: list[bytes] = field(default_factory=list)

    async def ask(self, request: bytes) -> bytes:
        self.asked.append(request)
        if self.cut:
            raise CannotReachError("cut")
        answer = await self.server.answer(request)
        if self.held is not None:
            await self.held.wait()
        if self.deaf:
            raise CannotReachError("deaf")
        return answer


@dataclass
class Pair:
    """Two runtimes, and the forwarder of the first."""

    edge: DurableWoofs
    cloud: DurableWoofs
    link: Link
    forwarder: Forwarder
    capability: Capability | None = ROOT

    def read(self) -> Capability:
        if self.capability is None:
            raise FileError("no such file")
        return self.capability

    def arrived(self) -> list[bytes]:
        return [element for _, element in self.cloud.woofs.scan(TARGET)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.forwarder.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def put(self, *elements: bytes) -> None:
        for element in elements:
            await self.edge.put(SOURCE, element)


@contextlib.asynccontextmanager
async def pair_of(store: KeyValue | None = None) -> AsyncIterator[Pair]:
    edge = DurableWoofs(store or MemoryKeyValue())
    cloud_store = MemoryKeyValue()
    cloud = DurableWoofs(cloud_store)
    await edge.create_namespace("edge")
    await edge.create(SOURCE, 100)
    await cloud.create_namespace("cloud")
    await cloud.create(TARGET, 1000)
    server = WoofServer(cloud, Authority(cloud_store, ISSUER), require_handler=lambda name: name)
    link = Link(server)
    forward = Forward(woof=SOURCE, target=TARGET)
    made: list[Pair] = []
    forwarder = Forwarder(
        edge, forward, link, capability=lambda: made[0].read(), chance=lambda: 1.0
    )
    made.append(Pair(edge, cloud, link, forwarder))
    try:
        yield made[0]
    finally:
        await edge.close()
        await cloud.close()


async def test_elements_put_before_and_after_the_start_arrive() -> None:
    async with pair_of() as pair:
        await pair.put(b"a", b"b")
        async with pair.running():
            await pair.until(lambda: len(pair.arrived()) == 2)
            await pair.put(b"c")
            await pair.until(lambda: len(pair.arrived()) == 3)
        assert pair.arrived() == [b"a", b"b", b"c"]


async def test_woof_that_is_put_in_its_place_while_it_is_read_is_forwarded_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair_of() as pair:
        change_places_before_a_scan(pair.edge, SOURCE, monkeypatch)
        async with pair.running():
            await pair.until(lambda: pair.arrived() != [])
            await pair.put(b"b")
            await pair.until(lambda: len(pair.arrived()) > 1)
        assert pair.arrived() == [b"of another one", b"b"]
        assert pair.forwarder.status().record.woof_id == pair.edge.woofs.info(SOURCE).id


async def test_status_tells_lag_and_reason_while_the_link_is_cut_and_recovers() -> None:
    async with pair_of() as pair:
        pair.link.cut = True
        await pair.put(b"a", b"b")
        async with pair.running():
            await pair.until(lambda: pair.forwarder.status().reason != "")
            status = pair.forwarder.status()
            assert (status.lag, status.state, status.reason) == (2, State.STARTING, "cut")
            pair.link.cut = False
            await pair.until(lambda: pair.forwarder.status().lag == 0)
            assert pair.forwarder.status().reason == ""


async def test_lost_answers_append_nothing_twice() -> None:
    async with pair_of() as pair:
        async with pair.running():
            await pair.put(b"a")
            await pair.until(lambda: pair.arrived() == [b"a"])
            pair.link.deaf = True
            await pair.put(b"b", b"c")
            await pair.until(lambda: pair.link.asked[-3:].count(pair.link.asked[-1]) == 3)
            pair.link.deaf = False
            await pair.until(lambda: pair.forwarder.status().lag == 0)
        assert pair.arrived() == [b"a", b"b", b"c"]


async def test_program_that_stops_takes_the_answer_that_is_due() -> None:
    async with pair_of() as pair:
        async with pair.running():
            await pair.put(b"a")
            await pair.until(lambda: pair.forwarder.status().record.delivered == 1)
            pair.link.held = asyncio.Event()
            await pair.put(b"b")
            await pair.until(lambda: len(pair.arrived()) == 2)
            asyncio.get_running_loop().call_later(0.01, pair.link.held.set)
        store = pair.edge.woofs.store
        record = read_record(store, SOURCE)
        assert record is not None
        assert record.through == 2
        assert read_envelopes(store, SOURCE) == []


async def test_missing_source_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgistry.adapters.forwarder.LOOK_AGAIN_US", 10_000)
    async with pair_of() as pair:
        await pair.edge.delete(SOURCE)
        async with pair.running():
            await pair.until(lambda: "there is no WooF" in pair.forwarder.status().reason)
            await pair.edge.create(SOURCE, 10)
            await pair.put(b"a")
            await pair.until(lambda: pair.arrived() == [b"a"])


async def test_source_that_is_deleted_while_it_is_followed_is_waited_for() -> None:
    async with pair_of() as pair, pair.running():
        await pair.put(b"a")
        await pair.until(lambda: pair.arrived() == [b"a"])
        await pair.edge.delete(SOURCE)
        await pair.until(lambda: "there is no WooF" in pair.forwarder.status().reason)


async def test_capability_that_is_missing_is_read_again() -> None:
    async with pair_of() as pair:
        pair.capability = None
        await pair.put(b"a")
        async with pair.running():
            await pair.until(lambda: "no such file" in pair.forwarder.status().reason)
            assert pair.link.asked == []
            pair.capability = ROOT
            await pair.until(lambda: pair.arrived() == [b"a"])


async def test_store_that_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgistry.adapters.forwarder.STORE_REST_US", 10_000)
    store = FailingKeyValue()
    async with pair_of(store) as pair:
        await pair.put(b"a", b"b")
        store.failures = 3
        async with pair.running():
            await pair.until(lambda: len(pair.arrived()) == 2)
        assert pair.arrived() == [b"a", b"b"]
        assert store.failures == 0


async def test_nothing_can_be_settled_while_nothing_is_in_doubt() -> None:
    async with pair_of() as pair:
        with pytest.raises(InvalidValueError):
            pair.forwarder.settle(1)
