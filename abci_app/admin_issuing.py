"""The part of the operator's API that is about capabilities.

Not handled here: who may ask (``admin_server``), and the use cases (``issuing_desk``).
"""

from __future__ import annotations

from edgistry.adapters.http import Request
from edgistry.codec import Document

from .admin_requests import AdminRoute, body_of, parameters_of
from .issuing_api import MintRequest, RevokeRequest
from .issuing_desk import IssuingDesk


def issuing_routes(desk: IssuingDesk) -> list[AdminRoute]:
    """Method, path and what answers it."""

    async def mint(request: Request) -> Document:
        parameters_of(request)
        return desk.mint(body_of(request, MintRequest))

    async def revoke(request: Request) -> Document:
        parameters_of(request)
        return await desk.revoke(body_of(request, RevokeRequest))

    return [
        ("POST", "/admin/capabilities", mint),
        ("POST", "/admin/capabilities/revoke", revoke),
    ]
