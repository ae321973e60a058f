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
from itertools import chain, islice
from typing import NamedTuple, Protocol

from edgistry.cell import check_cell
from edgistry.cover import Cover
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError, Refused
from edgistry.transactions import RecordKey

from .profiles import NUMBER_BYTES, Listed, Profile, Profiles
from .sorted_entries import SortedEntries

MAX_RESULTS = 1000
MAX_ROWS_SCANNED = 20_000
"""Rows one query may look at, visible or not; about 5 ms."""

_CURSOR = re.compile(r"[A-Za-z0-9_-]{32}")
_CELL_BYTES = 8
_PLACE_BYTES = _CELL_BYTES + 16
_RUN = 64
"""Rows taken from the index at a time: a page is mostly shorter."""


class Position(NamedTuple):
    """A place in the order of services."""

    cell: int
    key: RecordKey


class Found(NamedTuple):
    """A service as the index knows it."""

    cell: int
    key: RecordKey
    profile: Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some services in order; ``next`` is where to go on, ``None`` when there are no more."""

    items: tuple[Found, ...]
    next: Position | None


class Change(Protocol):
    """A block did this to a service: ``before`` is ``None`` when new, ``after`` when it went."""

    @property
    def key(self) -> bytes: ...
    @property
    def before(self) -> Listed | None: ...
    @property
    def after(self) -> Listed | None: ...


class ServiceIndex:
    """All services by (cell, key): one sorted list of everything, and one for each type.

    An entry is 28 bytes, cell, key and the number of a profile, shared by both lists: about 80
    bytes a service. So a query reads no database, for rows it shows or for hidden ones.
    """

    def __init__(self) -> None:
        self._profiles = Profiles()
        self._all = SortedEntries()
        self._by_type: dict[str, SortedEntries] = {}

    def __len__(self) -> int:
        """The number of services, visible or not."""
        return len(self._all)

    def types(self) -> dict[str, int]:
        """The number of services of each type, types ascending."""
        return {name: len(entries) for name, entries in sorted(self._by_type.items())}

    def rebuild(self, services: Iterable[tuple[bytes, Listed]]) -> None:
        """Forget everything and hold ``services`` (by key), which may come in any order."""
        self._profiles = Profiles()
        by_type: dict[str, list[bytes]] = {}
        for key, (cell, profile) in services:
            number = self._profiles.take(profile)
            by_type.setdefault(profile.type, []).append(_place(cell, key) + number)
        self._by_type = {name: SortedEntries(entries) for name, entries in by_type.items()}
        self._all = SortedEntries([entry for entries in by_type.values() for entry in entries])

    def apply(self, changes: Iterable[Change]) -> None:
        """Follow the changes of a block. Changes that no client could see cost next to nothing."""
        for change in changes:
            was, now = change.before, change.after
            if was == now:
                continue
            if was is not None:
                self._remove(change.key, *was)
            if now is not None:
                self._add(change.key, *now)

    def search(
        self,
        cover: Cover,
        type_name: str | None,
        *,
        limit: int,
        after: Position | None = None,
        is_visible: Callable[[bytes], bool],
    ) -> Page:
        """At most ``limit`` services of ``cover``, of one type or of any, behind ``after``.

        ``is_visible`` says whether the services of a home node are shown.

        Raises:
            InvalidValueError, LimitExceededError: ``limit`` is below 1 or above 1 000.
            LimitExceededError: 20 000 rows were looked at and none of them is visible; the detail
                has the cursor from which to go on.
        """
        _check_limit(limit)
        entries = self._all if type_name is None else self._by_type.get(type_name)
        if entries is None:
            return Page(items=(), next=None)
        shown = _Shown(self._profiles, is_visible)
        found: list[bytes] = []
        before = last = b""
        rows = chain.from_iterable(
            _runs_in(entries, cover, b"" if after is None else _beyond(after))
        )
        for row in islice(rows, MAX_ROWS_SCANNED):
            if shown[row[_PLACE_BYTES:]]:
                if len(found) == limit:
                    return self._page(found, next=_position(found[-1]))
                found.append(row)
            before, last = last, row
        if next(rows, None) is None:
            return self._page(found, next=None)
        here = _position(last) if last in found[-1:] else _between(before, last)
        if found:
            return self._page(found, next=here)
        raise LimitExceededError(
            f"none of the first {MAX_ROWS_SCANNED} services here is visible now; ask for a smaller "
            f"area or another type, or go on with the cursor {encode_cursor(here)}"
        )

    def _page(self, found: Iterable[bytes], *, next: Position | None) -> Page:
        profiles, number_of = self._profiles, int.from_bytes
        items = [
            Found(
                number_of(row[:_CELL_BYTES], "big"),
                RecordKey(row[_CELL_BYTES:_PLACE_BYTES]),
                profiles[row[_PLACE_BYTES:]],
            )
            for row in found
        ]
        return Page(items=tuple(items), next=next)

    def _add(self, key: bytes, cell: int, profile: Profile) -> None:
        entry = _place(cell, key) + self._profiles.take(profile)
        self._all.add(entry)
        of_type = self._by_type.get(profile.type)
        if of_type is None:
            of_type = self._by_type[profile.type] = SortedEntries()
        of_type.add(entry)

    def _remove(self, key: bytes, cell: int, profile: Profile) -> None:
        entry = _place(cell, key) + self._profiles.give_back(profile)
        self._all.remove(entry)
        of_type = self._by_type[profile.type]
        of_type.remove(entry)
        if not len(of_type):
            del self._by_type[profile.type]


class _Shown(dict[bytes, bool]):
    """Whether services with a profile of that number are shown; each profile is asked of once."""

    def __init__(self, profiles: Profiles, is_visible: Callable[[bytes], bool]) -> None:
        self._profiles = profiles
        self._is_visible = is_visible

    def __missing__(self, number: bytes) -> bool:
        shown = self[number] = self._is_visible(self._profiles[number].home)
        return shown


def encode_cursor(position: Position) -> str:
    """``position`` as the opaque text that clients hand back: 32 characters, URL-safe."""
    return base64.urlsafe_b64encode(_place(*position)).decode()


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


def _place(cell: int, key: bytes) -> bytes:
    """A place in the order of services, as 24 bytes that sort the same way."""
    return cell.to_bytes(_CELL_BYTES, "big") + key


def _position(entry: bytes) -> Position:
    cell = int.from_bytes(entry[:_CELL_BYTES], "big")
    return Position(cell, RecordKey(entry[_CELL_BYTES:_PLACE_BYTES]))


def _beyond(position: Position) -> bytes:
    """Bytes that sort behind every entry at ``position``, and before all others behind it."""
    return _place(*position) + b"\xff" * NUMBER_BYTES


def _between(before: bytes, last: bytes) -> Position:
    """A position from which a search goes on with ``last``, a row that nobody is to be shown.

    It gives away neither row's key, since keys are handles: it lies midway between them, or in
    front of all keys where ``last`` is in a cell of its own.
    """
    cell, key = _position(last)
    earlier_cell, earlier_key = _position(before)
    if earlier_cell != cell:
        return Position(cell, RecordKey(bytes(len(key))))
    middle = (int.from_bytes(earlier_key, "big") + int.from_bytes(key, "big")) // 2
    return Position(cell, RecordKey(middle.to_bytes(len(key), "big")))


def _runs_in(entries: SortedEntries, cover: Cover, start: bytes) -> Iterator[list[bytes]]:
    """The entries of ``cover`` from ``start`` on, in order, some at a time.

    Ranges and rows leapfrog: from a range to the first row in or behind it, from a row outside
    to the first range that ends behind it.
    """
    lows, highs = cover.lows, cover.highs
    at = bisect_left(highs, int.from_bytes(start[:_CELL_BYTES], "big"))
    while at < len(lows):
        start = max(start, lows[at].to_bytes(_CELL_BYTES, "big"))
        stop = (highs[at] + 1).to_bytes(_CELL_BYTES, "big")
        run, following = entries.between(start, stop, most=_RUN)
        yield run
        if following is None:
            return
        if following >= stop:
            at = bisect_left(highs, int.from_bytes(following[:_CELL_BYTES], "big"), at + 1)
        start = following
