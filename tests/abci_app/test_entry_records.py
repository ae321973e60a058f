"""Forwarded requests as they rest: stages, errands, bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.entry_records import (
    MOVES,
    EntryLimits,
    EntryRecord,
    Errand,
    IllegalStageError,
    Stage,
    changes_of,
    delivered,
    delivered_answer,
    ended,
    errand,
    forgetting,
    move,
    own_end,
    read_answer,
    read_entry,
    told,
    waiting_answer,
    wake_name,
)
from edgistry.codec import replace
from edgistry.errors import MalformedError, TooLargeError

NOW = 1_750_000_000_000_000
S = 1_000_000
LIMITS = EntryLimits(silence_s=100, keep_s=1000, remember_s=10)


def record(stage: Stage = Stage.HELD, **fields: Any) -> EntryRecord:
    """A request whose deadline is in a minute."""
    plain = EntryRecord(
        id=b"i" * 16,
        home=b"h" * 20,
        service=b"s" * 16,
        client=b"c" * 8,
        idempotency_key=b"key",
        fetch_hash=b"f" * 32,
        priority=3,
        not_before_us=0,
        max_age_s=60,
        size=8,
        wake=1,
        submitted_us=NOW,
        deadline_us=NOW + 60 * S,
        stage=int(stage),
    )
    return replace(plain, **fields)


@pytest.mark.parametrize(
    ("given", "after_s", "expected"),
    [
        (record(Stage.HELD), 59, Errand.PASS),
        (record(Stage.HELD), 60, Errand.EXPIRE),
        (record(Stage.SENT), 59, Errand.ASK),
        (record(Stage.SENT), 159, Errand.ASK),
        (record(Stage.SENT), 160, Errand.GIVE_UP),
        (record(Stage.SENT, recalled=True, untold=True), 0, Errand.ASK),
        (record(Stage.PASSED), 0, Errand.FOLLOW),
        (record(Stage.PASSED, untold=True), 0, Errand.RECALL),
        (record(Stage.PASSED), 1060, Errand.GIVE_UP),
        (record(Stage.PASSED, untold=True), 1060, Errand.GIVE_UP),
        (record(Stage.ENDED, keep_until_us=NOW + 5 * S), 4, Errand.NOTHING),
        (record(Stage.ENDED, keep_until_us=NOW + 5 * S), 5, Errand.FORGET),
        (record(Stage.DELIVERED, untold=True, keep_until_us=NOW + 5 * S), 4, Errand.CONFIRM),
        (record(Stage.DELIVERED, untold=True, keep_until_us=NOW + 5 * S), 5, Errand.FORGET),
        (record(Stage.DELIVERED, keep_until_us=NOW + 5 * S), 4, Errand.NOTHING),
    ],
)
def test_what_is_next_for_a_request(given: EntryRecord, after_s: int, expected: Errand) -> None:
    assert errand(given, now_us=NOW + after_s * S, limits=LIMITS) == expected


@pytest.mark.parametrize("before", Stage)
@pytest.mark.parametrize("after", Stage)
def test_stages_move_as_the_table_says_and_not_otherwise(before: Stage, after: Stage) -> None:
    if after in MOVES[before]:
        assert move(record(before), after).stage == after
    else:
        with pytest.raises(IllegalStageError):
            move(record(before), after)


def test_request_that_is_only_here_never_counts_as_being_at_home() -> None:
    assert Stage.PASSED not in MOVES[Stage.HELD]


def test_outcome_is_kept_for_its_client_and_what_was_delivered_for_a_moment() -> None:
    passed = record(Stage.PASSED, recalled=True, untold=True)
    answer = own_end(passed, "CANCELLED", "why")
    kept = ended(passed, answer, now_us=NOW, limits=LIMITS)
    assert (kept.stage, kept.untold, kept.keep_until_us) == (Stage.ENDED, False, NOW + 1000 * S)
    taken = delivered(kept, now_us=NOW, limits=LIMITS, untold=True)
    assert (taken.stage, taken.untold, taken.keep_until_us) == (2 + 2, True, NOW + 1000 * S)
    assert (told(taken, NOW, LIMITS).untold, told(taken, NOW, LIMITS).keep_until_us) == (
        False,
        NOW + 10 * S,
    )


def test_request_that_was_delivered_elsewhere_is_delivered_here() -> None:
    passed = record(Stage.PASSED)
    answer = delivered_answer(own_end(passed, "EXPIRED", ""))
    assert ended(passed, answer, now_us=NOW, limits=LIMITS).stage == Stage.DELIVERED


def test_end_that_this_node_tells_has_no_reply_and_says_why() -> None:
    answer = own_end(record(), "EXPIRED", "x" * 300)
    assert (answer.final, answer.reply, answer.reason) == (True, None, "x" * 200)


def test_wake_bucket_that_is_not_known_counts_as_the_longest() -> None:
    assert [wake_name(number) for number in (0, 1, 3, 4, 255)] == [
        "1m", "15m", "later", "later", "later",
    ]  # fmt: skip


def test_what_is_written_reads_the_same_and_forgetting_leaves_nothing() -> None:
    answer = waiting_answer(record())
    store = dict(changes_of(record(), envelope=b"envelope", answer=answer))
    values = [value for value in store.values() if value is not None]
    assert read_entry(values[0]) == record()
    assert values[1] == b"envelope"
    assert read_answer(values[2]) == answer
    assert dict(forgetting(record())) == dict.fromkeys(store)


def test_envelope_goes_when_the_home_node_has_the_request() -> None:
    assert (b"entry/e/" + b"i" * 16, None) in changes_of(record(Stage.PASSED))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedError, TooLargeError):
        read_entry(data)
