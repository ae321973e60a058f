"""The operator's API over ``run/admin.sock``: every write of this node, and what only its owner
may see.

Rules kept here:

* Only the user the node runs as, and root, are answered: the kernel says who is at the other end.
  A request that came any other way (TCP has no peer uid) is refused.
* The documents of ``admin_api``, nothing else; unknown parameters are refused.

Not handled here: the socket and its permissions (``edgistry.adapters.http``), the use cases
(``service``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from edgistry.adapters.http import Handler, HttpServer, Request, Response, Route, json_response
from edgistry.codec import Document, decode_json
from edgistry.errors import InvalidValueError, MalformedError, PermissionRefusedError

from .admin_api import (
    MAX_ADMIN_BODY_BYTES,
    MAX_LIST,
    MAX_SETTLED_WAIT_S,
    RegionPutRequest,
    RegisterRequest,
    WithdrawRequest,
)
from .service import NodeService

T = TypeVar("T", bound=Document)

ROOT_UID = 0


def admin_server(service: NodeService) -> HttpServer:
    """A server of the operator's API; not yet listening."""
    return HttpServer(admin_routes(service), body_limit=MAX_ADMIN_BODY_BYTES, max_connections=64)


def admin_routes(service: NodeService, *, own_uid: int | None = None) -> list[Route]:
    """One route for each thing an operator can ask; ``own_uid`` defaults to this process's."""
    allowed = {ROOT_UID, os.getuid() if own_uid is None else own_uid}
    admin = _Admin(service)
    return [
        Route(method=method, template=path, handler=_guarded(handler, allowed))
        for method, path, handler in (
            ("POST", "/admin/devices", admin.register),
            ("GET", "/admin/devices", admin.devices),
            ("POST", "/admin/devices/withdraw", admin.withdraw),
            ("POST", "/admin/regions", admin.region_put),
            ("GET", "/admin/regions", admin.region_list),
            ("GET", "/admin/regions/{name}", admin.region_show),
            ("GET", "/admin/settled", admin.settled),
            ("GET", "/admin/dead-letters", admin.dead_letters),
            ("GET", "/admin/status", admin.status),
            ("GET", "/admin/ready", admin.ready),
        )
    ]


def _guarded(handler: Callable[[Request], Awaitable[Document]], allowed: set[int]) -> Handler:
    async def guarded(request: Request) -> Response:
        if request.peer_uid not in allowed:
            raise PermissionRefusedError("this socket answers only the user the node runs as")
        return json_response(await handler(request))

    return guarded


class _Admin:
    """From requests to use cases."""

    def __init__(self, service: NodeService) -> None:
        self._service = service

    async def register(self, request: Request) -> Document:
        _parameters(request)
        return await self._service.register(_body(request, RegisterRequest).rows)

    async def devices(self, request: Request) -> Document:
        given = _parameters(request, "after", "limit")
        limit = _integer(given, "limit", default=MAX_LIST, low=1, high=MAX_LIST)
        return self._service.registrar.page(after=given.get("after"), limit=limit)

    async def withdraw(self, request: Request) -> Document:
        _parameters(request)
        return await self._service.withdraw(_body(request, WithdrawRequest).handles)

    async def region_put(self, request: Request) -> Document:
        _parameters(request)
        asked = _body(request, RegionPutRequest)
        return await self._service.named_regions.put(asked.name, asked.geojson)

    async def region_list(self, request: Request) -> Document:
        _parameters(request)
        return self._service.regions()

    async def region_show(self, request: Request) -> Document:
        _parameters(request)
        return self._service.named_regions.show(request.match["name"])

    async def settled(self, request: Request) -> Document:
        given = _parameters(request, "first", "last", "timeout_s")
        return await self._service.settled(
            first=_integer(given, "first", default=1, low=0),
            last=_integer(given, "last", default=0, low=0),
            timeout_s=_seconds(given, "timeout_s", default=0.0, high=MAX_SETTLED_WAIT_S),
        )

    async def dead_letters(self, request: Request) -> Document:
        given = _parameters(request, "limit")
        return self._service.dead_letters(
            _integer(given, "limit", default=100, low=1, high=MAX_LIST)
        )

    async def status(self, request: Request) -> Document:
        _parameters(request)
        return self._service.status()

    async def ready(self, request: Request) -> Document:
        _parameters(request)
        return self._service.ready()[1]


def _body(request: Request, kind: type[T]) -> T:
    return decode_json(request.body, kind, limit=MAX_ADMIN_BODY_BYTES)


def _parameters(request: Request, *known: str) -> Mapping[str, str]:
    for name in request.query:
        if name not in known:
            raise MalformedError(f"unknown query parameter {name[:50]!r}")
    return request.query


def _integer(
    given: Mapping[str, str], name: str, *, default: int, low: int, high: int = (1 << 63) - 1
) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise MalformedError(f"{name}: {text[:40]!r} is not a whole number")
    if not low <= int(text) <= high:
        raise InvalidValueError(f"{name}: {text} is not between {low} and {high}")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, *, default: float, high: float) -> float:
    text = given.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        raise MalformedError(f"{name}: {text[:40]!r} is not a number") from None
    if not (math.isfinite(value) and 0 <= value <= high):
        raise InvalidValueError(f"{name}: {text[:40]} is not between 0 and {high:g}")
    return value
