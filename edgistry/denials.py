"""An issuer's epoch and the capabilities it has revoked, at rest.

Rules kept here:

* The epoch only rises. A new one kills everything signed before, and empties the deny set.
* A deny set holds at most 256 public ids: verifying looks at every prefix of every chain, and a
  device has little memory. Full, it refuses and advises a new epoch (paper §3.3).
* Every id has its own key, below its epoch, so that no two changes overwrite each other.

Keys below the caller's prefix (label with its length u8 before it): ``E label`` → epoch u32;
``D label epoch u32 id`` → nothing. Not handled here: who may revoke (``authority.py``) and what a
denied id matches (``verifier.py``).
"""

from __future__ import annotations

from typing import Final

from .capability_chain import CURRENT_EPOCH
from .errors import DenySetFullError, InvalidValueError
from .kv import Change, KeyValue, prefix_end
from .mac import ID_BYTES

MAX_DENIED: Final = 256


class Denials:
    """The epoch and deny set of one issuer. Changes are the caller's to write."""

    def __init__(self, store: KeyValue, *, label: bytes, prefix: bytes = b"issuer/") -> None:
        self._store = store
        self._prefix = prefix
        self._label = bytes((len(label),)) + label
        data = store.get(prefix + b"E" + self._label)
        self.epoch: int | None = None if data is None else int.from_bytes(data, "big")
        """The epoch as stored; ``None`` before the first ``begin``."""
        self.ids: frozenset[bytes] = frozenset()
        """Public ids denied in this epoch."""
        if self.epoch is not None:
            self.ids = frozenset(key[-ID_BYTES:] for key in self._denied_keys(self.epoch))

    def begin(self, epoch: int) -> list[Change]:
        """The changes that start ``epoch`` with an empty deny set; ``begun`` when they are durable.

        Not in force before: should the write fail, what was denied must stay denied.

        Raises:
            InvalidValueError: not above the stored epoch, or outside 0 … 0xFFFFFFFE.
        """
        if not 0 <= epoch < CURRENT_EPOCH or (self.epoch is not None and epoch <= self.epoch):
            raise InvalidValueError(f"epoch {epoch}: epochs only rise, from {self.epoch}")
        old = [] if self.epoch is None else self._denied_keys(self.epoch)
        entry = (self._prefix + b"E" + self._label, epoch.to_bytes(4, "big"))
        return [entry, *((key, None) for key in old)]

    def begun(self, epoch: int) -> None:
        """The changes of ``begin`` are durable: from now on ``epoch`` is in force."""
        self.epoch = epoch
        self.ids = frozenset()

    def deny(self, public_id: bytes) -> list[Change]:
        """Deny ``public_id`` (16 bytes): in force at once; the changes to write.

        Should the write fail, it stays in force until the next start.

        Raises:
            DenySetFullError: 256 others are denied already.
        """
        if len(public_id) != ID_BYTES:
            raise InvalidValueError(f"a public id has {ID_BYTES} bytes, not {len(public_id)}")
        if self.epoch is None:
            raise InvalidValueError("no epoch was begun")
        if public_id not in self.ids and len(self.ids) >= MAX_DENIED:
            raise DenySetFullError(f"{MAX_DENIED} capabilities are denied already")
        self.ids |= {public_id}
        return [(self._denied_prefix(self.epoch) + public_id, b"")]

    def _denied_keys(self, epoch: int) -> list[bytes]:
        start = self._denied_prefix(epoch)
        return [key for key, _ in self._store.scan(start, prefix_end(start))]

    def _denied_prefix(self, epoch: int) -> bytes:
        return self._prefix + b"D" + self._label + epoch.to_bytes(4, "big")
