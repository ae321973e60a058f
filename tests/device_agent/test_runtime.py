"""What a device does next: wakes, nodes, back-off and radio budget together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.duty_cycle import Cycle, State
from device_agent.radio import RadioBudget
from device_agent.reach import BackOff, Reach, to_ask
from device_agent.rhythm import Epoch
from device_agent.runtime import Ask, Habits, Linger, Runtime, Sleep

HABITS = Habits(
    cycle=Cycle(period_s=600.0, linger_s=2.0, shortest_sleep_s=1.0, max_exchanges=4),
    back_off=BackOff(first_wait_s=4.0, longest_wait_s=1000.0),
    exchange_timeout_s=10.0,
)


def device(habits: Habits = HABITS, *, nodes: int = 1, now_s: float = 0.0) -> Runtime:
    return Runtime(habits, nodes=nodes, now_s=now_s, spread=lambda: 0.0, wake_key=bytes(32))


def idle_wake(runtime: Runtime, now_s: float) -> None:
    """One wake at which the node has nothing."""
    assert isinstance(runtime.next(now_s), Ask)
    runtime.answered(now_s, at_work=False, is_ready=False)


def test_idle_wake_is_one_exchange_and_then_sleep_for_a_period() -> None:
    runtime = device()
    assert runtime.next(0.0) == Ask(node=0, timeout_s=10.0)
    runtime.answered(0.5, at_work=False, is_ready=False)
    assert runtime.next(0.5) == Sleep(until_s=600.0)


def test_results_that_are_ready_go_up_in_the_same_wake() -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.5, at_work=False, is_ready=True)
    assert isinstance(runtime.next(0.5), Ask)


def test_device_lingers_while_handlers_run_and_then_sends_what_they_said() -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.5, at_work=True, is_ready=False)
    assert runtime.next(0.5) == Linger(until_s=2.5)
    runtime.lingered(0.7, is_ready=True)
    assert isinstance(runtime.next(0.7), Ask)


def test_device_does_not_wait_longer_than_it_may_for_slow_handlers() -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.5, at_work=True, is_ready=False)
    runtime.lingered(2.5, is_ready=False)
    assert runtime.next(2.5) == Sleep(until_s=600.0)


def test_device_that_never_lingers_sends_results_with_the_next_wake() -> None:
    runtime = device(replace(HABITS, cycle=replace(HABITS.cycle, linger_s=0.0)))
    runtime.next(0.0)
    runtime.answered(0.5, at_work=True, is_ready=True)
    assert runtime.next(0.5) == Sleep(until_s=600.0)


def test_further_requests_are_fetched_at_once_but_not_without_end() -> None:
    runtime = device()
    for _ in range(4):
        assert isinstance(runtime.next(0.0), Ask)
        runtime.answered(0.0, at_work=False, is_ready=True, more=True)
    assert runtime.next(0.0) == Sleep(until_s=1.0)


@pytest.mark.parametrize(
    ("hint_s", "wakes_at_s"), [(20.0, 20.0), (0.001, 1.0), (599.0, 599.0), (5000.0, 600.0)]
)
def test_hint_of_the_node_brings_the_next_wake_forward_and_never_puts_it_off(
    hint_s: float, wakes_at_s: float
) -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False, hint_s=hint_s)
    assert runtime.next(0.0) == Sleep(until_s=wakes_at_s)


def test_rhythm_goes_on_after_a_wake_that_was_brought_forward() -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False, hint_s=20.0)
    idle_wake(runtime, 20.0)
    assert runtime.next(20.0) == Sleep(until_s=600.0)


def test_device_that_is_always_awake_asks_again_and_again() -> None:
    runtime = device(replace(HABITS, cycle=replace(HABITS.cycle, period_s=0.0)))
    for _ in range(50):
        assert isinstance(runtime.next(0.0), Ask)
        runtime.answered(0.0, at_work=False, is_ready=False)


# --- privacy epochs -----------------------------------------------------------------------------

EPOCH = Epoch(ends_us=20_000 * 86_400_000_000, ahead_us=20_000 * 86_400_000_000 - 40_000_000_000)


def wake_times(runtime: Runtime, *epochs: Epoch | None, hint_s: float = 0.0) -> list[float]:
    """When the device wakes if its node tells it these, one after the other."""
    action = runtime.next(runtime.duty.wake_at_s)
    found = []
    for epoch in epochs:
        now_s = runtime.duty.awake_since_s
        assert isinstance(action, Ask)
        runtime.answered(now_s, at_work=False, is_ready=False, hint_s=hint_s, epoch=epoch)
        sleep = runtime.next(now_s)
        assert isinstance(sleep, Sleep)
        found.append(sleep.until_s)
        action = runtime.next(sleep.until_s)
    return found


def test_device_follows_the_epoch_that_its_node_tells() -> None:
    first, second, third = wake_times(device(), EPOCH, EPOCH, EPOCH)
    assert 0.0 < first < 600.0
    assert (second, third) == pytest.approx((first + 600.0, first + 1200.0))


def test_device_keeps_its_rhythm_while_nobody_tells_an_epoch() -> None:
    assert wake_times(device(), None, None) == [600.0, 1200.0]
    first, second = wake_times(device(), EPOCH, None)
    assert second == pytest.approx(first + 600.0)


def test_another_epoch_is_another_rhythm_at_once() -> None:
    following = replace(EPOCH, ends_us=EPOCH.ends_us + 86_400_000_000)
    first, second, third = wake_times(device(), EPOCH, following, following)
    assert second != pytest.approx(first + 600.0)
    assert first < second <= first + 602.0
    assert third == pytest.approx(second + 600.0)


def test_wake_that_was_brought_forward_brings_no_old_rhythm_back() -> None:
    runtime = device()
    (brought,) = wake_times(runtime, EPOCH, hint_s=20.0)
    assert brought == 20.0
    (regular,) = wake_times(device(), EPOCH)
    runtime.answered(20.0, at_work=False, is_ready=False, epoch=EPOCH)
    following = runtime.next(20.0)
    assert isinstance(following, Sleep)
    assert following.until_s == pytest.approx(regular)


def test_first_node_of_a_wake_that_tells_an_epoch_is_believed() -> None:
    other = replace(EPOCH, ends_us=EPOCH.ends_us + 1)
    runtime = device(nodes=2)
    runtime.reaches[1] = Reach(is_owed=True)
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False, epoch=EPOCH)
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False, epoch=other)
    assert runtime.rhythm.epoch == EPOCH
    runtime.next(runtime.duty.wake_at_s)
    runtime.failed(runtime.duty.awake_since_s)
    runtime.next(runtime.duty.awake_since_s)
    runtime.answered(runtime.duty.awake_since_s, at_work=False, is_ready=False, epoch=other)
    assert runtime.rhythm.epoch == other, "the first does not answer"


# --- nodes that do not answer -------------------------------------------------------------------


def test_silent_node_is_tried_again_after_waits_that_double_up_to_a_longest() -> None:
    runtime = device()
    now_s = 0.0
    waits = []
    for _ in range(12):
        assert isinstance(runtime.next(now_s), Ask)
        runtime.failed(now_s)
        action = runtime.next(now_s)
        assert isinstance(action, Sleep)
        waits.append(action.until_s - now_s)
        now_s = action.until_s
    assert waits[:4] == [4.0, 8.0, 16.0, 32.0]
    assert waits[-1] == 1000.0


def test_spread_makes_devices_come_back_at_different_times() -> None:
    back_off = BackOff(first_wait_s=10.0, longest_wait_s=100.0)
    assert back_off.wait_s(1, 0.0) == 10.0
    assert back_off.wait_s(1, 1.0) == 5.0


def test_waits_stay_finite_however_often_a_node_is_silent() -> None:
    assert BackOff().wait_s(10**9, 0.0) == BackOff().longest_wait_s


def test_hint_holds_although_the_device_lingers_after_it() -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.5, at_work=True, is_ready=False, hint_s=30.0)
    runtime.lingered(2.5, is_ready=False)
    assert runtime.next(2.5) == Sleep(until_s=30.5)


def test_hint_is_over_with_its_wake_and_with_the_next_word_of_its_node() -> None:
    runtime = device()
    runtime.next(0.0)
    runtime.answered(0.5, at_work=False, is_ready=False, hint_s=30.0)
    runtime.next(30.5)
    runtime.answered(30.5, at_work=True, is_ready=False, hint_s=30.0)
    runtime.lingered(31.0, is_ready=True)
    runtime.answered(31.5, at_work=False, is_ready=False)
    assert runtime.next(31.5) == Sleep(until_s=600.0)


def test_hint_of_one_node_holds_although_the_other_has_none() -> None:
    runtime = device(nodes=2)
    runtime.reaches[1] = Reach(is_owed=True)
    runtime.next(0.0)
    runtime.answered(0.5, at_work=False, is_ready=False, hint_s=30.0)
    assert runtime.next(0.5) == Ask(node=1, timeout_s=10.0)
    runtime.answered(0.5, at_work=False, is_ready=False)
    assert runtime.next(0.5) == Sleep(until_s=30.5)


def test_fallback_is_asked_in_the_same_wake_when_the_primary_is_silent() -> None:
    runtime = device(nodes=2)
    assert runtime.next(0.0) == Ask(node=0, timeout_s=10.0)
    runtime.failed(1.0)
    assert runtime.next(1.0) == Ask(node=1, timeout_s=10.0)
    runtime.answered(1.5, at_work=False, is_ready=False)
    assert runtime.next(1.5) == Sleep(until_s=600.0)


def test_silent_primary_is_left_alone_for_a_while_and_then_tried_again() -> None:
    habits = replace(HABITS, back_off=BackOff(first_wait_s=900.0, longest_wait_s=900.0))
    runtime = device(habits, nodes=2)
    runtime.next(0.0)
    runtime.failed(0.0)
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False)
    assert runtime.next(600.0) == Ask(node=1, timeout_s=10.0)
    runtime.answered(600.0, at_work=False, is_ready=False)
    assert runtime.next(1200.0) == Ask(node=0, timeout_s=10.0)


def test_fallback_is_not_asked_while_the_primary_answers() -> None:
    runtime = device(nodes=2)
    idle_wake(runtime, 0.0)
    assert runtime.duty.state is State.ASLEEP


def test_fallback_that_is_owed_something_is_asked_beside_the_primary() -> None:
    runtime = device(nodes=2)
    runtime.next(0.0)
    runtime.failed(0.0)
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False, is_owed=True)
    assert runtime.next(600.0) == Ask(node=0, timeout_s=10.0)
    runtime.answered(600.0, at_work=False, is_ready=False)
    assert runtime.next(600.0) == Ask(node=1, timeout_s=10.0)
    runtime.answered(600.0, at_work=False, is_ready=False)
    assert runtime.next(1200.0) == Ask(node=0, timeout_s=10.0)
    runtime.answered(1200.0, at_work=False, is_ready=False)
    assert runtime.next(1200.0) == Ask(node=1, timeout_s=10.0), "it took requests for a while"
    runtime.answered(1200.0, at_work=False, is_ready=False)
    idle_wake(runtime, 1800.0)
    assert runtime.duty.state is State.ASLEEP


def test_fallback_is_asked_until_it_takes_no_requests_for_the_primary_any_more() -> None:
    habits = replace(HABITS, cycle=replace(HABITS.cycle, period_s=60.0))
    runtime = device(habits, nodes=2)
    runtime.next(0.0)
    runtime.failed(0.0)
    runtime.next(0.0)
    runtime.answered(0.0, at_work=False, is_ready=False)
    asked = []
    for minute in range(1, 8):
        now_s = minute * 60.0
        while isinstance(action := runtime.next(now_s), Ask):
            asked.append((minute, action.node))
            runtime.answered(now_s, at_work=False, is_ready=False)
    # From the first minute on it is told that the primary is back; that is to hold for three.
    assert [minute for minute, node in asked if node == 1] == [1, 2, 3, 4]
    assert [minute for minute, node in asked if node == 0] == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_is_asked_while_all_nodes_are_left_alone() -> None:
    reaches = [Reach(failures=1, retry_at_s=10.0), Reach(failures=2, retry_at_s=20.0)]
    assert to_ask(reaches, asked=(), now_s=5.0) is None
    assert to_ask(reaches, asked=(), now_s=10.0) == 0


# --- radio budget -------------------------------------------------------------------------------


def test_device_without_budget_left_sleeps_until_it_has_saved_enough() -> None:
    runtime = device(replace(HABITS, radio_s_per_hour=36.0), now_s=0.0)
    runtime.radio = runtime.radio.spent(36.0, now_s=0.0)
    assert runtime.next(0.0) == Sleep(until_s=100.0)


def test_exchange_is_cut_where_the_budget_ends() -> None:
    runtime = device(replace(HABITS, radio_s_per_hour=3.0))
    assert runtime.next(0.0) == Ask(node=0, timeout_s=3.0)


def test_spent_budget_ends_a_wake_although_requests_wait() -> None:
    runtime = device(replace(HABITS, radio_s_per_hour=3.0))
    runtime.next(0.0)
    runtime.answered(4.0, at_work=True, is_ready=True, more=True)
    assert runtime.duty.state is State.ASLEEP


def test_budget_comes_back_evenly_and_is_saved_up_for_an_hour() -> None:
    empty = RadioBudget.full(36.0, now_s=0.0).spent(36.0, now_s=0.0)
    assert empty.left_s(1800.0) == 18.0
    assert empty.left_s(100_000.0) == 36.0


def test_budget_smaller_than_a_useful_moment_can_still_be_used() -> None:
    budget = RadioBudget.full(0.5, now_s=0.0).spent(0.5, now_s=0.0)
    assert budget.enough_at_s(0.0) == 3600.0


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 1.0),  # how much of the time it may take is taken
        st.sampled_from(["failed", "idle", "work", "ready", "more"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60)
@given(
    steps=STEPS,
    per_hour_s=st.sampled_from([0.5, 5.0, 60.0]),
    period_s=st.sampled_from([0.0, 1.0, 30.0, 600.0]),
    nodes=st.integers(1, 2),
)
def test_device_is_never_awake_for_longer_than_its_budget(
    steps: list[tuple[float, str, bool]], per_hour_s: float, period_s: float, nodes: int
) -> None:
    cycle = replace(HABITS.cycle, period_s=period_s)
    runtime = device(replace(HABITS, cycle=cycle, radio_s_per_hour=per_hour_s), nodes=nodes)
    now_s = awake_s = 0.0
    for share, answer, flag in steps:
        action = runtime.next(now_s)
        if isinstance(action, Sleep):
            assert action.until_s > now_s
            now_s = action.until_s
            continue
        until_s = action.until_s if isinstance(action, Linger) else now_s + action.timeout_s
        took_s = share * max(until_s - now_s, 0.0)
        now_s += took_s
        awake_s += took_s
        if isinstance(action, Linger):
            runtime.lingered(now_s, is_ready=flag)
        elif answer == "failed":
            runtime.failed(now_s)
        else:
            runtime.answered(
                now_s,
                at_work=answer == "work",
                is_ready=answer == "ready",
                more=answer == "more",
                is_owed=flag,
            )
        assert awake_s <= per_hour_s * (1.0 + now_s / 3600.0) + 1e-6


@settings(max_examples=60)
@given(steps=STEPS, nodes=st.integers(1, 2))
def test_every_wake_ends(steps: list[tuple[float, str, bool]], nodes: int) -> None:
    runtime = device(nodes=nodes)
    now_s = 0.0
    actions = 0
    for _, answer, flag in steps:
        action = runtime.next(now_s)
        if isinstance(action, Sleep):
            actions, now_s = 0, action.until_s
            continue
        actions += 1
        # At most four exchanges, each perhaps with the other node too, and a linger after each.
        assert actions <= 4 * 2 * 2
        if isinstance(action, Linger):
            runtime.lingered(now_s, is_ready=flag)
        elif answer == "failed":
            runtime.failed(now_s)
        else:
            at_work, more = answer == "work", answer == "more"
            runtime.answered(now_s, at_work=at_work, is_ready=not at_work, more=more, is_owed=flag)
