"""The rules by which a handler is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgistry.errors import MissingWoofError
from edgistry.faas import (
    MAX_INTERRUPTIONS,
    TRANSITIONS,
    Course,
    Event,
    ImpossibleEventError,
    Phase,
    put_key,
    spread_of,
    wait_s,
)
from edgistry.faas_outcome import MAX_REASON, Answer, Failure, failure_of, outcome_of
from edgistry.handlers import GiveUpError, Retry
from edgistry.woof import WoofId

NOW_US = 1_772_366_400_000_000

retries = st.builds(
    lambda attempts, first, more: Retry(
        attempts=attempts, first_wait_s=first, longest_wait_s=first + more
    ),
    st.integers(1, 1000),
    st.floats(0, 3600),
    st.floats(0, 3600),
)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_event_is_possible_exactly_where_the_table_has_it(phase: Phase, event: Event) -> None:
    course = Course(phase=phase, attempts=1, interruptions=1, reason="before")
    if (phase, event) in TRANSITIONS:
        assert course.after(event).phase is TRANSITIONS[phase, event]
    else:
        with pytest.raises(ImpossibleEventError):
            course.after(event)


def test_every_phase_can_be_reached_and_only_done_is_the_end() -> None:
    assert set(TRANSITIONS.values()) == set(Phase)
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - {Phase.DONE}


@given(retries, st.integers(1, 2000), st.floats(0, 1))
@settings(deadline=None)
def test_wait_is_never_longer_than_the_longest(retry: Retry, attempts: int, spread: float) -> None:
    assert 0 <= wait_s(attempts, retry, spread) <= retry.longest_wait_s


@given(retries, st.integers(1, 1000))
@settings(deadline=None)
def test_waits_do_not_get_shorter(retry: Retry, attempts: int) -> None:
    assert wait_s(attempts, retry, 0.5) <= wait_s(attempts + 1, retry, 0.5)


def test_waits_double_until_the_longest() -> None:
    retry = Retry(attempts=9, first_wait_s=1.0, longest_wait_s=5.0)
    assert [wait_s(attempts, retry, 1.0) for attempts in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 5.0]


@given(st.integers(0, 1 << 60), st.integers(1, 1 << 60), st.text(max_size=32), st.integers(0, 999))
@settings(deadline=None)
def test_spread_is_from_0_to_1_and_always_the_same(
    woof: int, number: int, handler: str, attempts: int
) -> None:
    spread = spread_of(WoofId(woof), number, handler, attempts)
    assert 0 <= spread <= 1
    assert spread == spread_of(WoofId(woof), number, handler, attempts)


def test_spread_differs_between_elements_and_attempts() -> None:
    found = {spread_of(WoofId(1), number, "h", tries) for number in range(50) for tries in range(5)}
    assert len(found) == 250
    assert min(found) < 0.1
    assert max(found) > 0.9


names = st.tuples(
    st.integers(0, 3), st.integers(1, 3), st.sampled_from(["h", "hh", "i", ""]), st.integers(0, 3)
)


@given(names, names)
@settings(deadline=None)
def test_put_keys_are_equal_only_for_the_same_put_of_the_same_invocation(
    one: tuple[int, int, str, int], other: tuple[int, int, str, int]
) -> None:
    keys = [put_key(WoofId(woof), seq, handler, at) for woof, seq, handler, at in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert len(keys[0]) == 16


def test_waiting_ends_in_time_although_the_clock_was_set_back() -> None:
    retry = Retry(first_wait_s=1.0, longest_wait_s=60.0)
    course = Course(not_before_us=NOW_US)
    a_year_us = 365 * 86_400 * 1_000_000
    assert course.due_in_s(retry, now_us=NOW_US - a_year_us) == 60.0
    assert course.due_in_s(retry, now_us=NOW_US - 2_000_000) == 2.0
    assert course.due_in_s(retry, now_us=NOW_US + a_year_us) == 0.0


def test_suspect_is_held_back_for_longer_each_time_until_it_is_given_up() -> None:
    retry = Retry(first_wait_s=1.0, longest_wait_s=60.0)
    waits = [Course(interruptions=count).held_back_s(retry) for count in range(11)]
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 0]


def test_failing_for_good_spends_no_further_tries() -> None:
    course = Course().after(Event.STARTED)
    failure = Failure(reason="useless", for_good=True)
    dead = course.failed(failure, Retry(attempts=9), now_us=NOW_US, spread=0)
    assert (dead.phase, dead.attempts, dead.reason) == (Phase.DEAD, 1, "useless")


def test_replayed_invocation_begins_anew() -> None:
    dead = Course(phase=Phase.DEAD, attempts=5, interruptions=2, reason="why", not_before_us=7)
    assert dead.after(Event.REPLAYED) == Course()


class CourseMachine(RuleBasedStateMachine):
    """Any order of events keeps the bounds; an impossible one changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.retry = Retry(attempts=3, first_wait_s=1.0, longest_wait_s=8.0)
        self.course = Course()
        self.tries_since_anew = 0
        self.now_us = NOW_US

    @rule(event=st.sampled_from(Event))
    def happens(self, event: Event) -> None:
        before = self.course
        if event in (Event.FAILED, Event.FAILED_FOR_GOOD):
            return  # happen below, with their reason
        if event is Event.STARTED and before.phase is Phase.WAITING and before.is_spent:
            return  # the runtime gives it up instead
        try:
            self.course = before.after(event)
        except ImpossibleEventError:
            assert (before.phase, event) not in TRANSITIONS
            assert self.course is before
            return
        if event is Event.STARTED:
            self.tries_since_anew += 1
        elif event is Event.STOPPED:
            self.tries_since_anew -= 1
        elif event is Event.REPLAYED:
            self.tries_since_anew = 0

    @precondition(lambda self: self.course.phase is Phase.RUNNING)
    @rule(for_good=st.booleans(), spread=st.floats(0, 1))
    def fails(self, for_good: bool, spread: float) -> None:
        failure = Failure(reason="no", for_good=for_good)
        before = self.course
        self.course = before.failed(failure, self.retry, now_us=self.now_us, spread=spread)
        assert self.course.attempts == before.attempts + 1
        if self.course.phase is Phase.WAITING:
            assert self.course.not_before_us > self.now_us

    @precondition(lambda self: self.course.phase is Phase.WAITING and self.course.is_spent)
    @rule()
    def is_given_up(self) -> None:
        failure = Failure(reason="spent", for_good=True)
        attempts = self.course.attempts
        self.course = self.course.failed(failure, self.retry, now_us=self.now_us, spread=0)
        assert self.course.phase is Phase.DEAD
        assert self.course.attempts == attempts

    @rule(us=st.integers(-(10**9), 10**9))
    def time_passes(self, us: int) -> None:
        self.now_us += us

    @invariant()
    def tries_are_bounded(self) -> None:
        assert self.course.attempts <= self.retry.attempts
        assert self.course.interruptions <= MAX_INTERRUPTIONS
        assert self.tries_since_anew <= self.retry.attempts * (MAX_INTERRUPTIONS + 1)

    @invariant()
    def wait_is_bounded(self) -> None:
        left_s = self.course.due_in_s(self.retry, now_us=self.now_us)
        assert 0 <= left_s <= self.retry.longest_wait_s


CourseMachine.TestCase.settings = settings(deadline=None, max_examples=30, stateful_step_count=40)
TestCourse = CourseMachine.TestCase


# --- outcomes -----------------------------------------------------------------------------------


def test_handler_returns_nothing_or_bytes() -> None:
    assert outcome_of(None) == Answer()
    assert outcome_of(bytearray(b"yes")) == Answer(answer=b"yes")
    for result in ("text", 1, [b"x"], b"x" * 65_537):
        outcome = outcome_of(result)
        assert isinstance(outcome, Failure)
        assert outcome.for_good


def test_coroutine_returned_by_a_plain_function_is_closed_and_refused() -> None:
    async def forgotten() -> None:
        """Never awaited, which Python would warn of."""

    outcome = outcome_of(forgotten())
    assert isinstance(outcome, Failure)
    assert "returned a coroutine" in outcome.reason


def test_reason_names_the_kind_and_the_words_in_one_line() -> None:
    assert failure_of(ValueError("a\nb\x1b[31m")).reason == "ValueError: a\\nb\\x1b[31m"
    assert failure_of(MissingWoofError("no x")).reason == "woof-missing: no x"
    assert failure_of(KeyError()).reason == "KeyError"
    assert failure_of(GiveUpError("no use")).for_good


def test_reason_of_an_error_that_cannot_say_is_given_all_the_same() -> None:
    class Sly(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failure_of(Sly()).reason == "Sly: (it cannot say)"


@given(st.text(max_size=2000))
@settings(deadline=None)
def test_reason_is_bounded_and_printable(text: str) -> None:
    reason = failure_of(ValueError(text)).reason
    assert len(reason) <= MAX_REASON
    assert reason.isprintable()
