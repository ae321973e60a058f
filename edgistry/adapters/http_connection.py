"""One connection to the server, and its answers in aiohttp's terms.

Rules kept here:

* A connection is refused at once when there are too many.
* What is no HTTP at all, or fails outside of a handler, is answered in our own form too.
* When a connection is lost, whoever sends a stream over it is told.

Not handled here: requests (``http_server``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from ..api import PROBLEM_CONTENT_TYPE, internal_problem, problem_of
from ..codec import encode_json
from ..errors import MalformedError, UnavailableError
from ..transactions import NodeId
from .routing import Response, problem_response, refusal_response
from .tls import peer_node
from .unix_sockets import peer_uid

logger = logging.getLogger("edgistry.http")

BASE_HEADERS = {"Server": "edgistry", "X-Content-Type-Options": "nosniff"}


class Connection(web.RequestHandler):
    """One connection: refused at once when there are too many; errors of the protocol itself
    (a broken request line, say) answered in our own form."""

    __slots__ = ("_limit", "_owner", "last_unsent", "peer_node", "peer_uid", "streaming")

    def __init__(
        self, owner: Connections, *, loop: asyncio.AbstractEventLoop, limit: int, **options: Any
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
        answer = to_aiohttp(response)
        answer.force_close()
        return answer


class Connections(web.Server):
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

    def __call__(self) -> Connection:
        return Connection(
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


def to_aiohttp(response: Response) -> web.Response:
    return web.Response(
        status=response.status, headers={**BASE_HEADERS, **response.headers}, body=response.body
    )


def reset(transport: asyncio.Transport) -> None:
    """Close without waiting for what is unsent: the kernel would keep offering it for minutes."""
    stream = transport.get_extra_info("socket")
    if stream is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
