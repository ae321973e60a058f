"""The node's HTTP API as data: what travels over it. Server, client and OpenAPI are made from it.

Rules kept here:

* Pure. The operations of version 1 are one table (``OPERATIONS``); nothing else lists them.
* Clients see type, cell, actions, state and wake bucket of a service, and an opaque handle:
  never a device id, a name, a home node or a position finer than the cell (privacy.md).
* Every refusal has one JSON form, an RFC 9457 problem document.

Not handled here: reading a query (``edgistry.discover_query``), the OpenAPI document
(``edgistry.openapi``), sockets and routing, and what the answers are computed from.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from .codec import Answer, Document, Meta
from .errors import (
    InvalidValueError,
    LimitExceededError,
    MalformedError,
    NotYetError,
    Refused,
    RequestTooSlowError,
    TooLargeError,
    UnavailableError,
    UnknownRegionError,
)

JSON_CONTENT_TYPE = "application/json"
PROBLEM_CONTENT_TYPE = "application/problem+json"
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DEFAULT_RESULTS = 20
MAX_RESULTS = 1000
"""Services one answer may hold; ask for the next page with the cursor."""
MAX_RADIUS_KM = 500.0
MAX_DISCOVER_BYTES = 1_000_000
"""Bytes of a discover body, polygon included."""
MIN_HEIGHT_WAIT_S = 5
"""How long a node waits for ``min_height`` before it answers 503."""

Height = Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="Height of the last block.")]
BlockTime = Annotated[
    str,
    Meta(
        description="Time of that block, RFC 3339 in UTC.",
        examples=["2026-03-01T12:00:00.000000Z"],
    ),
]
Count = Annotated[int, Meta(ge=0)]
Resolution = Annotated[int, Meta(ge=0, le=15)]
WakeBucket = Literal["1m", "15m", "1h", "later"]


class ServiceEntry(Answer):
    """One service, as far as a client may know it."""

    handle: Annotated[str, Meta(description="Opaque name of the service, base64url.")]
    type: Annotated[str, Meta(description="What it is, for instance `thermometer`.")]
    cell: Annotated[str, Meta(description="Published H3 cell, 15 hex digits.")]
    resolution: Annotated[int, Meta(ge=0, le=15, description="Resolution of the cell.")]
    center: Annotated[
        tuple[float, float], Meta(description="Centre of the cell: latitude, longitude, degrees.")
    ]
    accuracy_m: Annotated[
        int, Meta(ge=0, description="Greatest distance from centre to vertex, metres, rounded up.")
    ]
    actions: Annotated[tuple[str, ...], Meta(description="What may be asked of it.")]
    state: Annotated[
        Literal["open", "busy", "full"], Meta(description="Whether it takes requests now.")
    ]
    wake: Annotated[WakeBucket, Meta(description="It usually answers within this time.")]


class DiscoverAnswer(Answer):
    """Services whose published cell's centre lies in the area, in order of (cell, key)."""

    height: Height
    block_time: BlockTime
    services: tuple[ServiceEntry, ...]
    next: Annotated[
        str | None, Meta(description="Cursor of the next page; null when this is the last.")
    ]


class RegionEntry(Answer):
    """A named area that everybody on the chain knows."""

    name: str
    version: Annotated[int, Meta(ge=1, description="Rises by one with every change.")]
    cells: Annotated[int, Meta(ge=0, description="Cells in its compacted cell set.")]


class RegionList(Answer):
    """All named regions, by name."""

    height: Height
    block_time: BlockTime
    regions: tuple[RegionEntry, ...]


class StatusAnswer(Answer):
    """What a node says about itself."""

    node: Annotated[str, Meta(description="Name the operator gave it.")]
    version: Annotated[str, Meta(description="Version of the node program.")]
    engine: Literal["cometbft", "solo"]
    chain_id: str
    height: Height
    app_hash: Annotated[str, Meta(description="Hash of the whole registry at that height, hex.")]
    block_time: BlockTime
    members: Annotated[int, Meta(ge=0, description="Nodes that may write to the registry.")]
    peers: Annotated[int, Meta(ge=0, description="Nodes it is connected to now.")]
    catching_up: Annotated[bool, Meta(description="True while it replays blocks it missed.")]
    services: Annotated[int, Meta(ge=0, description="Service records in the registry.")]
    regions: Annotated[int, Meta(ge=0, description="Named regions in the registry.")]
    outbox: Annotated[int, Meta(ge=0, description="Own transactions that wait for a block.")]


class ReadyAnswer(Answer):
    """Whether the node can serve reads, whether its writes get through, and if not, why."""

    ready: bool
    writes: Annotated[
        bool, Meta(description="False when halted, cut off, catching up, or the clock is off.")
    ]
    reasons: tuple[str, ...]


class HealthAnswer(Answer):
    """The process is alive and answers."""

    ok: bool


class Problem(Answer):
    """An error answer (RFC 9457), with Edgistry's ``code`` and ``help`` beside the standard five.

    ``type`` is ``urn:edgistry:error:CODE``; programs match on ``code``, people read ``detail``
    (what was wrong with this request) and ``help`` (what to do next).
    """

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    code: str
    help: str


class DiscoverBody(Document):
    """A discover request: exactly one of region, cell, near, polygon. The same fields as the
    query parameters of ``GET``; ``polygon`` is GeoJSON and only goes here."""

    region: str | None = None
    cell: str | None = None
    near: Annotated[
        str | tuple[float, float] | None,
        Meta(description="`[latitude, longitude]`, or the text `LAT,LON`, degrees."),
    ] = None
    radius_km: Annotated[
        float | None, Meta(description=f"Goes with near; at most {MAX_RADIUS_KM:g}.")
    ] = None
    polygon: Annotated[
        dict[str, Any] | None,
        Meta(description="A GeoJSON Polygon or MultiPolygon, alone or as a Feature."),
    ] = None
    type: str | None = None
    limit: Annotated[int, Meta(description=f"1 to {MAX_RESULTS}.")] = DEFAULT_RESULTS
    cursor: str | None = None
    min_height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter. ``schema`` is its JSON Schema."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path: what goes in, what comes out, what may be refused."""

    name: str
    method: str
    path: str
    summary: str
    answer: type[Answer] | str
    """The JSON document of a 200, or the content type of a text."""
    parameters: tuple[Parameter, ...] = ()
    body: type[Document] | None = None
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
        description="`next` of the page before; stays valid while the chain goes on.",
        schema={"type": "string"},
    ),
    Parameter(
        name="min_height",
        description=f"Wait up to {MIN_HEIGHT_WAIT_S} s for this height (read your own writes).",
        schema={"type": "integer", "minimum": 0},
    ),
)

_DISCOVER_REFUSALS = (
    UnknownRegionError,
    InvalidValueError,
    LimitExceededError,
    NotYetError,
)

COMMON_REFUSALS = (
    MalformedError,
    RequestTooSlowError,
    TooLargeError,
    UnavailableError,
)
"""What any operation may answer: broken HTTP, a body that is slow or large, too busy."""

OPERATIONS = (
    Operation(
        name="discover",
        method="GET",
        path="/v1/discover",
        summary="Find services in a region, in a cell, or near a point: exactly one of the three.",
        answer=DiscoverAnswer,
        parameters=DISCOVER_PARAMETERS,
        refusals=_DISCOVER_REFUSALS,
    ),
    Operation(
        name="discover_by_body",
        method="POST",
        path="/v1/discover",
        summary="Find services in a polygon, or by any of the areas of GET.",
        answer=DiscoverAnswer,
        body=DiscoverBody,
        refusals=_DISCOVER_REFUSALS,
    ),
    Operation(
        name="regions",
        method="GET",
        path="/v1/regions",
        summary="List the named regions.",
        answer=RegionList,
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


def problem_of(error: Refused) -> Problem:
    """The problem document that stands for ``error``."""
    kind = type(error)
    title = (kind.__doc__ or kind.code).strip().splitlines()[0].rstrip(".")
    return Problem(
        type=f"urn:edgistry:error:{kind.code}",
        title=title,
        status=kind.http_status,
        detail=error.detail,
        code=kind.code,
        help=kind.help,
    )


def internal_problem() -> Problem:
    """The answer when the node itself failed. It tells nothing: details are in the node's log."""
    return Problem(
        type="urn:edgistry:error:internal",
        title="The node failed to handle the request",
        status=500,
        detail="an internal error; the node's log has the details",
        code="internal",
        help="Try another node, and tell the operator of this one.",
    )


def block_time_text(block_time_us: int) -> str:
    """Microseconds since 1970 as the API writes them: RFC 3339, UTC, six digits of fraction.

    Times outside the years 1-9999 (only a broken chain has them) come out as the nearest of them.
    """
    within_us = min(max(block_time_us, _FIRST_MOMENT_US), _LAST_MOMENT_US)
    moment = _EPOCH + datetime.timedelta(microseconds=within_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FIRST_MOMENT_US = -62_135_596_800_000_000
_LAST_MOMENT_US = 253_402_300_799_999_999
