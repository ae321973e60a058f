"""The duty cycle: when a device is awake, and what it does then (paper §2.2).

    wake → one exchange → (linger a little, if handlers are quick) → sleep

Rules kept here:

* The table says what may follow what; an event that it does not know is a bug and changes nothing.
* Results that are ready while the device is still awake go up at once; what is not ready goes up
  when it wakes next. The exchanges of one wake are bounded.

Pure: time is an argument, in seconds of a clock that only rises and runs on while asleep.

Not handled here: when it is due (``rhythm.py``), which node to talk to and how long to wait after a
failure (``reach.py``), how long the radio may be on (``radio.py``), and who acts on all that
(``runtime.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What the device is doing."""

    ASLEEP = "asleep"
    """Its radio is off. Handlers may still run."""
    EXCHANGING = "exchanging"
    """One request to a node is on its way."""
    LINGERING = "lingering"
    """Awake for a moment, since results may be ready soon."""


class Event(StrEnum):
    """What can happen to it."""

    DUE = "due"
    """It is time, and the radio may be on."""
    NOTHING_LEFT = "nothing left"
    """The exchange is done; there is nothing to work on and nothing to send."""
    WORK = "work"
    """The exchange is done; requests are being worked on."""
    AGAIN = "again"
    """The exchange is done; another one at once is worth it."""
    OTHER_NODE = "other node"
    """The exchange is over, well or not; the other node is to be asked too."""
    FAILED = "failed"
    """No node gave an answer that can be trusted."""
    READY = "ready"
    """All results that can be ready now are; they are to be sent."""
    OVER = "over"
    """It has waited long enough, or there is nothing to wait for any more."""
    SPENT = "spent"
    """The radio has been on for as long as it may, or exchanges were as many as there may be."""


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.ASLEEP, Event.DUE): State.EXCHANGING,
    (State.EXCHANGING, Event.NOTHING_LEFT): State.ASLEEP,
    (State.EXCHANGING, Event.WORK): State.LINGERING,
    (State.EXCHANGING, Event.AGAIN): State.EXCHANGING,
    (State.EXCHANGING, Event.OTHER_NODE): State.EXCHANGING,
    (State.EXCHANGING, Event.FAILED): State.ASLEEP,
    (State.EXCHANGING, Event.SPENT): State.ASLEEP,
    (State.LINGERING, Event.READY): State.EXCHANGING,
    (State.LINGERING, Event.OVER): State.ASLEEP,
    (State.LINGERING, Event.SPENT): State.ASLEEP,
}
"""Everything else is refused and changes nothing."""


class ImpossibleEventError(Exception):
    """A bug: this cannot happen to a device in this state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """The rhythm of one device. All in seconds."""

    period_s: float = 600.0
    """From one wake to the next; 0: always awake, each exchange is followed by another."""
    linger_s: float = 2.0
    """How long to wait, awake, for results; 0: they go up with the next wake."""
    shortest_sleep_s: float = 1.0
    """However soon the node would like it."""
    max_exchanges: int = 8
    """In one wake, unless it never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyCycle:
    """Where one device stands in its cycle."""

    state: State = State.ASLEEP
    wake_at_s: float
    """When it wakes next; while awake, when it would have woken next."""
    awake_since_s: float = 0.0
    """When this wake began. Means nothing while asleep."""
    linger_until_s: float = 0.0
    """Means something while lingering."""
    exchanges: int = 0
    """Begun in this wake."""

    def may_exchange(self, cycle: Cycle) -> bool:
        """Whether one more exchange fits into this wake."""
        return not cycle.period_s or self.exchanges < cycle.max_exchanges

    @classmethod
    def beginning(cls, now_s: float) -> DutyCycle:
        """A device that has just been switched on: it wakes at once."""
        return cls(wake_at_s=now_s)

    def after(self, event: Event, *, now_s: float) -> DutyCycle:
        """The same device one event later, as far as the table alone tells.

        Raises:
            ImpossibleEventError: that cannot happen now.
        """
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise ImpossibleEventError(f"{event} while {self.state}")
        if state is not State.EXCHANGING:
            return replace(self, state=state)
        if self.state is State.ASLEEP:
            return replace(self, state=state, awake_since_s=now_s, exchanges=1)
        return replace(self, state=state, exchanges=self.exchanges + 1)

    def lingering(self, cycle: Cycle, *, now_s: float, latest_s: float) -> DutyCycle:
        """Awake for a moment more, but not beyond ``latest_s``.

        Raises:
            ImpossibleEventError: it is not in an exchange.
        """
        until_s = min(now_s + cycle.linger_s, latest_s)
        return replace(self.after(Event.WORK, now_s=now_s), linger_until_s=until_s)

    def asleep(self, event: Event, *, now_s: float, wake_at_s: float) -> DutyCycle:
        """Asleep because of ``event``, until ``wake_at_s``.

        Raises:
            ImpossibleEventError: ``event`` does not lead to sleep from here.
        """
        after = self.after(event, now_s=now_s)
        if after.state is not State.ASLEEP:
            raise ImpossibleEventError(f"{event} while {self.state} does not lead to sleep")
        return replace(after, wake_at_s=wake_at_s)
