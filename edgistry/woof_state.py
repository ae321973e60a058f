"""What a store of WooFs knows in memory: how far each has come, and what is not yet written.

Rules kept here:

* Numbers are given in memory, ahead of the disk: ``staged`` is the last one given, ``written`` the
  last one that is durable. Readers see ``written``.
* Small values that are staged and not written (who exists, which keys were used) are laid over the
  store, so that later decisions see earlier ones. What is read of a WooF for others is not.
* Nothing is read before it is asked for, and what is kept is bounded: opening costs nothing.
* When a write fails, all that is not written is forgotten and read again.

One thread at a time decides (``lock``); reading needs the lock only where a WooF is not in memory.

Not handled here: what a decision is (``woof_staging.py``), and reading (``woof_store.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from .errors import MissingNamespaceError, MissingWoofError
from .kv import KeyValue
from .woof import Window, WoofId, check_namespace, split_name, window_of
from .woof_keys import END, NAMESPACES, WOOFS, WoofRecord, elements_of, read_number, read_record

MAX_OPEN: Final = 4096
"""WooFs kept in memory; the others are read again when they are needed."""


REMEMBERED_KEYS: Final = 16_384
"""Hours of retries of a device that puts twice a second; at most about 3 MB a WooF."""


class OpenWoof:
    """A WooF in memory: as it was created, and how far it has come."""

    __slots__ = (
        "before",
        "deleted",
        "durable",
        "element_size",
        "history",
        "id",
        "keys_through",
        "name",
        "prefix",
        "staged",
        "written",
    )

    def __init__(self, name: str, record: WoofRecord, latest: int, *, durable: bool) -> None:
        self.name = name
        self.id = WoofId(record.id)
        self.history = record.history
        self.element_size = record.element_size
        self.prefix = elements_of(self.id)
        self.staged = latest
        """The last number that was given."""
        self.written = latest
        """The last number whose element is durable."""
        self.keys_through = latest
        """The last number whose put may have had an idempotency key."""
        self.durable = durable
        """Whether its creation is written."""
        self.deleted = False
        """Whether its deletion is staged."""
        self.before: OpenWoof | None = None
        """The WooF of this name that readers see until this one's creation is written."""

    @property
    def window(self) -> Window:
        """What can be read."""
        return window_of(self.written, self.history)

    @property
    def idle(self) -> bool:
        """Whether memory knows no more than the store."""
        return self.durable and not self.deleted and self.staged == self.written


class WoofState:
    """The memory of one store. ``lock`` is held by whoever decides, until it is in order."""

    def __init__(self, store: KeyValue, lock: threading.Lock, remembered_keys: int) -> None:
        self.store = store
        self.lock = lock
        self.remembered_keys = remembered_keys
        self.open: dict[str, OpenWoof] = {}
        self.unwritten: dict[bytes, tuple[bytes | None, object]] = {}
        """Key to the value it will have, and by whose doing."""
        self.arrivals: dict[bytes, int] = {}
        """Handler to the last arrival of a trigger that was given. Never goes back."""
        self.effects: dict[bytes, set[bytes]] = {}
        """By invocation, what was staged in its name since it began: keys."""

    # --- for readers ----------------------------------------------------------------------------

    def visible(self, name: str) -> OpenWoof:
        """The WooF as readers may see it.

        Raises:
            InvalidValueError: the name is none.
            MissingWoofError: there is no such WooF, or its creation is not durable yet.
        """
        woof = self.open.get(name)
        if woof is None:
            split_name(name)
            with self.lock:
                woof = self._load(name)
        while woof is not None and not woof.durable:
            woof = woof.before
        if woof is None:
            raise missing(name)
        return woof

    # --- for who decides (the lock is held) -----------------------------------------------------

    def current(self, name: str) -> OpenWoof:
        """The WooF as the next decision must see it.

        Raises:
            InvalidValueError: the name is none.
            MissingWoofError: there is no such WooF.
        """
        woof = self.open.get(name)
        if woof is None:
            split_name(name)
            woof = self._load(name)
        if woof is None or woof.deleted:
            raise missing(name)
        return woof

    def peek(self, key: bytes) -> bytes | None:
        """The value that ``key`` will have once everything staged is written."""
        entry = self.unwritten.get(key)
        return self.store.get(key) if entry is None else entry[0]

    def peek_range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries of small values as ``peek`` sees them; those not written come last."""
        for key, value in self.store.scan(start, stop):
            if key not in self.unwritten:
                yield key, value
        for key, (staged, _) in list(self.unwritten.items()):
            if start <= key < stop and staged is not None:
                yield key, staged

    def require_namespace(self, name: str) -> None:
        """Return if the namespace exists.

        Raises:
            MissingNamespaceError: it does not.
        """
        if self.peek(NAMESPACES + check_namespace(name)) is None:
            raise MissingNamespaceError(f"there is no namespace {name!r}")

    def keep(self, woof: OpenWoof) -> None:
        """Hold ``woof`` in memory; others that need not be held may go."""
        if len(self.open) >= MAX_OPEN:
            idle = [each.name for each in list(self.open.values()) if each.idle]
            for name in idle[: MAX_OPEN // 2]:
                del self.open[name]
        self.open[woof.name] = woof

    def forget_unwritten(self) -> None:
        """A write has failed: the store is the truth again."""
        self.open.clear()
        self.unwritten.clear()
        self.effects.clear()

    def _load(self, name: str) -> OpenWoof | None:
        woof = self.open.get(name)
        if woof is not None:
            return woof
        key = WOOFS + name.encode()
        value = self.peek(key)
        if value is None:
            return None
        record = read_record(key, value, WoofRecord)
        woof = OpenWoof(name, record, newest_number(self.store, WoofId(record.id)), durable=True)
        self.keep(woof)
        return woof


def newest_number(store: KeyValue, woof_id: WoofId) -> int:
    """The number of the newest element in ``store``; 0 when there is none."""
    prefix = elements_of(woof_id)
    for key, _ in store.scan(prefix, prefix + END, reverse=True):
        return read_number(key[len(prefix) :])
    return 0


def missing(name: str) -> MissingWoofError:
    """The refusal of a WooF that is not there."""
    return MissingWoofError(f"there is no WooF {name!r}")
