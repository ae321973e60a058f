"""The HTTP server: requests in, responses out, on TCP and Unix sockets.

Rules kept here:

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
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web

from ..api import internal_problem
from ..errors import (
    ConfigError,
    MalformedError,
    PortInUseError,
    Refused,
    RequestTooSlowError,
    TooLargeError,
)
from .http_connection import BASE_HEADERS, Connection, Connections, reset, to_aiohttp
from .routing import (
    Observe,
    Request,
    Response,
    Route,
    Router,
    parse_query,
    problem_response,
    refusal_response,
)
from .tls import TLSContext
from .unix_sockets import bind_unix, remove_socket

logger = logging.getLogger("edgistry.http")

MAX_BODY_BYTES = 1_000_000
HANDSHAKE_TIMEOUT_S = 10.0

_NOTHING: Mapping[str, str] = {}


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
        self._connections: Connections | None = None
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
            # aiohttp takes 0 for no limit at all.
            await self._connections.shutdown(max(grace_s, 0.001))
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

    def _factory(self) -> Connections:
        if self._connections is None:
            self._stopping = False
            self._connections = Connections(
                self._handle, limit=self._max_connections, idle_timeout_s=self._idle_timeout_s
            )
            self._sweeper = asyncio.create_task(self._cut_off_stalled_readers())
        return self._connections

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        url = raw.rel_url
        complete = False
        text = url.raw_query_string
        try:
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
                    raw_query=text,
                    match=_NOTHING,
                    query=query,
                    headers=raw.headers,
                    body=body,
                    address=raw.remote or "",
                    peer_uid=cast(Connection, raw.protocol).peer_uid,
                    peer_node=cast(Connection, raw.protocol).peer_node,
                )
            )
        if response.stream is not None:
            return await self._send_stream(raw, response, response.stream)
        answer = to_aiohttp(response)
        if not complete and raw.can_read_body:
            answer.force_close()
        return answer

    async def _send_stream(
        self, raw: web.BaseRequest, response: Response, stream: AsyncGenerator[bytes, None]
    ) -> web.StreamResponse:
        headers = {**BASE_HEADERS, **response.headers}
        answer = web.StreamResponse(status=response.status, headers=headers)
        answer.force_close()
        connection = cast(Connection, raw.protocol)
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
                if transport is None or not isinstance(connection, Connection):
                    continue
                unsent = transport.get_write_buffer_size()
                if unsent and unsent == connection.last_unsent:
                    reset(transport)
                connection.last_unsent = unsent
