"""What a handler is to run next, against a plain list of what the store has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgistry import faas_queue
from edgistry.faas import ALONE_AFTER
from edgistry.faas_queue import MAX_HELD, MAX_QUEUED, TriggerQueue
from edgistry.handlers import Retry
from edgistry.woof import WoofId
from edgistry.woof_triggers import Trigger

NOW_US = 1_772_366_400_000_000
RETRY = Retry(first_wait_s=1.0, longest_wait_s=100.0)


def trigger(arrival: int, **fields: int) -> Trigger:
    made = Trigger(
        handler="h", arrival=arrival, woof="a/b", woof_id=WoofId(1), number=1, element=b"x"
    )
    return replace(made, **fields)  # type: ignore[arg-type]


class Stored:
    """The store's triggers, and how many of them were read."""

    def __init__(self) -> None:
        self.triggers: dict[int, Trigger] = {}
        self.read_count = 0

    def put(self, *triggers: Trigger) -> None:
        self.triggers |= {each.arrival: each for each in triggers}

    def read(self, after: int) -> Iterator[Trigger]:
        for arrival in sorted(self.triggers):
            if arrival > after:
                self.read_count += 1
                yield self.triggers[arrival]


def arrivals(queue: TriggerQueue, *, now_s: float = 0.0) -> list[int]:
    found = []
    while (each := queue.next(now_s=now_s, now_us=NOW_US)) is not None:
        found.append(each.arrival)
    return found


def test_triggers_come_in_the_order_of_arrival() -> None:
    stored = Stored()
    queue = TriggerQueue(stored.read, RETRY)
    for number in (1, 2, 3):
        queue.arrived(trigger(number))
    assert arrivals(queue) == [1, 2, 3]
    assert queue.is_empty
    assert stored.read_count == 0


def test_stored_triggers_come_before_those_that_arrive() -> None:
    stored = Stored()
    stored.put(trigger(1), trigger(2))
    queue = TriggerQueue(stored.read, RETRY)
    queue.look()
    stored.put(trigger(3))
    queue.arrived(trigger(3))
    assert arrivals(queue) == [1, 2, 3]


def test_trigger_that_was_read_and_then_told_of_comes_once() -> None:
    stored = Stored()
    stored.put(trigger(1))
    queue = TriggerQueue(stored.read, RETRY)
    queue.look()
    assert arrivals(queue) == [1]
    queue.arrived(trigger(1))
    assert queue.is_empty


def test_what_waits_does_not_hold_up_what_comes_after() -> None:
    stored = Stored()
    stored.put(trigger(1, not_before_us=NOW_US + 5_000_000), trigger(2))
    queue = TriggerQueue(stored.read, RETRY)
    queue.look()
    assert arrivals(queue) == [2]
    assert queue.next_due_s == 5.0
    assert arrivals(queue, now_s=4.9) == []
    assert arrivals(queue, now_s=5.0) == [1]
    assert queue.next_due_s is None


def test_suspect_of_having_ended_the_program_waits_after_each_start() -> None:
    stored = Stored()
    stored.put(trigger(1, interruptions=ALONE_AFTER + 2), trigger(2, interruptions=1), trigger(3))
    for start_s in (0.0, 500.0):
        queue = TriggerQueue(stored.read, RETRY)
        queue.look()
        assert arrivals(queue, now_s=start_s) == [2, 3]
        assert arrivals(queue, now_s=start_s + 3.9) == []
        assert arrivals(queue, now_s=start_s + 4.0) == [1]


def test_held_trigger_that_has_ended_meanwhile_does_not_come() -> None:
    stored = Stored()
    stored.put(trigger(2))
    queue = TriggerQueue(stored.read, RETRY)
    queue.hold(trigger(1), 1.0)
    assert arrivals(queue, now_s=2.0) == []


def test_a_million_stored_triggers_are_read_as_they_are_needed() -> None:
    stored = Stored()
    stored.put(*(trigger(number) for number in range(1, 5001)))
    queue = TriggerQueue(stored.read, RETRY)
    queue.look()
    assert queue.next(now_s=0, now_us=NOW_US) == trigger(1)
    assert stored.read_count == MAX_QUEUED


def test_elements_in_memory_are_bounded_while_the_handler_is_slow() -> None:
    stored = Stored()
    queue = TriggerQueue(stored.read, RETRY)
    for number in range(1, 2 * MAX_QUEUED + 1):
        stored.put(trigger(number))
        queue.arrived(trigger(number))
    assert len(queue._ready) == MAX_QUEUED
    assert arrivals(queue) == list(range(1, 2 * MAX_QUEUED + 1))


def test_those_that_wait_are_bounded_and_none_is_lost() -> None:
    stored = Stored()
    count = MAX_HELD + 300
    stored.put(*(trigger(number, not_before_us=NOW_US + 1) for number in range(1, count + 1)))
    queue = TriggerQueue(stored.read, RETRY)
    queue.look()
    assert queue.next(now_s=0, now_us=NOW_US) is None
    assert len(queue._held) <= MAX_HELD + MAX_QUEUED
    found = []
    for second in range(1, 10):
        while (each := queue.next(now_s=second, now_us=NOW_US)) is not None:
            found.append(each.arrival)
    assert sorted(found) == list(range(1, count + 1))


class QueueMachine(RuleBasedStateMachine):
    """Arrivals, retries, restarts and time in any order: each comes once a try, none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = Stored()
        self.last = 0
        self.now_s = 0.0
        self.running: dict[int, Trigger] = {}
        self.held: dict[int, float] = {}
        self.restart()

    @rule()
    def restart(self) -> None:
        self.running.clear()
        self.held = {
            each.arrival: self.now_s + (each.not_before_us - self.now_us) / 1e6
            for each in self.stored.triggers.values()
            if each.not_before_us > self.now_us
        }
        self.queue = TriggerQueue(self.stored.read, RETRY)
        self.queue.look()

    @property
    def now_us(self) -> int:
        return NOW_US + round(self.now_s * 1e6)

    @rule(count=st.integers(1, 12), skipped=st.integers(0, 1), told=st.booleans())
    def arrive(self, count: int, skipped: int, told: bool) -> None:
        new = [trigger(self.last + skipped + each + 1) for each in range(count)]
        self.last = new[-1].arrival
        self.stored.put(*new)
        if not told:
            self.queue.look()  # written by somebody else: noticed by looking
        else:
            for each in new:
                self.queue.arrived(each)

    @rule()
    def take(self) -> None:
        found = self.queue.next(now_s=self.now_s, now_us=self.now_us)
        due = [each for each, when in self.held.items() if when <= self.now_s]
        fresh = self.stored.triggers.keys() - self.running.keys() - self.held.keys()
        if found is None:
            assert not due
            assert not fresh or len(self.held) >= faas_queue.MAX_HELD
            return
        assert found.arrival not in self.running
        assert found.arrival in due or (not due and found.arrival == min(fresh))
        self.held.pop(found.arrival, None)
        self.running[found.arrival] = found

    @precondition(lambda self: self.running)
    @rule(data=st.data(), wait=st.integers(1, 20))
    def retry_later(self, data: st.DataObject, wait: int) -> None:
        arrival = data.draw(st.sampled_from(sorted(self.running)))
        until = trigger(arrival, not_before_us=self.now_us + wait * 1_000_000, attempts=1)
        del self.running[arrival]
        self.stored.put(until)
        self.held[arrival] = self.now_s + wait
        self.queue.hold(until, self.now_s + wait)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        arrival = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[arrival]
        del self.stored.triggers[arrival]

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @invariant()
    def empty_means_that_nothing_is_to_come(self) -> None:
        if self.queue.is_empty:
            assert self.stored.triggers.keys() == self.running.keys()


QueueMachine.TestCase.settings = settings(deadline=None, max_examples=30, stateful_step_count=40)


class TestQueue(QueueMachine.TestCase):  # type: ignore[misc,valid-type]
    """With bounds so small that they are met all the time."""

    def setUp(self) -> None:
        self.before = faas_queue.MAX_QUEUED, faas_queue.MAX_HELD
        faas_queue.MAX_QUEUED, faas_queue.MAX_HELD = 4, 3  # type: ignore[misc]

    def tearDown(self) -> None:
        faas_queue.MAX_QUEUED, faas_queue.MAX_HELD = self.before  # type: ignore[misc]
