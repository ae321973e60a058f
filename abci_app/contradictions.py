"""Rows of one file that describe one device in two ways.

Rules kept here:

* The first row of a device counts; a later one that says otherwise is a bad row that names the
  first one's line. If the last counted, each run would change the device twice.
* Exact repeats are no contradiction.
* Of each row only 16 bytes of digests are kept, in a table that is at least a third full: a million
  rows take less than 50 MB.

Pure. Not handled here: what the node knows from earlier imports (``registration``).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator

from edgistry.codec import encode, replace

from .admin_api import DeviceRow
from .devices import identity_of
from .fleet import BadRow, LineNumber

_FIRST_SLOTS = 1024


def without_contradictions(rows: Iterable[DeviceRow | BadRow]) -> Iterator[DeviceRow | BadRow]:
    """``rows``, with a bad row in place of each that contradicts an earlier one."""
    seen = _Seen()
    for row in rows:
        yield row if isinstance(row, BadRow) else _checked(seen, row)


def _checked(seen: _Seen, row: DeviceRow) -> DeviceRow | BadRow:
    device = int.from_bytes(identity_of(row)[:8], "big")
    plain = encode(replace(row, line=0))
    content = int.from_bytes(hashlib.sha256(plain).digest()[:4], "big")
    first_content, first_line = seen.first(device, content, row.line)
    if first_content == content:
        return row
    what = "id" if row.id is not None else "name, position and type"
    return BadRow(
        line=LineNumber(row.line),
        reason=f"the same {what} as line {first_line}, which says something else",
    )


class _Seen:
    """How, and on which line, each device was described first: a hash table of plain numbers.

    A ``dict`` would take five times the memory. Each slot is a device's number, never 0, and a
    word of 32 bits of content and 32 bits of line.
    """

    def __init__(self) -> None:
        self._slots = _FIRST_SLOTS
        self._table = array("Q", bytes(16 * _FIRST_SLOTS))
        self._used = 0

    def first(self, device: int, content: int, line: int) -> tuple[int, int]:
        """Content and line of the first row of ``device``, which may be this one."""
        if 3 * self._used >= 2 * self._slots:
            self._grow()
        device = device or 1
        at = self._find(device)
        if not self._table[at]:
            self._used += 1
            self._table[at] = device
            self._table[at + 1] = content << 32 | line & 0xFFFFFFFF
        return divmod(self._table[at + 1], 1 << 32)

    def _find(self, device: int) -> int:
        """Where ``device`` stands in the table, or may be put."""
        table, size = self._table, 2 * self._slots
        at = 2 * (device % self._slots)
        while table[at] not in (0, device):
            at = (at + 2) % size
        return at

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = array("Q", bytes(16 * self._slots))
        for number in range(0, len(old), 2):
            if old[number]:
                at = self._find(old[number])
                self._table[at : at + 2] = old[number : number + 2]
