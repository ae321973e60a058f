"""A batch in the making: changes, what they are laid over, and how they end.

Rules kept here:

* What is decided is at once visible to the decisions after it, in this batch and in later ones,
  although nothing is written yet.
* A batch ends in one of three ways: ``settle`` (it is written), ``take_back`` (it will not be, and
  no later batch has begun), or ``WoofState.forget_unwritten`` (a write has failed: nobody knows,
  so the store is asked again).

Not handled here: what is decided (``woof_triggers.py``, ``woof_staging.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .kv import Change
from .woof_state import OpenWoof, WoofState

Undo = tuple[Callable[[], None], Callable[[], None] | None]
"""How to take a rare decision back, and what it leads to once it is written."""


class Batch:
    """Changes that are being decided, for one atomic write."""

    # Most batches are one put. What that does not need is here, once, and costs it nothing.
    size = 0
    """Bytes of the elements in it."""
    _keys: list[tuple[bytes, tuple[bytes | None, object] | None]] | None = None
    """Staged small keys, and what was staged there before."""
    _undo: list[Undo] | None = None

    def __init__(self, state: WoofState) -> None:
        self.changes: list[Change] = []
        """Write these, in one batch."""
        self._state = state
        self._numbers: list[tuple[OpenWoof, int]] = []
        """The numbers that were given, in order."""

    def add(self, changes: Iterable[Change]) -> None:
        """Write ``changes`` of the caller's own tables in the same batch."""
        self.changes += changes

    def when_written(
        self, tell: Callable[[], None], *, undo: Callable[[], None] = lambda: None
    ) -> None:
        """Call ``tell`` once it is written: by whoever wrote it, with the lock held; quickly.

        Or ``undo``, if it is taken back.
        """
        self._can_undo(undo, tell)

    def settle(self) -> None:
        """Everything is written: readers may see it."""
        for woof, number in self._numbers:
            woof.written = number
        if self._keys is not None:
            unwritten = self._state.unwritten
            for key, _ in self._keys:
                entry = unwritten.get(key)
                if entry is not None and entry[1] is self:
                    del unwritten[key]
        for _, done in self._undo or ():
            if done is not None:
                done()

    def take_back(self) -> None:
        """Nothing will be written; no later batch has begun."""
        for woof, number in reversed(self._numbers):
            woof.staged = number - 1
        unwritten = self._state.unwritten
        for key, before in reversed(self._keys or []):
            if before is None:
                unwritten.pop(key, None)
            else:
                unwritten[key] = before
        for undo, _ in reversed(self._undo or []):
            undo()
        self.changes.clear()

    def _set(self, key: bytes, value: bytes | None) -> None:
        unwritten = self._state.unwritten
        if self._keys is None:
            self._keys = []
        self._keys.append((key, unwritten.get(key)))
        unwritten[key] = (value, self)
        self.changes.append((key, value))

    def _can_undo(self, undo: Callable[[], None], done: Callable[[], None] | None = None) -> None:
        if self._undo is None:
            self._undo = []
        self._undo.append((undo, done))
