"""The part of the operator's API that is about what was asked of the node.

Not handled here: who may ask (``admin_server``), and keeping it (``query_audit``).
"""

from __future__ import annotations

from edgistry.adapters.http import Request
from edgistry.codec import Document
from edgistry.errors import ConfigError

from .admin_api import MAX_LIST
from .admin_requests import AdminRoute, integer, parameters_of
from .query_audit import QueryAudit


def audit_admin_routes(audit: QueryAudit | None) -> list[AdminRoute]:
    """Method, path and what answers it; ``None``: nothing is kept."""

    async def queries(request: Request) -> Document:
        parameters = parameters_of(request, "limit")
        limit = integer(parameters, "limit", default=100, low=1, high=MAX_LIST)
        if audit is None:
            raise ConfigError("this node keeps no questions: [audit] queries in node.toml is false")
        return audit.newest(limit)

    return [("GET", "/admin/queries", queries)]
