"""The rows of the service index, cell by cell, and in the order in which a client sees a cell.

Rules kept here:

* Rows begin with cell and record key, and end with the number of their profile (``profiles``).
* A cover and the index skip what only one of them has.
* The rows of a cell are looked at as a whole, since only then is their order known; how many are
  looked at is bounded but for the last cell. Of a large one only those are put in order that may be
  wanted.

Pure. Not handled here: pages, counts and cursors (``discovery``).
"""

from __future__ import annotations

import heapq
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from edgistry.cover import Cover

from .profiles import Profiles
from .sorted_entries import SortedEntries

MAX_ROWS_SCANNED = 20_000
"""Rows one query may look at, visible or not; about 5 ms."""

CELL_BYTES = 8
PLACE_BYTES = CELL_BYTES + 16
_RUN = 64
"""Rows taken from the index at a time at first: a page is mostly shorter."""
_LONGEST_RUN = 1024
LARGE_CELL = 1000
"""Services of one cell, of which a page puts only those in order that may be on it."""
_MARGIN = 32
"""How far draws stray from the average, where few are wanted."""
_LAST_HEAD = (1 << 64) - 1
LAST_PLACE = b"\xff" * 16
"""Behind all services of a cell, whoever asks."""


class Order(Protocol):
    """In which order somebody sees the services of a cell. ``CellOrder`` is one."""

    def joined(self, records: bytes) -> bytes:
        """The places of record keys, to sort by; of both, 16 bytes each, one behind the other."""


class Shown(dict[bytes, bool]):
    """Whether services with a profile of that number are shown; each profile is asked of once."""

    def __init__(self, profiles: Profiles, is_visible: Callable[[bytes], bool]) -> None:
        self._profiles = profiles
        self._is_visible = is_visible

    def __missing__(self, number: bytes) -> bool:
        shown = self[number] = self._is_visible(self._profiles[number].home)
        return shown


class Cells:
    """The rows of ``cover`` from the cell ``first`` on, one whole cell after the other.

    It ends where there are no more, or behind the cell ``last``, in which the bound was reached.
    """

    def __init__(self, entries: SortedEntries, cover: Cover, first: int) -> None:
        self._runs = runs_in(entries, cover, first.to_bytes(CELL_BYTES, "big"))
        self.last = first
        self.is_whole = True

    def __iter__(self) -> Iterator[tuple[int, list[bytes]]]:
        scanned = 0
        rows: list[bytes] = []
        for run in self._runs:
            at = 0
            while at < len(run):
                cell = run[at][:CELL_BYTES]
                if rows and not rows[0].startswith(cell):
                    yield self.last, rows
                    scanned += len(rows)
                    rows = []
                    if scanned >= MAX_ROWS_SCANNED:
                        self.is_whole = False
                        return
                self.last = int.from_bytes(cell, "big")
                end = bisect_left(run, (self.last + 1).to_bytes(CELL_BYTES, "big"), at)
                rows += run[at:end]
                at = end
        if rows:
            yield self.last, rows

    def batches(self, most: int, shown: Shown) -> Iterator[list[bytes]]:
        """The rows that are shown, of as many cells at a time as have ``most`` of them or more.

        A large cell is by itself, with all its rows.
        """
        batch: list[bytes] = []
        for _, rows in self:
            if len(rows) > LARGE_CELL:
                if batch:
                    yield batch
                yield rows
                batch = []
                continue
            batch += [row for row in rows if shown[row[PLACE_BYTES:]]]
            if len(batch) >= most:
                yield batch
                batch = []
        if batch:
            yield batch


def first_of(
    count: int, order: Order, rows: Sequence[bytes], bound: bytes, shown: Shown
) -> list[tuple[bytes, bytes]]:
    """The first ``count`` of ``rows`` that are behind ``bound`` and shown, in the client's order,
    each with where it stands.

    They are whole cells: the order of one is known by asking for the places of all that is in it.
    """
    places = order.joined(b"".join([row[CELL_BYTES:PLACE_BYTES] for row in rows]))

    def placed(among: Iterable[int]) -> list[tuple[bytes, bytes]]:
        return [
            (where, row)
            for at in among
            if (where := rows[at][:CELL_BYTES] + places[16 * at : 16 * at + 16]) > bound
            and shown[(row := rows[at])[PLACE_BYTES:]]
        ]

    cell = rows[0][:CELL_BYTES]
    # Cells that are large together have an order each, so all of them are looked at.
    if len(rows) <= LARGE_CELL or not rows[-1].startswith(cell):
        return heapq.nsmallest(count, placed(range(len(rows))))
    begin = bound[CELL_BYTES:] if bound.startswith(cell) else b""
    for near in _nearer_and_farther(count, places, begin):
        found = placed(near)
        if len(found) >= count:
            break
    return heapq.nsmallest(count, found)


def _nearer_and_farther(count: int, places: bytes, begin: bytes) -> Iterator[list[int]]:
    """Which of ``places`` are near behind ``begin``, then those that are less near too, and so on.

    The first are about twice as many as ``count``, the last all. Places are as good as drawn, and
    to compare the first half of each with two numbers costs a tenth of putting all in order.
    """
    heads = struct.unpack(f">{len(places) // 8}Q", places)[::2]
    low = int.from_bytes(begin[:8].ljust(8, b"\0"), "big")
    width = _LAST_HEAD // len(heads) * (2 * count + _MARGIN)
    while low + width < _LAST_HEAD:
        high = low + width
        yield [at for at, head in enumerate(heads) if low <= head <= high]
        width *= 16
    yield [at for at, head in enumerate(heads) if low <= head]


def runs_in(entries: SortedEntries, cover: Cover, start: bytes) -> Iterator[list[bytes]]:
    """The entries of ``cover`` from ``start`` on, in order, some at a time.

    Ranges and rows leapfrog: from a range to the first row in or behind it, from a row outside
    to the first range that ends behind it.
    """
    lows, highs = cover.lows, cover.highs
    at = bisect_left(highs, int.from_bytes(start[:CELL_BYTES], "big"))
    most = _RUN
    while at < len(lows):
        start = max(start, lows[at].to_bytes(CELL_BYTES, "big"))
        stop = (highs[at] + 1).to_bytes(CELL_BYTES, "big")
        run, following = entries.between(start, stop, most=most)
        yield run
        most = min(2 * most, _LONGEST_RUN)
        if following is None:
            return
        if following >= stop:
            at = bisect_left(highs, int.from_bytes(following[:CELL_BYTES], "big"), at + 1)
        start = following
