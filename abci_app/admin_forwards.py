"""The part of the operator's API that is about forwarding.

Not handled here: who may ask (``admin_server``), and the use cases (``forward_desk``).
"""

from __future__ import annotations

from edgistry.adapters.http import Request
from edgistry.codec import Document

from .admin_requests import AdminRoute, body_of, parameters_of
from .forward_desk import ForwardDesk
from .forwards_api import SettleRequest


def forward_routes(desk: ForwardDesk) -> list[AdminRoute]:
    """Method, path and what answers it."""

    async def forwards(request: Request) -> Document:
        parameters_of(request)
        return desk.forwards()

    async def settle(request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, SettleRequest)
        return desk.settle(asked.woof, asked.through)

    return [
        ("GET", "/admin/forwards", forwards),
        ("POST", "/admin/forwards/settle", settle),
    ]
