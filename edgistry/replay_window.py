"""The replay window of one caller: which sequences are new (paper §3.2).

Rules kept here:

* A window holds ``sequence_epoch`` and the 64 highest accepted sequences with their tags. A
  sequence is new when it is not among them and, once there are 64, above the lowest of them.
* What is forgotten stays refused: ``lowest`` never moves back, except by ``fix``, which raises
  ``sequence_epoch`` so that envelopes of before stay dead.
* A sequence is ahead when it lies more than 5 minutes after the issuer's now.
* A window may be dropped once the latest accepted deadline is past and its epoch is 0: every
  envelope it ever accepted has expired by then. ``horizon`` remembers that deadline, so that not
  even a clock that is set back makes one of them fresh again.

Not handled here: storage, locks, remembered replies (``replay.py``).
"""

from __future__ import annotations

from typing import Final

from .envelope import MAX_U64, Envelope
from .errors import ExpiredError, FutureError, InvalidValueError, StaleError

WINDOW: Final = 64
"""Sequences remembered; twice the 32 that may overtake an unfinished request in a queue."""

MAX_AHEAD_US: Final = 5 * 60 * 1_000_000
"""How far a client's clock may run ahead of the issuer's."""


class Window:
    """What one issuer remembers of one (grant, client)."""

    __slots__ = ("horizon", "latest_deadline", "lowest", "sequence_epoch", "tags")

    def __init__(self, *, sequence_epoch: int = 0, lowest: int = 0, horizon: int = -1) -> None:
        self.sequence_epoch = sequence_epoch
        self.lowest = lowest
        """The least sequence that may still be accepted; all below are refused."""
        self.latest_deadline = 0
        """µs; the latest deadline among all envelopes ever accepted."""
        self.horizon = horizon
        """µs; envelopes with a deadline up to this may have been accepted by a window that was
        dropped since."""
        self.tags: dict[int, bytes] = {}
        """The accepted sequences, at most 64, with the tags of their envelopes."""

    @property
    def highest(self) -> int:
        """The highest accepted sequence: what a client continues above."""
        return max(self.tags, default=max(self.lowest - 1, 0))

    def knows(self, envelope: Envelope) -> bool:
        """Whether this very envelope was accepted before and is still remembered."""
        return (
            envelope.sequence_epoch == self.sequence_epoch
            and self.tags.get(envelope.sequence) == envelope.tag
        )

    def check(self, envelope: Envelope, *, now_us: int) -> None:
        """Pass if ``envelope`` is fresh; change nothing.

        Raises:
            StaleError: an earlier (or unknown) sequence epoch, a used sequence, or one too old.
            ExpiredError: the deadline is past.
            FutureError: the sequence is more than 5 minutes ahead.
        """
        if envelope.sequence_epoch != self.sequence_epoch:
            raise self._stale(f"sequence epoch {envelope.sequence_epoch}")
        if now_us > envelope.deadline or envelope.deadline <= self.horizon:
            raise ExpiredError("the request's deadline has passed")
        sequence = envelope.sequence
        if sequence > now_us + MAX_AHEAD_US:
            raise FutureError(
                "the sequence is more than 5 minutes ahead of the issuer's clock",
                sequence_epoch=self.sequence_epoch,
                sequence_floor=max(now_us, 0),
            )
        tags = self.tags
        if sequence in tags or sequence < self.lowest:
            raise self._stale(f"sequence {sequence}")
        if len(tags) >= WINDOW and sequence < min(tags):
            raise self._stale(f"sequence {sequence}")

    def _stale(self, what: str) -> StaleError:
        return StaleError(
            f"{what} is used or too old; continue above {self.highest} "
            f"in sequence epoch {self.sequence_epoch}",
            sequence_epoch=self.sequence_epoch,
            sequence_floor=self.highest,
        )

    def accept(self, envelope: Envelope) -> list[int]:
        """Strike a sequence that ``check`` passed; the sequences that are forgotten for it."""
        self.tags[envelope.sequence] = envelope.tag
        self.latest_deadline = max(self.latest_deadline, envelope.deadline)
        forgotten = []
        while len(self.tags) > WINDOW:
            lowest = min(self.tags)
            del self.tags[lowest]
            self.lowest = max(self.lowest, lowest + 1)
            forgotten.append(lowest)
        return forgotten

    def release(self, envelope: Envelope) -> None:
        """Take back an ``accept`` whose request was not executed."""
        if self.knows(envelope):
            del self.tags[envelope.sequence]

    def fix(self, floor: int) -> None:
        """Continue above ``floor`` in the next sequence epoch, with nothing accepted yet.

        Raises:
            InvalidValueError: a floor outside 64 bits, or no further sequence epoch.
        """
        if not 0 <= floor < MAX_U64:
            raise InvalidValueError(f"floor {floor}: use 0 to {MAX_U64 - 1}")
        if self.sequence_epoch >= 0xFFFFFFFF:
            raise InvalidValueError("no further sequence epoch; raise the issuer's epoch instead")
        self.sequence_epoch += 1
        self.lowest = floor + 1
        self.tags.clear()

    def may_be_dropped(self, *, now_us: int) -> bool:
        """Whether nothing that it remembers could be accepted again anyway."""
        return self.sequence_epoch == 0 and now_us > self.latest_deadline
