"""Asking for any service of a type in an area: what is asked, and what comes back (privacy.md).

Rules kept here:

* Pure. The area is read by the checks of discovery; type and actions are named, so that what is
  granted fits whichever service is chosen.
* The service that was chosen has a name for this choice alone, an alias handle. What was granted
  on it is sealed to the client, with which of its actions only read: a node on the way can tell
  neither, nor make a client repeat what changes something.
* A client accepts only a grant that names it and the handle that came with it.

Not handled here: choosing (the entry node), minting (the home node), sealing itself.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

from .api import Area, DiscoverBody, DiscoverQuery
from .codec import Answer, Document, Meta, Wire, decode, decode_json, encode
from .discover_query import check_discover_body, discover_body
from .errors import BadReplyError, InvalidValueError, MalformedError, TooLargeError
from .grants_api import (
    DEFAULT_TTL_S,
    MAX_GRANT_BYTES,
    MAX_TTL_S,
    USES,
    Grant,
    Use,
    grant_service,
    open_grant,
)
from .handles import HANDLE_CHARACTERS, parse_handle_text
from .requests_api import to_bytes
from .signed_request import MAX_BODY_BYTES, SignedRequest
from .transactions import MAX_ACTIONS, check_service_names

ANY_GRANT_PATH: Final = "/v1/any/grant"
ANY_GRANT_PURPOSE: Final = b"any grant"
MAX_AVOIDED: Final = 16
_KEY_BYTES: Final = 32


class AnyGrantBody(Document):
    """A wish for capabilities on any one service of a type in an area."""

    type: Annotated[str, Meta(description="What it is to be, for instance `thermometer`.")]
    sealing_key: Annotated[
        str, Meta(description="X25519 public key to seal the answer to, base64url.")
    ]
    actions: Annotated[
        tuple[str, ...],
        Meta(min_length=1, max_length=MAX_ACTIONS, description="What it is to be able to do."),
    ]
    region: str | None = None
    cell: str | None = None
    near: Annotated[
        str | tuple[float, float] | None,
        Meta(description="`[latitude, longitude]`, or the text `LAT,LON`, degrees."),
    ] = None
    radius_km: Annotated[float | None, Meta(description="Goes with near.")] = None
    polygon: Annotated[
        dict[str, Any] | None,
        Meta(description="A GeoJSON Polygon or MultiPolygon, alone or as a Feature."),
    ] = None
    uses: Annotated[
        tuple[Use, ...],
        Meta(
            min_length=1,
            max_length=len(USES),
            description="As for a grant on a service of your choice.",
        ),
    ] = ("call",)
    ttl_s: Annotated[
        int, Meta(ge=1, le=MAX_TTL_S, description="How long the capabilities live, seconds.")
    ] = DEFAULT_TTL_S
    avoid: Annotated[
        tuple[Annotated[str, Meta(max_length=HANDLE_CHARACTERS)], ...],
        Meta(max_length=MAX_AVOIDED, description="Alias handles of services that will not do."),
    ] = ()


class AnyGrantAnswer(Answer):
    """A service was chosen: its alias, and capabilities that only the one who asked can read."""

    handle: Annotated[str, Meta(description="Alias handle of the service, for this use.")]
    sealed: Annotated[str, Meta(description="A sealed grant, base64url.")]


class SealedAny(Wire):
    """What is sealed. Secret."""

    version: Annotated[int, Meta(ge=1, le=1)]
    grant: Annotated[bytes, Meta(max_length=MAX_GRANT_BYTES)]
    """As ``grants_api.encode_grant`` writes it; its service is ``alias_name`` of the handle."""
    reads: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=32)], ...], Meta(max_length=MAX_ACTIONS)
    ]
    """Those of the granted actions that change nothing."""

    def __repr__(self) -> str:
        return f"<SealedAny, of which {len(self.reads)} only read>"


def alias_name(handle: str) -> bytes:
    """The 16 bytes that a grant names the service by whose handle has this text.

    Raises:
        MalformedError: no handle.
    """
    parse_handle_text(handle)
    return grant_service(handle)


def read_any_body(request: SignedRequest) -> tuple[AnyGrantBody, DiscoverQuery]:
    """What ``request`` asks for, and the query that finds who may be chosen.

    Raises:
        MalformedError, InvalidValueError, LimitExceededError, UnknownRegionError: it asks for
            nothing that there could be, or was signed for another path.
    """
    if (request.method, request.path) != ("POST", ANY_GRANT_PATH):
        raise MalformedError("this was signed for another path")
    body = decode_json(request.body, AnyGrantBody, limit=MAX_BODY_BYTES)
    check_service_names(body.type, body.actions)
    sealing_key_of(body.sealing_key)
    fields = {name: getattr(body, name) for name in _AREA_FIELDS}
    return body, check_discover_body(DiscoverBody(type=body.type, **fields))


def sealing_key_of(text: str) -> bytes:
    """The key that an answer is to be sealed to.

    Raises:
        MalformedError, InvalidValueError: it is none.
    """
    key = to_bytes(text, "sealing_key")
    if len(key) != _KEY_BYTES:
        raise InvalidValueError("sealing_key: an X25519 public key has 32 bytes")
    return key


def area_name(area: Area) -> bytes:
    """32 bytes that are the same for the same area, however it was written."""
    return hashlib.sha256(discover_body(DiscoverQuery(area=area))).digest()


def encode_sealed(sealed: SealedAny) -> bytes:
    """The bytes to seal."""
    return encode(sealed)


def open_any_grant(data: bytes, *, handle: str, client_id: bytes) -> tuple[Grant, tuple[str, ...]]:
    """The grant in what was unsealed, if it is for that client and handle; what of it only reads.

    Raises:
        BadReplyError: it is none, or not for this client or service.
    """
    try:
        opened = decode(data, SealedAny, limit=MAX_GRANT_BYTES + 1024)
        name = alias_name(handle)
    except (MalformedError, TooLargeError) as error:
        raise BadReplyError(f"not a grant on any service: {error}") from None
    grant = open_grant(opened.grant, client_id=client_id)
    if grant.service != name:
        raise BadReplyError("a grant on another service than the one whose handle came with it")
    return grant, opened.reads


_AREA_FIELDS: Final = ("region", "cell", "near", "radius_km", "polygon")
