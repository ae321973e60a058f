"""The key-value seam: the one narrow interface through which anything durable is kept.

Rules kept here:

* Keys and values are bytes; keys are ordered as bytes.
* ``write`` applies a whole batch or nothing. With ``sync`` it returns only when the batch is
  durable against power loss.
* A later entry for a key in one batch replaces an earlier one.

``MemoryKeyValue`` is the simulator of the seam: same behaviour, nothing on disk. The LevelDB one
is in ``edgistry.adapters.leveldb``. Not handled here: what the keys mean.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

Change = tuple[bytes, bytes | None]
"""A key and its new value; ``None`` deletes the key."""


class KeyValue(Protocol):
    """An ordered byte map with atomic batches."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or ``None``."""

    def scan(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries with ``start`` <= key < ``stop`` (``None``: no end), in key order.

        The iteration sees the state of the moment it began, or of a later one; closing the
        iterator early (``break`` and dropping it) is safe.
        """

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        """Apply all changes atomically; with ``sync`` return only once they are durable."""

    def close(self) -> None:
        """Release the store. Closing twice is safe."""


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key after all keys that begin with ``prefix``; ``None`` when there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes([stripped[-1] + 1])


class MemoryKeyValue:
    """A ``KeyValue`` in memory, for tests and throw-away nodes. Safe to use from many threads."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._lock = threading.Lock()

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def scan(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            low = bisect.bisect_left(self._keys, start)
            high = len(self._keys) if stop is None else bisect.bisect_left(self._keys, stop)
            found = [(key, self._values[key]) for key in self._keys[low:high]]
        return iter(reversed(found) if reverse else found)

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        batch = list(changes)
        with self._lock:
            for key, value in batch:
                present = key in self._values
                if value is None:
                    if present:
                        del self._values[key]
                        del self._keys[bisect.bisect_left(self._keys, key)]
                    continue
                if not present:
                    bisect.insort(self._keys, key)
                self._values[key] = value

    def close(self) -> None:
        return None
