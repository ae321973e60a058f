"""Asking for grants: as a client with keys of its own, at any node.

Rules kept here:

* The request is signed, and the answer opens for nobody else. What comes back is accepted only if
  it is for the service that was asked for and names this client: a node on the way cannot put
  anything in its place that would be used.
* Keys are in no ``repr``.

Not handled here: where keys and capabilities are kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..api import JSON_CONTENT_TYPE, PROBLEM_CONTENT_TYPE
from ..codec import encode_json
from ..errors import BadReplyError, UnexpectedAnswerError
from ..grants_api import (
    DEFAULT_TTL_S,
    GRANT_PURPOSE,
    GRANTS_PATH,
    Grant,
    GrantAnswer,
    GrantBody,
    Use,
    grant_service,
    open_grant,
    seal_context,
)
from ..requests_api import to_bytes, to_text
from ..signed_request import NONCE_BYTES, client_tag, sign_request
from .clock import wall_us
from .crypto import (
    generate_sealing_key,
    generate_signing_key,
    open_sealed,
    public_key_of,
    sealing_public_key_of,
    signer,
)
from .http import HttpClient
from .problems import content_type_of, decode_answer, refusal_in


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKeys:
    """Who a client is: the key it signs with, and the key that grants are sealed to."""

    signing: bytes = field(repr=False)
    """Ed25519 seed, 32 bytes."""
    sealing: bytes = field(repr=False)
    """X25519 private key, 32 bytes."""

    @classmethod
    def generate(cls) -> ClientKeys:
        """New ones."""
        return cls(signing=generate_signing_key(), sealing=generate_sealing_key())

    @property
    def public_key(self) -> bytes:
        """What the client's signatures are checked with."""
        return public_key_of(self.signing)

    @property
    def tag(self) -> bytes:
        """16 bytes that name the client to nodes."""
        return client_tag(self.public_key)

    @property
    def id(self) -> bytes:
        """8 bytes that name it to devices."""
        return self.tag[:8]

    def signed_headers(self, method: str, path: str, body: bytes = b"") -> dict[str, str]:
        """The headers with which a request travels as this client's; ``path`` with its query."""
        signed = sign_request(
            method,
            path,
            body,
            client=self.public_key,
            sign=signer(self.signing),
            time_us=wall_us(),
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        return signed.headers()


async def request_grant(
    http: HttpClient,
    keys: ClientKeys,
    handle: str,
    *,
    uses: Sequence[Use] = ("call",),
    actions: Sequence[str] = (),
    ttl_s: int = DEFAULT_TTL_S,
) -> Grant:
    """Capabilities on the service ``handle``, for this client alone.

    Raises:
        CannotReachError, TimedOutError: the node does not answer.
        Refused: why nothing is granted.
        BadReplyError, SealError: what came back is not for this client and service.
    """
    service = grant_service(handle)
    body = encode_json(
        GrantBody(
            handle=handle,
            sealing_key=to_text(sealing_public_key_of(keys.sealing)),
            uses=tuple(uses),
            actions=tuple(actions),
            ttl_s=ttl_s,
        )
    )
    headers = {
        "Content-Type": JSON_CONTENT_TYPE,
        **keys.signed_headers("POST", GRANTS_PATH, body),
    }
    response = await http.request("POST", GRANTS_PATH, body=body, headers=headers)
    if content_type_of(response) == PROBLEM_CONTENT_TYPE:
        raise refusal_in(response)
    if response.status != 200:
        raise UnexpectedAnswerError(f"status {response.status} without a problem document")
    sealed = to_bytes(decode_answer(response, GrantAnswer).sealed, "sealed")
    context = seal_context(keys.tag, service)
    data = open_sealed(keys.sealing, sealed, purpose=GRANT_PURPOSE, context=context)
    grant = open_grant(data, client_id=keys.id)
    if grant.service != service:
        raise BadReplyError("a grant on another service than the one that was asked for")
    return grant
