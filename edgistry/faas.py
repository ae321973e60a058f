"""What becomes of an invocation: the rules by which a handler is tried, and tried again.

Rules kept here:

* At least once: an invocation is due from the moment its element is durable, until it is done or
  dead. Every try counts, and the tries are bounded.
* A try that fails counts as an attempt. A try during which the program ended is counted apart: it
  may have been the handler's doing, or a power cut; there is a bound for these too, so that a
  handler that takes the whole program down does not do so for ever.
* One that ended with the program before is a suspect: it is tried alone, and not at once after a
  start but after a wait that doubles too. So a program that it does end lives longer each time, and
  one that is killed often from outside, or in its first moments, does not make it look guilty.
* Between tries there is a wait that doubles, with a spread that is the same in every run.
* A wait is never longer than the longest one the handler allows, also when the clock was set back.
* The n-th put of an invocation has one idempotency key, whatever try makes it.

Not handled here: running anything (``adapters/faas_runtime.py``), what a try ends with
(``faas_outcome.py``), and where dead letters rest (``faas_letters.py``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from .faas_outcome import Failure
from .handlers import Retry
from .woof import WoofId
from .woof_triggers import Trigger

MAX_INTERRUPTIONS: Final = 10
"""Tries that may end with the program before the element is a dead letter."""

ALONE_AFTER: Final = 2
"""After so many interruptions an invocation is tried alone, so that it takes no other with it."""

_PUT_TAG: Final = b"edgistry: put by a handler, 1\0"
_SPREAD_TAG: Final = b"edgistry: wait of a handler, 1\0"


class Phase(StrEnum):
    """Where an invocation stands."""

    WAITING = "waiting"
    """It is due, now or later."""
    RUNNING = "running"
    DONE = "done"
    """It has ended well, or was purged; nothing is left of it."""
    DEAD = "dead"
    """It is a dead letter."""


class Event(StrEnum):
    """What can happen to an invocation."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Tries are left."""
    FAILED_FOR_GOOD = "failed for good"
    STOPPED = "stopped"
    """The program ends in good order; the try does not count."""
    INTERRUPTED = "interrupted"
    """The program has ended while it ran; found out at the next start."""
    REPLAYED = "replayed"
    PURGED = "purged"


TRANSITIONS: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.WAITING, Event.STARTED): Phase.RUNNING,
    (Phase.WAITING, Event.FAILED_FOR_GOOD): Phase.DEAD,
    (Phase.RUNNING, Event.SUCCEEDED): Phase.DONE,
    (Phase.RUNNING, Event.FAILED): Phase.WAITING,
    (Phase.RUNNING, Event.FAILED_FOR_GOOD): Phase.DEAD,
    (Phase.RUNNING, Event.STOPPED): Phase.WAITING,
    (Phase.RUNNING, Event.INTERRUPTED): Phase.WAITING,
    (Phase.DEAD, Event.REPLAYED): Phase.WAITING,
    (Phase.DEAD, Event.PURGED): Phase.DONE,
}
"""Everything else is refused and changes nothing."""


class ImpossibleEventError(Exception):
    """A bug: this cannot happen to an invocation in this phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one invocation has fared so far."""

    phase: Phase = Phase.WAITING
    attempts: int = 0
    """Tries that failed."""
    interruptions: int = 0
    """Tries that ended with the program, since the last one that did not."""
    not_before_us: int = 0
    """µs since 1970; 0: at once."""
    reason: str = ""
    """Why it failed last."""

    @classmethod
    def of(cls, trigger: Trigger) -> Course:
        """The course of a trigger that waits, as far as it was recorded."""
        return cls(
            attempts=trigger.attempts,
            interruptions=trigger.interruptions,
            not_before_us=trigger.not_before_us,
            reason=trigger.reason,
        )

    def after(self, event: Event) -> Course:
        """The same course one event later, as far as ``event`` alone tells.

        Raises:
            ImpossibleEventError: that cannot happen now.
        """
        phase = TRANSITIONS.get((self.phase, event))
        if phase is None:
            raise ImpossibleEventError(f"{event} while {self.phase}")
        if event is Event.INTERRUPTED:
            return replace(self, phase=phase, interruptions=self.interruptions + 1)
        if event is Event.REPLAYED:
            return Course()
        return replace(self, phase=phase)

    def failed(self, failure: Failure, retry: Retry, *, now_us: int, spread: float) -> Course:
        """The course after a try that failed: it waits for the next one, or is dead.

        ``spread``, from 0 to 1, moves the wait between three quarters of it and all of it. One
        that waits can fail too, for good only, without being tried.

        Raises:
            ImpossibleEventError: that cannot happen now.
        """
        attempts = self.attempts + (self.phase is Phase.RUNNING)
        ended = failure.for_good or attempts >= retry.attempts
        course = self.after(Event.FAILED_FOR_GOOD if ended else Event.FAILED)
        wait_us = 0 if ended else round(wait_s(attempts, retry, spread) * 1_000_000)
        return replace(
            course,
            attempts=attempts,
            interruptions=0,
            not_before_us=now_us + wait_us if wait_us else 0,
            reason=failure.reason,
        )

    @property
    def is_spent(self) -> bool:
        """Whether it has ended with the program too often to be tried again."""
        return self.interruptions >= MAX_INTERRUPTIONS

    @property
    def runs_alone(self) -> bool:
        """Whether it is suspected of ending the program."""
        return self.interruptions >= ALONE_AFTER

    def held_back_s(self, retry: Retry) -> float:
        """Seconds for which a suspect is not tried after the program has started."""
        if self.is_spent or not self.runs_alone:
            return 0.0
        return wait_s(self.interruptions - ALONE_AFTER + 1, retry, 1.0)

    def due_in_s(self, retry: Retry, *, now_us: int) -> float:
        """Seconds from now until it may be tried; 0 when it may be already."""
        left_s = (self.not_before_us - now_us) / 1_000_000
        return min(max(left_s, 0.0), retry.longest_wait_s)


def wait_s(attempts: int, retry: Retry, spread: float) -> float:
    """Seconds to wait after ``attempts`` failures."""
    # Limited before it is too large for a float: nobody waits 2^60 times as long anyway.
    longest = min(retry.first_wait_s * 2.0 ** min(attempts - 1, 60), retry.longest_wait_s)
    return longest * (0.75 + 0.25 * spread)


def spread_of(woof_id: WoofId, number: int, handler: str, attempts: int) -> float:
    """From 0 to 1, different for each try and the same in every run."""
    digest = hashlib.sha256(_SPREAD_TAG + _named(woof_id, number, handler, attempts)).digest()
    return int.from_bytes(digest[:4], "big") / 0xFFFFFFFF


def put_key(woof_id: WoofId, number: int, handler: str, index: int) -> bytes:
    """The idempotency key of put ``index`` (from 0) of ``handler`` on element ``number``."""
    return hashlib.sha256(_PUT_TAG + _named(woof_id, number, handler, index)).digest()[:16]


def _named(woof_id: WoofId, number: int, handler: str, index: int) -> bytes:
    name = handler.encode("utf-8", "replace")
    fixed = woof_id.to_bytes(8, "big") + number.to_bytes(8, "big") + index.to_bytes(8, "big")
    return fixed + name
