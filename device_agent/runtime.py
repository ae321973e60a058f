"""What a device does next: its duty cycle, its radio budget and its nodes, put together.

Rules kept here:

* ``next`` says what to do now; what came of it is told by ``answered``, ``failed`` or ``lingered``.
  Nothing else changes anything.
* The radio is on between waking and falling asleep, and all of that counts against its budget; an
  exchange or a linger is cut where the budget ends.
* A wake ends: its exchanges are bounded, and so is each of them.
* The device decides: what a node would like of the next wake can bring it forward, never put it
  off, and the rhythm goes on as if it had not been. It holds until the node says something else, or
  the wake is over.
* In each wake the first node that tells the privacy epoch is believed: a fallback node may belong
  to another cluster, with other epochs.

Pure: time is an argument, in seconds of a clock that only rises; the spread of waits is drawn by a
function that is an argument too. Not handled here: doing it (``agent.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from .duty_cycle import Cycle, DutyCycle, Event, State
from .radio import RadioBudget
from .reach import BackOff, Reach, is_stand_in, next_retry_s, to_ask
from .rhythm import Epoch, Rhythm


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Switch the radio off until then."""

    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Make one exchange with this node, by position, and give it up after so long."""

    node: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Linger:
    """Stay awake until then, or until nothing is being worked on any more."""

    until_s: float


Action = Sleep | Ask | Linger


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How one device has been told to behave."""

    cycle: Cycle = field(default_factory=Cycle)
    back_off: BackOff = field(default_factory=BackOff)
    radio_s_per_hour: float = 0.0
    """0: no limit."""
    exchange_timeout_s: float = 15.0


class Runtime:
    """One device that is paired with ``nodes`` nodes, the primary first.

    ``spread`` draws a number from 0 to 1; ``wake_key`` is what its wakes are drawn by.
    """

    def __init__(
        self,
        habits: Habits,
        *,
        nodes: int,
        now_s: float,
        spread: Callable[[], float],
        wake_key: bytes,
    ) -> None:
        self.habits = habits
        self.rhythm = Rhythm(key=wake_key, period_s=habits.cycle.period_s, first_wake_s=now_s)
        self.duty = DutyCycle.beginning(now_s)
        self.radio = RadioBudget.full(habits.radio_s_per_hour, now_s=now_s)
        self.reaches = [Reach()] * nodes
        self._spread = spread
        self._asked: list[int] = []
        self._hints_s = [math.inf] * nodes
        """By when each node would like the device to wake, as it said in this wake."""
        self._was_told = False
        """Whether a node has told the epoch in this wake."""

    # --- what to do -----------------------------------------------------------------------------

    def next(self, now_s: float) -> Action:
        """What to do now."""
        if self.duty.state is State.LINGERING:
            return Linger(until_s=self.duty.linger_until_s)
        if self.duty.state is State.ASLEEP:
            until_s = self._asleep_until_s(now_s)
            if until_s > now_s:
                return Sleep(until_s=until_s)
            self.duty = self.duty.after(Event.DUE, now_s=now_s)
            self._hints_s = [math.inf] * len(self.reaches)
            self._was_told = False
            self._ask_first(now_s)
        timeout_s = min(self.habits.exchange_timeout_s, self._left_s(now_s))
        return Ask(node=self._asked[-1], timeout_s=max(timeout_s, 0.0))

    def back_at_s(self, now_s: float) -> float:
        """When to expect it next, if nothing is to be done any more (``Rhythm.back_s``)."""
        shortest_s = self.habits.cycle.shortest_sleep_s
        return self.rhythm.back_s(now_s=now_s, shortest_sleep_s=shortest_s)

    @property
    def is_asleep(self) -> bool:
        """Whether the radio is off."""
        return self.duty.state is State.ASLEEP

    @property
    def any_answered(self) -> bool:
        """Whether a node that was asked in this wake, or the last one, has answered."""
        return any(self.reaches[each].failures == 0 for each in self._asked)

    def _asleep_until_s(self, now_s: float) -> float:
        until_s = max(self.duty.wake_at_s, self.radio.enough_at_s(now_s))
        if to_ask(self.reaches, asked=(), now_s=now_s) is None:
            until_s = max(until_s, next_retry_s(self.reaches))
        return until_s

    def _ask_first(self, now_s: float) -> None:
        first = to_ask(self.reaches, asked=(), now_s=now_s)
        self._asked = [0 if first is None else first]

    # --- what came of it ------------------------------------------------------------------------

    def answered(
        self,
        now_s: float,
        *,
        at_work: bool,
        is_ready: bool,
        more: bool = False,
        is_owed: bool = False,
        hint_s: float = 0.0,
        epoch: Epoch | None = None,
    ) -> None:
        """The node asked has answered.

        ``at_work``: handlers of requests are running. ``is_ready``: there are results that were not
        sent yet. ``more``: the node has further requests. ``is_owed``: that node may have something
        for the device, or the device something for it. ``hint_s``: when the node would like it to
        wake, 0 for no opinion. ``epoch``: the privacy epoch, if it knows of one.
        """
        node = self._asked[-1]
        self.reaches[node] = self.reaches[node].answered(
            is_owed=is_owed, stands_in=is_stand_in(self.reaches, node), now_s=now_s
        )
        self._hints_s[node] = now_s + hint_s if hint_s > 0 else math.inf
        if epoch is not None and not self._was_told:
            self.rhythm, self._was_told = self.rhythm.told(epoch), True
        if self._other_node(now_s):
            return
        cycle = self.habits.cycle
        # Who is always awake waits in the next exchange.
        lingers = at_work and cycle.linger_s > 0 and not more and cycle.period_s > 0
        sends = is_ready and cycle.linger_s > 0 and not at_work
        goes_on = more or lingers or sends or not cycle.period_s
        if not goes_on:
            self._sleep(Event.NOTHING_LEFT, now_s)
        elif self._left_s(now_s) <= 0 or not self.duty.may_exchange(cycle):
            if more:
                self._hints_s[node] = now_s
            self._sleep(Event.SPENT, now_s)
        elif lingers:
            latest_s = now_s + self._left_s(now_s)
            self.duty = self.duty.lingering(cycle, now_s=now_s, latest_s=latest_s)
        else:
            self.duty = self.duty.after(Event.AGAIN, now_s=now_s)
            self._ask_first(now_s)

    def failed(self, now_s: float) -> None:
        """The node asked has given no answer that can be trusted."""
        number = self._asked[-1]
        self.reaches[number] = self.reaches[number].failed(
            self.habits.back_off, now_s=now_s, spread=self._spread()
        )
        if self._other_node(now_s):
            return
        if self.any_answered:
            self._sleep(Event.NOTHING_LEFT, now_s)
            return
        earliest_s = now_s + self.habits.cycle.shortest_sleep_s
        self._fall_asleep(Event.FAILED, now_s, max(earliest_s, next_retry_s(self.reaches)))

    def lingered(self, now_s: float, *, is_ready: bool) -> None:
        """Nothing is being worked on any more, or it has waited long enough.

        ``is_ready``: there are results that were not sent yet.
        """
        cycle = self.habits.cycle
        if self._left_s(now_s) <= 0 or not self.duty.may_exchange(cycle):
            self._sleep(Event.SPENT, now_s)
        elif is_ready or not cycle.period_s:
            self.duty = self.duty.after(Event.READY, now_s=now_s)
            self._ask_first(now_s)
        else:
            self._sleep(Event.OVER, now_s)

    # --- helpers --------------------------------------------------------------------------------

    def _other_node(self, now_s: float) -> bool:
        """Go on to the next node of this wake, if there is one and the time for it."""
        other = to_ask(self.reaches, asked=self._asked, now_s=now_s)
        if other is None or self._left_s(now_s) <= 0:
            return False
        self.duty = self.duty.after(Event.OTHER_NODE, now_s=now_s)
        self._asked.append(other)
        return True

    def _left_s(self, now_s: float) -> float:
        """For how long the radio may stay on in this wake."""
        return self.radio.left_s(now_s) - (now_s - self.duty.awake_since_s)

    def _sleep(self, event: Event, now_s: float) -> None:
        shortest_s = self.habits.cycle.shortest_sleep_s
        due_s = self.rhythm.due_s(now_s=now_s, shortest_sleep_s=shortest_s)
        hint_s = max(min(self._hints_s), now_s + shortest_s)
        self._fall_asleep(event, now_s, min(due_s, hint_s))

    def _fall_asleep(self, event: Event, now_s: float, wake_at_s: float) -> None:
        awake_s = now_s - self.duty.awake_since_s
        self.duty = self.duty.asleep(event, now_s=now_s, wake_at_s=wake_at_s)
        self.radio = self.radio.spent(awake_s, now_s=now_s)
