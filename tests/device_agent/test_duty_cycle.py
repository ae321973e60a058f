"""The duty cycle as a table."""

from __future__ import annotations

import pytest

from device_agent.duty_cycle import (
    TRANSITIONS,
    Cycle,
    DutyCycle,
    Event,
    ImpossibleEventError,
    State,
)

CYCLE = Cycle(period_s=600.0, linger_s=2.0, shortest_sleep_s=1.0)


def device_in(state: State) -> DutyCycle:
    asleep = DutyCycle.beginning(0.0)
    if state is State.ASLEEP:
        return asleep
    asked = asleep.after(Event.DUE, now_s=1.0)
    if state is State.EXCHANGING:
        return asked
    return asked.lingering(CYCLE, now_s=2.0, latest_s=100.0)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_table_alone_says_what_follows_what(state: State, event: Event) -> None:
    device = device_in(state)
    expected = TRANSITIONS.get((state, event))
    if expected is None:
        with pytest.raises(ImpossibleEventError):
            device.after(event, now_s=5.0)
    else:
        assert device.after(event, now_s=5.0).state is expected


def test_every_state_can_be_left_and_every_event_can_happen() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_device_wakes_as_soon_as_it_is_switched_on() -> None:
    assert DutyCycle.beginning(17.0).wake_at_s == 17.0


def test_lingering_ends_where_the_radio_budget_does() -> None:
    asked = device_in(State.EXCHANGING)
    assert asked.lingering(CYCLE, now_s=10.0, latest_s=11.0).linger_until_s == 11.0
    assert asked.lingering(CYCLE, now_s=10.0, latest_s=99.0).linger_until_s == 12.0


def test_event_that_does_not_lead_to_sleep_puts_nobody_to_sleep() -> None:
    with pytest.raises(ImpossibleEventError):
        device_in(State.EXCHANGING).asleep(Event.AGAIN, now_s=5.0, wake_at_s=9.0)
