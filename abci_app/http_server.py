"""The node's public HTTP API: routes over a node's use cases.

Rules kept here: what needs no capability is read-only; a parameter that the operation does not
know is refused; exactly the operations of ``edgistry.routes`` are served, and a missing handler
stops the start, not a request.

Not handled here: sockets and limits (``edgistry.adapters.http``), reading a query
(``edgistry.discover_query``), who signed it (``http_signed``), answering it (whoever implements
``PublicNode``), authority over WooFs (whoever implements ``PublicWoofs``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

from edgistry.adapters.http import Handler, HttpServer, Request, Response, Route, json_response
from edgistry.api import (
    ENVELOPE_CONTENT_TYPE,
    JSON_CONTENT_TYPE,
    MAX_DISCOVER_BYTES,
    METRICS_CONTENT_TYPE,
    DiscoverAnswer,
    DiscoverQuery,
    HealthAnswer,
    ReadyAnswer,
    RegionList,
    StatusAnswer,
)
from edgistry.codec import encode_json
from edgistry.discover_query import parse_discover_body, parse_discover_parameters
from edgistry.envelope import MAX_ENVELOPE_BYTES
from edgistry.errors import MalformedError, NoRegistryError
from edgistry.event_stream import EVENT_CONTENT_TYPE
from edgistry.openapi import openapi_document
from edgistry.routes import OPERATIONS
from edgistry.signed_request import Client
from edgistry.watch_api import WatchQuery, parse_height, parse_watch_body, parse_watch_parameters

from .http_signed import Signers
from .metrics import NodeMetrics

Around = Callable[[str, Handler], Handler]
"""From an operation's name and handler to what is called in its place."""

_EVENT_HEADERS = {"Content-Type": EVENT_CONTENT_TYPE, "Cache-Control": "no-store"}


class PublicNode(Protocol):
    """What the public API needs from a node. All of it reads the last committed state."""

    async def discover(self, query: DiscoverQuery, client: Client | None) -> DiscoverAnswer:
        """Services for ``client``, counts for nobody.

        Waits for ``query.min_height`` up to ``MIN_HEIGHT_WAIT_S``.

        Raises:
            UnknownRegionError, InvalidValueError, LimitExceededError, MalformedError (a cursor
            or a polygon that is none), UnknownCursorError, NoEpochKeyError, NotYetError.
        """

    async def watch(self, query: WatchQuery, client: Client) -> AsyncGenerator[bytes, None]:
        """The events of a stream of changes; raises as ``Watcher.watch``."""

    def regions(self) -> RegionList: ...

    def status(self) -> StatusAnswer: ...

    def ready(self) -> tuple[bool, ReadyAnswer]:
        """Whether reads can be served, and the document that says so."""


class PublicWoofs(Protocol):
    """What the public API needs of the WooFs. ``WoofServer`` is one."""

    async def answer(self, data: bytes) -> bytes:
        """The reply to the request in ``data``, whatever these bytes are."""

    async def open_stream(
        self, data: bytes, *, last_seen: int | None = None
    ) -> bytes | AsyncGenerator[bytes, None]:
        """The events of a WooF from where the scan in ``data`` begins, or behind ``last_seen``;
        or a reply that refuses.

        Raises:
            BusyError: too many are open.
        """


def public_server(
    node: PublicNode,
    woofs: PublicWoofs,
    *,
    version: str,
    metrics: NodeMetrics | None = None,
    devices: Mapping[str, Handler] | None = None,
    signers: Signers | None = None,
    around: Around | None = None,
) -> HttpServer:
    """A server of the public API of ``node``, counting into ``metrics``; not yet listening.

    ``devices`` are the operations on requests to devices; without them there are no devices here.
    ``signers`` tells who asks.
    """
    counted = metrics or NodeMetrics()
    routes = public_routes(
        node,
        woofs,
        version=version,
        metrics=counted,
        devices=devices,
        signers=signers,
        around=around,
    )
    return HttpServer(routes, observe=counted.observe, body_limit=MAX_ENVELOPE_BYTES)


def public_routes(
    node: PublicNode,
    woofs: PublicWoofs,
    *,
    version: str,
    metrics: NodeMetrics,
    devices: Mapping[str, Handler] | None = None,
    signers: Signers | None = None,
    around: Around | None = None,
) -> list[Route]:
    """One route for each operation of the API; ``around`` puts something around its handler."""
    handlers = {
        **_search_handlers(node, signers or Signers()),
        **_handlers(node, version=version, metrics=metrics),
        **woof_handlers(woofs),
        **_NO_DEVICES,
        **(devices or {}),
    }
    if around is not None:
        handlers = {name: around(name, handler) for name, handler in handlers.items()}
    return [
        Route(method=each.method, template=each.path, handler=handlers[each.name])
        for each in OPERATIONS
    ]


async def _no_devices(request: Request) -> Response:
    raise NoRegistryError("no devices are at home here")


_NO_DEVICES: Mapping[str, Handler] = dict.fromkeys(
    (
        "exchange",
        "request_submit",
        "request_fetch",
        "request_cancel",
        "request_acknowledge",
        "grant",
        "any_grant",
    ),
    _no_devices,
)


def woof_handlers(woofs: PublicWoofs) -> Mapping[str, Handler]:
    """The operations on WooFs, by their names in ``edgistry.routes``."""

    async def woof(request: Request) -> Response:
        _refuse_parameters(request)
        reply = await woofs.answer(request.body)
        return Response(headers={"Content-Type": ENVELOPE_CONTENT_TYPE}, body=reply)

    async def woof_stream(request: Request) -> Response:
        _refuse_parameters(request)
        opened = await woofs.open_stream(request.body, last_seen=_last_seen(request))
        if isinstance(opened, bytes):
            return Response(headers={"Content-Type": ENVELOPE_CONTENT_TYPE}, body=opened)
        return Response(headers=_EVENT_HEADERS, stream=opened)

    return {"woof": woof, "woof_stream": woof_stream}


def _last_seen(request: Request) -> int | None:
    """The number of the last element that the reader of a stream has seen, if it says so."""
    text = request.headers.get("Last-Event-ID")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise MalformedError(f"Last-Event-ID: {text[:40]!r} is not the number of an element")
    return int(text)


def _search_handlers(node: PublicNode, signers: Signers) -> Mapping[str, Handler]:
    """The operations that answer who signs with handles."""

    async def discover(request: Request) -> Response:
        query = parse_discover_parameters(request.query)
        return json_response(await node.discover(query, signers.found(request)))

    async def discover_by_body(request: Request) -> Response:
        _refuse_parameters(request)
        client = signers.found(request, limit=MAX_DISCOVER_BYTES)
        return json_response(await node.discover(parse_discover_body(request.body), client))

    async def watch(request: Request) -> Response:
        query = _resumed(parse_watch_parameters(request.query), request)
        if request.method == "HEAD":
            return Response(headers=_EVENT_HEADERS)
        stream = await node.watch(query, signers.needed(request))
        return Response(headers=_EVENT_HEADERS, stream=stream)

    async def watch_by_body(request: Request) -> Response:
        _refuse_parameters(request)
        client = signers.needed(request, limit=MAX_DISCOVER_BYTES)
        query = _resumed(parse_watch_body(request.body), request)
        return Response(headers=_EVENT_HEADERS, stream=await node.watch(query, client))

    return {
        "discover": discover,
        "discover_by_body": discover_by_body,
        "watch": watch,
        "watch_by_body": watch_by_body,
    }


def _handlers(node: PublicNode, *, version: str, metrics: NodeMetrics) -> Mapping[str, Handler]:
    description = encode_json(openapi_document(version))

    async def regions(request: Request) -> Response:
        _refuse_parameters(request)
        return json_response(node.regions())

    async def status(request: Request) -> Response:
        _refuse_parameters(request)
        return json_response(node.status())

    async def health(request: Request) -> Response:
        _refuse_parameters(request)
        return json_response(HealthAnswer(ok=True))

    async def ready(request: Request) -> Response:
        _refuse_parameters(request)
        can_serve, answer = node.ready()
        return json_response(answer, status=200 if can_serve else 503)

    async def metrics_text(request: Request) -> Response:
        _refuse_parameters(request)
        text = metrics.render(node.status(), node.ready()[1])
        return Response(headers={"Content-Type": METRICS_CONTENT_TYPE}, body=text)

    async def openapi(request: Request) -> Response:
        _refuse_parameters(request)
        return Response(headers={"Content-Type": JSON_CONTENT_TYPE}, body=description)

    return {
        "regions": regions,
        "status": status,
        "health": health,
        "ready": ready,
        "metrics": metrics_text,
        "openapi": openapi,
    }


def _resumed(query: WatchQuery, request: Request) -> WatchQuery:
    """``query`` behind the last event that the reader has seen, if it says so."""
    text = request.headers.get("Last-Event-ID")
    if text is None:
        return query
    return dataclasses.replace(query, since=parse_height("Last-Event-ID", text))


def _refuse_parameters(request: Request) -> None:
    if request.query:
        name = next(iter(request.query))
        raise MalformedError(f"unknown query parameter {name[:50]!r}; this path takes none")
