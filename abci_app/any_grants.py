"""Grants on services that an entry node chose for a client: the home node's part of anycast.

Rules kept here:

* Everything that a client signed is checked here again, whoever passes it on. What the home node
  grants, it grants as for a service of the client's own choice.
* The service has the type that the client asked for; that it lies in the area is the entry node's
  word, which could as well have sent the client anywhere.
* The grant names the service by its alias alone.

Not handled here: who is chosen (``any_desk``), what is granted to whom (``grants``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from edgistry.adapters import sodium
from edgistry.adapters.crypto import seal
from edgistry.anycast_api import (
    ANY_GRANT_PURPOSE,
    AnyGrantAnswer,
    SealedAny,
    encode_sealed,
    read_any_body,
    sealing_key_of,
)
from edgistry.errors import NotFoundError
from edgistry.grants_api import GrantBody, encode_grant, seal_context
from edgistry.handles import parse_handle
from edgistry.requests_api import to_text
from edgistry.signed_request import check_signed
from edgistry.transactions import Verify

from .grants import GrantDesk
from .peer_api import PassedAnyGrant


class AnyGrants(Protocol):
    """Who grants on a service that was chosen: the home node's desk, or the link to it."""

    async def any_grant(self, passed: PassedAnyGrant) -> AnyGrantAnswer:
        """The alias, and what is granted, sealed."""


class AnyGrantDesk:
    """Implements ``AnyGrants`` for this node's services, by what ``grants`` decides."""

    def __init__(
        self,
        grants: GrantDesk,
        *,
        verify: Verify = sodium.verify,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._grants = grants
        self._verify = verify
        self._clock_us = clock_us

    async def any_grant(self, passed: PassedAnyGrant) -> AnyGrantAnswer:
        """Capabilities on the service that was chosen, sealed to the client who signed.

        Raises:
            ClientSignatureError: it is not signed, or not lately.
            MalformedError, InvalidValueError, LimitExceededError: what is asked for is none.
            NotFoundError: no such service here, or it is of another type, or has no such action.
            GrantRefusedError: the policy does not allow it.
        """
        now_us = self._clock_us()
        client = check_signed(passed.request, now_us=now_us, verify=self._verify)
        body, _ = read_any_body(passed.request)
        handle = parse_handle(passed.handle).text
        wanted = GrantBody(
            handle=handle,
            sealing_key=body.sealing_key,
            uses=body.uses,
            actions=body.actions,
            ttl_s=body.ttl_s,
        )
        grant, service = self._grants.granted_to(client, wanted, passed.service, now_us=now_us)
        if service.type != body.type:
            raise NotFoundError("there is no service of this type with this handle here")
        granted = {each.action for each in grant.granted}
        reads = tuple(
            action.name for action in service.actions if action.read and action.name in granted
        )
        sealed = seal(
            sealing_key_of(body.sealing_key),
            encode_sealed(SealedAny(version=1, grant=encode_grant(grant), reads=reads)),
            purpose=ANY_GRANT_PURPOSE,
            context=seal_context(client.tag, grant.service),
        )
        return AnyGrantAnswer(handle=handle, sealed=to_text(sealed))
