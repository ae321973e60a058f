"""The part of the public API that is about grants.

Not handled here: who is granted what (whoever implements ``PublicGrants``), sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgistry.adapters.http import Handler, Request, Response, json_response
from edgistry.grants_api import GrantAnswer
from edgistry.signed_request import SignedRequest

from .admin_requests import parameters_of
from .http_signed import signed_request


class PublicGrants(Protocol):
    """Grants on services, wherever their devices are. ``GrantDesk`` is one."""

    async def grant(self, request: SignedRequest) -> GrantAnswer:
        """Capabilities, sealed to the client who signed ``request``."""


def grant_handlers(grants: PublicGrants) -> Mapping[str, Handler]:
    """The operations on grants, by their names in ``edgistry.routes``."""

    async def grant(request: Request) -> Response:
        parameters_of(request)
        return json_response(await grants.grant(signed_request(request)))

    return {"grant": grant}
