"""When a device is due: before an epoch is told, within one, and around its end."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.rhythm import EARLY_US, PATIENCE, Epoch, Rhythm, wake_key

PERIOD_S = 600.0
PERIOD_US = 600_000_000
DAY_US = 86_400_000_000
ENDS_US = 20_000 * DAY_US + 12_345_678_901
AHEAD_US = ENDS_US - DAY_US
"""The device was switched on when the epoch began."""
EPOCH = Epoch(ends_us=ENDS_US, ahead_us=AHEAD_US)
RHYTHM = Rhythm(key=bytes(32), period_s=PERIOD_S, first_wake_s=100.0)
TOLD = RHYTHM.told(EPOCH)
DAY_S = 86_400.0


def due_s(rhythm: Rhythm, now_s: float) -> float:
    return rhythm.due_s(now_s=now_s, shortest_sleep_s=1.0)


def wakes(rhythm: Rhythm, *, since_s: float, until_s: float) -> list[float]:
    """When a device wakes that needs no time to be awake."""
    found = [since_s]
    while found[-1] < until_s:
        found.append(due_s(rhythm, found[-1]))
    return found[1:-1]


def phase_us(rhythm: Rhythm, now_s: float) -> int:
    """How far into the period, by the node's time, the device is due next."""
    assert rhythm.epoch is not None
    return (round(due_s(rhythm, now_s) * 1e6) + rhythm.epoch.ahead_us) % PERIOD_US


def devices(count: int) -> list[Rhythm]:
    keys = [wake_key(hashlib.sha256(number.to_bytes(4, "big")).digest()) for number in range(count)]
    return [replace(TOLD, key=key) for key in keys]


# --- before an epoch is told --------------------------------------------------------------------


def test_wakes_keep_their_rhythm_however_long_one_takes() -> None:
    assert due_s(RHYTHM, 103.0) == 700.0
    assert due_s(RHYTHM, 699.5) == 1300.0


def test_device_that_is_always_awake_sleeps_only_for_a_moment() -> None:
    awake = replace(RHYTHM, period_s=0.0)
    assert awake.due_s(now_s=10.0, shortest_sleep_s=0.5) == 10.5
    assert awake.told(EPOCH).due_s(now_s=10.0, shortest_sleep_s=0.5) == 10.5


@given(now_s=st.floats(0, 1e9), period_s=st.floats(1.0, 1e6))
def test_device_is_due_within_a_period_and_after_its_shortest_sleep(
    now_s: float, period_s: float
) -> None:
    rhythm = Rhythm(key=bytes(32), period_s=period_s, first_wake_s=0.0)
    assert now_s + 1.0 <= due_s(rhythm, now_s) <= now_s + 1.0 + period_s + 1e-6 * now_s


# --- within an epoch ----------------------------------------------------------------------------


def test_wakes_of_an_epoch_are_a_period_apart() -> None:
    found = wakes(TOLD, since_s=0.0, until_s=DAY_S - 20.0)
    assert len(found) in (143, 144)
    gaps = {round(after - before, 3) for before, after in pairwise(found)}
    assert gaps == {PERIOD_S}


def test_device_that_starts_anew_or_comes_between_wakes_keeps_the_phase() -> None:
    later = replace(TOLD, first_wake_s=7777.7).told(Epoch(ends_us=ENDS_US, ahead_us=AHEAD_US + 999))
    expected = phase_us(TOLD, 0.0)
    for now_s in (0.0, 17.3, 4321.0, 80_000.0):
        assert abs(phase_us(later, now_s) - expected) <= 1
        assert abs(phase_us(TOLD, now_s) - expected) <= 1


def test_phases_are_drawn_from_the_whole_period_for_each_device_and_each_epoch() -> None:
    for ends_us in (ENDS_US, ENDS_US + DAY_US):
        told = [each.told(replace(EPOCH, ends_us=ends_us)) for each in devices(1000)]
        tenths = Counter(phase_us(each, 0.0) * 10 // PERIOD_US for each in told)
        assert sorted(tenths) == list(range(10))
        assert max(tenths.values()) < 150


def test_phase_of_one_epoch_tells_nothing_of_the_next() -> None:
    told = devices(1000)
    befores = [phase_us(each, 0.0) for each in told]
    afters = [phase_us(each.told(replace(EPOCH, ends_us=ENDS_US + DAY_US)), 0.0) for each in told]
    steps = Counter(
        (after - before) % PERIOD_US * 10 // PERIOD_US
        for before, after in zip(befores, afters, strict=True)
    )
    assert sorted(steps) == list(range(10))
    assert max(steps.values()) < 150


def test_key_is_the_device_s_secret_for_this_alone_and_is_not_shown() -> None:
    assert wake_key(bytes(32)) != wake_key(bytes(31) + b"1") != bytes(32)
    assert repr(replace(TOLD, key=b"k" * 32)).find("kkk") == -1


@pytest.mark.parametrize("ahead_us", [1_000, 1_100_000, 9_900_000])
def test_device_that_comes_too_soon_after_a_slow_request_does_not_wake_twice(
    ahead_us: int,
) -> None:
    woken_s = due_s(TOLD, 0.0)
    heard = TOLD.told(replace(EPOCH, ahead_us=AHEAD_US - ahead_us))
    assert due_s(heard, woken_s) == pytest.approx(woken_s + PERIOD_S + ahead_us / 1e6, abs=0.01)


def test_device_whose_clock_is_fast_does_not_wake_twice() -> None:
    rarely = replace(TOLD, period_s=7200.0)
    regular_s = due_s(rarely, 0.0)
    assert due_s(rarely, regular_s - 14.5) == pytest.approx(regular_s, abs=0.01)
    assert due_s(rarely, regular_s - 14.3) == pytest.approx(regular_s + 7200.0, abs=0.01)


@pytest.mark.parametrize("period_s", [2.0, 10.0, 30.0, 600.0])
def test_wakes_are_at_most_a_quarter_of_a_period_late_for_that(period_s: float) -> None:
    told = replace(TOLD, period_s=period_s)
    waits = [due_s(told, number * 0.7) - number * 0.7 for number in range(2000)]
    longest_s = period_s + max(min(period_s / 4, 10.0), 1.0)
    assert longest_s - 1.0 < max(waits) <= longest_s + 0.001


# --- around its end -----------------------------------------------------------------------------

OVER_S = DAY_S - EARLY_US / 1e6


def first_waits(now_s: float, count: int = 4000) -> list[float]:
    """From ``now_s``, or from the end of the epoch on, until devices wake."""
    since_s = max(now_s + PERIOD_S / 500, OVER_S)
    return [due_s(each, now_s) - since_s for each in devices(count)]


@pytest.mark.parametrize("late_s", [0.0, 45.0, 900.0])
def test_waits_behind_the_end_are_half_a_period_and_have_no_memory(late_s: float) -> None:
    waits = first_waits(OVER_S + late_s)
    assert 0.0 <= min(waits) < 1.0, "what keeps it from coming twice is not for these"
    assert statistics.fmean(waits) == pytest.approx(PERIOD_S / 2, rel=0.06)
    longer = sum(wait > PERIOD_S / 2 for wait in waits) / len(waits)
    assert longer == pytest.approx(0.368, abs=0.03)
    assert sum(wait > PERIOD_S for wait in waits) / len(waits) == pytest.approx(0.135, abs=0.02)


def test_wait_over_the_end_begins_there_and_not_at_the_last_wake() -> None:
    last = [wakes(each, since_s=0.0, until_s=OVER_S)[-1] for each in devices(500)]
    waits = [
        due_s(each, woken_s) - OVER_S for each, woken_s in zip(devices(500), last, strict=True)
    ]
    assert min(waits) > 0
    assert statistics.fmean(waits) == pytest.approx(PERIOD_S / 2, rel=0.15)
    assert abs(statistics.correlation(last, waits)) < 0.15


def test_old_rhythm_is_given_up_a_little_before_the_announced_end() -> None:
    before_s = DAY_S - PERIOD_S
    regular = [(each, due_s(each, before_s)) for each in devices(4000)]
    given_up = [each for each, at_s in regular if at_s >= OVER_S]
    assert given_up, "by chance some are due in the last seconds"
    for each in given_up:
        apart_us = phase_us(each, before_s) - phase_us(each, 0.0)
        assert abs(apart_us) > 1


def test_no_wake_behind_the_end_is_in_the_old_rhythm_but_by_chance() -> None:
    old = [phase_us(each, 0.0) for each in devices(1000)]
    new = [phase_us(each, OVER_S) for each in devices(1000)]
    tenths = Counter(
        (after - before) % PERIOD_US * 10 // PERIOD_US
        for before, after in zip(old, new, strict=True)
    )
    assert max(tenths.values()) < 150


def test_epoch_that_does_not_come_costs_no_energy_in_the_long_run() -> None:
    since_s = OVER_S + PATIENCE * PERIOD_S
    found = wakes(TOLD, since_s=since_s, until_s=since_s + 2000 * PERIOD_S)
    assert 1850 < len(found) < 2150


def count_of_wakes(rhythm: Rhythm) -> int:
    """In ten periods before an epoch ends and ten after the next has begun, 20 s late."""
    begins_s = DAY_S + 20.0
    before = wakes(rhythm, since_s=DAY_S - 10 * PERIOD_S, until_s=begins_s)
    first_s = due_s(rhythm, before[-1])
    told = rhythm.told(Epoch(ends_us=ENDS_US + DAY_US, ahead_us=AHEAD_US))
    return len(before) + 1 + len(wakes(told, since_s=first_s, until_s=begins_s + 10 * PERIOD_S))


def test_end_of_an_epoch_costs_about_half_a_wake() -> None:
    regular = (20 * PERIOD_S + 20.0) / PERIOD_S
    found = [count_of_wakes(each) - regular for each in devices(1000)]
    assert 0.3 < statistics.fmean(found) < 0.8


@given(
    now_s=st.floats(0, 3 * DAY_S),
    ends_us=st.integers(0, (1 << 64) - 1),
    key=st.binary(min_size=32, max_size=32),
)
def test_device_is_back_when_it_says_whatever_epoch_it_is_told(
    now_s: float, ends_us: int, key: bytes
) -> None:
    told = replace(TOLD, key=key).told(replace(EPOCH, ends_us=ends_us))
    due = due_s(told, now_s)
    assert due >= now_s + 1.0
    if AHEAD_US + round(due * 1e6) < ends_us - EARLY_US:
        for earlier in (RHYTHM, TOLD):
            back_s = earlier.back_s(now_s=now_s, shortest_sleep_s=1.0)
            assert due <= back_s + 10.0 + 0.001
