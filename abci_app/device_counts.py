"""How many devices are paired, by how often they wake and how far they are.

Rules kept here: counted as they come and go, since a node may have ten thousand, and who looks at
metrics must not wait for all of them to be read. No id, name or type: metrics are read by many.

Not handled here: Prometheus (``metrics``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from edgistry.adapters.in_thread import in_thread
from edgistry.transactions import WAKE_BUCKETS

from .pairing import Paired, PairingTable

STATES: Final = ("new", "asked", "ready", "fallback", "standing-in")
"""``fallback``: of another home. ``standing-in``: that is away, so it is served here. The others
are stages of set-up."""

Kind = tuple[str, str]
"""Wake bucket and state."""


class DeviceCounts:
    """Counts the devices in ``table``; ``load`` first."""

    def __init__(self, table: PairingTable) -> None:
        self._table = table
        self._kinds: dict[str, Kind | None] = {}
        self._counts: Counter[Kind] = Counter()
        self._is_loaded = False

    async def load(self) -> None:
        """Count what is there. What is noted meanwhile is not overwritten."""
        found = await in_thread(lambda: [(p.device, _kind(p)) for p in self._table.scan()])
        for device, kind in found:
            if device not in self._kinds:
                self._set(device, kind)
        self._kinds = {device: kind for device, kind in self._kinds.items() if kind is not None}
        self._is_loaded = True

    def note(self, device: str) -> None:
        """Something about ``device`` may have changed."""
        paired = self._table.by_device(device)
        self._set(device, None if paired is None else _kind(paired))

    def count(self, kind: Kind) -> int:
        """How many are so."""
        return self._counts[kind]

    def _set(self, device: str, kind: Kind | None) -> None:
        before = self._kinds.get(device)
        if before is not None:
            self._counts[before] -= 1
        if kind is not None:
            self._counts[kind] += 1
        if kind is None and self._is_loaded:
            self._kinds.pop(device, None)
        else:
            # Known to be gone: what is still being read says otherwise.
            self._kinds[device] = kind


def kinds() -> Iterator[Kind]:
    """All there are, in order."""
    for wake in WAKE_BUCKETS:
        for state in STATES:
            yield wake, state


def _kind(paired: Paired) -> Kind:
    if paired.offer.role == "primary":
        return WAKE_BUCKETS[paired.wake], paired.stored.stage
    return WAKE_BUCKETS[paired.wake], "standing-in" if paired.is_home else "fallback"
