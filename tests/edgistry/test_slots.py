"""Slots: when an answer may leave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgistry.slots import until_release_us

moments = st.integers(0, 1 << 60)
slots = st.integers(1, 60_000_000)


@given(moments, slots)
def test_answers_leave_at_the_next_edge(now_us: int, slot_us: int) -> None:
    wait_us = until_release_us(now_us, slot_us=slot_us)

    assert 0 <= wait_us < slot_us
    assert (now_us + wait_us) % slot_us == 0


@given(moments, slots, st.integers(1, 10_000_000), st.integers(0, (1 << 64) - 1))
def test_jitter_comes_on_top_and_is_bounded(
    now_us: int, slot_us: int, jitter_us: int, drawn: int
) -> None:
    plain = until_release_us(now_us, slot_us=slot_us)

    late = until_release_us(now_us, slot_us=slot_us, jitter_us=jitter_us, drawn=drawn)

    assert 0 <= late - plain <= jitter_us


@given(moments)
def test_without_slots_nothing_waits(now_us: int) -> None:
    assert until_release_us(now_us, slot_us=0) == 0


def test_all_of_the_jitter_is_used() -> None:
    ends = [until_release_us(0, slot_us=1, jitter_us=9, drawn=n) for n in (0, (1 << 64) - 1)]

    assert ends == [0, 9]
