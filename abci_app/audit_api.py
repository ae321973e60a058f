"""What is kept of a question to the node, and what its operator sees of it.

Rules kept here:

* Pure. Who asked is a pseudonym under a key of this node's: the operator sees which questions came
  from one client, and cannot name it; another node's pseudonyms are others.
* Where was asked about is told no finer than services are published: a region's name, a cell, the
  published cell around a point. Of a polygon only that it was one.
* Whatever a stranger sent gives an entry; what cannot be read is left out.

Not handled here: keeping entries (``query_audit``), and who may see them (``admin_server``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from edgistry.cell import FINEST_PUBLISHED, cell_text, parent_of, resolution_of
from edgistry.codec import Document, Meta, Wire, decode, decode_json, encode
from edgistry.discover_query import parse_point
from edgistry.errors import MalformedError, Refused
from edgistry.mac import USE_PSEUDONYM, mac
from edgistry.region import parse_cell, published_cell
from edgistry.transactions import check_region_name, check_service_names

MAX_READ_BODY: Final = 4 * 1024
"""A longer body is a large polygon's, and not read again."""
_PSEUDONYM_BYTES: Final = 8
_ShortText = Annotated[str, Meta(max_length=128)]


class QueryRow(Wire):
    """One question as it rests in the WooF."""

    time_us: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    who: Annotated[bytes, Meta(min_length=_PSEUDONYM_BYTES, max_length=_PSEUDONYM_BYTES)]
    operation: _ShortText
    type: _ShortText
    area: _ShortText
    status: Annotated[int, Meta(ge=0, le=999)]
    """Of the answer; 0: refused."""
    size: Annotated[int, Meta(ge=0)]
    """Bytes of the answer."""


class QueryEntry(Document):
    """One question, for people."""

    time_us: int
    who: str
    """A pseudonym, hex."""
    operation: str
    type: str
    area: str
    status: int
    size: int


class QueryList(Document):
    """The newest questions, newest first."""

    queries: tuple[QueryEntry, ...]
    lost: int
    """Questions since the start that came faster than they could be kept."""


def pseudonym(key: bytes, who: bytes) -> bytes:
    """What stands for ``who`` under a node's audit ``key``."""
    return mac(key, USE_PSEUDONYM + who)[:_PSEUDONYM_BYTES]


def encode_row(row: QueryRow) -> bytes:
    """The bytes to keep."""
    return encode(row)


def decode_row(data: bytes) -> QueryRow:
    """The row in ``data``.

    Raises:
        MalformedError: it is none.
    """
    return decode(data, QueryRow, limit=2048)


def entry_of(row: QueryRow) -> QueryEntry:
    """``row`` as people see it."""
    return QueryEntry(
        time_us=row.time_us,
        who=row.who.hex(),
        operation=row.operation,
        type=row.type,
        area=row.area,
        status=row.status,
        size=row.size,
    )


def asked_about(query: Mapping[str, str], body: bytes | None) -> tuple[str, str]:
    """(type, area) of a question, as far as they can be read and may be kept.

    ``body`` is ``None`` for one that is too long to be anything but a large polygon.
    """
    fields: Mapping[str, Any] = query
    if body is None:
        return "", "polygon"
    if body:
        try:
            fields = decode_json(body, dict[str, Any], limit=MAX_READ_BODY)
        except MalformedError:
            return "", ""
    return _type_in(fields.get("type")), _area_in(fields)


def _type_in(value: Any) -> str:
    try:
        check_service_names(value, ())
    except (Refused, TypeError):
        return ""
    return str(value)


def _area_in(fields: Mapping[str, Any]) -> str:
    try:
        if isinstance(region := fields.get("region"), str):
            check_region_name(region)
            return f"region {region}"
        if isinstance(cell := fields.get("cell"), str):
            found = parse_cell(cell)
            return (
                f"cell {cell_text(parent_of(found, min(FINEST_PUBLISHED, resolution_of(found))))}"
            )
        if (near := fields.get("near")) is not None:
            point = parse_point("near", near) if isinstance(near, str) else _pair(near)
            return f"near {cell_text(published_cell(*point, FINEST_PUBLISHED))}"
    except (Refused, TypeError, ValueError, OverflowError):  # the last: a number of 400 digits
        return ""
    return "polygon" if fields.get("polygon") is not None else ""


def _pair(value: object) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2:
        return parse_point("near", f"{float(value[0])!r},{float(value[1])!r}")
    raise MalformedError("no point")
