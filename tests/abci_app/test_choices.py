"""How long a choice counts."""

from __future__ import annotations

from abci_app.choices import COUNTED_US, UNUSED_US, Choices

ONE, TWO = b"1" * 16, b"2" * 16
ALICE, BOB = b"alice..a", b"bob....b"


def test_a_choice_that_no_request_follows_counts_for_a_minute() -> None:
    choices = Choices()
    choices.made(ONE, ALICE, alias=b"a", now_us=0)
    assert choices.own_load(ONE, ALICE, now_us=UNUSED_US - 1) == 1
    assert choices.own_load(ONE, ALICE, now_us=UNUSED_US) == 0
    assert len(choices) == 0


def test_a_choice_counts_until_its_request_has_ended() -> None:
    choices = Choices()
    choices.made(ONE, ALICE, alias=b"a", now_us=0)
    choices.submitted(b"a", b"request", until_us=100 * UNUSED_US)
    assert choices.own_load(ONE, ALICE, now_us=2 * UNUSED_US) == 1
    choices.ended(b"request")
    assert choices.own_load(ONE, ALICE, now_us=2 * UNUSED_US) == 0


def test_a_choice_ends_with_the_deadline_of_its_request_at_the_latest() -> None:
    choices = Choices()
    choices.made(ONE, ALICE, alias=b"a", now_us=0)
    choices.submitted(b"a", b"request", until_us=5)
    assert choices.own_load(ONE, ALICE, now_us=5) == 0


def test_a_request_whose_end_nobody_asks_for_here_does_not_count_for_days() -> None:
    choices = Choices()
    choices.made(ONE, ALICE, alias=b"a", now_us=7)
    choices.submitted(b"a", b"request", until_us=1000 * COUNTED_US)
    assert choices.own_load(ONE, ALICE, now_us=7 + COUNTED_US - 1) == 1
    assert choices.own_load(ONE, ALICE, now_us=7 + COUNTED_US) == 0


def test_only_the_first_request_by_the_alias_of_a_choice_is_its_own() -> None:
    choices = Choices()
    for record, client, alias in ((ONE, ALICE, b"a"), (ONE, BOB, b"b"), (TWO, ALICE, b"c")):
        choices.made(record, client, alias=alias, now_us=0)
    choices.submitted(b"a", b"request", until_us=9)
    choices.submitted(b"a", b"another", until_us=9)
    choices.submitted(b"b", b"request", until_us=9)
    choices.submitted(b"of nobody", b"other", until_us=9)
    choices.ended(b"another")
    choices.ended(b"other")
    assert len(choices) == 3
    choices.ended(b"request")
    choices.ended(b"request")
    assert (choices.own_load(ONE, ALICE, now_us=1), choices.own_load(TWO, ALICE, now_us=1)) == (
        0,
        1,
    )
    assert choices.own_load(ONE, BOB, now_us=1) == 1
    choices.submitted(b"a", b"later", until_us=9)
    assert len(choices) == 2


def test_of_too_many_the_oldest_count_no_longer() -> None:
    choices = Choices(most=2)
    for number, record in enumerate((ONE, TWO, TWO)):
        choices.made(record, ALICE, alias=b"%d" % number, now_us=0)
    assert (choices.own_load(ONE, ALICE, now_us=1), choices.own_load(TWO, ALICE, now_us=1)) == (
        0,
        2,
    )
    assert choices.loaded_by(ALICE) == [TWO]


def test_choices_for_others_load_a_service_and_are_not_ones_own() -> None:
    choices = Choices()
    choices.made(ONE, ALICE, alias=b"a", now_us=0)
    choices.made(ONE, BOB, alias=b"b", now_us=5)
    assert choices.is_loaded(ONE, 2, now_us=5)
    assert not choices.is_loaded(ONE, 3, now_us=5)
    assert not choices.is_loaded(ONE, 2, now_us=UNUSED_US)
    assert choices.is_loaded(ONE, 1, now_us=UNUSED_US)
    assert (choices.loaded_by(ALICE), choices.loaded_by(BOB)) == ([], [ONE])


def test_nothing_is_left_of_choices_that_have_ended() -> None:
    choices = Choices()
    for number in range(6):
        alias, request = b"alias %d" % number, b"request %d" % number
        choices.made((ONE, TWO)[number % 2], b"client %d" % number, alias=alias, now_us=0)
        choices.submitted(alias, request, until_us=9)
        choices.ended(request)
    assert vars(choices) == {**vars(Choices()), "_next": 6}
