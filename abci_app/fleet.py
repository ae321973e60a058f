"""Device rows: what one may hold, and how a CSV file becomes rows.

The file has a header with the columns name, lat, lon and optionally id, type, actions, resolution,
noise_m, crowd, owner, in any order; other columns are ignored and reported. Encoding is UTF-8, a
byte order mark is fine.

Rules kept here:

* Bytes in, values out, in bounded memory: one line at a time, each of at most 64 KiB.
* One row, one line: quoted fields may hold commas and quotes, not line breaks. So one bad line
  costs one row, never the rest of the file.
* A bad row is a value with its line number and reason; only a file without a usable header is
  refused as a whole. Any bytes give rows, bad rows or ``MalformedError``.
* Numbers are plain decimal ASCII: no "nan", no "1_000", no digits of other scripts.

Not handled here: whether a device is already known (``devices``).
"""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NewType

from edgistry.cell import check_published_resolution
from edgistry.errors import InvalidValueError, MalformedError, Refused
from edgistry.policy import MAX_CROWD, MAX_NOISE_M
from edgistry.transactions import MAX_ACTIONS, check_service_names

from .admin_api import DeviceRow
from .devices import ROW_PREFIX
from .pairing import device_of_row

LineNumber = NewType("LineNumber", int)
"""1 is the first line of the file, the header."""

MAX_LINE_BYTES = 64 * 1024
MAX_NAME_CHARACTERS = 200
MAX_ID_CHARACTERS = 128
DEFAULT_ACTIONS = ("read",)

REQUIRED_COLUMNS = ("name", "lat", "lon")
OPTIONAL_COLUMNS = ("id", "type", "actions", "resolution", "noise_m", "crowd", "owner")

_OWNER = re.compile(r"[0-9a-f]{64}")
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be imported."""

    line: LineNumber
    reason: str


def check_device(row: DeviceRow) -> DeviceRow:
    """``row`` in its normal form: text trimmed, actions sorted and unique, no negative zero.

    Raises:
        InvalidValueError, MalformedError: a value outside its range; the detail names it.
    """
    if not (math.isfinite(row.lat) and -90 <= row.lat <= 90):
        raise InvalidValueError(f"lat {row.lat} is not between -90 and 90")
    if not (math.isfinite(row.lon) and -180 <= row.lon <= 180):
        raise InvalidValueError(f"lon {row.lon} is not between -180 and 180")
    check_published_resolution(row.resolution)
    if not 0 <= row.noise_m <= MAX_NOISE_M:
        raise InvalidValueError(f"noise_m {row.noise_m} is not from 0 to {MAX_NOISE_M}")
    if not 1 <= row.crowd <= MAX_CROWD:
        raise InvalidValueError(f"crowd {row.crowd} is not from 1 to {MAX_CROWD}")
    if row.owner and not _OWNER.fullmatch(row.owner):
        raise InvalidValueError(
            "owner is no Ed25519 public key: 64 hexadecimal digits, in lower case"
        )
    actions = tuple(sorted(set(row.actions)))
    if not 1 <= len(actions) <= MAX_ACTIONS:
        raise InvalidValueError(f"{len(actions)} actions; allowed are 1 to {MAX_ACTIONS}")
    check_service_names(row.type, actions)
    return DeviceRow(
        line=row.line,
        id=None if row.id is None else _text("id", row.id, MAX_ID_CHARACTERS) or None,
        name=_text("name", row.name, MAX_NAME_CHARACTERS),
        # Adding zero turns -0.0 into 0.0: the same place must be the same device.
        lat=row.lat + 0.0,
        lon=row.lon + 0.0,
        type=row.type,
        actions=actions,
        resolution=row.resolution,
        noise_m=row.noise_m,
        crowd=row.crowd,
        owner=row.owner,
        wake=row.wake,
    )


def _text(field: str, value: str, limit: int) -> str:
    value = value.strip()
    if len(value) > limit:
        raise InvalidValueError(f"{field} has {len(value)} characters; the limit is {limit}")
    # Control characters would garble the terminal of whoever lists the devices. Most text is plain
    # and needs no look at each character.
    if not value.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cs") for character in value
    ):
        raise InvalidValueError(f"{field} holds a control character")
    return value


class FleetFile:
    """The rows of a CSV file that arrives as ``chunks``.

    The header is read at once; ``ignored`` then names the columns that mean nothing here. A row
    without a type of its own gets ``default_type``.

    Raises (on opening):
        MalformedError: no header, a column missing or twice, or not UTF-8.
    """

    def __init__(self, chunks: Iterable[bytes], *, default_type: str | None = None) -> None:
        self._lines = split_lines(chunks)
        self._default_type = default_type
        self._columns = self._header()
        self.ignored = tuple(
            name for name in self._columns if name not in REQUIRED_COLUMNS + OPTIONAL_COLUMNS
        )

    def __iter__(self) -> Iterator[DeviceRow | BadRow]:
        for number, line in self._lines:
            try:
                fields = _fields(line)
                if fields:
                    yield self._row(number, fields)
            except Refused as error:
                yield BadRow(line=number, reason=error.detail)

    def _header(self) -> list[str]:
        for number, line in self._lines:
            if number == 1 and line is not None:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            try:
                columns = [name.strip().lower() for name in _fields(line)]
            except MalformedError as error:
                raise MalformedError(f"line {number}, the header: {error}") from None
            if columns:
                self._check_header(number, columns)
                return columns
        raise MalformedError("the file is empty; its first line must name the columns")

    def _check_header(self, number: LineNumber, columns: list[str]) -> None:
        missing = [name for name in REQUIRED_COLUMNS if name not in columns]
        if self._default_type is None and "type" not in columns:
            missing.append("type")
        if missing:
            raise MalformedError(
                f"line {number}, the header: missing column(s) {', '.join(missing)}; it must name "
                "name,lat,lon and may name "
                + ",".join(OPTIONAL_COLUMNS)
                + ", separated by commas"
                + ("; --type gives one type to all rows" if "type" in missing else "")
            )
        for name in REQUIRED_COLUMNS + OPTIONAL_COLUMNS:
            if columns.count(name) > 1:
                raise MalformedError(f"line {number}, the header: column {name} twice")

    def _row(self, number: LineNumber, fields: list[str]) -> DeviceRow:
        if len(fields) != len(self._columns):
            raise MalformedError(
                f"{len(fields)} field(s) where the header has {len(self._columns)}"
            )
        values = dict(zip(self._columns, fields, strict=True))
        if not values["name"].strip():
            raise InvalidValueError("name is empty")
        type_name = values.get("type", "").strip() or self._default_type
        if type_name is None:
            raise InvalidValueError("type is empty, and no --type was given")
        if device_of_row(values.get("id", "").strip()) is not None:
            raise InvalidValueError(f"id begins with {ROW_PREFIX!r}, which is for paired devices")
        plain = {
            name: _whole(name, values[name])
            for name in ("resolution", "noise_m", "crowd")
            if values.get(name, "").strip()
        }
        actions = re.split(r"[\s;,|]+", values.get("actions", "").strip())
        return check_device(
            DeviceRow(
                line=number,
                id=values.get("id"),
                name=values["name"],
                lat=_number("lat", values["lat"]),
                lon=_number("lon", values["lon"]),
                type=type_name,
                actions=tuple(filter(None, actions)) or DEFAULT_ACTIONS,
                owner=values.get("owner", "").strip().lower(),
                **plain,
            )
        )


def split_lines(chunks: Iterable[bytes]) -> Iterator[tuple[LineNumber, bytes | None]]:
    """The lines of ``chunks`` with their numbers, without their ends.

    A line over ``MAX_LINE_BYTES`` comes as ``None``; its bytes are not kept.
    """
    number = 1
    held = b""
    skipping = False
    for chunk in chunks:
        lines = (held + chunk).split(b"\n")
        held = lines.pop()
        for line in lines:
            long = skipping or len(line) > MAX_LINE_BYTES
            yield LineNumber(number), None if long else line.removesuffix(b"\r")
            skipping = False
            number += 1
        if len(held) > MAX_LINE_BYTES:
            held, skipping = b"", True
    if held or skipping:
        yield LineNumber(number), None if skipping else held.removesuffix(b"\r")


def _fields(line: bytes | None) -> list[str]:
    """The fields of one line; empty for a blank line.

    Raises:
        MalformedError: too long, not UTF-8, or not CSV.
    """
    if line is None:
        raise MalformedError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = line.decode()
        if not text.strip():
            return []
        records = list(csv.reader([text], strict=True))
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 at byte {error.start + 1}") from None
    except csv.Error as error:
        reason = str(error)
        if "unexpected end of data" in reason:
            reason = "a quoted field does not end on its line"
        raise MalformedError(f"not CSV: {reason}") from None
    return records[0] if records else []


def _number(field: str, text: str) -> float:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise InvalidValueError(f"{field} {text[:40]!r} is not a number")
    return float(text)


def _whole(field: str, text: str) -> int:
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise InvalidValueError(f"{field} {text[:40]!r} is not a whole number")
    return int(text)
