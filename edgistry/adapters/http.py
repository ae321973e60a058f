"""HTTP over TCP and Unix sockets: server, client, and the event loop they run on.

Rules kept here (this is the only module that imports aiohttp and uvloop):

* A handler is a coroutine from ``Request`` to ``Response``. A handler that raises ``Refused``
  becomes an RFC 9457 problem document; anything else becomes a 500 that tells nothing and a log
  entry that tells everything.
* Nobody may hold the server: at most ``max_connections`` connections; the head of a request must
  be complete ``idle_timeout_s`` after the connection was opened or last used, its body
  ``body_timeout_s`` later; a reader who takes nothing for ``idle_timeout_s`` is cut off. A body
  over the limit is refused from its declared length, before it is read.
* A stream is sent no faster than it is read, so a slow reader costs a bounded amount of memory. It
  ends when the reader goes away, or the server stops.
* Request bodies are taken as they are: a ``Content-Encoding`` is refused, never inflated.
* The client never follows redirects, never uses a proxy from the environment, and turns every
  failure of the network into ``CannotReachError`` or ``TimedOutError``.

Low-level ``aiohttp.web.Server`` with our own routing, not ``web.Application``: an empty handler
answers about a quarter more requests a second that way.

Not handled here: routing and the form of errors (``routing``), what the routes mean
(``edgistry.routes``), whom TLS trusts (``tls``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import io
import logging
import os
import socket
import struct
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from ..api import PROBLEM_CONTENT_TYPE, internal_problem, problem_of
from ..codec import encode_json
from ..errors import (
    CannotReachError,
    ConfigError,
    InvalidValueError,
    MalformedError,
    PortInUseError,
    Refused,
    RequestTooSlowError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
    WrongNodeKeyError,
)
from ..transactions import NodeId
from .routing import (
    Handler,
    Observe,
    Request,
    Response,
    Route,
    Router,
    json_response,
    parse_query,
    problem_response,
    refusal_response,
)
from .tls import TLSContext, peer_node
from .unix_sockets import bind_unix, peer_uid, remove_socket

__all__ = [
    "Handler",
    "HttpClient",
    "HttpServer",
    "Observe",
    "Request",
    "Response",
    "Route",
    "StreamedAnswer",
    "check_node_url",
    "json_response",
    "parse_query",
    "problem_response",
    "refusal_response",
    "run",
]

T = TypeVar("T")

logger = logging.getLogger("edgistry.http")

MAX_BODY_BYTES = 1_000_000
HANDSHAKE_TIMEOUT_S = 10.0

_BASE_HEADERS = {"Server": "edgistry", "X-Content-Type-Options": "nosniff"}
_NOTHING: Mapping[str, str] = {}


class _Connection(web.RequestHandler):
    """One connection: refused at once when there are too many; errors of the protocol itself
    (a broken request line, say) answered in our own form."""

    __slots__ = ("_limit", "_owner", "last_unsent", "peer_node", "peer_uid", "streaming")

    def __init__(
        self, owner: _Connections, *, loop: asyncio.AbstractEventLoop, limit: int, **options: Any
    ) -> None:
        super().__init__(owner, loop=loop, **options)
        self._owner = owner
        self._limit = limit
        self.peer_uid: int | None = None
        self.peer_node: NodeId | None = None
        self.last_unsent = 0
        self.streaming: asyncio.Task[Any] | None = None
        """Sends a stream here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._owner.connections) >= self._limit:
            stream = cast(asyncio.Transport, transport)
            stream.write(_too_many_connections())
            stream.close()
            return
        self.peer_uid = peer_uid(transport)
        self.peer_node = peer_node(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.streaming is not None:
            self.streaming.cancel()  # it may wait for hours before it writes again

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called by aiohttp for what it cannot parse, and for a failure outside our handlers."""
        if status < 500:
            text = (message or str(exc) or "not HTTP/1.1").splitlines()[0].rstrip(":")
            response = refusal_response(MalformedError(text[:200]))
        else:
            logger.error("failed outside of a handler", exc_info=exc)
            response = problem_response(internal_problem())
        answer = _to_aiohttp(response)
        answer.force_close()
        return answer


class _Connections(web.Server):
    """The protocol factory for ``create_server``."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        limit: int,
        idle_timeout_s: float,
    ) -> None:
        super().__init__(handler)
        self._limit = limit
        self._idle_timeout_s = idle_timeout_s

    def __call__(self) -> _Connection:
        return _Connection(
            self,
            loop=self._loop,
            limit=self._limit,
            # aiohttp closes a connection that waits for a request, or for the rest of its head,
            # for this long.
            keepalive_timeout=self._idle_timeout_s,
            # Long enough that a client who is still sending reads our refusal.
            lingering_time=1.0,
            auto_decompress=False,
            access_log=None,
        )


def _too_many_connections() -> bytes:
    error = UnavailableError("too many connections to this node")
    body = encode_json(problem_of(error))
    return (
        f"HTTP/1.1 {error.http_status} {HTTPStatus(error.http_status).phrase}\r\n"
        f"Content-Type: {PROBLEM_CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        "Retry-After: 5\r\nConnection: close\r\n\r\n"
    ).encode() + body


def _to_aiohttp(response: Response) -> web.Response:
    return web.Response(
        status=response.status, headers={**_BASE_HEADERS, **response.headers}, body=response.body
    )


def _reset(transport: asyncio.Transport) -> None:
    """Close without waiting for what is unsent: the kernel would keep offering it for minutes."""
    stream = transport.get_extra_info("socket")
    if stream is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class HttpServer:
    """Serves ``routes`` on any number of addresses, all of them with one set of limits.

    A route for GET answers HEAD too. ``observe`` hears of every request that was answered.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        body_limit: int = MAX_BODY_BYTES,
        max_connections: int = 1024,
        idle_timeout_s: float = 30.0,
        body_timeout_s: float = 30.0,
        observe: Observe | None = None,
    ) -> None:
        self._router = Router(routes)
        self._body_limit = body_limit
        self._max_connections = max_connections
        self._idle_timeout_s = idle_timeout_s
        self._body_timeout_s = body_timeout_s
        self._observe = observe
        self._connections: _Connections | None = None
        self._listeners: list[asyncio.Server] = []
        self._socket_paths: list[Path] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._streaming: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def listen_tcp(self, host: str, port: int, *, tls: TLSContext | None = None) -> int:
        """Accept connections on ``host``:``port`` (0: a free one) and return the port.

        With ``tls`` they speak TLS, or are closed after ``HANDSHAKE_TIMEOUT_S``.

        Raises:
            PortInUseError: another program listens there.
            ConfigError: the address is not one of this machine's, or not allowed.
        """
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(
                self._factory(),
                host,
                port,
                backlog=1024,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT_S,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(f"{host}:{port} is in use by another program") from None
            raise ConfigError(f"cannot listen on {host}:{port}: {error}") from None
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: Path) -> None:
        """Accept connections on the Unix socket ``path`` (mode 0600), replacing a stale one.

        Raises:
            ConfigError: the path is too long for a socket, or not writable.
            PortInUseError: another process listens there, or it is some other file.
        """
        bound = bind_unix(path)
        try:
            listener = await asyncio.get_running_loop().create_unix_server(
                self._factory(), sock=bound, backlog=1024
            )
        except BaseException:
            bound.close()
            remove_socket(path)
            raise
        self._listeners.append(listener)
        self._socket_paths.append(path)

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop accepting, let running requests finish for ``grace_s``, close all. Idempotent."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for path in self._socket_paths:
            remove_socket(path)
        self._socket_paths.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        self._stopping = True
        for task in self._streaming:
            task.cancel()  # it ends its stream in good order
        if self._connections is not None:
            self._connections.pre_shutdown()
            await self._connections.shutdown(grace_s)
            self._connections = None

    async def answer(self, request: Request) -> Response:
        """Route and handle ``request``; every failure is already a response. No sockets needed."""
        started = time.perf_counter()
        template = ""
        try:
            route, match = self._router.find(request.method, request.path)
            template = route.template
            if match:
                request = dataclasses.replace(request, match=match)
            response = await route.handler(request)
        except Refused as error:
            response = refusal_response(error)
        except Exception:
            logger.exception("%s %s failed", request.method, template)
            response = problem_response(internal_problem())
        if self._observe is not None:
            elapsed = time.perf_counter() - started
            self._observe(request.method, template, response.status, elapsed)
        return response

    def _factory(self) -> _Connections:
        if self._connections is None:
            self._connections = _Connections(
                self._handle, limit=self._max_connections, idle_timeout_s=self._idle_timeout_s
            )
            self._sweeper = asyncio.create_task(self._cut_off_stalled_readers())
        return self._connections

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        url = raw.rel_url
        complete = False
        try:
            text = url.raw_query_string
            query = parse_query(text) if text else _NOTHING
            body = await self._read_body(raw) if raw.can_read_body else b""
            complete = True
        except Refused as error:
            if self._observe is not None:
                self._observe(raw.method, "", error.http_status, 0.0)
            response = refusal_response(error)
        else:
            response = await self.answer(
                Request(
                    method=raw.method,
                    path=url.raw_path,
                    match=_NOTHING,
                    query=query,
                    headers=raw.headers,
                    body=body,
                    peer_uid=cast(_Connection, raw.protocol).peer_uid,
                    peer_node=cast(_Connection, raw.protocol).peer_node,
                )
            )
        if response.stream is not None:
            return await self._send_stream(raw, response, response.stream)
        answer = _to_aiohttp(response)
        if not complete and raw.can_read_body:
            answer.force_close()
        return answer

    async def _send_stream(
        self, raw: web.BaseRequest, response: Response, stream: AsyncGenerator[bytes, None]
    ) -> web.StreamResponse:
        headers = {**_BASE_HEADERS, **response.headers}
        answer = web.StreamResponse(status=response.status, headers=headers)
        answer.force_close()
        connection = cast(_Connection, raw.protocol)
        task = connection.streaming = cast("asyncio.Task[Any]", asyncio.current_task())
        self._streaming.add(task)
        try:
            await answer.prepare(raw)
            async for chunk in stream:
                await answer.write(chunk)
        except asyncio.CancelledError:
            if not (self._stopping or raw.transport is None):
                raise
            task.uncancel()
        except ConnectionError:
            pass  # the reader is gone
        except Exception:
            logger.exception("a stream failed")
            if raw.transport is not None:
                raw.transport.abort()
        finally:
            connection.streaming = None
            self._streaming.discard(task)
            await stream.aclose()
        with contextlib.suppress(ConnectionError):
            await answer.write_eof()
        return answer

    async def _read_body(self, raw: web.BaseRequest) -> bytes:
        limit = self._body_limit
        if (raw.content_length or 0) > limit:
            raise TooLargeError(
                f"a body of {raw.content_length} bytes; this node takes at most {limit}"
            )
        if raw.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise MalformedError("a Content-Encoding; send the body as it is")
        if raw.headers.get("Expect", "").lower() == "100-continue":
            await raw.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The writer counts these bytes as the response's first otherwise.
            raw.writer.output_size = 0
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while chunk := await raw.content.readany():
                    size += len(chunk)
                    if size > limit:
                        raise TooLargeError(f"a body over {limit} bytes, the most this node takes")
                    chunks.append(chunk)
        except TimeoutError:
            raise RequestTooSlowError(
                f"the body was not complete after {self._body_timeout_s:g} s"
            ) from None
        except (web.RequestPayloadError, aiohttp.ClientPayloadError) as error:
            raise MalformedError(f"the body's framing is broken: {error}"[:200]) from None
        return b"".join(chunks)

    async def _cut_off_stalled_readers(self) -> None:
        """Abort a connection whose unsent bytes did not change between two looks."""
        while self._connections is not None:
            await asyncio.sleep(self._idle_timeout_s)
            for connection in self._connections.connections:
                transport = connection.transport
                if transport is None or not isinstance(connection, _Connection):
                    continue
                unsent = transport.get_write_buffer_size()
                if unsent and unsent == connection.last_unsent:
                    _reset(transport)
                connection.last_unsent = unsent


class HttpClient:
    """A client of one server: ``http://host:port``, or the path of a Unix socket.

    Use it from one event loop, and ``close`` it. ``timeout_s`` covers a whole request. ``tls`` says
    whom to trust at an https URL.

    Raises (when made):
        InvalidValueError: ``target`` is not an http or https URL.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        timeout_s: float = 30.0,
        response_limit: int = 64_000_000,
        tls: TLSContext | None = None,
    ) -> None:
        self.target = target
        self._tls = tls
        self._timeout_s = timeout_s
        self._response_limit = response_limit
        self._session: aiohttp.ClientSession | None = None
        if isinstance(target, Path):
            self._base = "http://localhost"
        else:
            self._base = check_node_url(target)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Send one request and read its answer, whatever its status.

        Raises:
            CannotReachError: nobody answers, or the connection broke.
            WrongNodeKeyError: whoever answers is not whom ``tls`` trusts; nothing was sent.
            TimedOutError: no complete answer in ``timeout_s`` (default: the client's).
            TooLargeError: the answer is over the response limit.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        session = self._open_session()
        try:
            async with session.request(
                method,
                self._base + path,
                params=dict(query) if query else None,
                data=io.BytesIO(body) if body else None,
                headers=dict(headers) if headers else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit_s),
            ) as answer:
                data = await self._read(answer)
                return Response(status=answer.status, headers=answer.headers, body=data)
        except TimeoutError:
            raise TimedOutError(f"{self.target} did not answer within {limit_s:g} s") from None
        except aiohttp.InvalidURL:
            raise InvalidValueError(f"not a usable address: {self._base + path}") from None
        except aiohttp.ClientConnectorCertificateError:
            raise WrongNodeKeyError(f"{self.target} has not the key it should have") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CannotReachError(f"cannot reach {self.target}: {_reason(error)}") from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        silence_s: float,
    ) -> AsyncIterator[StreamedAnswer]:
        """Send one request; its answer may go on for ever, but is never silent for ``silence_s``.

        Raises:
            CannotReachError: nobody answers. TimedOutError: nothing came for ``silence_s``.
        """
        answer = None
        try:
            answer = await self._open_session().request(
                method,
                self._base + path,
                data=io.BytesIO(body) if body else None,
                headers=dict(headers) if headers else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=silence_s, sock_read=silence_s
                ),
            )
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(error, silence_s) from None
        try:
            yield StreamedAnswer(self, answer, silence_s)
        finally:
            answer.close()

    def _failure(self, error: Exception, limit_s: float) -> Refused:
        """What a failure of the network is called here."""
        if isinstance(error, TimeoutError):
            return TimedOutError(f"{self.target} was silent for {limit_s:g} s")
        return CannotReachError(f"cannot reach {self.target}: {_reason(error)}")

    async def close(self) -> None:
        """Close all connections. Closing twice is safe."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector
            if isinstance(self.target, Path):
                connector = aiohttp.UnixConnector(path=str(self.target))
            else:
                trusted = True if self._tls is None else self._tls
                connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=trusted)
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "edgistry"},
            )
        return self._session

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > self._response_limit:
                raise TooLargeError(f"an answer over {self._response_limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


class StreamedAnswer:
    """An answer that is read as it comes. ``HttpClient.stream`` makes them."""

    def __init__(
        self, client: HttpClient, answer: aiohttp.ClientResponse, silence_s: float
    ) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._client = client
        self._answer = answer
        self._silence_s = silence_s

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces, until the server ends it.

        Raises:
            CannotReachError: the connection broke. TimedOutError: nothing came for too long.
        """
        try:
            async for chunk in self._answer.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise self._client._failure(error, self._silence_s) from None

    async def whole(self) -> Response:
        """All of a body that ends. Raises as ``chunks``, and TooLargeError as ``request``."""
        try:
            body = await self._client._read(self._answer)
        except (aiohttp.ClientError, OSError) as error:
            raise self._client._failure(error, self._silence_s) from None
        return Response(status=self.status, headers=self.headers, body=body)


def _reason(error: Exception) -> str:
    """Why it failed, in the system's words where it has some."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def check_node_url(text: str) -> str:
    """``text`` without its trailing slash, if it is an http(s) URL with a host and no query.

    Raises:
        InvalidValueError: anything else.
    """
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname)
        # Reading the port checks it.
        usable = usable and (url.port or 1) > 0 and not (url.query or url.fragment or url.username)
    except ValueError:
        usable = False
    if not usable:
        hint = "" if "://" in text else "; it begins with http:// or https://"
        raise InvalidValueError(
            f"{text!r} is not a node's address, such as http://127.0.0.1:27000{hint}"
        )
    return text.rstrip("/")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end on a new event loop: uvloop's where installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
