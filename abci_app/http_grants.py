"""The part of the public API that is about grants.

Not handled here: who is granted what (whoever implements ``PublicGrants``), sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgistry.adapters.http import Handler, Request, Response, json_response
from edgistry.grants_api import GrantAnswer
from edgistry.signed_request import SignedRequest, read_signed

from .admin_requests import parameters_of


class PublicGrants(Protocol):
    """Grants on services, wherever their devices are. ``GrantDesk`` is one."""

    async def grant(self, request: SignedRequest) -> GrantAnswer:
        """Capabilities, sealed to the client who signed ``request``."""


def grant_handlers(grants: PublicGrants) -> Mapping[str, Handler]:
    """The operations on grants, by their names in ``edgistry.routes``."""

    async def grant(request: Request) -> Response:
        parameters_of(request)
        signed = read_signed(request.method, request.path, request.body, request.headers)
        return json_response(await grants.grant(signed))

    return {"grant": grant}
