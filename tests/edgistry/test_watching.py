"""Watching an area as a client: each change once, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from abci_app.change_log import ChangeLog
from abci_app.http_server import public_server
from edgistry.adapters.node_client import BlockingNodeClient, NodeClient
from edgistry.api import ServiceEntry
from edgistry.codec import encode_json, replace
from edgistry.errors import (
    CannotReachError,
    InvalidValueError,
    MalformedError,
    UnexpectedAnswerError,
    UnknownRegionError,
)
from edgistry.event_stream import encode_event
from edgistry.kv import MemoryKeyValue
from edgistry.watch_api import ChangesEvent, GoneEvent, ServiceChange
from tests.abci_app.solo_node import SoloNode, open_solo, row
from tests.fake_node import (
    BLOCK_TIME,
    HEIGHT,
    FakeNode,
    FakeWoofs,
    entry,
    serving,
    serving_from_a_thread,
)
from tests.handle_world import client_keys

Changes = AsyncGenerator[ServiceChange, None]
GONE = encode_event(encode_json(GoneEvent(height=HEIGHT, reason="")).decode(), name="gone")


def changes(
    height: int,
    *,
    appeared: tuple[ServiceEntry, ...] = (),
    changed: tuple[ServiceEntry, ...] = (),
    left: tuple[str, ...] = (),
    more: bool = False,
) -> bytes:
    event = ChangesEvent(
        height=height,
        block_time=BLOCK_TIME,
        appeared=appeared,
        changed=changed,
        left=left,
        more=more,
    )
    event_id = "" if more else str(height)
    return encode_event(encode_json(event).decode(), name="changes", event_id=event_id)


_NUMBERS = {entry(number).handle: str(number) for number in range(10)}


async def take(found: Changes, count: int) -> list[tuple[str, str]]:
    async with asyncio.timeout(20):
        taken = [await anext(found) for _ in range(count)]
    return [(each.change, _NUMBERS.get(each.handle, each.handle)) for each in taken]


@contextlib.asynccontextmanager
async def watching(fake: FakeNode, *, since: int | None = None) -> AsyncIterator[Changes]:
    async with serving(fake) as url, NodeClient(url, patience_s=10.0) as node:
        found = node.watch(region="bay", since=since)
        yield found
        await found.aclose()


async def test_what_is_there_comes_first_then_each_change() -> None:
    busy = replace(entry(2), state="busy")
    fake = FakeNode(streams=[[changes(8, appeared=(entry(4),), changed=(busy,), left=("1",))]])
    fake.services = [entry(2), replace(entry(1), handle="1")]
    async with watching(fake) as found:
        assert await take(found, 2) == [("appeared", "2"), ("appeared", "1")]
        assert await take(found, 3) == [("left", "1"), ("appeared", "4"), ("changed", "2")]
    assert fake.watched[0].since == HEIGHT


async def test_broken_stream_is_resumed_behind_the_last_whole_block() -> None:
    half = changes(9, appeared=(entry(5),), more=True)
    fake = FakeNode(
        streams=[
            [changes(8, appeared=(entry(4),)), half],
            [half, changes(9, appeared=(entry(6),))],
        ]
    )
    async with watching(fake, since=7) as found:
        assert await take(found, 3) == [("appeared", "4"), ("appeared", "5"), ("appeared", "6")]
    assert [each.since for each in fake.watched[:2]] == [7, 8]


async def test_node_that_cannot_tell_is_listed_anew_and_the_difference_is_told() -> None:
    fake = FakeNode(streams=[[GONE]])
    async with watching(fake) as found:
        assert await take(found, 3) == [("appeared", "1"), ("appeared", "2"), ("appeared", "3")]
        fake.services = [entry(1), replace(entry(2), state="full"), entry(9)]
        assert await take(found, 3) == [("left", "3"), ("changed", "2"), ("appeared", "9")]


async def test_watch_since_a_height_that_is_gone_shows_what_is_there() -> None:
    fake = FakeNode(streams=[[GONE]])
    async with watching(fake, since=3) as found:
        assert await take(found, 3) == [("appeared", "1"), ("appeared", "2"), ("appeared", "3")]


@pytest.mark.parametrize(
    "sent",
    [
        [encode_event("{}", name="changes")],
        [encode_event("no json", name="height")],
        [encode_event('{"height":3}', name="height")],
        [changes(8, more=True), changes(9)],
        [b"data: " + b"x" * 300_000],
        [b"event: \xff\n\n"],
    ],
)
async def test_what_no_node_sends_is_refused(sent: list[bytes]) -> None:
    async with watching(FakeNode(streams=[sent]), since=7) as found:
        with pytest.raises(UnexpectedAnswerError):
            await take(found, 1)


async def test_events_of_newer_nodes_are_skipped() -> None:
    newer = encode_event("?", name="weather")
    async with watching(FakeNode(streams=[[newer, changes(8, left=("1",))]]), since=7) as found:
        assert await take(found, 1) == [("left", "1")]


async def test_refusals_come_as_the_class_they_left_as() -> None:
    async with serving(FakeNode()) as url, NodeClient(url) as node:
        for since in (None, 3):
            with pytest.raises(UnknownRegionError):
                await anext(node.watch(region="atlantis", since=since))
        with pytest.raises(MalformedError):
            node.watch(region="bay", cell="87283082effffff")
        with pytest.raises(InvalidValueError):
            node.watch(region="bay", since=-1)


async def test_node_that_stays_away_is_given_up() -> None:
    async with serving(FakeNode()) as url:
        pass
    async with NodeClient(url, patience_s=0.0) as node:
        with pytest.raises(CannotReachError):
            await anext(node.watch(region="bay"))


def test_code_without_an_event_loop_can_watch() -> None:
    with serving_from_a_thread(FakeNode()) as url, BlockingNodeClient(url) as node:
        found = node.watch(region="bay", type="valve")
        assert next(found).handle == entry(3).handle
        found.close()


async def test_watcher_of_a_real_node_ends_up_with_what_discover_shows() -> None:
    node = await open_solo(MemoryKeyValue(), MemoryKeyValue())
    server = public_server(node.service, FakeWoofs(), version="0")
    port = await server.listen_tcp("127.0.0.1", 0)
    known: dict[str, ServiceEntry | None] = {}
    try:
        async with NodeClient(f"http://127.0.0.1:{port}", keys=client_keys()) as client:
            records = await put(node, range(5))
            found = client.watch(near=(46.0, 8.0), radius_km=20.0)
            await follow(node, found, known)
            await node.service.withdraw([records[next(iter(known))]])
            records |= await put(node, range(5, 8))
            await follow(node, found, known)
            # All that is behind this height is lost, while a service leaves and another comes.
            await node.service.withdraw([records[next(iter(known))]])
            await put(node, [8])
            reader, watcher = node.app.reader, node.service.watcher
            watcher._log = ChangeLog(reader.head.height, reader.visible_nodes())
            await node.block()
            await follow(node, found, known)
            await found.aclose()
    finally:
        await server.stop(grace_s=1.0)


async def put(node: SoloNode, numbers: range | list[int]) -> dict[str, str]:
    """Register services; what the client calls them to what the operator does."""
    made = (await node.service.register([row(number) for number in numbers])).outcomes
    await node.settle()
    return {node.handle(str(each.handle)): str(each.handle) for each in made}


async def follow(node: SoloNode, found: Changes, known: dict[str, ServiceEntry | None]) -> None:
    """Take changes until they come to what discover shows."""
    shown = {each.handle: each for each in (await node.near(46.0, 8.0)).services}
    async with asyncio.timeout(20):
        while known != shown:
            change = await anext(found)
            known[change.handle] = change.service
            if change.change == "left":
                del known[change.handle]
