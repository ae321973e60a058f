"""The operations of the HTTP API, version 1, in one table.

Rules kept here: pure; nothing else in the project lists paths, parameters or what may be refused.
The server routes by it, the client calls by it, the OpenAPI document is built from it.

Not handled here: the documents themselves (``edgistry.api``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    BusyError,
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
from .event_stream import EVENT_CONTENT_TYPE


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
    BusyError,
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
