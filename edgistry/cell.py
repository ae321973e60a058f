"""H3 cell indexes as plain integers: validity, text form, family relations and ranges.

An H3 cell index is a 64-bit number: 1 bit zero, 4 bits mode (1 = cell), 3 bits zero, 4 bits
resolution r, 7 bits base cell (0-121), then fifteen 3-bit digits, of which the first r are 0-6 and
the rest are 7 (https://h3geo.org/docs/core-library/h3Indexing). Everything here follows from that
layout alone, so consensus code does not depend on the version of a library, and a device needs
none.

Rules kept here:

* A *published* cell has resolution 5, 6 or 7. Nothing finer is ever stored, matched or answered.
* All descendants of a cell at one resolution are neighbours in numeric order: they are a range.
* A cell's centre child (digit 0) has the same centre, at any depth.

Not handled here: where cells lie on the earth (``edgistry.region``).
"""

from __future__ import annotations

import re
from typing import NewType

from .errors import InvalidValueError, MalformedError

CellIndex = NewType("CellIndex", int)
"""A valid H3 cell index, resolution 0 to 15."""

COARSEST_PUBLISHED = 5
FINEST_PUBLISHED = 7
"""Resolution 7: 3.16-6.23 km² a cell, never tighter than the 1.0 km² of "precise geolocation"."""

_CELL_MODE = 1
_RESOLUTION_BIT = 52
_BASE_CELL_BIT = 45
_BASE_CELLS = 122
_DIGITS = 15
_BODY = (1 << _RESOLUTION_BIT) - 1
"""Base cell and digits: what remains of an index without mode and resolution."""

PENTAGONS = frozenset((4, 14, 24, 38, 49, 58, 63, 72, 83, 97, 107, 117))
"""Base cells with five neighbours; their subtree that begins with digit 1 does not exist."""

_TEXT = re.compile(r"[0-9a-fA-F]{15,16}")

_SHIFT = tuple(3 * (_DIGITS - level) for level in range(_DIGITS + 1))
"""Bit position of the digit of each level (level 0 has none; its entry is the base cell's)."""

_HEAD = tuple(_CELL_MODE << 59 | level << _RESOLUTION_BIT for level in range(_DIGITS + 1))
"""Mode and resolution bits of an index of each resolution."""

_TAIL = tuple((1 << shift) - 1 for shift in _SHIFT)
"""The unused digits (all 7) of an index of each resolution."""


_FIRST_CHILD = tuple((1 << _RESOLUTION_BIT) - (7 << shift) for shift in _SHIFT)
"""By the child's resolution: the centre child of a cell, less the cell."""

_CHILDREN = tuple(tuple(digit << shift for digit in range(7)) for shift in _SHIFT)
_PENTAGON_CHILDREN = tuple((offsets[0], *offsets[2:]) for offsets in _CHILDREN)
"""By the child's resolution: the children of a cell, less its centre child."""


def resolution_of(cell: int) -> int:
    """The resolution of ``cell``, 0 (coarsest) to 15."""
    return cell >> _RESOLUTION_BIT & 15


def base_cell_of(cell: int) -> int:
    """The number, 0 to 121, of the resolution-0 cell that ``cell`` descends from."""
    return cell >> _BASE_CELL_BIT & 127


def base_cell(number: int) -> CellIndex:
    """The resolution-0 cell with that number, 0 to 121."""
    return CellIndex(_HEAD[0] | number << _BASE_CELL_BIT | _TAIL[0])


def is_cell(cell: int) -> bool:
    """Whether ``cell`` is a valid H3 cell index of any resolution."""
    if cell >> 56 != _CELL_MODE << 3:
        return False
    level = cell >> _RESOLUTION_BIT & 15
    base = cell >> _BASE_CELL_BIT & 127
    tail = _TAIL[level]
    if base >= _BASE_CELLS or cell & tail != tail:
        return False
    digits = (cell & _TAIL[0]) >> _SHIFT[level]
    # A used digit is 7 exactly when its three bits are all set.
    if digits & digits >> 1 & digits >> 2 & _ONES[level]:
        return False
    return base not in PENTAGONS or not _leads_with_one(digits)


_ONES = tuple(int("1" * level or "0", 8) for level in range(_DIGITS + 1))
"""The lowest bit of each used digit, for each resolution."""


def _leads_with_one(digits: int) -> bool:
    """Whether the first digit that is not 0 is 1 (such cells of a pentagon do not exist)."""
    return digits > 0 and digits >> 3 * ((digits.bit_length() - 1) // 3) == 1


def check_cell(cell: int) -> CellIndex:
    """``cell``, when it is one that may be published.

    Raises:
        MalformedError: not an H3 cell index.
        InvalidValueError: its resolution is not 5, 6 or 7.
    """
    if not is_cell(cell):
        raise MalformedError(f"{cell:x} is not an H3 cell")
    check_published_resolution(resolution_of(cell))
    return CellIndex(cell)


def check_published_resolution(resolution: int) -> None:
    """Raises ``InvalidValueError`` unless ``resolution`` is one that may be published."""
    if not COARSEST_PUBLISHED <= resolution <= FINEST_PUBLISHED:
        raise InvalidValueError(
            f"resolution {resolution}: services are published at "
            f"{COARSEST_PUBLISHED}, 6 or {FINEST_PUBLISHED}"
        )


def cell_text(cell: int) -> str:
    """``cell`` as H3 writes it: lower-case hexadecimal without leading zeros."""
    return f"{cell:x}"


def parse_cell(text: str) -> CellIndex:
    """The cell that ``text`` names, of any resolution.

    Raises:
        MalformedError: anything that is not the 15 hexadecimal digits of a valid H3 cell.
    """
    if not _TEXT.fullmatch(text) or not is_cell(cell := int(text, 16)):
        raise MalformedError(
            f"{text[:40]!r} is not an H3 cell; it should look like 872830828ffffff"
        )
    return CellIndex(cell)


def parent_of(cell: int, resolution: int) -> CellIndex:
    """The ancestor of ``cell`` at a resolution not finer than its own."""
    return CellIndex(_HEAD[resolution] | cell & _BODY | _TAIL[resolution])


def children_of(cell: int) -> list[int]:
    """The seven children of ``cell`` (six of a pentagon), in numeric order, centre child first."""
    level = (cell >> _RESOLUTION_BIT & 15) + 1
    # The digit of the new level is 7: taking a whole 7 away leaves the centre child, digit 0.
    center = cell + _FIRST_CHILD[level]
    offsets = _CHILDREN[level]
    if (cell >> _BASE_CELL_BIT & 127) in PENTAGONS and not (cell & _TAIL[0]) >> _SHIFT[level - 1]:
        offsets = _PENTAGON_CHILDREN[level]
    return [center + offset for offset in offsets]


def span_of(cell: int) -> tuple[int, int]:
    """The part of the cell tree under ``cell``, as a half-open interval of tree positions.

    A tree position is an index without mode and resolution, its unused digits 0. Spans of cells
    that follow one another in the tree touch: where a span would stop before positions that no
    cell has (a digit 7, the missing child of a pentagon), it stops after them.
    """
    level = cell >> _RESOLUTION_BIT & 15
    body = cell & _BODY
    stop = body + 1
    start = body & ~_TAIL[level]
    while level and body >> _SHIFT[level] & 7 == 6:
        stop += 1 << _SHIFT[level]
        level -= 1
    if level and not (body & _TAIL[0]) >> _SHIFT[level] and body >> _BASE_CELL_BIT in PENTAGONS:
        stop += 1 << _SHIFT[level]
    return start, stop


def cell_at(position: int, resolution: int) -> CellIndex | None:
    """The cell of that resolution whose span starts at ``position``, if one does."""
    tail = _TAIL[resolution]
    return None if position & tail else CellIndex(_HEAD[resolution] | position | tail)


def range_of(start: int, stop: int, resolution: int) -> tuple[int, int]:
    """The cells of ``resolution`` in a span, as an inclusive numeric range.

    The bounds need not be valid cells. ``start`` is where the span of one of the cells starts.
    """
    head = _HEAD[resolution]
    return head | start | _TAIL[resolution], head | stop - 1


def completes_siblings(cell: int) -> bool:
    """Whether ``cell`` is the last of its parent's children."""
    level = cell >> _RESOLUTION_BIT & 15
    return level > 0 and cell >> _SHIFT[level] & 7 == 6
