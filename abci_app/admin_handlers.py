"""The part of the operator's API that is about handlers and dead letters.

Not handled here: who may ask (``admin_server``), and the use cases (``handler_desk``).
"""

from __future__ import annotations

from edgistry.adapters.http import Request
from edgistry.codec import Document

from .admin_api import MAX_LIST
from .admin_requests import AdminRoute, body_of, integer, parameters_of
from .handler_desk import HandlerDesk
from .handlers_api import LettersRequest


def handler_routes(desk: HandlerDesk) -> list[AdminRoute]:
    """Method, path and what answers it."""
    admin = _AdminHandlers(desk)
    return [
        ("GET", "/admin/handlers", admin.handlers),
        ("GET", "/admin/dead-letters", admin.letters),
        ("GET", "/admin/dead-letters/{id}", admin.letter),
        ("POST", "/admin/dead-letters/replay", admin.replay),
        ("POST", "/admin/dead-letters/purge", admin.purge),
    ]


class _AdminHandlers:
    """From requests to use cases."""

    def __init__(self, desk: HandlerDesk) -> None:
        self._desk = desk

    async def handlers(self, request: Request) -> Document:
        parameters_of(request)
        return self._desk.handlers()

    async def letters(self, request: Request) -> Document:
        given = parameters_of(request, "limit")
        return self._desk.letters(integer(given, "limit", default=100, low=1, high=MAX_LIST))

    async def letter(self, request: Request) -> Document:
        parameters_of(request)
        return self._desk.letter(request.match["id"])

    async def replay(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, LettersRequest)
        return await self._desk.replay(asked.ids, every=asked.every)

    async def purge(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, LettersRequest)
        return await self._desk.purge(asked.ids, every=asked.every)
