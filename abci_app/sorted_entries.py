"""A sorted list of byte strings that stays cheap to change when it is long.

Rules kept here: pure; entries are distinct; a change moves a few kilobytes at most, whatever the
length. Not handled here: what the entries mean (``discovery``).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

_CHUNK = 512
"""Entries in a chunk of a list that is built whole; a chunk is split at twice as many."""
_STEP = 32
"""Chunks copied between two yields: well under a millisecond."""


class SortedEntries:
    """Distinct byte strings in order, in chunks, so that a change moves a few kilobytes at most.

    No chunk is ever empty.
    """

    __slots__ = ("_chunks", "_lasts", "_length")

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        ordered = sorted(entries)
        self._length = len(ordered)
        self._chunks = [ordered[at : at + _CHUNK] for at in range(0, len(ordered), _CHUNK)]
        self._lasts = [chunk[-1] for chunk in self._chunks]

    def __len__(self) -> int:
        return self._length

    def copy_into(self, other: SortedEntries) -> Iterator[None]:
        """Put the same entries into ``other``, which is empty, to be changed apart from these.

        Yields now and then: these must not change before it has ended.
        """
        for at in range(0, len(self._chunks), _STEP):
            other._chunks += [chunk.copy() for chunk in self._chunks[at : at + _STEP]]
            yield
        other._lasts = self._lasts.copy()
        other._length = self._length

    def add(self, entry: bytes) -> None:
        """Put in an entry that is not there yet."""
        self._length += 1
        if not self._chunks:
            self._chunks.append([entry])
            self._lasts.append(entry)
            return
        number = min(bisect_left(self._lasts, entry), len(self._chunks) - 1)
        chunk = self._chunks[number]
        insort(chunk, entry)
        if len(chunk) >= 2 * _CHUNK:
            self._chunks.insert(number, chunk[:_CHUNK])
            self._lasts.insert(number, chunk[_CHUNK - 1])
            del chunk[:_CHUNK]
            number += 1
        self._lasts[number] = chunk[-1]

    def remove(self, entry: bytes) -> None:
        """Take out an entry. One that is not there is a bug: the index lost step with the state."""
        number = bisect_left(self._lasts, entry)
        chunk = self._chunks[number] if number < len(self._chunks) else []
        at = bisect_left(chunk, entry)
        if at == len(chunk) or chunk[at] != entry:
            raise LookupError(f"the index does not hold {entry.hex()}")
        self._length -= 1
        del chunk[at]
        if chunk:
            self._lasts[number] = chunk[-1]
        else:
            del self._chunks[number], self._lasts[number]

    def between(self, start: bytes, stop: bytes, *, most: int) -> tuple[list[bytes], bytes | None]:
        """The first entries from ``start`` to before ``stop``, and the entry that follows them.

        At most ``most`` of them (1 or more), and possibly fewer, so the one that follows may still
        be before ``stop``; ``None`` stands for the end of the list.
        """
        number = bisect_left(self._lasts, start)
        if number == len(self._chunks):
            return [], None
        chunk = self._chunks[number]
        at = bisect_left(chunk, start)
        end = bisect_left(chunk, stop, at, min(at + most, len(chunk)))
        if end < len(chunk):
            return chunk[at:end], chunk[end]
        number += 1
        following = self._chunks[number][0] if number < len(self._chunks) else None
        return chunk[at:end], following
