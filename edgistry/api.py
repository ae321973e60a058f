"""The node's HTTP API as data: what travels over it. Server, client and OpenAPI are made from it.

Rules kept here:

* Pure.
* Clients who sign see type, cell, actions, state and wake bucket of a service, and an opaque
  handle that is theirs alone: never a device id, a name, a home node or a position finer than the
  cell (privacy.md). Who does not sign sees how many there are.
* Every refusal has one JSON form, an RFC 9457 problem document.

Not handled here: reading a query (``edgistry.discover_query``), the table of operations
(``edgistry.routes``), sockets, and what the answers are computed from.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from .codec import Answer, Document, Meta
from .errors import Refused

JSON_CONTENT_TYPE = "application/json"
PROBLEM_CONTENT_TYPE = "application/problem+json"
ENVELOPE_CONTENT_TYPE = "application/msgpack"
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
ServiceState = Literal["open", "busy", "full"]
SHARE = 16
"""Requests of one client at one service that may be under way."""


def state_of(outstanding: int) -> ServiceState:
    """The state of a service for a client with so many requests under way there."""
    if outstanding >= SHARE:
        return "full"
    return "busy" if outstanding >= SHARE // 2 else "open"


class ServiceEntry(Answer):
    """One service, as far as a client may know it."""

    handle: Annotated[
        str,
        Meta(
            description="Opaque name of the service, base64url: the same for you at every node,"
            " until the epoch ends; another one for everybody else."
        ),
    ]
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
        ServiceState,
        Meta(
            description="Whether it takes requests of yours, by those that this node has of you:"
            " `full` with 16 that have not ended, `busy` from 8 on. Of others' it tells nothing."
        ),
    ]
    wake: Annotated[WakeBucket, Meta(description="It usually answers within this time.")]


class CountEntry(Answer):
    """How many services of a type are published in a cell."""

    type: Annotated[str, Meta(description="What they are, for instance `thermometer`.")]
    cell: Annotated[str, Meta(description="Published H3 cell, 15 hex digits.")]
    resolution: Annotated[int, Meta(ge=0, le=15, description="Resolution of the cell.")]
    center: Annotated[
        tuple[float, float], Meta(description="Centre of the cell: latitude, longitude, degrees.")
    ]
    accuracy_m: Annotated[
        int, Meta(ge=0, description="Greatest distance from centre to vertex, metres, rounded up.")
    ]
    services: Annotated[int, Meta(ge=1, description="So many services.")]
    owners: Annotated[int, Meta(ge=1, description="Whose they are: so many owners.")]


class DiscoverAnswer(Answer):
    """Services whose published cell's centre lies in the area.

    To a signed request: ``services``, in order of their cells, and within a cell in an order of the
    client's own. To one that is not signed: ``counts``, in order of (cell, type).
    """

    height: Height
    block_time: BlockTime
    services: tuple[ServiceEntry, ...] = ()
    next: Annotated[
        str | None,
        Meta(
            description="Cursor of the next page; null when this is the last. It is good for the"
            " same client in the same epoch."
        ),
    ] = None
    counts: Annotated[
        tuple[CountEntry, ...], Meta(description="Instead of services, to who has not signed.")
    ] = ()
    epoch: Annotated[
        int, Meta(ge=0, description="Number of the privacy epoch that the handles are of.")
    ] = 0
    epoch_ends: Annotated[
        str | None,
        Meta(
            description="When it ends at the earliest, but for a change of members, RFC 3339 in"
            " UTC. Its handles can be used for a day after that."
        ),
    ] = None


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
    engine: Literal["cometbft", "solo", "none"]
    chain_id: str
    height: Height
    app_hash: Annotated[str, Meta(description="Hash of the whole registry at that height, hex.")]
    block_time: BlockTime
    members: Annotated[int, Meta(ge=0, description="Nodes that may write to the registry.")]
    peers: Annotated[int, Meta(ge=0, description="Nodes it is connected to now.")]
    catching_up: Annotated[bool, Meta(description="True while it replays blocks it missed.")]
    services: Annotated[int, Meta(ge=0, description="Services that are listed.")]
    regions: Annotated[int, Meta(ge=0, description="Named regions in the registry.")]
    outbox: Annotated[int, Meta(ge=0, description="Own transactions that wait for a block.")]
    epoch: Annotated[
        int, Meta(ge=0, description="Number of the current privacy epoch; 0 before the first.")
    ] = 0


class ReadyAnswer(Answer):
    """Whether the node can serve reads, whether its writes get through, and if not, why."""

    ready: bool
    writes: Annotated[
        bool, Meta(description="False when halted, cut off, catching up, or the clock is off.")
    ]
    reasons: tuple[str, ...]
    warnings: Annotated[
        tuple[str, ...], Meta(description="What its operator should do something about.")
    ] = ()


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
class RegionArea:
    """The named region ``name``."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellArea:
    """The H3 cell ``cell``: 15 hex digits; whether it is a cell at all is checked later."""

    cell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NearArea:
    """A circle: degrees north, degrees east, kilometres."""

    latitude: float
    longitude: float
    radius_km: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonArea:
    """A GeoJSON object; its type and coordinates are checked later."""

    geojson: Mapping[str, Any] = field(hash=False)


Area = RegionArea | CellArea | NearArea | PolygonArea


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverQuery:
    """A checked discover request."""

    area: Area
    type: str | None = None
    limit: int = DEFAULT_RESULTS
    cursor: str | None = None
    min_height: int | None = None
    """Answer only from this height on."""


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
        help=error.advice(),
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
