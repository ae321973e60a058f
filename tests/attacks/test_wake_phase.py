"""Wake phase: when a service answers in one epoch does not say which one it is in the next.

The attacker calls all services so often, under the handles of both epochs, that it sees every wake
of every device to a quarter of a second (the slots in which answers leave). It lays what it saw
under a handle of the first epoch beside what it saw under one of the second. AUC is how often the
true pair scores more than a wrong one, or less, whichever is better for the attacker: 0.5 is
guessing. Devices and epochs are played by the device's own runtime; the next epoch begins a while
after the announced end, as it does on a chain.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from device_agent.config import CycleConfig
from device_agent.duty_cycle import Cycle
from device_agent.periods import PERIODS_S
from device_agent.rhythm import Epoch, Rhythm, wake_key
from device_agent.runtime import Ask, Habits, Runtime, Sleep
from edgistry.errors import InvalidValueError

DEVICES = 1000
WRONG = 5
"""Pairs that a true one is compared with."""
MOST = 0.55
BEGIN_US = 20_000 * 86_400_000_000
AWAKE_S = 0.2
ANSWERS_S = 0.25
"""Answers leave at the edges of slots that are as long."""


@dataclass(frozen=True)
class Seen:
    """When one device woke, in seconds since the first epoch began, by the epoch of the handle."""

    before: list[float]
    after: list[float]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Two epochs, of a length that is no multiple of any period."""

    lasts_s: float
    late_s: float
    """From the announced end of the first until the second begins."""

    @property
    def second_s(self) -> float:
        return self.lasts_s + self.late_s

    def ends_us(self, now_s: float) -> int:
        """When the epoch of this moment ends, as nodes tell it."""
        begun_s = 0.0 if now_s < self.second_s else self.second_s
        return BEGIN_US + round((begun_s + self.lasts_s) * 1e6)


def seen(rhythm: Rhythm, chain: Chain, on_s: float) -> Seen:
    """What is seen of a device that is switched on at ``on_s``, before the first epoch."""
    runtime = Runtime(
        Habits(cycle=Cycle(period_s=rhythm.period_s)),
        nodes=1,
        now_s=0.0,
        spread=lambda: 0.0,
        wake_key=rhythm.key,
    )
    runtime.rhythm = rhythm
    found = Seen([], [])
    now_s = 0.0
    while on_s + now_s < chain.second_s + chain.lasts_s - 1.0:
        action = runtime.next(now_s)
        if isinstance(action, Sleep):
            now_s = action.until_s
            continue
        assert isinstance(action, Ask)
        at_s = on_s + now_s
        if at_s >= 0.0:
            answered_s = math.ceil(at_s / ANSWERS_S) * ANSWERS_S
            (found.before if at_s < chain.second_s else found.after).append(answered_s)
        now_s += AWAKE_S
        told = Epoch(
            ends_us=chain.ends_us(at_s + AWAKE_S / 2), ahead_us=BEGIN_US + round(on_s * 1e6)
        )
        runtime.answered(now_s, at_work=False, is_ready=False, epoch=told)
    return found


# --- designs ------------------------------------------------------------------------------------


class CountedFromTheFirst(Rhythm):
    """Naive: one rhythm for ever."""

    def told(self, epoch: Epoch) -> Rhythm:
        return self


class Naive(Rhythm):
    """What the naive designs below have in common: phases, without the device's own rules."""

    def _next_us(self, phase_us: int, earliest_us: int) -> int:
        return earliest_us + (phase_us - earliest_us) % round(self.period_s * 1e6)

    def _phase(self, number: int) -> int:
        return self._drawn(b"\x01", number) * round(self.period_s * 1e6) >> 64


class RedrawnWhenHeard(Naive):
    """Naive: the old phase until the device has heard of the next epoch."""

    def _due_us(self, epoch: Epoch, *, earliest_us: int, regular_us: int) -> int:
        return self._next_us(self._phase(epoch.ends_us), earliest_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedrawnAtTheAnnouncedEnd(Naive):
    """Naive: the next phase from the announced end on, though the next epoch begins later."""

    lasts_us: int

    def _due_us(self, epoch: Epoch, *, earliest_us: int, regular_us: int) -> int:
        number = epoch.ends_us // self.lasts_us
        due_us = self._next_us(self._phase(number), earliest_us)
        if due_us < epoch.ends_us:
            return due_us
        return self._next_us(self._phase(number + 1), max(earliest_us, epoch.ends_us))


class OnceInEachSlot(Naive):
    """Naive: one wake in each slot of a period, anywhere in it around the end of an epoch."""

    def _due_us(self, epoch: Epoch, *, earliest_us: int, regular_us: int) -> int:
        period_us = round(self.period_s * 1e6)
        slot = earliest_us // period_us
        while True:
            is_within = (slot + 1) * period_us <= epoch.ends_us
            due_us = slot * period_us + self._phase(epoch.ends_us if is_within else slot)
            if due_us >= earliest_us:
                return due_us
            slot += 1


class NeverMoreThanAPeriod(Naive):
    """Naive: wherever the next wake is, it is no more than a period after the last."""

    def _due_us(self, epoch: Epoch, *, earliest_us: int, regular_us: int) -> int:
        due_us = self._next_us(self._phase(epoch.ends_us), earliest_us)
        if due_us < epoch.ends_us:
            return due_us
        share = self._drawn(b"\x02", earliest_us) / 2**64
        from_us = max(earliest_us, epoch.ends_us)
        return from_us + round(share * (earliest_us + self.period_s * 1e6 - from_us))


Design = Callable[[bytes, float, Chain], Rhythm]


def of(kind: type[Rhythm]) -> Design:
    return lambda key, period_s, _chain: kind(key=key, period_s=period_s, first_wake_s=0.0)


def at_the_announced_end(key: bytes, period_s: float, chain: Chain) -> Rhythm:
    lasts_us = round(chain.lasts_s * 1e6)
    return RedrawnAtTheAnnouncedEnd(key=key, period_s=period_s, first_wake_s=0.0, lasts_us=lasts_us)


OURS = of(Rhythm)


# --- attacks ------------------------------------------------------------------------------------

Attack = Callable[[Sequence[Seen], float], Callable[[int, int], float]]
"""How well what was seen of one device before fits what was seen of another after."""


def by_phase(all_seen: Sequence[Seen], period_s: float) -> Callable[[int, int], float]:
    """Some wake of each is a number of whole periods from one of the other."""
    return lambda one, two: (
        -min(
            abs(math.remainder(after - before, period_s))
            for before in all_seen[one].before
            for after in all_seen[two].after
        )
    )


def by_usual_phase(all_seen: Sequence[Seen], period_s: float) -> Callable[[int, int], float]:
    """Wakes in the middle of each are."""

    def apart(one: int, two: int) -> float:
        before, after = all_seen[one].before, all_seen[two].after
        return -abs(math.remainder(after[len(after) // 2] - before[len(before) // 2], period_s))

    return apart


def by_wait(all_seen: Sequence[Seen], period_s: float) -> Callable[[int, int], float]:
    """The first wake of the second epoch is a period after the last of the first."""
    return lambda one, two: -abs(all_seen[two].after[0] - all_seen[one].before[-1] - period_s)


def by_bound(all_seen: Sequence[Seen], period_s: float) -> Callable[[int, int], float]:
    """It is no more than a period after it."""
    return lambda one, two: float(
        all_seen[two].after[0] - all_seen[one].before[-1] <= period_s + 2.0
    )


def by_turns(all_seen: Sequence[Seen], _period_s: float) -> Callable[[int, int], float]:
    """Who came late before the second epoch comes late in it, or soon."""
    lasts = _ranks([each.before[-1] for each in all_seen])
    firsts = _ranks([each.after[0] for each in all_seen])
    return lambda one, two: lasts[one] * firsts[two]


def by_period(all_seen: Sequence[Seen], _period_s: float) -> Callable[[int, int], float]:
    """Wakes are as far apart."""
    befores = [_usual_wait(each.before) for each in all_seen]
    afters = [_usual_wait(each.after) for each in all_seen]
    return lambda one, two: -abs(befores[one] - afters[two])


def _usual_wait(times: Sequence[float]) -> float:
    return statistics.median(b - a for a, b in pairwise(times))


def _ranks(values: Sequence[float]) -> list[float]:
    """Places in order of size, from -1 to 1."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    ranks = [0.0] * len(values)
    for place, at in enumerate(order):
        ranks[at] = 2.0 * place / (len(values) - 1) - 1.0
    return ranks


ATTACKS = [by_phase, by_usual_phase, by_wait, by_bound, by_turns, by_period]


@functools.cache
def all_seen(design: Design, periods_s: tuple[float, ...], late_s: float) -> list[Seen]:
    drawn = random.Random(1)
    usual_s = statistics.median(periods_s)
    chain = Chain(lasts_s=12.43 * usual_s, late_s=late_s)
    found = []
    for number, period_s in enumerate(periods_s):
        key = wake_key(hashlib.sha256(number.to_bytes(4, "big")).digest())
        on_s = -period_s * drawn.uniform(1.0, 2.0)
        found.append(seen(design(key, period_s, chain), chain, on_s))
    return found


def auc(
    attack: Attack, design: Design, periods_s: tuple[float, ...], *, late_s: float = 20.0
) -> float:
    """How well an attack does that is turned round where that is better for it."""
    found = all_seen(design, periods_s, late_s)
    fits = attack(found, statistics.median(periods_s))
    drawn, won = random.Random(2), 0.0
    for true in range(len(found)):
        mine = fits(true, true)
        for wrong in drawn.sample([each for each in range(len(found)) if each != true], WRONG):
            other = fits(true, wrong)
            won += (mine > other) + 0.5 * (mine == other)
    share = won / (len(found) * WRONG)
    return max(share, 1.0 - share)


def alike(period_s: float) -> tuple[float, ...]:
    return (period_s,) * DEVICES


def wishes() -> tuple[int, ...]:
    """What owners would like who think of ten minutes or so."""
    drawn = random.Random(3)
    return tuple(drawn.randint(500, 700) for _ in range(DEVICES))


def allowed(wish_s: int) -> int:
    """What an owner gets who takes the nearest that is allowed."""
    try:
        return CycleConfig(period_s=wish_s).period_s
    except InvalidValueError:
        return min(PERIODS_S, key=lambda each: abs(each - wish_s))


# --- tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period_s", "late_s"), [(10.0, 20.0), (60.0, 0.0), (60.0, 20.0), (600.0, 20.0), (600.0, 300.0)]
)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_nothing_of_when_a_device_wakes_links_two_epochs(
    attack: Attack, period_s: float, late_s: float
) -> None:
    assert auc(attack, OURS, alike(period_s), late_s=late_s) <= MOST


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_periods_that_owners_wish_for_link_nothing(attack: Attack) -> None:
    assert auc(attack, OURS, tuple(map(allowed, wishes()))) <= MOST


def test_periods_of_any_length_are_linked_by_the_same_attack() -> None:
    assert auc(by_period, OURS, wishes()) > 0.9


@pytest.mark.parametrize(
    ("design", "attack", "period_s", "least"),
    [
        (of(CountedFromTheFirst), by_phase, 600.0, 0.9),
        (of(CountedFromTheFirst), by_usual_phase, 600.0, 0.9),
        (of(CountedFromTheFirst), by_wait, 600.0, 0.9),
        (of(RedrawnWhenHeard), by_phase, 600.0, 0.9),
        (at_the_announced_end, by_phase, 30.0, 0.75),
        (of(OnceInEachSlot), by_turns, 600.0, 0.6),
        (of(NeverMoreThanAPeriod), by_bound, 600.0, 0.6),
    ],
    ids=[
        "phase that stays", "phase that stays, usually", "phase that stays, over the end",
        "redrawn when heard", "redrawn at the announced end", "once in each slot",
        "never more than a period",
    ],
)  # fmt: skip
def test_naive_designs_are_linked_by_the_same_attacks(
    design: Design, attack: Attack, period_s: float, least: float
) -> None:
    assert auc(attack, design, alike(period_s)) > least
