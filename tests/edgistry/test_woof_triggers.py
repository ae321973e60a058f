"""Triggers: handlers that are still to run, and what is put in their name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import CorruptDatabaseError, InvalidValueError, TriggerSettledError
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.woof_keys import EFFECTS, TRIGGERS, handler_key
from edgistry.woof_triggers import MAX_REASON, Trigger

from .woof_tools import World


@pytest.fixture(params=["memory", "leveldb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    store: KeyValue = (
        MemoryKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "woofs.ldb")
    )
    made = World(store, remembered_keys=3)
    made.create("a/in", 2)
    made.create("a/out", 100)
    yield made
    store.close()


def due(world: World, handler: str = "h") -> list[Trigger]:
    return list(world.woofs.triggers(handler))


def test_arrival_is_not_given_again_after_the_newest_trigger_has_ended(world: World) -> None:
    for number in range(3):
        world.put("a/in", b"%d" % number, handler="h")
    world.restart()
    newest = due(world)[-1]
    world.decide(lambda staging: staging.finish(newest))
    world.put("a/in", b"next", handler="h")
    assert due(world)[-1].arrival == newest.arrival + 1


def put_by(world: World, trigger: Trigger, key: bytes, element: bytes = b"effect") -> int:
    return world.decide(
        lambda staging: staging.put("a/out", element, idempotency_key=key, by=trigger)
    )


def test_trigger_is_in_the_same_batch_as_its_element(world: World) -> None:
    with world.woofs.lock:
        staging = world.woofs.begin()
        staging.put("a/in", b"x", handler="h")
        tables = {key[:2] for key, _ in staging.changes}
        assert [each.element for each in staging.triggers] == [b"x"]
        staging.take_back()
    assert tables == {b"We", b"Wt"}


def test_triggers_stay_in_order_of_arrival_until_they_are_finished(world: World) -> None:
    for number in range(5):
        world.put("a/in", b"%d" % number, handler="h")
    world.restart()
    assert [each.element for each in due(world)] == [b"0", b"1", b"2", b"3", b"4"]
    world.decide(lambda staging: staging.finish(due(world)[1]))
    world.put("a/out", b"from another", handler="h")
    assert [each.element for each in due(world)] == [b"0", b"2", b"3", b"4", b"from another"]
    assert [each.element for each in world.woofs.triggers("h", after=3)] == [
        b"3",
        b"4",
        b"from another",
    ]


def test_handlers_do_not_see_each_other(world: World) -> None:
    for handler in ("h", "hh", "ü", "b"):
        world.put("a/in", handler.encode(), handler=handler)
    assert sorted(world.woofs.handlers_waiting()) == ["b", "h", "hh", "ü"]
    for handler in ("h", "hh", "ü", "b"):
        assert [each.element for each in due(world, handler)] == [handler.encode()]


def test_bad_handler_name_is_refused_and_takes_no_number(world: World) -> None:
    with pytest.raises(InvalidValueError):
        world.put("a/in", b"x", handler="h" * 33)
    assert world.put("a/in", b"x") == 1


def test_attempts_are_recorded_with_the_reason_and_survive_a_restart(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    assert (trigger.attempts, trigger.not_before_us, trigger.reason) == (0, 0, "")
    world.decide(
        lambda staging: staging.retry(trigger, attempts=3, not_before_us=17, reason="boom" * 999)
    )
    world.restart()
    (again,) = due(world)
    assert (again.attempts, again.not_before_us) == (3, 17)
    assert again.reason == ("boom" * 999)[:MAX_REASON]
    world.decide(lambda staging: staging.finish(again))
    assert [key for key, _ in world.store.scan(b"Wa", b"Wb")] == []


def test_a_trigger_ends_once(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    world.decide(lambda staging: staging.finish(trigger))
    for again in (
        lambda: world.decide(lambda staging: staging.finish(trigger)),
        lambda: world.decide(
            lambda staging: staging.retry(trigger, attempts=1, not_before_us=0, reason="")
        ),
        lambda: put_by(world, trigger, b"k"),
    ):
        with pytest.raises(TriggerSettledError):
            again()


def test_a_put_in_its_name_is_made_once_however_many_puts_come_between(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    first = put_by(world, trigger, b"k")
    for _ in range(20):  # far more than ordinary keys are remembered for
        world.put("a/out", b"noise")
    world.restart()
    assert put_by(world, trigger, b"k", b"made differently") == first
    assert world.woofs.get("a/out", first) == b"effect"


def test_keys_of_invocations_and_ordinary_keys_do_not_meet(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    world.put("a/in", b"y", handler="h")
    one, other = due(world)
    numbers = [
        put_by(world, one, b"k"),
        put_by(world, other, b"k"),
        world.put("a/out", b"plain", idempotency_key=b"k"),
    ]
    assert numbers == [1, 2, 3]


def test_finishing_forgets_what_was_put_in_its_name_written_or_not(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    put_by(world, trigger, b"written")
    with world.woofs.lock:
        unwritten = world.woofs.begin()
        unwritten.put("a/out", b"effect", idempotency_key=b"unwritten", by=trigger)
        finish = world.woofs.begin()
        finish.finish(trigger)
        world.store.write([*unwritten.changes, *finish.changes], sync=False)
        unwritten.settle()
        finish.settle()
    assert list(world.store.scan(EFFECTS, EFFECTS + b"\xff")) == []
    assert world.woofs.latest("a/out") == 2
    assert world.woofs._state.effects == {}


def test_a_finish_that_is_taken_back_still_knows_the_effects(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    with world.woofs.lock:
        effect = world.woofs.begin()
        effect.put("a/out", b"effect", idempotency_key=b"k", by=trigger)
        finish = world.woofs.begin()
        finish.finish(trigger)
        finish.take_back()
        world.store.write(effect.changes, sync=False)
        effect.settle()
    world.decide(lambda staging: staging.finish(trigger))
    assert list(world.store.scan(EFFECTS, EFFECTS + b"\xff")) == []


def test_an_invocation_that_is_armed_again_does_not_repeat_its_puts(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    assert put_by(world, trigger, b"k0") == 1
    world.decide(lambda staging: staging.finish(trigger, keep_effects=True))
    assert due(world) == []
    world.decide(lambda staging: staging.rearm(trigger))
    world.restart()
    (again,) = due(world)
    assert (again.attempts, again.element, again.number) == (0, b"x", trigger.number)
    assert again.arrival > trigger.arrival
    assert put_by(world, again, b"k0") == 1
    assert put_by(world, again, b"k1") == 2


def test_a_purged_invocation_is_forgotten_for_good(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (trigger,) = due(world)
    put_by(world, trigger, b"k0")
    world.decide(lambda staging: staging.finish(trigger, keep_effects=True))
    world.decide(lambda staging: staging.forget_effects(trigger))
    assert list(world.store.scan(EFFECTS, EFFECTS + b"\xff")) == []


def test_triggers_outlive_their_woof(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    world.decide(lambda staging: staging.delete("a/in"))
    world.create("a/in", 2)
    (trigger,) = due(world)
    assert trigger.element == b"x"
    assert trigger.woof_id != world.woofs.info("a/in").id


def test_no_arrival_is_used_again_while_the_program_runs(world: World) -> None:
    world.put("a/in", b"x", handler="h")
    (first,) = due(world)
    world.decide(lambda staging: staging.finish(first))
    with world.woofs.lock:
        world.woofs.forget_unwritten()
    world.put("a/in", b"y", handler="h")
    (second,) = due(world)
    assert second.arrival > first.arrival


def test_a_trigger_that_does_not_decode_is_refused_as_damage(world: World) -> None:
    world.store.write([(handler_key(TRIGGERS, b"h", 1), b"\xc1")], sync=False)
    with pytest.raises(CorruptDatabaseError, match="TriggerRecord"):
        due(world)
