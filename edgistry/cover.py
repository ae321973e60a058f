"""Covers: which published cells lie in an area, as numeric ranges.

A service is published at resolution 5, 6 or 7 and matches an area when the centre of its published
cell lies in it. An area is given as a set of cells of resolution 7 or coarser, usually compacted
(seven siblings replaced by their parent); its cover lists, for each of the three resolutions, the
cells whose centre the set contains:

* a descendant of a cell in the set is contained;
* an ancestor of a cell in the set is contained when both have the same centre.

Rules kept here:

* Ranges are inclusive, ascending, disjoint, and merged where no cell lies between two of them.
* Any list of integers gives a cover or a refusal, in time linear in its length (and a sort).

Not handled here: how an area becomes cells (``edgistry.area``).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from .cell import (
    COARSEST_PUBLISHED,
    FINEST_PUBLISHED,
    cell_at,
    cell_text,
    is_cell,
    range_of,
    resolution_of,
    span_of,
)
from .errors import LimitExceededError, MalformedError

MAX_RANGES = 5000
"""Ranges in the cover of a query. Each costs one search in the index, about 2 µs."""

_RESOLUTIONS = range(COARSEST_PUBLISHED, FINEST_PUBLISHED + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """A set of published cells: ``lows[i]`` <= cell <= ``highs[i]`` for one i.

    Both arrays hold unsigned 64-bit numbers, ascending; the bounds need not be valid cells.
    """

    lows: array[int]
    highs: array[int]

    def __len__(self) -> int:
        """The number of ranges."""
        return len(self.lows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, ascending."""
        return zip(self.lows, self.highs, strict=True)

    def __contains__(self, cell: int) -> bool:
        at = bisect_left(self.highs, cell)
        return at < len(self.lows) and self.lows[at] <= cell


def cover_of(cells: Iterable[int], *, max_ranges: int | None = MAX_RANGES) -> Cover:
    """The cover of an area given as cells of resolution 7 or coarser, from anywhere.

    The cells may come in any order, repeat and overlap.

    Raises:
        MalformedError: one of them is not an H3 cell of resolution 7 or coarser.
        LimitExceededError: more than ``max_ranges`` ranges (``None``: no limit).
    """
    checked = list(cells)
    for cell in checked:
        if not is_cell(cell) or resolution_of(cell) > FINEST_PUBLISHED:
            raise MalformedError(f"{cell_text(cell)} is not an H3 cell of resolution 7 or coarser")
    return cover_of_walk(sorted(checked, key=span_of), max_ranges=max_ranges)


def cover_of_walk(cells: Iterable[int], *, max_ranges: int | None = MAX_RANGES) -> Cover:
    """``cover_of`` for valid cells that come in the order in which their spans start.

    Raises:
        LimitExceededError: more than ``max_ranges`` ranges (``None``: no limit).
    """
    spans = [(*span_of(cell), resolution_of(cell)) for cell in cells]
    lows, highs = array("Q"), array("Q")
    for resolution in range(COARSEST_PUBLISHED, FINEST_PUBLISHED + 1):
        for start, stop in _merged(spans, resolution):
            low, high = range_of(start, stop, resolution)
            lows.append(low)
            highs.append(high)
    if max_ranges is not None and len(lows) > max_ranges:
        raise LimitExceededError(
            f"this area falls into {len(lows)} ranges of cells; a query may have {max_ranges}"
        )
    return Cover(lows=lows, highs=highs)


def _merged(spans: list[tuple[int, int, int]], resolution: int) -> Iterator[tuple[int, int]]:
    """The spans that hold the centres of cells of ``resolution``, those that touch made one."""
    held_start = held_stop = -1
    for start, stop, level in spans:
        if level > resolution:
            ancestor = cell_at(start, resolution)
            if ancestor is None:
                continue
            start, stop = span_of(ancestor)
        if start > held_stop:
            if held_stop >= 0:
                yield held_start, held_stop
            held_start, held_stop = start, stop
        elif stop > held_stop:
            held_stop = stop
    if held_stop >= 0:
        yield held_start, held_stop


class CoverCache:
    """The covers used last, bounded by the number of ranges they hold together.

    A cover depends on nothing but its key, so an entry never goes stale. 400 000 ranges are
    6.4 MB. Not safe for use from several threads.
    """

    def __init__(self, *, max_ranges: int = 400_000) -> None:
        self._max_ranges = max_ranges
        self._held = 0
        self._covers: OrderedDict[Hashable, Cover] = OrderedDict()

    def get(self, key: Hashable) -> Cover | None:
        """The cover stored under ``key``, if it is still there."""
        cover = self._covers.get(key)
        if cover is not None:
            self._covers.move_to_end(key)
        return cover

    def put(self, key: Hashable, cover: Cover) -> None:
        """Store ``cover`` under ``key``; those not used for longest make room for it."""
        replaced = self._covers.pop(key, None)
        if replaced is not None:
            self._held -= _weight(replaced)
        self._covers[key] = cover
        self._held += _weight(cover)
        while self._held > self._max_ranges and len(self._covers) > 1:
            _, dropped = self._covers.popitem(last=False)
            self._held -= _weight(dropped)


def _weight(cover: Cover) -> int:
    """The ranges that an entry counts as; at least 16: that much its key and objects weigh."""
    return max(len(cover), 16)
