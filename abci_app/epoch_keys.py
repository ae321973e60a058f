"""The epoch keys that a node has now: what handles are made and opened with.

Rules kept here:

* Handles are made in one epoch, ``number``: the newest whose key is here and whose places are shown
  (``shown``). A node that lacks the current key goes on with the one before; with none, whoever
  needs a handle is refused and told why.
* A key opens what was given out in its epoch until a day after the epoch's end, and no longer than
  until the current one is here as well: a key that is here is still good.
* Nothing secret is in a repr. Those who keep what they derived from a key are told of a change.

Not handled here: where keys come from (``epoch_keeper``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from edgistry.adapters import crypto
from edgistry.errors import NoEpochKeyError, UnknownHandleError
from edgistry.handles import Arithmetic, HandleKey

from .schema import EpochStates

ARITHMETIC = Arithmetic(crypto.Siv, crypto.permute, crypto.permute_back)

_NO_STATES = EpochStates(0, None, None, None)


class Shown(Protocol):
    """What is shown under handles. ``ShownIndex`` is one."""

    def keys_changed(self) -> None:
        """Other keys are here."""

    def allows(self, epoch: int) -> bool:
        """Whether what is shown now may be shown under handles of ``epoch``."""


class EpochKeys:
    """None at first; the keeper puts them in."""

    def __init__(self) -> None:
        self.shown: Shown | None = None
        """What is shown under handles; ``None``: nothing that depends on epochs."""
        self.number = 0
        """The epoch in which handles are made; 0: in none."""
        self._keys: dict[int, bytes] = {}
        self._handles: dict[int, HandleKey] = {}
        self._states = _NO_STATES
        self._epoch_us = 0
        self._callbacks: list[Callable[[], None]] = []
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"EpochKeys(epochs={sorted(self._keys)})"

    @property
    def newest(self) -> int:
        """The newest epoch whose key is here; 0: none."""
        return max(self._keys, default=0)

    def current(self) -> tuple[int, bytes] | None:
        """(epoch, its 32-byte key) to make handles with."""
        return (self.number, self._keys[self.number]) if self.number else None

    def of(self, number: int) -> bytes | None:
        """The key of the epoch ``number``, while what was given out in it is good."""
        return self._keys.get(number)

    @property
    def ends_us(self) -> int | None:
        """Block time (µs) before which the epoch ``number`` mostly does not end.

        An epoch may last longer, until somebody makes the next key; one that some member must not
        know any more ends earlier. In the past where this node goes on with the one before.
        """
        return self.end_of(self.number)

    def end_of(self, number: int) -> int | None:
        """As ``ends_us``, of the epoch ``number``; ``None`` when its key is not here."""
        states = self._states
        if number not in self._keys or states.current is None:
            return None
        if number == states.number:
            return states.current.since_us + self._epoch_us
        return states.current.since_us

    @property
    def chain_ends_us(self) -> int:
        """When the chain's epoch is over (block time, µs), whether its key is here or not.

        0 before the first one has begun.
        """
        current = self._states.current
        return 0 if current is None else current.since_us + self._epoch_us

    def handles(self) -> HandleKey:
        """What makes handles now; ready, so that it costs nothing to ask again.

        Raises:
            NoEpochKeyError: this node has no key.
        """
        if not self.number:
            raise NoEpochKeyError(
                "this node has no epoch key to make handles with yet; the nodes agree on one"
                " within a minute or two of the start of a chain"
            )
        return self._handles[self.number]

    def handles_of(self, number: int) -> HandleKey:
        """What opens the handles of the epoch ``number``.

        Raises:
            UnknownHandleError: it ended more than a day ago, or is another cluster's.
        """
        found = self._handles.get(number)
        if found is None:
            raise UnknownHandleError(f"no handle of epoch {number} is good here")
        return found

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each change of the keys that are here."""
        self._callbacks.append(callback)

    async def next_change(self) -> None:
        """Return after the next change."""
        await self._changed.wait()

    def put(self, keys: Mapping[int, bytes], states: EpochStates, *, epoch_us: int) -> None:
        """These are the keys now, in a chain in ``states`` (the keeper's part)."""
        self._states, self._epoch_us = states, epoch_us
        if keys == self._keys:
            return
        self._handles = {
            number: self._handles[number]
            if self._keys.get(number) == key
            else HandleKey(number, key, ARITHMETIC)
            for number, key in keys.items()
        }
        self._keys = dict(keys)
        if self.shown is not None:
            self.shown.keys_changed()
        self._tell()

    def shown_changed(self) -> None:
        """Make handles in the epoch that is shown now (the part of ``shown``)."""
        if self.allowed() != self.number:
            self._tell()

    def allowed(self) -> int:
        """The newest epoch whose key is here and under whose handles things are shown; 0: none."""
        shown = self.shown
        return max((each for each in self._keys if shown is None or shown.allows(each)), default=0)

    def _tell(self) -> None:
        self.number = self.allowed()
        for callback in self._callbacks:
            callback()
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()
