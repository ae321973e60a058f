"""The link to a node: bytes out, bytes in, and every way in which that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.link import MAX_HEAD_BYTES, HttpLink, parse_head
from edgistry.errors import (
    CannotReachError,
    InvalidValueError,
    MalformedError,
    TimedOutError,
    UnexpectedAnswerError,
)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PROBLEM = (
    b'{"type": "about:blank", "title": "x", "status": 400, "code": "malformed",'
    b' "detail": "no envelope", "help": "y"}'
)


def response(body: bytes = b"reply", *, status: int = 200, more: str = "") -> bytes:
    kind = "application/msgpack" if status == 200 else "application/problem+json"
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
    return head.encode() + b"\r\n" + body


@contextlib.asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                await serve(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    _, fields = parse_head(b"HTTP/1.1 200 X\r\n" + head.partition(b"\r\n")[2])
    return head, await reader.readexactly(int(fields[b"content-length"]))


def answering(*answers: bytes, requests: list[tuple[bytes, bytes]] | None = None) -> Serve:
    """Each connection gets these answers, one for each request, and is then closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            request = await read_request(reader)
            if requests is not None:
                requests.append(request)
            writer.write(answer)
            await writer.drain()

    return serve


async def post(url: str, body: bytes = b"envelope", *, timeout_s: float = 10.0) -> bytes:
    link = HttpLink(url)
    try:
        return (await link.post(body, wait_s=0, timeout_s=timeout_s)).reply
    finally:
        await link.close()


async def test_body_goes_to_the_node_and_its_reply_comes_back() -> None:
    requests: list[tuple[bytes, bytes]] = []
    async with server(answering(response(), requests=requests)) as url:
        assert await post(url) == b"reply"
    head, body = requests[0]
    assert head.startswith(b"POST /v1/exchange HTTP/1.1\r\n")
    assert body == b"envelope"


async def test_every_byte_is_counted() -> None:
    requests: list[tuple[bytes, bytes]] = []
    async with server(answering(response(), requests=requests)) as url:
        link = HttpLink(url)
        answer = await link.post(b"envelope", wait_s=0, timeout_s=10.0)
        await link.close()
    assert answer.sent == sum(len(part) for part in requests[0])
    assert answer.received == len(response())


async def test_connection_is_used_again_while_the_device_is_awake() -> None:
    requests: list[tuple[bytes, bytes]] = []
    async with server(answering(response(b"1"), response(b"2"), requests=requests)) as url:
        link = HttpLink(url)
        replies = [(await link.post(b"x", wait_s=0, timeout_s=10.0)).reply for _ in range(2)]
        await link.close()
    assert replies == [b"1", b"2"]


async def test_connection_that_the_node_has_closed_meanwhile_is_replaced() -> None:
    async with server(answering(response())) as url:
        link = HttpLink(url)
        for _ in range(3):
            assert (await link.post(b"x", wait_s=0, timeout_s=10.0)).reply == b"reply"
        await link.close()


async def test_connection_that_the_node_is_going_to_close_is_not_used_again() -> None:
    async with server(answering(response(more="Connection: close\r\n"), response(b"?"))) as url:
        link = HttpLink(url)
        for _ in range(2):
            assert (await link.post(b"x", wait_s=0, timeout_s=10.0)).reply == b"reply"
        await link.close()


async def test_device_that_is_awake_says_how_long_it_would_wait() -> None:
    requests: list[tuple[bytes, bytes]] = []
    async with server(answering(response(), requests=requests)) as url:
        link = HttpLink(url)
        await link.post(b"x", wait_s=25, timeout_s=30.0)
        await link.close()
    assert requests[0][0].startswith(b"POST /v1/exchange?wait=25 HTTP/1.1\r\n")


async def test_node_that_is_away_cannot_be_reached() -> None:
    async with server(answering()) as url:
        pass
    with pytest.raises(CannotReachError):
        await post(url)


async def test_answer_cut_at_any_byte_is_no_answer() -> None:
    whole = response()
    for cut in range(len(whole)):
        async with server(answering(whole[:cut])) as url:
            with pytest.raises(CannotReachError):
                await post(url)


async def test_node_that_never_answers_costs_no_more_than_the_time_allowed() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as url:
        with pytest.raises(TimedOutError):
            await post(url, timeout_s=0.05)


async def test_refusal_of_the_node_comes_back_as_what_it_is() -> None:
    async with server(answering(response(PROBLEM, status=400))) as url:
        with pytest.raises(MalformedError, match="no envelope"):
            await post(url)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
async def test_answer_of_another_form_is_refused(answer: bytes) -> None:
    async with server(answering(answer)) as url:
        with pytest.raises(UnexpectedAnswerError):
            await post(url)


@pytest.mark.parametrize(
    "url",
    ["https://node", "ftp://node", "node:27000", "http://", "http://a..b", f"http://{'a' * 64}"],
)
def test_address_that_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidValueError):
        HttpLink(url)


@given(head=st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(head: bytes) -> None:
    with contextlib.suppress(UnexpectedAnswerError):
        status, _ = parse_head(head)
        assert 0 <= status <= 999


async def test_node_that_answers_what_it_has_not_read_does_not_hold_the_device_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = asyncio.Event()
    connect = asyncio.open_connection

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        writer.write(response())
        await over.wait()

    async def patient(*where: object, **how: object) -> object:
        """A connection that takes all at once: more than is on its way rests in the device."""
        reader, writer = await connect(*where, **how)  # type: ignore[arg-type]
        writer.transport.set_write_buffer_limits(high=64 << 20)
        return reader, writer

    monkeypatch.setattr(asyncio, "open_connection", patient)
    async with server(serve) as url:
        link = HttpLink(url)
        try:
            answer = await link.post(bytes(32 << 20), wait_s=0, timeout_s=10.0)
            async with asyncio.timeout(5.0):
                await link.close()
        finally:
            over.set()
        assert answer.reply == b"reply"
