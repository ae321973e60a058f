"""Watching the registry: what is asked, and the events that come (privacy.md, *Who answers*).

Rules kept here:

* Pure. A watcher learns exactly what asking ``/v1/discover``, signed, at every height would tell.
* The changes of one block come together, in the client's own order, and only of services in the
  area; the height of a block that is told completely is the event's id, and resuming behind it
  leaves nothing out.
* Handles are of one epoch. When the node goes over to the next one, ``epoch`` says so, and all that
  is there follows anew as appeared, under new handles. ``begin`` names the epoch too: who resumes
  in another one than it has handles of lists anew.
* ``gone`` ends a stream: the node cannot tell the changes from there on. List anew.

Not handled here: what is changed (``change_log``), the form of events (``event_stream``), sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from .api import (
    MAX_DISCOVER_BYTES,
    Area,
    BlockTime,
    DiscoverBody,
    DiscoverQuery,
    Height,
    ServiceEntry,
)
from .codec import Answer, Document, Meta, decode_json, encode_json
from .discover_query import (
    MAX_HEIGHT,
    check_discover_body,
    discover_body,
    parse_discover_parameters,
)
from .errors import InvalidValueError, MalformedError

WATCH_PATH: Final = "/v1/watch"
MAX_EVENT_SERVICES: Final = 200
"""Services in one event; with the longest names allowed, about 150 KB."""

BEGIN: Final = "begin"
CHANGES: Final = "changes"
HEIGHT: Final = "height"
GONE: Final = "gone"
EPOCH: Final = "epoch"

_PARAMETERS: Final = ("region", "cell", "near", "radius_km", "type", "since")


class WatchBody(Document):
    """What to watch: exactly one of region, cell, near, polygon, as in a discover request."""

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
    type: str | None = None
    since: Annotated[
        int | None,
        Meta(description="Changes behind this height; without it, from the last block on."),
    ] = None


class HeightEvent(Answer):
    """``begin``: changes behind this height follow. ``height``: none up to this height."""

    height: Height
    epoch: Annotated[int, Meta(ge=0, description="The epoch that handles are of.")] = 0


class EpochEvent(Answer):
    """A privacy epoch has begun: no handle told before is told again. All that is there follows."""

    height: Height
    block_time: BlockTime
    epoch: Annotated[int, Meta(ge=1, description="Its number.")]
    epoch_ends: Annotated[
        str | None, Meta(description="When it ends at the earliest, but for a change of members.")
    ] = None


class ChangesEvent(Answer):
    """What a block changed in the area."""

    height: Height
    block_time: BlockTime
    appeared: tuple[ServiceEntry, ...]
    changed: tuple[ServiceEntry, ...]
    left: Annotated[tuple[str, ...], Meta(description="Handles of those that are there no more.")]
    more: Annotated[bool, Meta(description="Whether more changes of this block follow.")]


class GoneEvent(Answer):
    """The changes are not to be had from here on: list anew with ``/v1/discover``."""

    height: Height
    reason: str


ChangeKind = Literal["appeared", "changed", "left", "epoch"]
"""``epoch``: all handles told before are of an epoch that is over; those of now follow."""


class ServiceChange(Answer):
    """One change, as a client is told of it."""

    change: ChangeKind
    height: int
    """Of the block, or of the list in which it was noticed."""
    block_time: str
    handle: str
    """Empty for ``epoch``."""
    service: ServiceEntry | None
    """As it is now; for one that left, as it was, or ``None`` if that was never known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchQuery:
    """A checked wish to watch."""

    area: Area
    type: str | None = None
    since: int | None = None


def parse_watch_parameters(parameters: Mapping[str, str]) -> WatchQuery:
    """The query in the parameters of ``GET``; raises as ``parse_discover_parameters``."""
    for name in parameters:
        if name not in _PARAMETERS:
            raise MalformedError(
                f"unknown query parameter {name[:50]!r}; known are {', '.join(_PARAMETERS)}"
            )
    fields = dict(parameters)
    since = fields.pop("since", None)
    query = parse_discover_parameters(fields)
    height = None if since is None else parse_height("since", since)
    return WatchQuery(area=query.area, type=query.type, since=height)


def parse_watch_body(data: bytes) -> WatchQuery:
    """The query in the body of ``POST``; raises as ``parse_discover_parameters``."""
    return check_watch_body(decode_json(data, WatchBody, limit=MAX_DISCOVER_BYTES))


def check_watch_body(body: WatchBody) -> WatchQuery:
    """``body`` as a checked query; raises as ``parse_discover_parameters``."""
    query = check_discover_body(
        DiscoverBody(
            region=body.region,
            cell=body.cell,
            near=body.near,
            radius_km=body.radius_km,
            polygon=body.polygon,
            type=body.type,
        )
    )
    if body.since is not None:
        _check_height("since", body.since)
    return WatchQuery(area=query.area, type=query.type, since=body.since)


def watch_body(query: WatchQuery) -> bytes:
    """``query`` as a body for ``POST``."""
    data = discover_body(DiscoverQuery(area=query.area, type=query.type))
    fields = decode_json(data, dict[str, Any], limit=2 * MAX_DISCOVER_BYTES)
    del fields["limit"]
    if query.since is not None:
        fields["since"] = query.since
    return encode_json(fields)


def parse_height(name: str, text: str) -> int:
    """A height as text; ``name`` is for the message.

    Raises:
        MalformedError: not a whole number. InvalidValueError: no height.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise MalformedError(f"{name}: {text[:40]!r} is not a height")
    return _check_height(name, int(text))


def _check_height(name: str, height: int) -> int:
    if not 0 <= height <= MAX_HEIGHT:
        raise InvalidValueError(f"{name} {height}: heights are 0 to {MAX_HEIGHT}")
    return height
