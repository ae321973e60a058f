"""The time as nodes have proven it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from device_agent.node_time import KEPT_US, NodeTime

SECOND = 1_000_000
TIMES = st.integers(0, 200 * SECOND)


def test_nobody_knows_the_time_before_a_node_has_proven_it() -> None:
    time = NodeTime()
    assert not time.is_known
    assert not time.is_fresh(0)
    assert time.at(5) is None


def test_time_goes_on_with_the_rising_clock() -> None:
    time = NodeTime()
    time.heard(1_000_000, sent_us=50, received_us=55)
    assert time.at(60) == 1_000_010


def test_withheld_reply_does_not_put_the_clock_back() -> None:
    time = NodeTime()
    received_us = 3600 * SECOND
    time.heard(1_000_000, sent_us=0, received_us=received_us)
    now_us = time.at(received_us)
    assert now_us is not None
    assert now_us >= 1_000_000 + received_us


def test_clock_of_the_node_that_was_changed_is_followed() -> None:
    time = NodeTime()
    time.heard(1000 * SECOND, sent_us=0, received_us=10)
    time.heard(500 * SECOND, sent_us=20, received_us=30)
    assert time.at(20) == 500 * SECOND
    time.heard(2000 * SECOND, sent_us=40, received_us=50)
    assert time.at(40) == 2000 * SECOND


def test_exchange_that_the_node_held_makes_nobody_late() -> None:
    time = NodeTime()
    time.heard(1000 * SECOND, sent_us=0, received_us=10)
    time.heard(1025 * SECOND, sent_us=20, received_us=25 * SECOND + 30, was_held=True)
    assert time.at(25 * SECOND + 30) == 1025 * SECOND + 30


def test_exchange_that_was_held_corrects_a_time_that_it_contradicts() -> None:
    time = NodeTime()
    time.heard(1000 * SECOND, sent_us=0, received_us=10)
    time.heard(2000 * SECOND, sent_us=20, received_us=30, was_held=True)
    assert time.at(20) == 2000 * SECOND


def test_what_was_proven_long_ago_is_not_kept() -> None:
    time = NodeTime()
    time.heard(1000 * SECOND, sent_us=0, received_us=10)
    sent_us = KEPT_US
    node_us = 1000 * SECOND + sent_us + 20
    time.heard(node_us, sent_us=sent_us, received_us=sent_us + 30, was_held=True)
    assert time.at(sent_us) == node_us


def test_time_is_fresh_again_after_any_exchange_that_was_not_held() -> None:
    time = NodeTime()
    time.heard(1000 * SECOND, sent_us=0, received_us=10)
    assert time.is_fresh(KEPT_US // 2)
    later_us = KEPT_US // 2 + 10
    assert not time.is_fresh(later_us)
    time.heard(1000 * SECOND + later_us, sent_us=later_us, received_us=later_us + 10)
    assert time.is_fresh(later_us + 10)


@given(
    exchanges=st.lists(st.tuples(TIMES, TIMES, TIMES, st.booleans()), min_size=1, max_size=12),
    ahead_us=st.integers(0, 10**16),
)
def test_device_is_never_behind_its_node_whatever_is_delayed(
    exchanges: list[tuple[int, int, int, bool]], ahead_us: int
) -> None:
    time = NodeTime()
    reading_us = 0
    for pause_us, there_us, back_us, held in exchanges:
        sent_us = reading_us + pause_us
        node_us = sent_us + there_us + ahead_us
        reading_us = sent_us + there_us + back_us
        time.heard(node_us, sent_us=sent_us, received_us=reading_us, was_held=held)
        now_us = time.at(reading_us)
        assert now_us is not None
        assert now_us >= reading_us + ahead_us
