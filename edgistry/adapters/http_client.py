"""The HTTP client: one server, over TCP or a Unix socket.

Rules kept here: it never follows redirects, never uses a proxy from the environment, and turns
every failure of the network into ``CannotReachError`` or ``TimedOutError``. An answer is bounded,
or read as it comes.

Not handled here: what answers mean (``problems``), whom TLS trusts (``tls``).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from ..errors import (
    CannotReachError,
    InvalidValueError,
    Refused,
    TimedOutError,
    TooLargeError,
    WrongNodeKeyError,
)
from .routing import Response
from .tls import TLSContext


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
        self._before_close: list[Callable[[], Awaitable[None]]] = []
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
            broken = CannotReachError(f"cannot reach {self.target}: {_reason(error)}")
            broken.may_have_arrived = not isinstance(error, aiohttp.ClientConnectorError)
            raise broken from None

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

    def before_close(self, call: Callable[[], Awaitable[None]]) -> None:
        """Have ``close`` wait for ``call`` first: it may still have something to send."""
        self._before_close.append(call)

    async def close(self) -> None:
        """Close all connections. Closing twice is safe."""
        try:
            for call in self._before_close:
                await call()
        finally:
            # Also for somebody who does not wait that long.
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
        # As a look-up of the name does it: an empty or a too long label is none.
        (url.hostname or "").encode("idna")
    except ValueError:
        usable = False
    if not usable:
        hint = "" if "://" in text else "; it begins with http:// or https://"
        raise InvalidValueError(
            f"{text!r} is not a node's address, such as http://127.0.0.1:27000{hint}"
        )
    return text.rstrip("/")
