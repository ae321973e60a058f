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

import os
from collections.abc import Sequence

from edgistry.adapters.http import Handler, HttpServer, Request, Response, Route, json_response
from edgistry.codec import Document
from edgistry.errors import NoRegistryError, PermissionRefusedError

from .admin_api import (
    MAX_ADMIN_BODY_BYTES,
    MAX_LIST,
    MAX_SETTLED_WAIT_S,
    ForgetWithdrawnAnswer,
    ForgetWithdrawnRequest,
    RegionPutRequest,
    RegisterRequest,
    WithdrawRequest,
)
from .admin_handlers import handler_routes
from .admin_requests import AdminRoute, Answering, body_of, integer, parameters_of, seconds
from .handler_desk import HandlerDesk
from .service import NodeService

ROOT_UID = 0


def admin_server(
    service: NodeService | None,
    desk: HandlerDesk | None = None,
    *,
    more: Sequence[AdminRoute] = (),
) -> HttpServer:
    """A server of the operator's API; not yet listening. A host has no ``service``."""
    routes = admin_routes(service, desk, more=more)
    return HttpServer(routes, body_limit=MAX_ADMIN_BODY_BYTES, max_connections=64)


def admin_routes(
    service: NodeService | None,
    desk: HandlerDesk | None = None,
    *,
    more: Sequence[AdminRoute] = (),
    own_uid: int | None = None,
) -> list[Route]:
    """One route for each thing an operator can ask; ``own_uid`` defaults to this process's.

    A host has no ``service``: what is about devices and regions is refused there. Without a
    ``desk`` there is nothing to ask about handlers and dead letters. ``more`` are routes of other
    parts.
    """
    allowed = {ROOT_UID, os.getuid() if own_uid is None else own_uid}
    routes = [
        *_registry_routes(service),
        *(handler_routes(desk) if desk is not None else ()),
        *more,
    ]
    return [
        Route(method=method, template=path, handler=_guarded(handler, allowed))
        for method, path, handler in routes
    ]


def _registry_routes(service: NodeService | None) -> list[AdminRoute]:
    admin = _Admin(service)
    return [
        ("POST", "/admin/devices", admin.register),
        ("GET", "/admin/devices", admin.devices),
        ("POST", "/admin/devices/withdraw", admin.withdraw),
        ("POST", "/admin/devices/forget-withdrawn", admin.forget_withdrawn),
        ("POST", "/admin/regions", admin.region_put),
        ("GET", "/admin/regions", admin.region_list),
        ("GET", "/admin/regions/{name}", admin.region_show),
        ("GET", "/admin/settled", admin.settled),
        ("GET", "/admin/status", admin.status),
        ("GET", "/admin/ready", admin.ready),
    ]


def _guarded(handler: Answering, allowed: set[int]) -> Handler:
    async def guarded(request: Request) -> Response:
        if request.peer_uid not in allowed:
            raise PermissionRefusedError("this socket answers only the user the node runs as")
        return json_response(await handler(request))

    return guarded


class _Admin:
    """From requests to use cases."""

    def __init__(self, service: NodeService | None) -> None:
        self._registry = service

    @property
    def _service(self) -> NodeService:
        if self._registry is None:
            raise NoRegistryError("this is a host: it has neither devices nor regions")
        return self._registry

    async def register(self, request: Request) -> Document:
        parameters_of(request)
        return await self._service.register(body_of(request, RegisterRequest).rows)

    async def devices(self, request: Request) -> Document:
        given = parameters_of(request, "after", "limit")
        limit = integer(given, "limit", default=MAX_LIST, low=1, high=MAX_LIST)
        return self._service.registrar.page(after=given.get("after"), limit=limit)

    async def withdraw(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, WithdrawRequest)
        return await self._service.withdraw(asked.handles, forget=asked.forget)

    async def forget_withdrawn(self, request: Request) -> Document:
        parameters_of(request)
        body_of(request, ForgetWithdrawnRequest)
        return ForgetWithdrawnAnswer(forgotten=await self._service.registrar.forget_withdrawn())

    async def region_put(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, RegionPutRequest)
        return await self._service.named_regions.put(asked.name, asked.geojson)

    async def region_list(self, request: Request) -> Document:
        parameters_of(request)
        return self._service.regions()

    async def region_show(self, request: Request) -> Document:
        parameters_of(request)
        return self._service.named_regions.show(request.match["name"])

    async def settled(self, request: Request) -> Document:
        given = parameters_of(request, "first", "last", "timeout_s")
        return await self._service.settled(
            first=integer(given, "first", default=1, low=0),
            last=integer(given, "last", default=0, low=0),
            timeout_s=seconds(given, "timeout_s", default=0.0, high=MAX_SETTLED_WAIT_S),
        )

    async def status(self, request: Request) -> Document:
        parameters_of(request)
        return self._service.status()

    async def ready(self, request: Request) -> Document:
        parameters_of(request)
        return self._service.ready()[1]
