"""The part of the operator's API that is about mailboxes.

Not handled here: who may ask (``admin_server``), and the use cases (``mailbox_desk``).
"""

from __future__ import annotations

from edgistry.adapters.http import Request
from edgistry.codec import Document

from .admin_api import MAX_LIST
from .admin_requests import AdminRoute, body_of, integer, parameters_of
from .mailbox_api import RequestsNamed
from .mailbox_desk import MailboxDesk


def mailbox_admin_routes(desk: MailboxDesk) -> list[AdminRoute]:
    """Method, path and what answers it."""
    admin = _AdminMailbox(desk)
    return [
        ("GET", "/admin/mailboxes", admin.mailboxes),
        ("GET", "/admin/mailboxes/{device}", admin.mailbox),
        ("GET", "/admin/dead-requests", admin.dead),
        ("POST", "/admin/dead-requests/replay", admin.replay),
        ("POST", "/admin/dead-requests/purge", admin.purge),
    ]


class _AdminMailbox:
    """From requests to use cases."""

    def __init__(self, desk: MailboxDesk) -> None:
        self._desk = desk

    async def mailboxes(self, request: Request) -> Document:
        return self._desk.mailboxes(_limit(request))

    async def mailbox(self, request: Request) -> Document:
        return self._desk.mailbox(request.match["device"], _limit(request))

    async def dead(self, request: Request) -> Document:
        return self._desk.dead(_limit(request))

    async def replay(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, RequestsNamed)
        return await self._desk.replay(asked.ids, every=asked.every)

    async def purge(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, RequestsNamed)
        return await self._desk.purge(asked.ids, every=asked.every)


def _limit(request: Request) -> int:
    return integer(parameters_of(request, "limit"), "limit", default=100, low=1, high=MAX_LIST)
