"""In which cell a service is shown that wants to be one of a crowd, and where that is kept.

Rules kept here (privacy.md, *Crowd*):

* A service with crowd k above 1 is shown under the first of its cell and the cells around it, down
  to resolution 5, in which services of its type belong to at least k owners, counted over all that
  the registry has there, each owner once. Where there is no such cell it is not listed.
* What is worked out at the block that begins a privacy epoch stands until the next one. It depends
  on the registry after that block alone: no query changes it, and every node comes to the same.
* A service whose type, owner, crowd or resolution changed, or that is new, waits for the next
  epoch. With crowd 1 it is shown at once, under its own cell. One that moves stays where it is
  until then, and is counted where it will be.

Where services are shown is kept beside the registry, outside the app hash: one value for each
first byte of the record key, which has record key (16) and cell (8) of each service shown, keys
ascending. So a change in between rewrites a few kilobytes, and an epoch at most 256 values.

Pure, and the same on every node. Not handled here: owners whose nodes are away at the moment (their
services count, though they are hidden), and reading and writing (``placing``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from edgistry.cell import COARSEST_PUBLISHED, FINEST_PUBLISHED, parent_of, resolution_of

from .moves import cell_in
from .schema import PLACEMENTS, StoredService

_KEY_BYTES = 16
_ROW_BYTES = _KEY_BYTES + 8
_STEP = 256
"""Services worked on between two yields: well under a millisecond."""

_Counted = tuple[str, int, bytes]
"""Type, cell and owner of a service."""


class CrowdCount:
    """Counts the crowds of a registry: ``add`` every service, run ``settle``, read ``places``.

    Services count where they are in ``epoch``.
    """

    def __init__(self, epoch: int = 0) -> None:
        self._epoch = epoch
        self._all: list[_Counted] = []
        self._shy: list[tuple[bytes, str, int, int]] = []
        self._names: dict[object, object] = {}
        self.places: dict[bytes, int] = {}
        """The cell under which each service with a crowd is shown, by its record key."""

    def add(self, key: bytes, service: StoredService) -> None:
        """Count ``service``, whose record key is ``key``."""
        # Equal names and owners are one object: there may be a hundred thousand services.
        type_name = str(self._names.setdefault(service.type, service.type))
        owner = self._names.setdefault(service.owner, service.owner)
        cell = cell_in(service, self._epoch)
        self._all.append((type_name, cell, owner))  # type: ignore[arg-type]
        if service.crowd > 1:
            self._shy.append((key, type_name, cell, service.crowd))

    def settle(self) -> Iterator[None]:
        """Work out ``places``; yields now and then, so that the caller can let others run."""
        types = {type_name for _, type_name, _, _ in self._shy}
        waiting = self._shy
        for level in range(FINEST_PUBLISHED, COARSEST_PUBLISHED - 1, -1):
            if not waiting:
                return
            owners: Counter[tuple[str, int]] = Counter()
            seen: set[_Counted] = set()
            for done, (type_name, cell, owner) in enumerate(self._all, start=1):
                if type_name in types and resolution_of(cell) >= level:
                    each = (type_name, parent_of(cell, level), owner)
                    if each not in seen:
                        seen.add(each)
                        owners[each[:2]] += 1
                if not done % _STEP:
                    yield
            still = []
            for done, shy in enumerate(waiting, start=1):
                key, type_name, cell, crowd = shy
                is_coarser = resolution_of(cell) < level
                if is_coarser or owners[type_name, parent_of(cell, level)] < crowd:
                    still.append(shy)
                else:
                    self.places[key] = parent_of(cell, level)
                if not done % _STEP:
                    yield
            waiting = still


def is_placed_alike(one: StoredService, other: StoredService, *, epoch: int) -> bool:
    """Whether nothing that decides where a service is shown in ``epoch`` differs."""
    return (one.type, cell_in(one, epoch), one.owner, one.crowd) == (
        other.type,
        cell_in(other, epoch),
        other.owner,
        other.crowd,
    )


# --- what is kept -------------------------------------------------------------------------------


def places_key(key: bytes) -> bytes:
    """Database key of the places of all services whose record key begins as ``key`` does."""
    return PLACEMENTS + key[:1]


def pack_places(places: Iterable[tuple[bytes, int]]) -> bytes:
    """The value kept for ``places``: (record key, cell), keys ascending."""
    return b"".join(key + cell.to_bytes(8, "big") for key, cell in places)


def unpack_places(data: bytes) -> dict[bytes, int]:
    """The places that ``pack_places`` wrote."""
    return {
        data[at : at + _KEY_BYTES]: int.from_bytes(data[at + _KEY_BYTES : at + _ROW_BYTES], "big")
        for at in range(0, len(data), _ROW_BYTES)
    }


def place_in(data: bytes, key: bytes) -> int | None:
    """The cell under which the service ``key`` is shown, in a value of ``pack_places``."""
    row = _row(data, key)
    at = row * _ROW_BYTES
    if data[at : at + _KEY_BYTES] != key:
        return None
    return int.from_bytes(data[at + _KEY_BYTES : at + _ROW_BYTES], "big")


def _row(data: bytes, key: bytes) -> int:
    return bisect_left(
        range(len(data) // _ROW_BYTES),
        key,
        key=lambda row: data[row * _ROW_BYTES : row * _ROW_BYTES + _KEY_BYTES],
    )
