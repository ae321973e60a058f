"""Streams of elements: no gap and no element twice, whatever breaks; an end when authority ends."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncGenerator, Callable
from unittest.mock import Mock

import pytest

from edgistry.adapters.http import HttpClient, Request, Response
from edgistry.adapters.node_client import NodeClient
from edgistry.capability import BoundRequest
from edgistry.envelope import GENERIC_REFUSAL, Operation, Status
from edgistry.errors import (
    BadReplyError,
    BusyError,
    CannotReachError,
    CaveatError,
    ElementEvictedError,
    ElementNotYetError,
    MissingWoofError,
    NoRightError,
    RevokedError,
    UnavailableError,
)
from edgistry.event_stream import EventReader
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.operations import Scan, encode_elements, encode_scan
from edgistry.rights import Right

from .grants import MINUTE, NOW, ROOT, SECRET, bind
from .woof_world import WoofWorld, between, woof_world

Elements = AsyncGenerator[tuple[int, bytes], None]
sequences = itertools.count(NOW + 1000)


def opening(first: int) -> BoundRequest:
    """A request that opens a stream on ns/w."""
    payload = encode_scan(Scan(first, 0))
    return bind(ROOT, Operation.SCAN, payload=payload, sequence=next(sequences))


async def take(elements: Elements, count: int) -> list[tuple[int, bytes]]:
    async with asyncio.timeout(20):
        return [await anext(elements) for _ in range(count)]


async def test_follow_gives_what_is_there_and_what_comes() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 100)
        for number in range(1, 4):
            await node.put("ns/w", b"%d" % number)
        elements = node.follow("ns/w", 2)
        assert await take(elements, 2) == [(2, b"2"), (3, b"3")]
        coming = asyncio.create_task(take(elements, 2))
        await node.put("ns/w", b"4")
        await node.put("ns/w", b"5")
        assert await coming == [(4, b"4"), (5, b"5")]
        await elements.aclose()


async def test_follow_from_now_on_begins_with_the_tail() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 100)
        for number in range(1, 6):
            await node.put("ns/w", b"%d" % number)
        elements = node.follow("ns/w", tail=2)
        assert [number for number, _ in await take(elements, 2)] == [4, 5]
        await elements.aclose()
        await until(lambda: world.server.streams_open == 0)
        silent = node.follow("ns/w")
        coming = asyncio.create_task(take(silent, 1))
        await opened(world)
        await node.put("ns/w", b"6")
        assert await coming == [(6, b"6")]
        await silent.aclose()


async def test_follow_goes_on_when_the_node_comes_back(reserved_port: int) -> None:
    store = MemoryKeyValue()
    async with (
        woof_world(store, port=reserved_port) as world,
        NodeClient(world.at, ROOT, clock_us=world.clock) as node,
    ):
        await node.create("ns/w", 100)
        await node.put("ns/w", b"1")
        elements = node.follow("ns/w", 1)
        assert await take(elements, 1) == [(1, b"1")]
        coming = asyncio.create_task(take(elements, 2))
        await world.stop()
        async with woof_world(store, port=reserved_port) as again:
            for number in (2, 3):
                await again.woofs.put("ns/w", b"%d" % number)
            assert await coming == [(2, b"2"), (3, b"3")]
            await elements.aclose()


async def test_follow_gives_up_when_the_node_stays_away() -> None:
    async with woof_world() as world:
        node = world.client(timeout_s=0.2)
        await node.create("ns/w", 100)
        elements = node.follow("ns/w", 1)
        coming = asyncio.create_task(take(elements, 1))
        await opened(world)
        await world.stop()
        with pytest.raises(CannotReachError):
            await coming


async def test_follow_gives_up_when_streams_end_at_once_for_too_long() -> None:
    async def nothing(request: Request) -> Response:
        async def events() -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(0)
            if request.method == "GET":
                yield b""

        return Response(headers={"Content-Type": "text/event-stream"}, stream=events())

    async with (
        woof_world() as world,
        between(world, nothing, path="/v1/woof/stream", timeout_s=0.1) as node,
    ):
        with pytest.raises(CannotReachError, match="ended at once"):
            await take(node.follow("ns/w", 1), 1)


async def test_reader_who_takes_long_over_an_element_is_not_cut_off_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr("edgistry.adapters.woof_follow.time", Mock(monotonic=lambda: now_s))
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        for number in range(1, 3):
            await world.woofs.put("ns/w", b"%d" % number)
        streams = 0

        async def breaks_off(request: Request) -> Response:
            nonlocal streams
            streams += 1
            if streams == 2:
                raise UnavailableError("not now")
            stream = await world.server.open_stream(request.body)
            assert not isinstance(stream, bytes)

            async def events() -> AsyncGenerator[bytes, None]:
                yield await anext(stream)
                yield await anext(stream)
                await stream.aclose()

            return Response(headers={"Content-Type": "text/event-stream"}, stream=events())

        async with between(world, breaks_off, path="/v1/woof/stream") as node:
            elements = node.follow("ns/w", 1)
            assert await take(elements, 1) == [(1, b"1")]
            now_s = 1000.0  # much longer than the patience, and only then the connection breaks
            assert await take(elements, 1) == [(2, b"2")]
            await elements.aclose()


async def test_too_slow_a_reader_is_told_where_the_history_begins() -> None:
    async with woof_world() as world:
        await world.client().create("ns/w", 2)
        for _ in range(5):
            await world.client().put("ns/w", b"x")
        with pytest.raises(ElementEvictedError) as gone:
            await take(world.client().follow("ns/w", 2), 1)
        assert gone.value.earliest == 4


async def test_stream_that_is_overtaken_ends_with_gone() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 2)
        await world.woofs.put("ns/w", b"1")
        request = opening(1)
        stream = await world.server.open_stream(request.encoded)
        assert not isinstance(stream, bytes)
        await anext(stream)  # begin
        for _ in range(5):
            await world.woofs.put("ns/w", b"x")
        (event,) = EventReader().feed(await anext(stream))
        reply = request.open_reply(base64.b64decode(event.data))
        assert (event.name, reply.status, reply.result) == ("gone", Status.EVICTED, 5)
        assert [each async for each in stream] == []


async def test_following_ends_when_the_woof_is_deleted() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 100)
        await node.put("ns/w", b"x")
        elements = node.follow("ns/w", 1)
        await take(elements, 1)
        coming = asyncio.create_task(take(elements, 1))
        await node.delete("ns/w")
        with pytest.raises(MissingWoofError):
            await coming


async def test_another_woof_of_the_name_is_not_taken_for_the_first(reserved_port: int) -> None:
    store = MemoryKeyValue()
    async with (
        woof_world(store, port=reserved_port) as world,
        NodeClient(world.at, ROOT, clock_us=world.clock) as node,
    ):
        await node.create("ns/w", 100)
        await node.put("ns/w", b"x")
        elements = node.follow("ns/w", 1)
        await take(elements, 1)
        coming = asyncio.create_task(take(elements, 1))
        await world.stop()
        async with woof_world(store) as hidden:
            await hidden.woofs.delete("ns/w")
            await hidden.woofs.create("ns/w", 100)
            for _ in range(3):
                await hidden.woofs.put("ns/w", b"y")
        async with woof_world(store, port=reserved_port):
            with pytest.raises(MissingWoofError, match="another"):
                await coming


async def test_number_that_is_far_ahead_is_refused() -> None:
    async with woof_world() as world:
        await world.client().create("ns/w", 9)
        with pytest.raises(ElementNotYetError):
            await take(world.client().follow("ns/w", 2), 1)


async def test_following_needs_the_right_to_get() -> None:
    async with woof_world() as world:
        await world.client().create("ns/w", 9)
        node = world.client(ROOT.derive(allow=Right.PUT | Right.LATEST))
        with pytest.raises(NoRightError):
            await take(node.follow("ns/w"), 1)


async def opened(world: WoofWorld) -> None:
    """Wait until somebody reads a stream."""
    await until(lambda: world.server.streams_open > 0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_stream_ends_with_the_time_of_its_capability() -> None:
    async with woof_world(keep_alive_s=0.01) as world:
        await world.client().create("ns/w", 9)
        node = world.client(ROOT.derive(not_after_us=NOW + MINUTE))
        coming = asyncio.create_task(take(node.follow("ns/w"), 1))
        await opened(world)
        world.clock.now_us = NOW + MINUTE + 1
        with pytest.raises(CaveatError):
            await coming


async def test_stream_ends_when_its_capability_is_revoked() -> None:
    async with woof_world(keep_alive_s=0.01) as world:
        await world.client().create("ns/w", 9)
        mine = ROOT.derive(allow=Right.GET)
        coming = asyncio.create_task(take(world.client(mine).follow("ns/w"), 1))
        await opened(world)
        world.server.authority.deny(mine.id)
        with pytest.raises(RevokedError):
            await coming


async def test_stream_ends_with_the_epoch() -> None:
    async with woof_world(keep_alive_s=0.01) as world:
        await world.client().create("ns/w", 9)
        coming = asyncio.create_task(take(world.client().follow("ns/w"), 1))
        await opened(world)
        world.server.authority.begin_epoch(Issuer.from_secret(SECRET, epoch=5))
        with pytest.raises(RevokedError):
            await coming


async def test_recorded_envelope_opens_no_second_stream() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        request = opening(1)
        stream = await world.server.open_stream(request.encoded)
        assert not isinstance(stream, bytes)
        await stream.aclose()
        again = await world.server.open_stream(request.encoded)
        assert isinstance(again, bytes)
        assert request.open_reply(again).payload == world.woofs.woofs.info("ns/w").id.to_bytes(8)


async def test_only_a_scan_opens_a_stream() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        request = bind(ROOT, Operation.GET, sequence=next(sequences))
        reply = await world.server.open_stream(request.encoded)
        assert isinstance(reply, bytes)
        assert request.open_reply(reply).status == Status.MALFORMED
        assert await world.server.open_stream(b"anything") == GENERIC_REFUSAL


async def test_streams_that_are_opened_together_are_counted_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgistry.adapters.woof_server.MAX_STREAMS", 2)
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        openings = [world.server.open_stream(opening(0).encoded) for _ in range(5)]
        opened = await asyncio.gather(*openings, return_exceptions=True)
        assert [type(each) is BusyError for each in opened] == [False, False, True, True, True]


async def test_last_event_id_says_behind_which_element_to_go_on() -> None:
    async with woof_world() as world, HttpClient(world.at) as http:
        await world.woofs.create("ns/w", 9)
        for number in range(1, 4):
            await world.woofs.put("ns/w", b"%d" % number)
        reader = EventReader()
        async with http.stream(
            "POST",
            "/v1/woof/stream",
            body=opening(1).encoded,
            headers={"Last-Event-ID": "2"},
            silence_s=20,
        ) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            events = []
            async for chunk in answer.chunks():
                events += reader.feed(chunk)
                if len(events) >= 2:
                    break
        assert [(event.name, event.id) for event in events] == [("begin", ""), ("message", "3")]
        refused = await http.request(
            "POST", "/v1/woof/stream", body=b"", headers={"Last-Event-ID": "x"}
        )
        assert refused.status == 400


async def test_silent_stream_is_kept_alive_by_comments() -> None:
    async with woof_world(keep_alive_s=0.001) as world:
        await world.woofs.create("ns/w", 9)
        stream = await world.server.open_stream(opening(0).encoded)
        assert not isinstance(stream, bytes)
        await anext(stream)
        assert await anext(stream) == b":\n\n"
        await world.woofs.put("ns/w", b"x")
        while (chunk := await anext(stream)) == b":\n\n":
            pass
        assert chunk.startswith(b"id: 1\n")
        await stream.aclose()
        assert world.server.streams_open == 0


async def test_beginning_of_a_stream_cannot_be_passed_off_as_an_element() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        await world.woofs.put("ns/w", b"1")

        async def twice(request: Request) -> Response:
            stream = await world.server.open_stream(request.body)
            assert not isinstance(stream, bytes)

            async def events() -> AsyncGenerator[bytes, None]:
                begin = await anext(stream)
                await stream.aclose()
                yield begin
                yield begin.replace(b"event: begin\n", b"id: 1\n")

            return Response(headers={"Content-Type": "text/event-stream"}, stream=events())

        async with between(world, twice, path="/v1/woof/stream") as node:
            with pytest.raises(BadReplyError):
                await take(node.follow("ns/w", 1), 1)


async def test_stream_without_its_beginning_is_refused() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        await world.woofs.put("ns/w", b"1")

        async def headless(request: Request) -> Response:
            stream = await world.server.open_stream(request.body)
            assert not isinstance(stream, bytes)
            await anext(stream)
            return Response(headers={"Content-Type": "text/event-stream"}, stream=stream)

        async with between(world, headless, path="/v1/woof/stream") as node:
            with pytest.raises(BadReplyError):
                await take(node.follow("ns/w", 1), 1)


async def test_element_of_a_stream_cannot_be_passed_off_as_the_answer_to_a_scan() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        await world.woofs.put("ns/w", encode_elements([(1, b"forged"), (2, b"forged")]))

        async def as_stream(request: Request) -> Response:
            stream = await world.server.open_stream(request.body)
            assert not isinstance(stream, bytes)
            await anext(stream)
            event = (await anext(stream)).decode()
            await stream.aclose()
            return Response(body=base64.b64decode(event.partition("data: ")[2]))

        async with between(world, as_stream) as node:
            with pytest.raises(BadReplyError):
                await node.scan_some("ns/w", 1)


@pytest.mark.parametrize("change", ["drop", "repeat", "forge"])
async def test_stream_that_was_tampered_with_is_refused(change: str) -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 9)
        for number in range(1, 4):
            await node.put("ns/w", b"%d" % number)

        async def tampered(request: Request) -> Response:
            stream = await world.server.open_stream(request.body)
            if isinstance(stream, bytes):
                return Response(body=stream)

            async def events() -> AsyncGenerator[bytes, None]:
                chunks = [await anext(stream) for _ in range(4)]
                await stream.aclose()
                if change == "drop":
                    del chunks[2]
                elif change == "repeat":
                    chunks.insert(2, chunks[1])
                else:
                    chunks[2] = chunks[2][:-8] + b"AAA=\n\n"
                for chunk in chunks:
                    yield chunk

            return Response(headers={"Content-Type": "text/event-stream"}, stream=events())

        async with between(world, tampered, path="/v1/woof/stream") as node:
            elements = node.follow("ns/w", 1)
            assert await take(elements, 1) == [(1, b"1")]
            with pytest.raises(BadReplyError):
                await take(elements, 1)
