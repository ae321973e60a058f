"""The index that answers discover queries: which services are published in a set of cells.

Rules kept here:

* Pure: changed only by ``rebuild`` and ``apply``, in step with committed blocks.
* The order of an answer is (cell, key), the same on every node. A cursor is the last position of
  a page; it names no height and no row number, so it stays good while records come and go.
* A query costs what it finds: ranges of the cover and rows of the index skip each other, so
  neither a large cover over few services nor a small one over many is walked through.
* Rows looked at are bounded. A page that reaches the bound ends early, with a cursor to go on
  from; when it would be empty the query is refused instead, lest it be taken for the end.

Not handled here: what an area covers (``edgistry.region``), which records are visible and what a
client sees of them (``service``).
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edgistry.cell import check_cell
from edgistry.cover import Cover
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError, Refused
from edgistry.transactions import RecordKey

from .schema import StoredService
from .sorted_entries import SortedEntries

MAX_RESULTS = 1000
MAX_ROWS_SCANNED = 20_000
"""Rows one query may look at, visible or not; about 20 ms."""

_CURSOR = re.compile(r"[A-Za-z0-9_-]{32}")
_CELL_BYTES = 8


class Position(NamedTuple):
    """A place in the order of services."""

    cell: int
    key: RecordKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some services in order; ``next`` is where to go on, ``None`` when there are no more."""

    items: tuple[tuple[RecordKey, StoredService], ...]
    next: Position | None


class Change(Protocol):
    """What a block did to one record: ``old`` is ``None`` when it is new, ``new`` when it went."""

    @property
    def key(self) -> bytes: ...
    @property
    def old(self) -> StoredService | None: ...
    @property
    def new(self) -> StoredService | None: ...


class ServiceIndex:
    """All services by (cell, key): one sorted list of everything, and one for each type.

    An entry is 24 bytes, cell and key, shared by both lists: about 80 bytes a service.
    """

    def __init__(self) -> None:
        self._all = SortedEntries()
        self._by_type: dict[str, SortedEntries] = {}

    def __len__(self) -> int:
        """The number of services, visible or not."""
        return len(self._all)

    def types(self) -> dict[str, int]:
        """The number of services of each type, types ascending."""
        return {name: len(entries) for name, entries in sorted(self._by_type.items())}

    def rebuild(self, services: Iterable[tuple[bytes, StoredService]]) -> None:
        """Forget everything and hold ``services``, which may come in any order."""
        by_type: dict[str, list[bytes]] = {}
        for key, service in services:
            by_type.setdefault(service.type, []).append(_entry(service.cell, key))
        self._by_type = {name: SortedEntries(entries) for name, entries in by_type.items()}
        self._all = SortedEntries([entry for entries in by_type.values() for entry in entries])

    def apply(self, changes: Iterable[Change]) -> None:
        """Follow the changes of a block. Changes that touch neither cell nor type cost nothing."""
        for change in changes:
            old, new = change.old, change.new
            if old is not None and new is not None and (old.cell, old.type) == (new.cell, new.type):
                continue
            if old is not None:
                self._remove(old.type, _entry(old.cell, change.key))
            if new is not None:
                self._add(new.type, _entry(new.cell, change.key))

    def search(
        self,
        cover: Cover,
        type_name: str | None,
        *,
        limit: int,
        after: Position | None = None,
        visible: Callable[[RecordKey], StoredService | None],
    ) -> Page:
        """At most ``limit`` services of ``cover``, of one type or of any, behind ``after``.

        ``visible`` gives the record of a key, or ``None`` for one that is not to be shown.

        Raises:
            InvalidValueError, LimitExceededError: ``limit`` is below 1 or above 1 000.
            LimitExceededError: 20 000 rows were looked at and none of them is visible; the detail
                has the cursor from which to go on.
        """
        _check_limit(limit)
        entries = self._all if type_name is None else self._by_type.get(type_name)
        if entries is None:
            return Page(items=(), next=None)
        items: list[tuple[RecordKey, StoredService]] = []
        last_item = last_row = b""
        rows = _rows_in(entries, cover, b"" if after is None else _entry(*after))
        for scanned, row in enumerate(rows):
            if scanned == MAX_ROWS_SCANNED:
                return _cut_short(items, last_row)
            key = RecordKey(row[_CELL_BYTES:])
            service = visible(key)
            if service is not None:
                if len(items) == limit:
                    return Page(items=tuple(items), next=_position(last_item))
                items.append((key, service))
                last_item = row
            last_row = row
        return Page(items=tuple(items), next=None)

    def _add(self, type_name: str, entry: bytes) -> None:
        self._all.add(entry)
        of_type = self._by_type.get(type_name)
        if of_type is None:
            of_type = self._by_type[type_name] = SortedEntries()
        of_type.add(entry)

    def _remove(self, type_name: str, entry: bytes) -> None:
        self._all.remove(entry)
        of_type = self._by_type[type_name]
        of_type.remove(entry)
        if not len(of_type):
            del self._by_type[type_name]


def encode_cursor(position: Position) -> str:
    """``position`` as the opaque text that clients hand back: 32 characters, URL-safe."""
    return base64.urlsafe_b64encode(_entry(*position)).decode()


def decode_cursor(text: str) -> Position:
    """The position in a cursor, whether or not anything is there now.

    Raises:
        MalformedError: any text that ``encode_cursor`` does not make.
    """
    if not _CURSOR.fullmatch(text):
        raise MalformedError("this cursor is not one that a node gave out (the value of 'next')")
    position = _position(base64.urlsafe_b64decode(text))
    try:
        check_cell(position.cell)
    except Refused:
        raise MalformedError("this cursor names no cell that services are published in") from None
    return position


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidValueError(f"limit {limit}: ask for at least 1 service")
    if limit > MAX_RESULTS:
        raise LimitExceededError(f"limit {limit}: an answer has at most {MAX_RESULTS} services")


def _cut_short(items: list[tuple[RecordKey, StoredService]], last_row: bytes) -> Page:
    """What a query answers that looked at as many rows as it may."""
    position = _position(last_row)
    if items:
        return Page(items=tuple(items), next=position)
    raise LimitExceededError(
        f"none of the first {MAX_ROWS_SCANNED} services here is visible now; ask for a smaller "
        f"area or another type, or go on with the cursor {encode_cursor(position)}"
    )


def _entry(cell: int, key: bytes) -> bytes:
    """A place in the order of services, as 24 bytes that sort the same way."""
    return cell.to_bytes(_CELL_BYTES, "big") + key


def _position(entry: bytes) -> Position:
    return Position(int.from_bytes(entry[:_CELL_BYTES], "big"), RecordKey(entry[_CELL_BYTES:]))


def _rows_in(entries: SortedEntries, cover: Cover, after: bytes) -> Iterator[bytes]:
    """The entries of ``cover`` behind ``after``, in order.

    Ranges and rows leapfrog: from a range to the first row in or behind it, from a row outside
    to the first range that ends behind it.
    """
    lows, highs = cover.lows, cover.highs
    at = 0
    if after:
        at = bisect_left(highs, int.from_bytes(after[:_CELL_BYTES], "big"))
    while at < len(lows):
        start = lows[at].to_bytes(_CELL_BYTES, "big")
        if start <= after:
            start = after + b"\0"
        stop = (highs[at] + 1).to_bytes(_CELL_BYTES, "big")
        beyond = yield from entries.between(start, stop)
        if beyond is None:
            return
        at = bisect_left(highs, int.from_bytes(beyond[:_CELL_BYTES], "big"), at + 1)
