"""Answers that go on: sent as they are read, ended when the reader, or the server, has enough."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from edgistry.adapters.http import HttpClient, HttpServer, Request, Response, Route
from edgistry.errors import CannotReachError, TimedOutError

CHUNK = b"x" * 10_000


class Source:
    """A stream that tells how far it came, and whether it was closed."""

    def __init__(self, *, fails_at: int = 1 << 30, waits_at: int = 1 << 30) -> None:
        self.given = 0
        self.closed = False
        self._fails_at = fails_at
        self._waits_at = waits_at

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                if self.given == self._fails_at:
                    raise RuntimeError("secret reason")
                if self.given == self._waits_at:
                    await asyncio.Event().wait()
                self.given += 1
                yield CHUNK
        finally:
            self.closed = True


@contextlib.asynccontextmanager
async def serving(source: Source) -> AsyncIterator[tuple[HttpServer, HttpClient]]:
    async def answer(_: Request) -> Response:
        return Response(headers={"Content-Type": "text/plain"}, stream=source.chunks())

    server = HttpServer([Route(method="POST", template="/stream", handler=answer)])
    port = await server.listen_tcp("127.0.0.1", 0)
    try:
        async with HttpClient(f"http://127.0.0.1:{port}") as client:
            yield server, client
    finally:
        await server.stop(grace_s=1.0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_reader_who_goes_away_ends_the_stream_although_it_is_silent() -> None:
    source = Source(waits_at=2)
    async with serving(source) as (_, client):
        async with client.stream("POST", "/stream", silence_s=20) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain")
            async with contextlib.aclosing(answer.chunks()) as chunks:
                await anext(chunks)
            assert not source.closed
        await until(lambda: source.closed)


async def test_reader_who_takes_nothing_stops_the_source() -> None:
    source = Source()
    async with serving(source) as (_, client):
        async with client.stream("POST", "/stream", silence_s=20):
            before = -1
            while source.given != before:
                before = source.given
                await asyncio.sleep(0.1)
            assert source.given * len(CHUNK) < 20_000_000
        await until(lambda: source.closed)


async def test_stop_ends_streams_in_good_order() -> None:
    source = Source(waits_at=3)
    async with serving(source) as (server, client):
        async with client.stream("POST", "/stream", silence_s=20) as answer:
            stopping = None
            size = 0
            async for chunk in answer.chunks():
                size += len(chunk)
                stopping = stopping or asyncio.create_task(server.stop(grace_s=20))
            assert size == 3 * len(CHUNK)
            assert stopping is not None
            async with asyncio.timeout(10):
                await stopping
        assert source.closed


async def test_stream_that_fails_is_not_taken_for_a_whole_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(fails_at=2)
    async with (
        serving(source) as (_, client),
        client.stream("POST", "/stream", silence_s=20) as answer,
    ):
        with pytest.raises(CannotReachError):
            async for _ in answer.chunks():
                pass
    assert "a stream failed" in caplog.text


async def test_silent_stream_is_given_up() -> None:
    async with (
        serving(Source(waits_at=1)) as (_, client),
        client.stream("POST", "/stream", silence_s=0.2) as answer,
    ):
        with pytest.raises(TimedOutError, match="silent"):
            async for _ in answer.chunks():
                pass


async def test_answer_that_ends_can_be_read_whole() -> None:
    async with (
        serving(Source()) as (_, client),
        client.stream("GET", "/stream", silence_s=20) as answer,
    ):
        assert (await answer.whole()).status == 405


async def test_nobody_there_cannot_be_reached() -> None:
    async with HttpClient("http://127.0.0.1:1") as client:
        with pytest.raises(CannotReachError):
            async with client.stream("POST", "/stream", silence_s=20):
                pass
