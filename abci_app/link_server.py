"""The link: what a node answers over TLS, with the key that a pairing code or the registry pins.

Rules kept here:

* Bodies are canonical MessagePack, bounded; what is refused is a problem document.
* A device needs no certificate: what it may do follows from its code, or its capability.

Not handled here: pairing itself (``pairing_desk``), which keys are trusted (``edgistry.adapters.
tls``), what nodes ask of each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgistry.adapters.http import HttpServer, Request, Response, Route
from edgistry.api import ENVELOPE_CONTENT_TYPE
from edgistry.codec import encode
from edgistry.errors import MalformedError
from edgistry.pairing import (
    MAX_REQUEST_BYTES,
    MOVE_PATH,
    PAIR_PATH,
    UNPAIR_PATH,
    decode_request,
)

from .pairing_desk import PairingDesk

MAX_CONNECTIONS = 1024


def link_server(routes: Sequence[Route], *, body_limit: int = MAX_REQUEST_BYTES) -> HttpServer:
    """A server of the link; not yet listening."""
    return HttpServer(routes, body_limit=body_limit, max_connections=MAX_CONNECTIONS)


def pairing_routes(desk: PairingDesk) -> list[Route]:
    """What devices ask over the link."""

    async def pair(request: Request) -> Response:
        _check(request)
        return _packed(encode(await desk.pair(decode_request(request.body))))

    async def unpair(request: Request) -> Response:
        _check(request)
        return _packed(await desk.unpair(request.body))

    async def move(request: Request) -> Response:
        _check(request)
        return _packed(await desk.move(request.body))

    return [
        Route(method="POST", template=MOVE_PATH, handler=move),
        Route(method="POST", template=PAIR_PATH, handler=pair),
        Route(method="POST", template=UNPAIR_PATH, handler=unpair),
    ]


def _check(request: Request) -> None:
    if request.query:
        raise MalformedError("this path takes no query parameters")
    if len(request.body) > MAX_REQUEST_BYTES:
        raise MalformedError(f"more than {MAX_REQUEST_BYTES} bytes")


def _packed(body: bytes) -> Response:
    return Response(headers={"Content-Type": ENVELOPE_CONTENT_TYPE}, body=body)
