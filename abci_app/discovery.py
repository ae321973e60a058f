"""The index that answers discover queries: which services are published in a set of cells.

Rules kept here:

* Pure: changed only by ``rebuild`` and ``apply``, in step with committed blocks.
* Services come in order of their cells, and within a cell in the order that the asking client sees
  in this epoch (``edgistry.handles``). It shows nothing of record keys, so neither a rank nor a
  place where a page ended means anything to another client or in another epoch.
* Who is to see no handles gets counts, in order of (cell, type). A position in either order names
  no height and no row number, so it stays good while records come and go.
* A query costs what it finds: ranges of the cover and rows of the index skip each other, so
  neither a large cover over few services nor a small one over many is walked through.
* Rows looked at are bounded, but for the cell that is being looked at: its order is known only as a
  whole. A page that reaches the bound ends early, with a position to go on from, even when it is
  empty: whoever answers with one must say so, lest it be taken for the end.

Not handled here: what an area covers (``edgistry.region``), which records are visible, handles and
cursors, and what a client sees of a service (``discover_service``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edgistry.cell import check_cell
from edgistry.cover import Cover
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError, Refused
from edgistry.handles import Place
from edgistry.requests_api import to_bytes, to_text
from edgistry.transactions import RecordKey, check_service_names

from .cell_rows import (
    CELL_BYTES,
    LAST_PLACE,
    PLACE_BYTES,
    Cells,
    Order,
    Shown,
    first_of,
    runs_in,
)
from .profiles import Listed, Profile, Profiles
from .sorted_entries import SortedEntries

MAX_RESULTS = 1000
_LAST_TYPE = "~"
"""Behind all names of types."""
_NOTHING = SortedEntries()


class Position(NamedTuple):
    """A place in the order of counts: behind this type in this cell."""

    cell: int
    type: str


class Found(NamedTuple):
    """A service as the index knows it."""

    cell: int
    key: RecordKey
    profile: Profile


class Tally(NamedTuple):
    """How many services of a type there are in a cell, and of how many owners."""

    cell: int
    type: str
    services: int
    owners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some services in order; ``next`` is where to go on, ``None`` when there are no more."""

    items: tuple[Found, ...]
    next: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """Some counts in order; ``next`` is where to go on, ``None`` when there are no more."""

    items: tuple[Tally, ...]
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

    def copy_into(self, other: ServiceIndex) -> Iterator[None]:
        """Put the same services into ``other``, which is empty, to be changed apart from these.

        Yields now and then: these must not change before it has ended.
        """
        other._profiles = self._profiles.copy()
        yield from self._all.copy_into(other._all)
        for name, entries in self._by_type.items():
            other._by_type[name] = SortedEntries()
            yield from entries.copy_into(other._by_type[name])

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
        order: Order,
        after: Place | None = None,
        is_visible: Callable[[bytes], bool],
    ) -> Page:
        """At most ``limit`` services of ``cover``, of one type or of any, behind ``after``.

        ``order`` is that of the client who asks. ``is_visible`` says whether the services of a home
        node are shown.

        Raises:
            InvalidValueError, LimitExceededError: ``limit`` is below 1 or above 1 000.
        """
        _check_limit(limit)
        first = 0 if after is None else after.cell + (after.place == LAST_PLACE)
        cells = Cells(self._entries(type_name), cover, first)
        shown = Shown(self._profiles, is_visible)
        bound = b"" if after is None else _place(*after)
        found: list[tuple[bytes, bytes]] = []
        for rows in cells.batches(limit + 1, shown):
            found += first_of(limit + 1 - len(found), order, rows, bound, shown)
            if len(found) > limit:
                del found[limit:]
                return self._page(found, next=_at(found[-1][0]))
        if cells.is_whole:
            return self._page(found, next=None)
        here = Place(cells.last, LAST_PLACE)
        return self._page(found, next=here)

    def count(
        self,
        cover: Cover,
        type_name: str | None,
        *,
        limit: int,
        after: Position | None = None,
        is_visible: Callable[[bytes], bool],
    ) -> Tallies:
        """At most ``limit`` counts of services of ``cover``; as ``search``."""
        _check_limit(limit)
        first = 0 if after is None else after.cell + (after.type == _LAST_TYPE)
        cells = Cells(self._entries(type_name), cover, first)
        found: list[Tally] = []
        for cell, rows in cells:
            for tally in self._tallies(cell, rows, is_visible):
                if after is not None and (tally.cell, tally.type) <= after:
                    continue
                if len(found) == limit:
                    return Tallies(items=tuple(found), next=Position(*found[-1][:2]))
                found.append(tally)
        if cells.is_whole:
            return Tallies(items=tuple(found), next=None)
        here = Position(cells.last, _LAST_TYPE)
        return Tallies(items=tuple(found), next=here)

    def _tallies(
        self, cell: int, rows: Sequence[bytes], is_visible: Callable[[bytes], bool]
    ) -> list[Tally]:
        services: Counter[str] = Counter()
        owners: dict[str, set[bytes]] = {}
        for number, times in Counter(row[PLACE_BYTES:] for row in rows).items():
            profile = self._profiles[number]
            if is_visible(profile.home):
                services[profile.type] += times
                owners.setdefault(profile.type, set()).add(profile.owner)
        return [Tally(cell, name, services[name], len(owners[name])) for name in sorted(owners)]

    def _entries(self, type_name: str | None) -> SortedEntries:
        if type_name is None:
            return self._all
        return self._by_type.get(type_name) or _NOTHING

    def listed_in(
        self, cover: Cover, type_name: str | None, *, is_visible: Callable[[bytes], bool]
    ) -> Iterator[list[Found]]:
        """All visible services of ``cover``, in the order of this index, some at a time.

        The index must not change before the last of them was taken.
        """
        shown = Shown(self._profiles, is_visible)
        for run in runs_in(self._entries(type_name), cover, b""):
            rows = [(b"", row) for row in run if shown[row[PLACE_BYTES:]]]
            yield list(self._page(rows, next=None).items)

    def _page(self, found: Iterable[tuple[bytes, bytes]], *, next: Place | None) -> Page:
        profiles, number_of = self._profiles, int.from_bytes
        items = [
            Found(
                number_of(row[:CELL_BYTES], "big"),
                RecordKey(row[CELL_BYTES:PLACE_BYTES]),
                profiles[row[PLACE_BYTES:]],
            )
            for _, row in found
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


def encode_cursor(position: Position) -> str:
    """``position`` as the text that clients hand back, safe in a URL. It is no secret."""
    return to_text(position.cell.to_bytes(CELL_BYTES, "big") + position.type.encode())


def decode_cursor(text: str) -> Position:
    """The position in a cursor, whether or not anything is there now.

    Raises:
        MalformedError: any text that ``encode_cursor`` does not make.
    """
    data = to_bytes(text, "this cursor")
    cell = int.from_bytes(data[:CELL_BYTES], "big")
    try:
        check_cell(cell)
        name = data[CELL_BYTES:].decode("ascii")
        if name != _LAST_TYPE:
            check_service_names(name, ())
    except (UnicodeDecodeError, Refused):
        raise MalformedError(
            "this cursor is not one that a node gave out (the value of 'next') when it was asked"
            " without a signature"
        ) from None
    return Position(cell, name)


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidValueError(f"limit {limit}: ask for at least 1 service")
    if limit > MAX_RESULTS:
        raise LimitExceededError(f"limit {limit}: an answer has at most {MAX_RESULTS} services")


def _place(cell: int, key: bytes) -> bytes:
    """A place in the order of services, as 24 bytes that sort the same way."""
    return cell.to_bytes(CELL_BYTES, "big") + key


def _at(place: bytes) -> Place:
    return Place(int.from_bytes(place[:CELL_BYTES], "big"), place[CELL_BYTES:])
