"""Dead letters of handlers: burying, replaying, purging."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgistry import faas_letters
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import NotFoundError, TriggerSettledError
from edgistry.faas_letters import LETTERS_WOOF, MAX_OUTPUT_BYTES, HandlerLetters
from edgistry.faas_outcome import Failure
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.woof_keys import EFFECTS
from edgistry.woof_triggers import Trigger

from .woof_tools import World

NOW_US = 1_772_366_400_000_000
FAILURE = Failure(reason="ValueError: no number", output=b"secret" * 1000)


class LetterWorld(World):
    def __init__(self, store: KeyValue) -> None:
        super().__init__(store)
        self.letters = HandlerLetters(store)
        self.decide(self.letters.prepare)
        self.create("a/in", 10)
        self.create("a/out", 10)

    def fire(self, element: bytes = b"private") -> Trigger:
        number = self.put("a/in", element, handler="h")
        return next(each for each in self.woofs.triggers("h") if each.number == number)

    def bury(self, trigger: Trigger) -> int:
        return self.decide(
            lambda staging: self.letters.bury(staging, trigger, FAILURE, attempts=5, now_us=NOW_US)
        )

    def due(self) -> list[Trigger]:
        return list(self.woofs.triggers("h"))


@pytest.fixture(params=["memory", "leveldb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LetterWorld]:
    store: KeyValue = (
        MemoryKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "l.ldb")
    )
    yield LetterWorld(store)
    store.close()


def test_buried_invocation_is_over_and_kept_with_its_reason(world: LetterWorld) -> None:
    assert world.bury(world.fire()) == 1
    assert world.due() == []
    record = world.letters.get(1).record
    assert (record.handler, record.woof, record.number) == ("h", "a/in", 1)
    assert (record.element, record.attempts, record.died_us) == (b"private", 5, NOW_US)
    assert record.reason == FAILURE.reason
    assert record.output == FAILURE.output[-MAX_OUTPUT_BYTES:]


def test_summary_in_the_woof_has_the_reason_but_neither_element_nor_output(
    world: LetterWorld,
) -> None:
    number = world.bury(world.fire())
    summary = world.woofs.get(LETTERS_WOOF, number)
    assert json.loads(summary) == {
        "handler": "h",
        "woof": "a/in",
        "seq": 1,
        "attempts": 5,
        "died_us": NOW_US,
        "reason": FAILURE.reason,
    }


def test_an_element_of_the_largest_size_can_be_buried(world: LetterWorld) -> None:
    element = b"x" * 65_536
    number = world.bury(world.fire(element))
    assert world.letters.get(number).record.element == element


def test_an_invocation_is_buried_once(world: LetterWorld) -> None:
    trigger = world.fire()
    world.bury(trigger)
    with pytest.raises(TriggerSettledError):
        world.bury(trigger)
    assert world.letters.numbers() == [1]
    assert world.woofs.latest(LETTERS_WOOF) == 1


def test_replayed_letter_is_due_again_with_no_attempts_and_gone(world: LetterWorld) -> None:
    number = world.bury(world.fire())
    world.decide(lambda staging: world.letters.replay(staging, number))
    world.letters.settled(number)
    (again,) = world.due()
    assert (again.woof, again.number, again.element, again.attempts) == ("a/in", 1, b"private", 0)
    for take in (world.letters.replay, world.letters.purge):
        with pytest.raises(NotFoundError):
            world.decide(lambda staging, take=take: take(staging, number))  # type: ignore[misc]


def test_replay_does_not_make_puts_again(world: LetterWorld) -> None:
    trigger = world.fire()
    first = world.decide(lambda s: s.put("a/out", b"x", idempotency_key=b"k", by=trigger))
    number = world.bury(trigger)
    again = world.decide(lambda staging: world.letters.replay(staging, number))
    second = world.decide(lambda s: s.put("a/out", b"y", idempotency_key=b"k", by=again))
    assert (first, second, world.woofs.latest("a/out")) == (1, 1, 1)


def test_replay_and_purge_of_one_letter_at_a_time_are_one(world: LetterWorld) -> None:
    number = world.bury(world.fire())
    with world.woofs.lock:
        one, other = world.woofs.begin(), world.woofs.begin()
        world.letters.replay(one, number)
        with pytest.raises(NotFoundError, match="just replayed or purged"):
            world.letters.purge(other, number)


def test_purged_letter_leaves_nothing_but_its_summary(world: LetterWorld) -> None:
    trigger = world.fire()
    world.decide(lambda s: s.put("a/out", b"x", idempotency_key=b"k", by=trigger))
    number = world.bury(trigger)
    assert [key for key, _ in world.store.scan(EFFECTS, EFFECTS + b"\xff")] != []
    world.decide(lambda staging: world.letters.purge(staging, number))
    assert [key for key, _ in world.store.scan(EFFECTS, EFFECTS + b"\xff")] == []
    assert world.letters.count() == 0
    assert world.woofs.latest(LETTERS_WOOF) == number


def test_letters_are_listed_newest_first_page_by_page(world: LetterWorld) -> None:
    for number in range(1, 6):
        assert world.bury(world.fire(b"%d" % number)) == number
    first = world.letters.newest(2)
    assert [each.number for each in first] == [5, 4]
    rest = world.letters.newest(10, before=4)
    assert [each.number for each in rest] == [3, 2, 1]
    assert world.letters.newest(10, before=0) == []


def test_oldest_letter_goes_when_there_are_too_many(
    world: LetterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faas_letters, "MAX_LETTERS", 3)
    for _ in range(5):
        world.bury(world.fire())
    assert world.letters.numbers() == [3, 4, 5]


def test_number_that_no_letter_has_is_refused(world: LetterWorld) -> None:
    for number in (0, -1, 1, 1 << 64, 1 << 70):
        with pytest.raises(NotFoundError):
            world.letters.get(number)
