"""Journal: an append-only log that its owner empties; what a program remembers for itself.

Rules kept here:

* Elements are numbered from 1 by one; a number is never used twice, also after every element was
  trimmed and after a restart: the last number given is stored beside the elements.
* Elements stay until the owner trims them: no history moves past what is still to be done.
* An append is a set of changes. Either ``put`` writes them, or the caller joins them into its own
  batch, so that an element and what it means for other tables become durable in one write.
* Reading a number has distinct refusals: nothing was ever put, no longer here, not here yet.
* Opening costs nothing: no element is read before it is asked for.

Changes made by ``append`` must be written before the next ``append`` of the same one is asked
for (one writer). ``trim`` touches other keys and may be written in any order with appends.

Not handled here: logs for others, with a history, handlers and names (``woof_store.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .errors import (
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    TooLargeError,
)
from .kv import Change, KeyValue

MAX_ELEMENT_BYTES = 64 * 1024
"""What an element may hold unless its journal was opened with another limit."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,127}")
_LATEST = b"n"
_TRIMMED = b"t"
_ELEMENT = b"e"


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The outcome of an append that is not yet written."""

    first: int
    """Number of the first appended element."""
    last: int
    """Number of the last one; ``first - 1`` when nothing was appended."""
    changes: list[Change]
    """Write these, alone or among others, in one batch."""


class Journal:
    """The log called ``name`` in ``store``; empty when it was never written."""

    def __init__(
        self, store: KeyValue, name: str, *, element_limit: int = MAX_ELEMENT_BYTES
    ) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidValueError(
                f"journal name {name!r}: use 1-128 of a-z, 0-9, '.', '_', '-', '/'"
            )
        self.name = name
        self._store = store
        self._element_limit = element_limit
        # A zero byte ends the name, so that no name is a prefix of another one's keys.
        self._prefix = b"w" + name.encode() + b"\0"

    def latest(self) -> int:
        """The number of the newest element ever put; 0 when there was none."""
        return self._number(_LATEST)

    def earliest(self) -> int:
        """The number of the oldest readable element; ``latest() + 1`` when none is readable."""
        return self._number(_TRIMMED) + 1

    def append(self, elements: Sequence[bytes]) -> Appended:
        """The changes that put ``elements`` after the newest one, in order, all or none.

        Raises:
            TooLargeError: an element is over the limit of this journal.
        """
        for element in elements:
            if len(element) > self._element_limit:
                raise TooLargeError(
                    f"an element of {len(element)} bytes; journal {self.name!r} admits "
                    f"{self._element_limit}"
                )
        first = self.latest() + 1
        last = first + len(elements) - 1
        changes: list[Change] = [
            (self._key(number), element) for number, element in enumerate(elements, first)
        ]
        if changes:
            changes.append((self._prefix + _LATEST, last.to_bytes(8, "big")))
        return Appended(first=first, last=last, changes=changes)

    def put(self, element: bytes) -> int:
        """Append one element; its number, once it is durable.

        Raises:
            TooLargeError: the element is over the limit of this journal.
        """
        appended = self.append([element])
        self._store.write(appended.changes, sync=True)
        return appended.last

    def get(self, number: int) -> bytes:
        """The element with that number.

        Raises:
            EmptyWoofError: nothing was ever put.
            ElementNotYetError: the number was not given yet.
            ElementEvictedError: the element was trimmed, or the number is 0 or less.
        """
        latest = self.latest()
        if latest == 0:
            raise EmptyWoofError(f"journal {self.name!r} has no element yet")
        if number > latest:
            raise ElementNotYetError(f"journal {self.name!r} ends at {latest}, not yet at {number}")
        element = self._store.get(self._key(number)) if number > 0 else None
        if element is None:
            raise ElementEvictedError(
                f"element {number} of journal {self.name!r} is gone; it begins at {self.earliest()}"
            )
        return element

    def scan(self, first: int = 1, last: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Readable elements with ``first`` <= number <= ``last`` (default: the end), in order."""
        low = max(first, self.earliest())
        high = self.latest() if last is None else min(last, self.latest())
        if low > high:
            return
        at = len(self._prefix) + 1
        for key, element in self._store.scan(self._key(low), self._key(high) + b"\0"):
            yield int.from_bytes(key[at:], "big"), element

    def tail(self, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` readable elements with their numbers, newest first."""
        found = list(self.scan(self.latest() - count + 1)) if count > 0 else []
        found.reverse()
        return found

    def trim(self, through: int) -> list[Change]:
        """The changes that forget every element up to number ``through``.

        Costs one change for each forgotten element; numbers stay given.
        """
        earliest = self.earliest()
        through = min(through, self.latest())
        if through < earliest:
            return []
        changes: list[Change] = [
            (self._key(number), None) for number in range(earliest, through + 1)
        ]
        changes.append((self._prefix + _TRIMMED, through.to_bytes(8, "big")))
        return changes

    def _key(self, number: int) -> bytes:
        return self._prefix + _ELEMENT + number.to_bytes(8, "big")

    def _number(self, key: bytes) -> int:
        value = self._store.get(self._prefix + key)
        return 0 if value is None else int.from_bytes(value, "big")
