"""Granting capabilities on services to clients: the home node's decision (capability.md, *Grants*).

Rules kept here:

* Who gets what stands in node.toml: what the device's owner declared as ``read`` may be open to
  anyone, the rest is for clients that the operator names.
* Looking at an action's WooF shows what others have asked of it. So anyone may look at actions
  that change nothing only, and only where they may be called.
* Each capability is a root of its own under the device's key, with the least that serves: one
  object, its rights, one handler, the client, an end. Two clients' capabilities share nothing.
* Nothing in one tells which device it is for: the header says "the current epoch", objects and
  handlers depend on type and action alone, the end is a whole second, and it is veiled. So numbers
  of elements, which all callers share, are granted to nobody (capability.md).
* It ends a day after the privacy epoch at the latest: so long a request made in it may wait.
* What is not granted is refused with the reason; what is not there looks as it does to anybody.

Not handled here: transport (``http_grants``), other nodes' devices.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from edgistry import caveats as make
from edgistry.adapters import sodium
from edgistry.adapters.crypto import seal
from edgistry.capability_chain import Entry
from edgistry.codec import decode_json
from edgistry.errors import GrantRefusedError, InvalidValueError, LimitExceededError, NotFoundError
from edgistry.grants_api import (
    GRANT_PURPOSE,
    USES,
    Grant,
    GrantAnswer,
    GrantBody,
    Granted,
    Use,
    encode_grant,
    grant_service,
    seal_context,
)
from edgistry.issuer import Issuer
from edgistry.pairing import ActionOffer, ServiceOffer
from edgistry.requests_api import to_bytes, to_text
from edgistry.rights import Right
from edgistry.signed_request import MAX_BODY_BYTES, Client, SignedRequest, check_signed
from edgistry.transactions import Verify

from .config_guards import GrantsConfig
from .handle_opening import KeyWait, OpeningKeys, service_of_signer
from .pairing import Pairings

_CALL: Final = USES["call"]
_KEY_BYTES: Final = 32
_SECOND_US: Final = 1_000_000

OUTLIVES_EPOCH_US: Final = 24 * 3600 * _SECOND_US
"""So long after its privacy epoch a grant is good at most."""


class GrantDesk:
    """Grants on services of the paired devices, as ``policy`` says; ``keys`` open their handles.

    ``epoch_ends_us`` is when the privacy epoch ends (µs since 1970), ``None`` if there is none yet;
    ``draw`` gives that many random bytes.
    """

    def __init__(
        self,
        pairings: Pairings,
        policy: GrantsConfig,
        keys: OpeningKeys,
        *,
        epoch_ends_us: Callable[[], int | None] = lambda: None,
        verify: Verify = sodium.verify,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._pairings = pairings
        self._policy = policy
        self._epoch_ends_us = epoch_ends_us
        self._keys = keys
        self._arrivals = KeyWait(keys)
        self._verify = verify
        self._clock_us = clock_us
        self._draw = draw

    async def grant(self, request: SignedRequest) -> GrantAnswer:
        """Capabilities on the service that ``request`` names, sealed to the client who signed it.

        Raises:
            ClientSignatureError: it is not signed, or not lately.
            MalformedError, InvalidValueError, LimitExceededError: what is asked for is none.
            UnknownHandleError: the handle is not this client's, or no longer.
            NoEpochKeyError: the handle is of an epoch whose key is not here yet.
            NotFoundError: no such service here, or no such action.
            GrantRefusedError: the policy does not allow it.
        """
        now_us = self._clock_us()
        client = check_signed(request, now_us=now_us, verify=self._verify)
        body = decode_json(request.body, GrantBody, limit=MAX_BODY_BYTES)
        sealing_key = to_bytes(body.sealing_key, "sealing_key")
        if len(sealing_key) != _KEY_BYTES:
            raise InvalidValueError("sealing_key: an X25519 public key has 32 bytes")
        await self._arrivals.until_here(body.handle)
        record = service_of_signer(self._keys, body.handle, client.tag)
        grant, _ = self.granted_to(client, body, record, now_us=now_us)
        sealed = seal(
            sealing_key,
            encode_grant(grant),
            purpose=GRANT_PURPOSE,
            context=seal_context(client.tag, grant.service),
        )
        return GrantAnswer(sealed=to_text(sealed))

    def granted_to(
        self, client: Client, body: GrantBody, record: bytes, *, now_us: int
    ) -> tuple[Grant, ServiceOffer]:
        """What ``client`` gets of the service ``record``, which ``body`` names by its handle.

        Raises: as ``grant``, but for what is wrong with ``body`` itself.
        """
        if body.ttl_s > self._policy.max_ttl_s:
            raise LimitExceededError(
                f"this node grants for at most {self._policy.max_ttl_s} seconds"
            )
        found = self._pairings.by_record(record)
        if found is None:
            raise NotFoundError("this service can be found and not called: no paired device has it")
        paired, service = found
        not_after_us = end_of_grant(now_us, body.ttl_s, self._epoch_ends_us())
        wanted = decide(self._policy, service, body, client.id)
        grant = Grant(
            version=1,
            service=grant_service(body.handle),
            type=service.type,
            not_after_us=not_after_us,
            granted=tuple(
                self._granted(paired.issuer, service.type, action, rights, client, not_after_us)
                for action, rights in wanted
            ),
        )
        return grant, service

    def _granted(
        self,
        issuer: Issuer,
        service_type: str,
        action: ActionOffer,
        rights: Right,
        client: Client,
        not_after_us: int,
    ) -> Granted:
        is_call = bool(rights & _CALL)
        caveats = [make.client(client.id), make.not_after(not_after_us), make.VEIL]
        if is_call:
            caveats.append(make.handler(action.name))
        capability = issuer.mint(
            serial=int.from_bytes(self._draw(4), "big"),
            entries=(Entry(rights, f"{service_type}/{action.name}"),),
            caveats=caveats,
            hide_epoch=True,
        )
        return Granted(action=action.name, is_call=is_call, capability=capability.danger_bytes())


def end_of_grant(now_us: int, ttl_s: int, epoch_ends_us: int | None) -> int:
    """Until when a grant for ``ttl_s`` seconds is good: µs since 1970, a whole second.

    Not in the past, however far the clocks of block time and of this node are apart.
    """
    wanted_us = now_us + ttl_s * _SECOND_US
    if epoch_ends_us is not None:
        # An epoch that is over by its time lasts on until there is the next one.
        wanted_us = min(wanted_us, max(epoch_ends_us, now_us) + OUTLIVES_EPOCH_US)
    return max(wanted_us - wanted_us % _SECOND_US, now_us + 1)


def decide(
    policy: GrantsConfig, service: ServiceOffer, body: GrantBody, client_id: bytes
) -> list[tuple[ActionOffer, Right]]:
    """What the client gets: actions, each with the rights of one capability.

    Raises:
        NotFoundError: the service has no such action.
        GrantRefusedError: the policy grants nothing of it, or not all that was named.
    """
    actions = {action.name: action for action in service.actions}
    for name in body.actions:
        if name not in actions:
            raise NotFoundError(f"the service has no action {name[:40]!r}")
    is_named = client_id.hex() in policy.clients
    wanted = [
        action for name, action in actions.items() if not body.actions or name in body.actions
    ]
    granted = [action for action in wanted if is_named or _is_open(policy, action)]
    refused = [action.name for action in wanted if action not in granted]
    if not granted or (body.actions and refused):
        raise GrantRefusedError(
            f"this node does not grant {', '.join(refused)} to client {client_id.hex()}"
        )
    found = [
        (action, rights)
        for action in granted
        for rights in _rights(body.uses, may_look=is_named or action.read)
    ]
    if not found:
        raise GrantRefusedError("what others have asked of such actions is not shown to anyone")
    return found


def _is_open(policy: GrantsConfig, action: ActionOffer) -> bool:
    return policy.anyone == "all" or (policy.anyone == "read" and action.read)


def _rights(uses: Sequence[Use], *, may_look: bool) -> list[Right]:
    """The rights of each capability: one for calls, one for looking."""
    looking = USES["get"] if may_look and "get" in uses else Right(0)
    return [rights for rights in (_CALL if "call" in uses else Right(0), looking) if rights]
