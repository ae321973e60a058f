"""Budgets: what a client may spend, when there is more, and how many clients there can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.budget import Budgets
from edgistry.errors import BudgetError, InvalidValueError, LimitExceededError

SECOND = 1_000_000


def test_a_burst_can_be_spent_at_once_and_no_more() -> None:
    budgets = Budgets(rate_per_s=1, burst=5)

    for _ in range(5):
        budgets.spend(b"a", 1, now_us=0)
    with pytest.raises(BudgetError) as refused:
        budgets.spend(b"a", 1, now_us=0)

    assert refused.value.retry_after_s == 1


def test_there_is_enough_after_the_time_that_was_told() -> None:
    budgets = Budgets(rate_per_s=0.5, burst=10)
    budgets.spend(b"a", 10, now_us=0)
    with pytest.raises(BudgetError) as refused:
        budgets.spend(b"a", 7, now_us=0)

    budgets.spend(b"a", 7, now_us=refused.value.retry_after_s * SECOND)


def test_what_is_refused_costs_nothing() -> None:
    budgets = Budgets(rate_per_s=1, burst=5)
    budgets.spend(b"a", 3, now_us=0)
    for _ in range(100):
        with pytest.raises(BudgetError):
            budgets.spend(b"a", 3, now_us=0)

    budgets.spend(b"a", 2, now_us=0)


def test_what_is_given_back_can_be_spent_again_and_fills_no_bucket_over_its_brim() -> None:
    budgets = Budgets(rate_per_s=0.001, burst=5)
    budgets.spend(b"a", 5, now_us=0)
    budgets.give_back(b"a", 2, now_us=0)
    budgets.spend(b"a", 2, now_us=0)
    for _ in range(3):
        budgets.give_back(b"a", 4, now_us=0)
    with pytest.raises(LimitExceededError):
        budgets.spend(b"a", 6, now_us=0)
    budgets.spend(b"a", 5, now_us=0)
    with pytest.raises(BudgetError):
        budgets.spend(b"a", 1, now_us=0)


def test_one_client_does_not_spend_anothers_budget() -> None:
    budgets = Budgets(rate_per_s=1, burst=1)
    budgets.spend(b"a", 1, now_us=0)

    budgets.spend(b"b", 1, now_us=0)


def test_what_no_bucket_holds_is_refused_for_good() -> None:
    with pytest.raises(LimitExceededError):
        Budgets(rate_per_s=1, burst=5).spend(b"a", 6, now_us=0)


def test_many_new_names_get_one_budget_and_take_none_from_those_who_are_known() -> None:
    budgets = Budgets(rate_per_s=0.001, burst=10, most=100)
    for number in range(100):
        budgets.spend(b"known %d" % number, 4, now_us=0)

    taken = 0
    for number in range(10_000):
        try:
            budgets.spend(b"new %d" % number, 1, now_us=1)
            taken += 1
        except BudgetError:
            pass

    assert taken == 10
    assert len(budgets) == 101
    for number in range(100):
        budgets.spend(b"known %d" % number, 6, now_us=2)


def test_who_has_not_asked_for_long_makes_room() -> None:
    budgets = Budgets(rate_per_s=1, burst=10, most=2)
    budgets.spend(b"a", 10, now_us=0)
    budgets.spend(b"b", 10, now_us=0)

    budgets.spend(b"c", 10, now_us=60 * SECOND)
    budgets.spend(b"d", 10, now_us=60 * SECOND)

    assert len(budgets) == 2


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    budgets = Budgets(rate_per_s=1, burst=5)
    budgets.spend(b"a", 5, now_us=100 * SECOND)

    with pytest.raises(BudgetError):
        budgets.spend(b"a", 1, now_us=50 * SECOND)

    budgets.spend(b"a", 3, now_us=103 * SECOND)
    with pytest.raises(BudgetError):
        budgets.spend(b"a", 1, now_us=103 * SECOND)


def test_what_is_known_too_late_takes_what_there_is_and_leaves_no_debt() -> None:
    budgets = Budgets(rate_per_s=1, burst=5)
    budgets.take(b"a", 1000, now_us=0)

    with pytest.raises(BudgetError):
        budgets.spend(b"a", 1, now_us=0)
    budgets.spend(b"a", 5, now_us=5 * SECOND)


def test_who_has_asked_just_now_does_not_stand_before_who_has_not() -> None:
    budgets = Budgets(rate_per_s=1, burst=5, most=9)
    for number in range(9):
        budgets.spend(b"%d" % number, 5, now_us=0)
    for number in range(8):  # as many as are looked at
        budgets.spend(b"%d" % number, 5, now_us=5 * SECOND)

    budgets.spend(b"new", 5, now_us=5 * SECOND)
    with pytest.raises(BudgetError):  # a bucket of its own, in place of the last one's
        budgets.spend(b"new", 5, now_us=9 * SECOND)
    budgets.spend(b"other", 5, now_us=9 * SECOND)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 3 * SECOND))))
def test_nobody_ever_gets_more_than_burst_and_rate(asks: list[tuple[int, int, int]]) -> None:
    budgets = Budgets(rate_per_s=1, burst=5)
    now_us, spent = 0, [0.0] * 4
    for who, cost, pause_us in asks:
        now_us += pause_us
        try:
            budgets.spend(b"%d" % who, cost, now_us=now_us)
            spent[who] += cost
        except BudgetError:
            pass

    assert all(each <= 5 + now_us / SECOND + 1e-6 for each in spent)


@pytest.mark.parametrize(("rate", "burst", "most"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_budget_of_nothing_is_refused(rate: float, burst: float, most: int) -> None:
    with pytest.raises(InvalidValueError):
        Budgets(rate_per_s=rate, burst=burst, most=most)
