"""Grants to clients: what is asked, and what comes back, sealed to the one who asked.

Rules kept here:

* Pure. One capability for each thing granted: a call of an action (PUT and INVOKE, with the one
  handler it may name), or a look at what was asked of an action last (GET). So a capability says
  all that is needed to use it, and no two of them can be combined into more.
* A client accepts only what is for itself: each capability names its id (privacy.md).
* A grant names its service by the handle that it was asked for with, so that two clients who
  compare theirs do not learn that they have the same service.

Not handled here: who is granted what (the home node's policy), sealing itself.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from .capability import Capability
from .codec import Answer, Document, Meta, Wire, decode, encode
from .errors import BadReplyError, MalformedError, TooLargeError
from .requests_api import to_bytes
from .rights import Right
from .transactions import MAX_ACTIONS, Bytes16

GRANTS_PATH: Final = "/v1/grants"
GRANT_PURPOSE: Final = b"grant"
DEFAULT_TTL_S: Final = 24 * 3600
MAX_TTL_S: Final = 10 * 365 * 24 * 3600
MAX_GRANT_BYTES: Final = 64 * 1024

Use = Literal["call", "get"]
USES: Final[dict[Use, Right]] = {"call": Right.PUT | Right.INVOKE, "get": Right.GET}
"""What may be asked for, and the rights it takes."""


class GrantBody(Document):
    """A wish for capabilities on one service."""

    handle: Annotated[str, Meta(description="The service, as discovery names it.")]
    sealing_key: Annotated[
        str, Meta(description="X25519 public key to seal the answer to, base64url.")
    ]
    uses: Annotated[
        tuple[Use, ...],
        Meta(
            min_length=1,
            max_length=len(USES),
            description="call: have actions carried out. get: read what was asked of them last.",
        ),
    ] = ("call",)
    actions: Annotated[
        tuple[str, ...],
        Meta(max_length=MAX_ACTIONS, description="Which actions; empty: all that are granted."),
    ] = ()
    ttl_s: Annotated[
        int, Meta(ge=1, le=MAX_TTL_S, description="How long the capabilities live, seconds.")
    ] = DEFAULT_TTL_S


class GrantAnswer(Answer):
    """Capabilities that only the one who asked can read."""

    sealed: Annotated[str, Meta(description="A sealed grant, base64url.")]


class Granted(Wire):
    """One capability. Secret."""

    action: Annotated[str, Meta(min_length=1, max_length=32)]
    is_call: bool
    """Whether it is for calls, or for looking."""
    capability: Annotated[bytes, Meta(min_length=33, max_length=2048 + 32)]
    """In the delegable form."""

    def __repr__(self) -> str:
        return f"<Granted {'call' if self.is_call else 'look at'} {self.action}>"


class Grant(Wire):
    """What is sealed."""

    version: Annotated[int, Meta(ge=1, le=1)]
    service: Bytes16
    """What ``grant_service`` makes of the handle that was asked for."""
    type: Annotated[str, Meta(min_length=1, max_length=32)]
    not_after_us: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    granted: Annotated[tuple[Granted, ...], Meta(min_length=1, max_length=2 * MAX_ACTIONS)]


def grant_service(handle: str) -> bytes:
    """16 bytes that stand for the service with the text ``handle`` in a grant."""
    return hashlib.sha256(to_bytes(handle, "handle")).digest()[:16]


def seal_context(client_tag: bytes, service: bytes) -> bytes:
    """What a sealed grant is bound to, beside its key: the client and the service."""
    return client_tag + service


def encode_grant(grant: Grant) -> bytes:
    """The bytes to seal."""
    return encode(grant)


def open_grant(data: bytes, *, client_id: bytes) -> Grant:
    """The grant in what was unsealed, if all of it is for the client with that id.

    Raises:
        BadReplyError: it is none, or not for this client.
    """
    try:
        grant = decode(data, Grant, limit=MAX_GRANT_BYTES)
        chains = [Capability.from_bytes(each.capability).chain for each in grant.granted]
    except (MalformedError, TooLargeError) as error:
        raise BadReplyError(f"not a grant: {error}") from None
    if any(list(chain.clients) != [client_id] for chain in chains):
        raise BadReplyError("a capability that is for another client, or for anybody")
    return grant
