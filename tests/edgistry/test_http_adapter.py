"""The HTTP adapter: routing, problem documents, and limits that protect the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters.http import (
    HttpClient,
    HttpServer,
    Request,
    Response,
    Route,
    json_response,
    parse_query,
    run,
)
from edgistry.api import Problem
from edgistry.codec import decode_json
from edgistry.errors import (
    CannotReachError,
    ConfigError,
    InvalidValueError,
    MalformedError,
    NotYetError,
    PortInUseError,
    Refused,
    TimedOutError,
    TooLargeError,
)


async def echo(request: Request) -> Response:
    return json_response(
        {
            "method": request.method,
            "match": dict(request.match),
            "query": dict(request.query),
            "bytes": len(request.body),
            "uid": request.peer_uid,
        }
    )


async def fail(_: Request) -> Response:
    raise RuntimeError("secret reason")


async def refuse(_: Request) -> Response:
    raise NotYetError("height 9 is not reached", retry_after_s=7)


async def sleep(_: Request) -> Response:
    await asyncio.sleep(60)
    return Response()


async def large(_: Request) -> Response:
    return Response(body=b"x" * 20_000_000)


ROUTES = [
    Route(method="GET", template="/echo", handler=echo),
    Route(method="POST", template="/echo", handler=echo),
    Route(method="GET", template="/logs/{name}/entries/{number}", handler=echo),
    Route(method="GET", template="/fail", handler=fail),
    Route(method="GET", template="/refuse", handler=refuse),
    Route(method="GET", template="/sleep", handler=sleep),
    Route(method="GET", template="/large", handler=large),
]


@contextlib.asynccontextmanager
async def serving(
    *, body_limit: int = 1_000_000, max_connections: int = 1024, patience_s: float = 30.0
) -> AsyncIterator[int]:
    server = HttpServer(
        ROUTES,
        body_limit=body_limit,
        max_connections=max_connections,
        idle_timeout_s=patience_s,
        body_timeout_s=patience_s,
    )
    port = await server.listen_tcp("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop(grace_s=0.1)


@contextlib.asynccontextmanager
async def raw_connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(port: int, data: bytes) -> bytes:
    """Send ``data``, and read until the server closes."""
    async with raw_connection(port) as (reader, writer):
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20)


def problem(response: Response) -> Problem:
    assert response.headers["Content-Type"] == "application/problem+json"
    return decode_json(response.body, Problem, limit=100_000)


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


# --- routing, without sockets ---------------------------------------------------------------


async def answer(method: str, path: str) -> Response:
    return await HttpServer(ROUTES).answer(Request(method=method, path=path))


async def test_template_segments_are_matched_encoded_and_decoded_after() -> None:
    response = await answer("GET", "/logs/a%2Fb%C3%A9/entries/7")
    assert b'"match":{"name":"a/b\xc3\xa9","number":"7"}' in response.body


async def test_broken_utf8_in_a_segment_is_malformed() -> None:
    assert problem(await answer("GET", "/logs/%ff/entries/7")).code == "malformed"


@pytest.mark.parametrize("path", ["/", "/nothing", "/echo/", "/logs/a/entries", "//echo"])
async def test_unknown_path_is_404(path: str) -> None:
    found = problem(await answer("GET", path))
    assert (found.status, found.code) == (404, "unknown-route")


async def test_unknown_method_is_405_and_lists_the_allowed_ones() -> None:
    response = await answer("DELETE", "/echo")
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD, POST"


async def test_refusal_becomes_a_problem_document_with_retry_after() -> None:
    response = await answer("GET", "/refuse")
    assert response.headers["Retry-After"] == "7"
    assert problem(response) == Problem(
        type="urn:edgistry:error:not-yet",
        title="The node has not reached the height that was asked for",
        status=503,
        detail="height 9 is not reached",
        code="not-yet",
        help=NotYetError.help,
    )


async def test_bug_becomes_500_that_tells_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await answer("GET", "/fail")
    assert problem(response).status == 500
    assert b"secret" not in response.body
    assert "secret reason" in caplog.text


async def test_observer_hears_template_status_and_time() -> None:
    heard: list[tuple[str, str, int]] = []
    server = HttpServer(ROUTES, observe=lambda *seen: heard.append(seen[:3]))
    await server.answer(Request(method="GET", path="/logs/a/entries/1"))
    await server.answer(Request(method="GET", path="/nothing"))
    assert heard == [("GET", "/logs/{name}/entries/{number}", 200), ("GET", "", 404)]


def test_routing_one_operation_twice_is_a_bug() -> None:
    with pytest.raises(ValueError, match="routed twice"):
        HttpServer([*ROUTES, ROUTES[0]])


def test_repeated_query_parameter_is_malformed() -> None:
    with pytest.raises(MalformedError, match="repeated"):
        parse_query("a=1&b=2&a=3")


def test_more_query_parameters_than_any_operation_has_are_malformed() -> None:
    with pytest.raises(MalformedError):
        parse_query("&".join(f"p{number}=1" for number in range(40)))


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_any_query_string_gives_parameters_or_malformed(text: str) -> None:
    try:
        query = parse_query(text)
    except MalformedError:
        return
    assert all(isinstance(value, str) for pair in query.items() for value in pair)


# --- over TCP -------------------------------------------------------------------------------


async def test_client_and_server_understand_each_other() -> None:
    async with serving() as port, HttpClient(f"http://127.0.0.1:{port}/") as client:
        response = await client.request("POST", "/echo", query={"q": "é &="}, body=b"12345")
    assert response.status == 200
    assert response.body == (
        '{"method":"POST","match":{},"query":{"q":"é &="},"bytes":5,"uid":null}'.encode()
    )


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with serving() as port, HttpClient(f"http://127.0.0.1:{port}") as client:
        response = await client.request("HEAD", "/echo")
    assert (response.status, response.body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0


async def test_connection_is_kept_for_the_next_request() -> None:
    async with serving() as port, raw_connection(port) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200")


async def test_fifty_megabytes_are_refused_before_they_are_read() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
    async with serving() as port, raw_connection(port) as (reader, writer):
        writer.write(head)
        status = await asyncio.wait_for(reader.readline(), 5)
    assert status == b"HTTP/1.1 413 Request Entity Too Large\r\n"


async def test_client_that_sends_fifty_megabytes_reads_the_refusal() -> None:
    async with serving() as port, HttpClient(f"http://127.0.0.1:{port}") as client:
        response = await client.request("POST", "/echo", body=bytes(50_000_000))
    assert problem(response).code == "too-large"


async def test_body_of_unknown_length_is_refused_at_the_limit() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(body_limit=100) as port, raw_connection(port) as (reader, writer):
        writer.write(head + b"60\r\n" + bytes(96) + b"\r\n" + b"60\r\n" + bytes(96) + b"\r\n")
        status = await asyncio.wait_for(reader.readline(), 5)
    assert status.startswith(b"HTTP/1.1 413")


async def test_body_of_exactly_the_limit_is_taken() -> None:
    async with (
        serving(body_limit=100) as port,
        HttpClient(f"http://127.0.0.1:{port}") as client,
    ):
        response = await client.request("POST", "/echo", body=bytes(100))
    assert response.status == 200


async def test_compressed_body_is_refused_not_inflated() -> None:
    async with serving() as port, HttpClient(f"http://127.0.0.1:{port}") as client:
        response = await client.request(
            "POST", "/echo", body=b"xx", headers={"Content-Encoding": "gzip"}
        )
    assert (response.status, problem(response).code) == (400, "malformed")


async def test_expect_100_continue_is_answered() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with serving() as port, raw_connection(port) as (reader, writer):
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_unfinished_request_head_is_cut_off() -> None:
    async with serving(patience_s=0.2) as port:
        assert await exchange(port, b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""


async def test_silent_connection_is_cut_off() -> None:
    async with serving(patience_s=0.2) as port:
        assert await exchange(port, b"") == b""


async def test_unfinished_body_is_answered_408() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    async with serving(patience_s=0.2) as port:
        assert (await exchange(port, head)).startswith(b"HTTP/1.1 408")


async def test_reader_who_takes_nothing_is_cut_off() -> None:
    async with serving(patience_s=0.2) as port:
        with socket.socket() as greedy:
            greedy.setblocking(False)
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(greedy, ("127.0.0.1", port))
            await loop.sock_sendall(greedy, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            await loop.sock_recv(greedy, 1)
            # The server lets go while most of the answer is still on its side.
            deadline = loop.time() + 20
            while greedy.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                assert loop.time() < deadline, "the connection stayed open"
                await asyncio.sleep(0.02)


async def test_connection_over_the_limit_is_told_so_and_closed() -> None:
    async with serving(max_connections=1) as port, raw_connection(port) as (reader, writer):
        writer.write(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        refused = await exchange(port, b"")
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"Retry-After: 5" in refused


async def test_garbage_is_answered_with_a_problem_document() -> None:
    async with serving() as port:
        text = await exchange(port, b"\x16\x03\x01 not http\r\n\r\n")
    assert b" 400 Bad Request" in text.splitlines()[0]
    assert b"application/problem+json" in text


async def test_any_bytes_never_give_a_500() -> None:
    """Fuzzed on one server; each example on its own connection."""
    seen: set[bytes] = set()

    @settings(deadline=None, max_examples=150)
    @given(
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=100).map(lambda tail: b"GET /echo HTTP/1.1\r\n" + tail),
            st.binary(max_size=60).map(lambda path: b"GET /" + path + b" HTTP/1.1\r\nHost: x\r\n"),
            st.binary(max_size=60).map(
                lambda body: b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body
            ),
        )
    )
    def check(port: int, data: bytes) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
            contextlib.suppress(ConnectionError),
        ):
            connection.sendall(data + b"\r\n\r\n")
            seen.add(connection.recv(12)[-4:])
        assert b" 500" not in seen

    async with serving(patience_s=0.05) as port:
        await asyncio.to_thread(lambda: check(port))
    assert {b" 400", b" 404"} <= seen


async def test_port_in_use_is_a_clear_refusal() -> None:
    async with serving() as port:
        with pytest.raises(PortInUseError, match=str(port)):
            await HttpServer(ROUTES).listen_tcp("127.0.0.1", port)


async def test_foreign_address_is_a_clear_refusal() -> None:
    server = HttpServer(ROUTES)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await server.listen_tcp("192.0.2.1", 0)
    await server.stop()


async def test_stopping_twice_is_safe() -> None:
    server = HttpServer(ROUTES)
    await server.listen_tcp("127.0.0.1", 0)
    await server.stop()
    await server.stop()


# --- over Unix sockets ------------------------------------------------------------------------


async def test_unix_socket_is_private_and_knows_the_peer(socket_directory: Path) -> None:
    path = socket_directory / "admin.sock"
    server = HttpServer(ROUTES)
    await server.listen_unix(path)
    async with HttpClient(path) as client:
        response = await client.request("GET", "/echo")
    assert f'"uid":{os.getuid()}'.encode() in response.body
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await server.stop()
    assert not path.exists()


async def test_stale_socket_is_replaced(socket_directory: Path) -> None:
    path = socket_directory / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = HttpServer(ROUTES)
    await server.listen_unix(path)
    async with HttpClient(path) as client:
        assert (await client.request("GET", "/echo")).status == 200
    await server.stop()


async def test_socket_in_use_is_not_taken_over(socket_directory: Path) -> None:
    path = socket_directory / "admin.sock"
    server = HttpServer(ROUTES)
    await server.listen_unix(path)
    with pytest.raises(PortInUseError, match="another process"):
        await HttpServer(ROUTES).listen_unix(path)
    assert path.exists()
    await server.stop()


async def test_file_at_the_sockets_path_is_left_alone(socket_directory: Path) -> None:
    path = socket_directory / "admin.sock"
    path.write_text("mine")
    with pytest.raises(PortInUseError, match="not a socket"):
        await HttpServer(ROUTES).listen_unix(path)
    assert path.read_text() == "mine"


async def test_socket_path_too_long_for_the_kernel_is_refused(socket_directory: Path) -> None:
    with pytest.raises(ConfigError, match="100 bytes"):
        await HttpServer(ROUTES).listen_unix(socket_directory / ("x" * 100))


# --- the client -------------------------------------------------------------------------------


async def test_nobody_there_is_cannot_reach() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with HttpClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(CannotReachError, match=str(port)):
                await client.request("GET", "/echo")


async def test_missing_socket_is_cannot_reach(socket_directory: Path) -> None:
    async with HttpClient(socket_directory / "none.sock") as client:
        with pytest.raises(CannotReachError, match=r"none\.sock"):
            await client.request("GET", "/echo")


async def test_silence_is_timed_out() -> None:
    async with serving() as port, HttpClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(TimedOutError, match="127"):
            await client.request("GET", "/sleep", timeout_s=0.1)


async def test_server_that_is_not_http_is_cannot_reach() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with HttpClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(CannotReachError):
                await client.request("GET", "/")


async def test_answer_over_the_limit_is_refused() -> None:
    async with serving() as port:
        client = HttpClient(f"http://127.0.0.1:{port}", response_limit=1000)
        with pytest.raises(TooLargeError):
            await client.request("GET", "/large")
        await client.close()


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:27000", "ftp://host", "http://", "http://h:99999", "http://[::1", "http://u@h",
     "http://host?x=1", "http://host#x", "http://h:x", "http://a..b"],
)  # fmt: skip
def test_unusable_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"http://127\.0\.0\.1:27000"):
        HttpClient(text)


def test_run_returns_the_result_of_the_coroutine() -> None:
    async def forty_two() -> int:
        await asyncio.sleep(0)
        return 42

    assert run(forty_two()) == 42


def test_run_passes_refusals_on() -> None:
    async def refused() -> None:
        raise NotYetError("no")

    with pytest.raises(Refused, match="no"):
        run(refused())
