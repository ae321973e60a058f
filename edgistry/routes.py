"""The operations of the HTTP API, version 1, in one table.

Rules kept here: pure; nothing else in the project lists paths, parameters or what may be refused.
The server routes by it, the client calls by it, the OpenAPI document is built from it.

Not handled here: the documents themselves (``edgistry.api``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from .anycast_api import ANY_GRANT_PATH, AnyGrantAnswer, AnyGrantBody
from .api import (
    DEFAULT_RESULTS,
    ENVELOPE_CONTENT_TYPE,
    JSON_CONTENT_TYPE,
    MAX_RADIUS_KM,
    MAX_RESULTS,
    METRICS_CONTENT_TYPE,
    MIN_HEIGHT_WAIT_S,
    DiscoverAnswer,
    DiscoverBody,
    HealthAnswer,
    ReadyAnswer,
    RegionList,
    StatusAnswer,
)
from .codec import Answer, Document
from .errors import (
    AuthorityError,
    BusyError,
    ClientSignatureError,
    GrantRefusedError,
    InvalidValueError,
    KeyReusedError,
    LimitExceededError,
    MailboxFullError,
    MalformedError,
    MembersBusyError,
    NoEpochKeyError,
    NoMemberError,
    NoRegistryError,
    NotEndedError,
    NotFoundError,
    NotYetError,
    Refused,
    RequestTooSlowError,
    ResynchroniseError,
    TooLargeError,
    UnavailableError,
    UnknownCursorError,
    UnknownHandleError,
    UnknownRegionError,
    UnknownRequestError,
)
from .event_stream import EVENT_CONTENT_TYPE
from .grants_api import GRANTS_PATH, GrantAnswer, GrantBody
from .requests_api import FETCH_KEY_HEADER, MAX_WAIT_S, RequestAnswer, SubmitBody
from .signed_request import CLIENT_HEADER, NONCE_HEADER, SIGNATURE_HEADER, TIME_HEADER
from .watch_api import WATCH_PATH, WatchBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter. ``schema`` is its JSON Schema."""

    name: str
    description: str
    schema: dict[str, Any]
    where: Literal["query", "path", "header"] = "query"
    may_be_missing: bool | None = None
    """By default those in the path and the header are required, those in the query never."""

    @property
    def is_required(self) -> bool:
        """Whether a request without it is refused."""
        return self.where != "query" if self.may_be_missing is None else not self.may_be_missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path: what goes in, what comes out, what may be refused."""

    name: str
    method: str
    path: str
    summary: str
    answer: type[Answer] | str | tuple[str, ...]
    """The JSON document of a 200, or the content type (one of several) of something else."""
    parameters: tuple[Parameter, ...] = ()
    body: type[Document] | str | None = None
    """The JSON document of the request, or the content type of something else."""
    refusals: tuple[type[Refused], ...] = ()
    other_answers: tuple[tuple[int, type[Answer]], ...] = ()


_NAME = "[a-z0-9][a-z0-9._-]"
DISCOVER_PARAMETERS = (
    Parameter(
        name="region",
        description="Name of a region; `/v1/regions` lists them.",
        schema={"type": "string", "pattern": f"^{_NAME}{{0,63}}$"},
    ),
    Parameter(
        name="cell",
        description="H3 cell, 15 hex digits, resolution 7 or coarser.",
        schema={"type": "string", "pattern": "^8[0-7][0-9a-f]{13}$"},
    ),
    Parameter(
        name="near",
        description="LAT,LON in degrees; needs radius_km.",
        schema={"type": "string", "examples": ["37.77,-122.42"]},
    ),
    Parameter(
        name="radius_km",
        description="Radius around near, kilometres.",
        schema={"type": "number", "exclusiveMinimum": 0, "maximum": MAX_RADIUS_KM},
    ),
    Parameter(
        name="type",
        description="Only services of this type.",
        schema={"type": "string", "pattern": f"^{_NAME}{{0,31}}$"},
    ),
    Parameter(
        name="limit",
        description="Services in the answer, at most.",
        schema={
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_RESULTS,
            "default": DEFAULT_RESULTS,
        },
    ),
    Parameter(
        name="cursor",
        description="`next` of the page before; good for the same client in the same epoch.",
        schema={"type": "string"},
    ),
    Parameter(
        name="min_height",
        description=f"Wait up to {MIN_HEIGHT_WAIT_S} s for this height (read your own writes).",
        schema={"type": "integer", "minimum": 0},
    ),
)

WATCH_PARAMETERS = (
    *(each for each in DISCOVER_PARAMETERS if each.name not in ("limit", "cursor", "min_height")),
    Parameter(
        name="since",
        description="Changes behind this height; a Last-Event-ID header does the same.",
        schema={"type": "integer", "minimum": 0},
    ),
)

_DISCOVER_REFUSALS = (
    UnknownRegionError,
    InvalidValueError,
    LimitExceededError,
    NotYetError,
    BusyError,
)
_SEARCH_REFUSALS = (
    *_DISCOVER_REFUSALS,
    ClientSignatureError,
    UnknownCursorError,
    NoEpochKeyError,
)
_WATCH_REFUSALS = (*_DISCOVER_REFUSALS, ClientSignatureError, NoEpochKeyError)

COMMON_REFUSALS = (
    MalformedError,
    RequestTooSlowError,
    TooLargeError,
    UnavailableError,
)
"""What any operation may answer: broken HTTP, a body that is slow or large, too busy."""

_REQUEST_PARAMETERS = (
    Parameter(
        name="id",
        description="Id of the request.",
        schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"},
        where="path",
    ),
    Parameter(
        name=FETCH_KEY_HEADER,
        description="The key whose hash was sent with the request, base64url.",
        schema={"type": "string"},
        where="header",
    ),
)


def _wait(what: str) -> Parameter:
    return Parameter(
        name="wait",
        description=f"{what}.",
        schema={"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
    )


_SIGNED = (
    Parameter(
        name=CLIENT_HEADER,
        description="Ed25519 public key of the client, base64url.",
        schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"},
        where="header",
    ),
    Parameter(
        name=TIME_HEADER,
        description="When it was signed, µs since 1970; at most 5 minutes off.",
        schema={"type": "string", "pattern": "^[0-9]{1,18}$"},
        where="header",
    ),
    Parameter(
        name=NONCE_HEADER,
        description="16 random bytes, base64url.",
        schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"},
        where="header",
    ),
    Parameter(
        name=SIGNATURE_HEADER,
        description="Ed25519 over all of these, base64url (docs/protocol.md).",
        schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{86}$"},
        where="header",
    ),
)

_MAYBE_SIGNED = tuple(dataclasses.replace(each, may_be_missing=True) for each in _SIGNED)
"""All of them, or none."""

OPERATIONS = (
    Operation(
        name="discover",
        method="GET",
        path="/v1/discover",
        summary="Find services in a region, in a cell, or near a point: exactly one of the three."
        " Who signs gets services, under handles of their own; who does not, how many there are.",
        answer=DiscoverAnswer,
        parameters=(*DISCOVER_PARAMETERS, *_MAYBE_SIGNED),
        refusals=_SEARCH_REFUSALS,
    ),
    Operation(
        name="discover_by_body",
        method="POST",
        path="/v1/discover",
        summary="Find services in a polygon, or by any of the areas of GET.",
        answer=DiscoverAnswer,
        parameters=_MAYBE_SIGNED,
        body=DiscoverBody,
        refusals=_SEARCH_REFUSALS,
    ),
    Operation(
        name="watch",
        method="GET",
        path=WATCH_PATH,
        summary="Watch the services in an area, signed: server-sent events (docs/protocol.md).",
        answer=EVENT_CONTENT_TYPE,
        parameters=(*WATCH_PARAMETERS, *_SIGNED),
        refusals=_WATCH_REFUSALS,
    ),
    Operation(
        name="watch_by_body",
        method="POST",
        path=WATCH_PATH,
        summary="Watch a polygon, or any of the areas of GET.",
        answer=EVENT_CONTENT_TYPE,
        parameters=_SIGNED,
        body=WatchBody,
        refusals=_WATCH_REFUSALS,
    ),
    Operation(
        name="regions",
        method="GET",
        path="/v1/regions",
        summary="List the named regions.",
        answer=RegionList,
    ),
    Operation(
        name="woof",
        method="POST",
        path="/v1/woof",
        summary="Carry out a request that its capabilities authorise (docs/protocol.md).",
        answer=ENVELOPE_CONTENT_TYPE,
        body=ENVELOPE_CONTENT_TYPE,
    ),
    Operation(
        name="woof_stream",
        method="POST",
        path="/v1/woof/stream",
        summary="Follow a WooF: its elements as server-sent events, as long as authority lasts.",
        answer=(EVENT_CONTENT_TYPE, ENVELOPE_CONTENT_TYPE),
        body=ENVELOPE_CONTENT_TYPE,
        refusals=(BusyError,),
    ),
    Operation(
        name="exchange",
        method="POST",
        path="/v1/exchange",
        summary="A device's exchange with its home node (docs/protocol.md).",
        answer=ENVELOPE_CONTENT_TYPE,
        parameters=(
            _wait("Hold the answer back until there is work for the device, up to so many seconds"),
        ),
        body=ENVELOPE_CONTENT_TYPE,
        refusals=(NoRegistryError, InvalidValueError),
    ),
    Operation(
        name="request_submit",
        method="POST",
        path="/v1/requests",
        summary="Ask a service; 202 when it is queued, 200 when this request was known.",
        answer=RequestAnswer,
        parameters=(_wait("Once it is queued, wait for its end, up to so many seconds"),),
        body=SubmitBody,
        refusals=(
            NotFoundError,
            UnknownHandleError,
            AuthorityError,
            ResynchroniseError,
            KeyReusedError,
            InvalidValueError,
            MailboxFullError,
        ),
        other_answers=((202, RequestAnswer),),
    ),
    Operation(
        name="request_fetch",
        method="GET",
        path="/v1/requests/{id}",
        summary="How a request is doing, and the reply once it has ended.",
        answer=RequestAnswer,
        parameters=(
            *_REQUEST_PARAMETERS,
            _wait("Wait for its end, up to so many seconds"),
            Parameter(
                name="known",
                description="The state you know: wait only while it is in this one.",
                schema={"type": "string", "examples": ["QUEUED"]},
            ),
        ),
        refusals=(UnknownRequestError, InvalidValueError),
    ),
    Operation(
        name="request_cancel",
        method="DELETE",
        path="/v1/requests/{id}",
        summary="Take a request back: at once if the device has not got it, else it is asked.",
        answer=RequestAnswer,
        parameters=_REQUEST_PARAMETERS,
        refusals=(UnknownRequestError,),
    ),
    Operation(
        name="request_acknowledge",
        method="POST",
        path="/v1/requests/{id}/ack",
        summary="Say that you have the outcome: the node need not keep it.",
        answer=RequestAnswer,
        parameters=_REQUEST_PARAMETERS,
        refusals=(UnknownRequestError, NotEndedError),
    ),
    Operation(
        name="grant",
        method="POST",
        path=GRANTS_PATH,
        summary="Ask for capabilities on a service; signed, and answered to the signer alone.",
        answer=GrantAnswer,
        parameters=_SIGNED,
        body=GrantBody,
        refusals=(
            ClientSignatureError,
            NotFoundError,
            UnknownHandleError,
            GrantRefusedError,
            InvalidValueError,
            LimitExceededError,
            NoRegistryError,
        ),
    ),
    Operation(
        name="any_grant",
        method="POST",
        path=ANY_GRANT_PATH,
        summary="Ask for capabilities on any service of a type in an area; signed, as for a grant.",
        answer=AnyGrantAnswer,
        parameters=_SIGNED,
        body=AnyGrantBody,
        refusals=(
            ClientSignatureError,
            NoMemberError,
            MembersBusyError,
            NoEpochKeyError,
            UnknownRegionError,
            GrantRefusedError,
            InvalidValueError,
            LimitExceededError,
            NoRegistryError,
        ),
    ),
    Operation(
        name="status",
        method="GET",
        path="/v1/status",
        summary="How this node is doing.",
        answer=StatusAnswer,
    ),
    Operation(
        name="health",
        method="GET",
        path="/healthz",
        summary="Whether the process is alive.",
        answer=HealthAnswer,
    ),
    Operation(
        name="ready",
        method="GET",
        path="/readyz",
        summary="Whether the node can serve reads, and whether its writes get through.",
        answer=ReadyAnswer,
        other_answers=((503, ReadyAnswer),),
    ),
    Operation(
        name="metrics",
        method="GET",
        path="/metrics",
        summary="Counters and gauges for Prometheus.",
        answer=METRICS_CONTENT_TYPE,
    ),
    Operation(
        name="openapi",
        method="GET",
        path="/openapi.json",
        summary="This description.",
        answer=JSON_CONTENT_TYPE,
    ),
)
