"""How replay windows rest in a key-value store.

Keys below the caller's prefix (``where`` is label length u8, label, serial u32, client 8 bytes)::

    H where                         → nothing             the window exists
    F where epoch u32               → lowest u64          what a sequence fix began
    S where epoch u32 sequence u64  → Strike              one accepted sequence
    R where epoch u32 sequence u64  → reply bytes         its remembered reply
    Z label                         → horizon u64 (µs)    latest deadline of dropped windows

Rules kept here, so that batches may become durable in any order and any of the last ones be lost:

* No batch overwrites what another one in flight wrote: fixes have a key per sequence epoch,
  strikes one per epoch and sequence.
* Every strike carries the window's ``lowest`` and latest deadline of its time. The strike that
  made the window forget a sequence is in the same batch as the deletion, so what was forgotten
  stays refused whichever other batch is lost.
* A strike of a later epoch than the last fix found proves that the fix was in force.

Not handled here: what is fresh (``replay_window.py``), locks and execution (``replay.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .codec import Wire, decode, encode
from .envelope import U64, Bytes16, Envelope
from .kv import Change, KeyValue, prefix_end
from .replay_window import Window


class Number(NamedTuple):
    """A sequence within its sequence epoch."""

    epoch: int
    sequence: int


def number_of(envelope: Envelope) -> Number:
    """The number of ``envelope``."""
    return Number(envelope.sequence_epoch, envelope.sequence)


class Strike(Wire):
    """One accepted sequence, with the window's bounds of that time."""

    tag: Bytes16
    lowest: U64
    latest_deadline: U64


class ReplayRecords:
    """The windows in one store, below one prefix. Reads, and says what to write."""

    def __init__(self, store: KeyValue, prefix: bytes) -> None:
        self.store = store
        self._prefix = prefix

    def read(self, where: bytes) -> tuple[Window, list[Number]] | None:
        """The window as it is durable, or ``None``; and sequences that may be deleted.

        Those are below ``lowest`` or of an earlier epoch, left by batches that were lost. Delete
        them together with a new strike: one of them may carry the only trace of ``lowest``.
        """
        if self.store.get(self._key(b"H", where)) is None:
            return None
        fixes = {
            int.from_bytes(key[-4:], "big"): int.from_bytes(value, "big")
            for key, value in self._scan(b"F", where)
        }
        strikes = {
            Number(int.from_bytes(key[-12:-8], "big"), int.from_bytes(key[-8:], "big")): decode(
                value, Strike, limit=64
            )
            for key, value in self._scan(b"S", where)
        }
        epoch = max([0, *fixes, *(number.epoch for number in strikes)])
        window = Window(sequence_epoch=epoch, horizon=self.horizon(where))
        window.latest_deadline = max([0, *(s.latest_deadline for s in strikes.values())])
        lowest = [strike.lowest for number, strike in strikes.items() if number.epoch == epoch]
        window.lowest = max([fixes.get(epoch, 0), *lowest])
        leftover = []
        for number, strike in strikes.items():
            if number.epoch == epoch and number.sequence >= window.lowest:
                window.tags[number.sequence] = strike.tag
            else:
                leftover.append(number)
        return window, leftover

    def newest_deadline(self, where: bytes) -> int:
        """A deadline (µs) that the window has not outlived yet, if it lives: a quick look.

        That of the highest sequence; 0 where there is none. What is past says nothing.
        """
        start = self._prefix + b"S" + where
        for _, value in self.store.scan(start, prefix_end(start), reverse=True):
            return decode(value, Strike, limit=64).latest_deadline
        return 0

    def reply(self, where: bytes, number: Number) -> bytes | None:
        """The remembered reply, if there is one."""
        return self.store.get(self._key(b"R", where, number))

    def horizon(self, where: bytes) -> int:
        """Latest deadline (µs) of any dropped window of the same label; -1 for none."""
        data = self.store.get(self._horizon_key(where))
        return -1 if data is None else int.from_bytes(data, "big")

    def windows(self, beginning: bytes = b"") -> list[bytes]:
        """Where there are windows: all, or those whose ``where`` has this beginning."""
        cut = len(self._prefix) + 1
        return [key[cut:] for key, _ in self._scan(b"H", beginning)]

    def head(self, where: bytes) -> Change:
        """Says that the window exists."""
        return self._key(b"H", where), b""

    def strike(self, where: bytes, envelope: Envelope, window: Window) -> Change:
        """Says that the envelope's sequence is used, in ``window`` as it is now."""
        strike = Strike(
            tag=envelope.tag, lowest=window.lowest, latest_deadline=window.latest_deadline
        )
        return self._key(b"S", where, number_of(envelope)), encode(strike)

    def remembered(self, where: bytes, envelope: Envelope, reply: bytes) -> Change:
        """Remembers the reply to an envelope."""
        return self._key(b"R", where, number_of(envelope)), reply

    def forgotten(self, where: bytes, numbers: Iterable[Number]) -> list[Change]:
        """Deletes sequences with their replies."""
        kinds = (b"S", b"R")
        return [(self._key(kind, where, number), None) for number in numbers for kind in kinds]

    def fixed(self, where: bytes, window: Window) -> list[Change]:
        """Says that ``window`` was fixed, and deletes everything of its earlier epochs."""
        epoch = window.sequence_epoch.to_bytes(4, "big")
        return [
            *self._deletions(where, b"FSR"),
            self.head(where),
            (self._key(b"F", where) + epoch, window.lowest.to_bytes(8, "big")),
        ]

    def dropped(self, where: bytes, window: Window) -> list[Change]:
        """Deletes a window, and remembers its latest deadline as the horizon."""
        horizon = max(self.horizon(where), window.latest_deadline)
        return [
            *self._deletions(where, b"FSR"),
            (self._key(b"H", where), None),
            (self._horizon_key(where), horizon.to_bytes(8, "big")),
        ]

    def _deletions(self, where: bytes, kinds: bytes) -> list[Change]:
        return [(key, None) for kind in kinds for key, _ in self._scan(bytes((kind,)), where)]

    def _scan(self, kind: bytes, beginning: bytes) -> list[tuple[bytes, bytes]]:
        start = self._prefix + kind + beginning
        return list(self.store.scan(start, prefix_end(start)))

    def _key(self, kind: bytes, where: bytes, number: Number | None = None) -> bytes:
        key = self._prefix + kind + where
        if number is not None:
            key += number.epoch.to_bytes(4, "big") + number.sequence.to_bytes(8, "big")
        return key

    def _horizon_key(self, where: bytes) -> bytes:
        return self._prefix + b"Z" + where[: 1 + where[0]]
