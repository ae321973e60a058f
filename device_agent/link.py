"""The link of a device to a node: POST over HTTP/1.1, with as few bytes as it takes.

Rules kept here:

* Nothing is sent that the node does not need, and every byte of an exchange that is answered is
  counted: an idle wake costs a few hundred bytes in all.
* A connection is kept while the device is awake, and closed before it sleeps. One on which anything
  went wrong is not used again.
* What a node answers is untrusted: its head and its body are bounded, it has a Content-Length, and
  anything else is refused.
* A request that met a connection which the node had closed meanwhile is sent again, once, on a new
  one: nobody has seen it, and the node would execute it once anyway.

Not handled here: what the bytes mean; their tags protect them, so there is no TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from edgistry.adapters.http import check_node_url
from edgistry.adapters.routing import Response
from edgistry.adapters.woof_caller import reply_in
from edgistry.api import ENVELOPE_CONTENT_TYPE
from edgistry.envelope import MAX_REPLY_BYTES
from edgistry.errors import (
    CannotReachError,
    InvalidValueError,
    TimedOutError,
    UnexpectedAnswerError,
)

MAX_HEAD_BYTES: Final = 16 * 1024

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [^\r\n]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, and what it took. Bytes above TCP."""

    reply: bytes
    sent: int
    received: int


class Link(Protocol):
    """How a device reaches one node."""

    async def post(self, body: bytes, *, wait_s: int, timeout_s: float) -> Answer:
        """Bring ``body`` to the node's exchange, and its reply back.

        The node may hold its answer for ``wait_s``.

        Raises:
            CannotReachError, TimedOutError: no answer.
            UnexpectedAnswerError, Refused: an answer that is no reply.
        """

    async def close(self) -> None:
        """The radio is going off. May be used again after that."""


class HttpLink:
    """A ``Link`` to the node whose API is at ``url`` (http).

    Raises (when made):
        InvalidValueError: ``url`` is no http URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(check_node_url(url))
        if parts.scheme != "http" or parts.hostname is None:
            raise InvalidValueError(f"{url!r}: devices reach nodes by http; tags protect it")
        self._url = url
        self._host = parts.hostname
        self._port = parts.port or 80
        self._path = f"{parts.path}/v1/exchange"
        self._netloc = parts.netloc
        self._connection: _Connection | None = None

    async def post(self, body: bytes, *, wait_s: int, timeout_s: float) -> Answer:
        """See ``Link``."""
        query = f"?wait={wait_s}" if wait_s else ""
        head = (
            f"POST {self._path}{query} HTTP/1.1\r\nHost: {self._netloc}\r\n"
            f"Content-Type: {ENVELOPE_CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(head.encode() + body)
        except TimeoutError:
            raise TimedOutError(f"{self._url} did not answer within {timeout_s:g} s") from None

    async def _post(self, request: bytes) -> Answer:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                return await self._ask(connection, request)
            except CannotReachError:
                # The node closes what was idle for long; the request may not even have left.
                pass
        return await self._ask(await self._connect(), request)

    async def _connect(self) -> _Connection:
        try:
            reader, writer = await asyncio.open_connection(
                self._host, self._port, limit=MAX_HEAD_BYTES
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotReachError(f"cannot reach {self._url}: {reason}") from None
        return _Connection(reader, writer)

    async def _ask(self, connection: _Connection, request: bytes) -> Answer:
        try:
            response, received, stays = await connection.ask(request)
        except BaseException as error:
            connection.abort()
            if isinstance(error, OSError | EOFError):
                raise CannotReachError(f"cannot reach {self._url}: the connection broke") from None
            raise
        if stays and self._connection is None:
            self._connection = connection
        else:
            await connection.close()
        return Answer(reply=reply_in(response), sent=len(request), received=received)

    async def close(self) -> None:
        """See ``Link``."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Connection:
    """One connection, on which one request is under way at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[Response, int, bool]:
        """The answer to ``request``, its bytes, and whether the connection can be used again.

        Raises:
            OSError, EOFError: the connection broke.
            UnexpectedAnswerError: what came is no answer.
        """
        self._writer.write(request)
        await self._writer.drain()
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise UnexpectedAnswerError(f"a head of more than {MAX_HEAD_BYTES} bytes") from None
        status, fields = parse_head(head)
        length = fields.get(b"content-length", b"")
        if not _LENGTH.fullmatch(length) or b"transfer-encoding" in fields:
            raise UnexpectedAnswerError("an answer without a Content-Length")
        if int(length) > MAX_REPLY_BYTES:
            raise UnexpectedAnswerError(f"an answer of {int(length)} bytes")
        body = await self._reader.readexactly(int(length))
        kind = fields.get(b"content-type", b"").decode("latin-1")
        response = Response(status=status, headers={"Content-Type": kind}, body=body)
        stays = fields.get(b"connection", b"").lower() != b"close"
        return response, len(head) + len(body), stays

    def abort(self) -> None:
        """Close it without waiting for anything."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it."""
        if self._writer.transport.get_write_buffer_size():
            # Closing would wait until the node has read what it has not asked for.
            self.abort()
            return
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The status and the fields, by lower-case name, of a response's head.

    Raises:
        UnexpectedAnswerError: it is none, or a field stands there twice.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise UnexpectedAnswerError("what came is no HTTP/1.1 answer")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name in fields:
            raise UnexpectedAnswerError("a head that is not well-formed")
        fields[name] = value.strip()
    return int(match[1]), fields
