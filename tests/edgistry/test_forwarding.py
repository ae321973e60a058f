"""Forwarding against a destination that is the real service, over stores in memory."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.codec import replace
from edgistry.envelope import GENERIC_REFUSAL, Operation, decode_envelope
from edgistry.errors import CannotReachError, CorruptDatabaseError, InvalidValueError, StorageError
from edgistry.forward_actions import Ask, Collect, Rest, State, Store
from edgistry.forward_records import ForwardRecord, progress, read_envelopes, read_record
from edgistry.forwarding import LONGEST_REST_US, MAX_BEGUN
from edgistry.issuer import Issuer
from edgistry.replay import Outcome
from edgistry.replay_window import MAX_AHEAD_US, WINDOW
from edgistry.rights import Right
from edgistry.sequence import PROBE_SEQUENCE
from edgistry.verifier import Checked
from edgistry.woof_staging import Staging

from .forward_world import CLIENT, SOURCE, TARGET, Destination, Edge
from .grants import DAY, ISSUER, ROOT, SECOND, SECRET, bind

WEEK_S = 7 * 24 * 3600


def edge(**more: object) -> Edge:
    return Edge(Destination(), **more)  # type: ignore[arg-type]


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


# --- onward -------------------------------------------------------------------------------------


def test_elements_arrive_once_and_in_order() -> None:
    world = edge()
    world.put(*numbered(100))
    assert world.work() == Collect(wait=True)
    assert world.destination.elements() == numbered(100)


def test_each_request_is_stored_before_it_is_sent() -> None:
    world = edge()
    world.put(*numbered(3))
    action = world.until_sending()
    assert action.request in [encoded for _, encoded in read_envelopes(world.world.store, SOURCE)]


def test_what_is_put_later_follows() -> None:
    world = edge()
    world.put(b"a")
    world.work()
    world.put(b"b")
    world.work()
    assert world.destination.elements() == [b"a", b"b"]


def test_nothing_stays_stored_of_what_has_arrived() -> None:
    world = edge()
    world.put(*numbered(70))
    world.work()
    assert read_envelopes(world.world.store, SOURCE) == []
    record = read_record(world.world.store, SOURCE)
    assert record is not None
    assert (record.through, record.delivered, record.landed) == (70, 70, 70)


def test_many_elements_share_a_write() -> None:
    world = edge()
    world.put(*numbered(MAX_BEGUN * 3))
    world.work()
    assert len(world.stored) == 4


def test_large_elements_are_not_all_stored_together() -> None:
    world = edge()
    world.put(*[bytes([number]) * 65_000 for number in range(10)])
    world.work()
    assert max(world.stored) <= 10
    assert len(world.destination.elements()) == 10


def test_handler_is_named_in_each_request() -> None:
    world = edge(handler="alarm")
    world.put(b"a")
    world.work()
    assert decode_envelope(world.destination.requests[-1]).handler == "alarm"
    assert [each.handler for each in world.destination.world.woofs.triggers("alarm")] == ["alarm"]


def test_wrong_clock_of_ours_does_not_matter() -> None:
    for now_us in (0, 10**17):
        world = edge(now_us=now_us)
        world.put(b"a")
        world.work()
        assert world.destination.elements() == [b"a"]


def test_probe_appends_nothing_however_late_it_is_sent_again() -> None:
    world = edge()
    world.work()
    (probe,) = world.destination.requests
    for _ in range(3):
        world.destination.now_us += 1000 * 365 * DAY
        world.destination.answer(probe)
    world.destination.now_us = PROBE_SEQUENCE - MAX_AHEAD_US
    world.destination.answer(probe)
    world.destination.now_us = PROBE_SEQUENCE
    world.destination.answer(probe)
    assert world.destination.elements() == []


# --- crashes and outages ------------------------------------------------------------------------


def test_restart_between_answer_and_next_write_sends_the_same_bytes_again() -> None:
    world = edge()
    world.put(*numbered(5))
    while len(world.destination.elements()) < 3:
        world.step()
    world.restart()
    world.work()
    assert world.destination.elements() == numbered(5)
    puts = [each for each in world.destination.requests if decode_envelope(each).payload]
    assert len(puts) == 8
    assert len(set(puts)) == 5


def test_lost_answer_is_asked_for_with_the_same_bytes() -> None:
    world = edge()
    world.put(b"a")
    action = world.until_sending()
    world.destination.answer(action.request)
    world.forwarding.failed(CannotReachError("lost"), now_us=world.now_us, chance=0.0)
    world.work_for(5)
    assert world.destination.elements() == [b"a"]
    assert world.forwarding.record.delivered == 1


def test_destination_remembers_the_answers_to_all_that_is_under_way() -> None:
    assert MAX_BEGUN * 2 <= WINDOW


def test_others_with_the_same_capability_cannot_push_answers_out_of_memory() -> None:
    world = edge()
    world.put(b"a")
    asked = world.until_sending()
    world.destination.answer(asked.request)
    for number in range(2 * WINDOW):
        now_us = world.destination.now_us + number
        other = bind(ROOT, Operation.PUT, TARGET, payload=b"theirs", sequence=now_us)
        world.destination.answer(other.encoded)
    world.forwarding.failed(CannotReachError("lost"), now_us=world.now_us, chance=0.0)
    world.work_for(5)
    assert world.destination.elements().count(b"a") == 1
    assert world.forwarding.record.delivered == 1


def test_capability_of_one_client_is_used_as_it_is() -> None:
    for narrowed in (ROOT.derive(client=b"somebody"), ROOT.derive(seal=True)):
        world = edge(capability=narrowed)
        world.put(b"a")
        world.work()
        assert world.destination.elements() == [b"a"]
        assert decode_envelope(world.destination.requests[-1]).capabilities == (narrowed.public,)


def test_elements_under_way_outlive_their_eviction() -> None:
    world = edge(history=2)
    world.put(b"a", b"b")
    while not isinstance(world.step(), Store):
        pass
    world.restart()
    world.put(*numbered(2))
    world.work()
    assert world.destination.elements() == [b"a", b"b", b"0", b"1"]


def test_rests_grow_while_nobody_answers_and_end_when_somebody_does() -> None:
    world = edge(cut=True)
    world.put(b"a")
    rests = []
    for _ in range(12):
        action = world.work()
        assert isinstance(action, Rest)
        rests.append(action.until_us - world.now_us)
        world.pass_time(rests[-1] / 1_000_000)
    assert rests == sorted(rests)
    assert rests[0] < SECOND
    assert rests[-1] == round(LONGEST_REST_US * 0.75)
    assert "cut" in world.forwarding.reason
    world.cut = False
    world.work_for(60)
    assert world.destination.elements() == [b"a"]
    assert world.forwarding.reason == ""


def test_what_is_evicted_during_an_outage_is_counted_as_gone() -> None:
    world = edge(history=10, cut=True)
    world.put(*numbered(25))
    world.work_for(60)
    world.cut = False
    world.work_for(60)
    assert world.destination.elements() == numbered(10, 15)
    assert world.forwarding.record.gone == 15
    assert world.forwarding.record.delivered == 10


@pytest.mark.parametrize("seed", range(6))
def test_every_element_arrives_once_and_in_order_whatever_breaks(seed: int) -> None:
    break_at_random(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6, 1000))
def test_every_element_arrives_once_and_in_order_a_thousand_times(seed: int) -> None:
    break_at_random(seed)


def break_at_random(seed: int) -> None:
    seeded = Random(seed)
    world = edge()
    put = 0
    for _ in range(400):
        action = world.forwarding.next(world.now_us)
        chance = seeded.random()
        if chance < 0.15:
            world.put(*numbered(count := seeded.randint(1, 40), put))
            put += count
        elif chance < 0.20:
            world.restart()
        elif chance < 0.25:
            world.destination.restart()
        elif chance < 0.30:
            world.pass_time(seeded.choice([1, 60, 20_000]))
        elif chance < 0.35:
            world.destination.now_us += round(seeded.uniform(-100, 100) * SECOND)
        elif chance < 0.40 and isinstance(action, Ask):
            lost_answer(world, action, seeded)
        elif chance < 0.45 and world.destination.requests:
            world.destination.answer(seeded.choice(world.destination.requests))
        elif isinstance(action, Rest):
            world.pass_time(max(0, action.until_us - world.now_us) / 1_000_000)
        else:
            world.step()
    world.work_for(3600)
    assert world.destination.elements() == numbered(put)
    record = world.forwarding.record
    assert (record.delivered, record.gone, record.refused) == (put, 0, 0)


def lost_answer(world: Edge, action: Ask, seeded: Random) -> None:
    """The request, or its answer, or the sender itself is lost."""
    if seeded.random() < 0.7:
        world.destination.answer(action.request)
    if seeded.random() < 0.5:
        world.restart()
    else:
        error = CannotReachError("lost")
        world.forwarding.failed(error, now_us=world.now_us, chance=seeded.random())


# --- what the destination says ------------------------------------------------------------------


def test_element_that_is_not_taken_does_not_stop_the_next() -> None:
    world = Edge(Destination(element_size=2))
    world.put(b"aa", b"bbb", b"cc")
    world.work()
    assert world.destination.elements() == [b"aa", b"cc"]
    assert world.forwarding.record.refused == 1
    assert world.forwarding.refusal.startswith("element 2: ")


def test_element_over_the_capabilitys_limit_is_not_even_sent() -> None:
    world = edge(capability=ROOT.derive(max_payload=2))
    world.put(b"aaa", b"bb", b"ccc", b"dd", b"eee")
    world.work()
    assert world.destination.elements() == [b"bb", b"dd"]
    assert world.forwarding.record.refused == 3
    assert world.forwarding.record.through == 5


def test_missing_woof_is_waited_for() -> None:
    world = edge()
    delete(world)
    world.put(*numbered(3))
    world.work_for(60)
    assert world.forwarding.reason == "the destination has no such WooF"
    world.destination.world.create(TARGET, 100)
    world.work_for(60)
    assert world.destination.elements() == numbered(3)
    assert world.forwarding.reason == ""


def delete(world: Edge) -> None:
    world.destination.world.decide(lambda staging: staging.delete(TARGET))


def test_restart_while_the_woof_is_missing_leaves_nothing_in_doubt() -> None:
    world = edge()
    delete(world)
    world.put(*numbered(40))
    for _ in range(80):
        world.work_for(40)
    world.restart()
    world.destination.world.create(TARGET, 100)
    world.work_for(60)
    assert world.destination.elements() == numbered(40)


def test_capability_without_the_right_is_told_before_anything_is_stored() -> None:
    world = edge(capability=ROOT.derive(allow=Right.GET))
    world.put(b"a")
    world.work()
    assert world.forwarding.reason == "the capability does not allow to put there"
    assert read_envelopes(world.world.store, SOURCE) == []


def test_new_capability_is_used_without_a_restart() -> None:
    world = edge(capability=ROOT.derive(allow=Right.GET))
    world.put(b"a")
    world.work()
    world.capability = ISSUER.mint(serial=2)
    world.work_for(60)
    assert world.destination.elements() == [b"a"]


def test_capability_that_ends_is_waited_for_and_its_successor_goes_on() -> None:
    world = edge()
    world.capability = ROOT.derive(not_after_us=world.destination.now_us + 10 * SECOND)
    world.put(b"a")
    world.work()
    world.pass_time(20)
    world.put(b"b")
    world.work()
    assert world.forwarding.reason == "the capability's time is over"
    world.capability = ROOT
    world.work_for(60)
    assert world.destination.elements() == [b"a", b"b"]


def test_refusal_without_proof_moves_nothing() -> None:
    world = edge()
    world.put(b"a")
    world.until_sending()
    world.forwarding.answered(GENERIC_REFUSAL, now_us=world.now_us, chance=0.0)
    assert world.forwarding.record.through == 0
    assert world.forwarding.reason
    world.work_for(60)
    assert world.destination.elements() == [b"a"]


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_answer_leaves_it_waiting_or_going_on(answer: bytes) -> None:
    world = edge()
    world.put(b"a")
    for _ in range(8):
        action = world.forwarding.next(world.now_us)
        if isinstance(action, Ask):
            world.forwarding.answered(answer, now_us=world.now_us, chance=0.0)
        world.step()
    world.work_for(60)
    assert world.destination.elements() == [b"a"]


def test_operator_of_the_destination_may_fix_the_sequence() -> None:
    world = edge()
    world.put(b"a")
    world.work()
    fix(world.destination)
    world.put(b"b")
    world.work_for(5)
    assert world.destination.elements() == [b"a", b"b"]


def fix(destination: Destination) -> None:
    changes = destination.service.authority.guard.fix(
        label=b"",
        serial=ROOT.serial,
        client=CLIENT,
        floor=destination.now_us + 60 * SECOND,
        now_us=destination.now_us,
    )
    destination.world.store.write(changes, sync=True)


def test_clock_of_the_destination_that_is_set_back_is_waited_for() -> None:
    world = edge()
    world.put(b"a")
    world.work()
    world.destination.now_us -= 3600 * SECOND
    world.put(b"b")
    world.work_for(600)
    assert "set back" in world.forwarding.reason
    world.work_for(3600)
    assert world.destination.elements() == [b"a", b"b"]


# --- doubt --------------------------------------------------------------------------------------


def in_doubt(*, arrived: bool) -> Edge:
    """The first of three elements was sent, no answer came for more than a week."""
    world = edge()
    world.put(*numbered(3))
    action = world.until_sending()
    if arrived:
        world.destination.answer(action.request)
    world.forwarding.failed(CannotReachError("lost"), now_us=world.now_us, chance=0.0)
    world.pass_time(WEEK_S + 1)
    world.destination.service.authority.guard.sweep(now_us=world.destination.now_us)
    world.work_for(60)
    return world


@pytest.mark.parametrize("arrived", [False, True])
def test_what_no_answer_can_tell_any_more_is_not_guessed(arrived: bool) -> None:
    world = in_doubt(arrived=arrived)
    assert world.forwarding.state is State.IN_DOUBT
    assert world.forwarding.begun == [1, 2, 3]
    assert "element 1 may be there or not" in world.forwarding.reason
    assert len(world.destination.elements()) == arrived


@pytest.mark.parametrize("arrived", [False, True])
def test_operator_says_what_is_there_and_it_goes_on(arrived: bool) -> None:
    world = in_doubt(arrived=arrived)
    world.forwarding.settle(1 if arrived else 0)
    world.work_for(60)
    assert world.destination.elements() == numbered(3)
    assert world.forwarding.record.delivered == 3


def test_doubt_outlives_a_restart() -> None:
    world = in_doubt(arrived=True)
    world.restart()
    world.work_for(60)
    assert world.forwarding.state is State.IN_DOUBT


def test_only_what_is_in_doubt_can_be_settled() -> None:
    world = in_doubt(arrived=True)
    for through in (-1, 4):
        with pytest.raises(InvalidValueError, match="use 0-3"):
            world.forwarding.settle(through)
    calm = edge()
    with pytest.raises(InvalidValueError, match="nothing"):
        calm.forwarding.settle(0)


def test_outage_of_a_week_leaves_no_doubt_about_what_was_never_sent() -> None:
    world = edge()
    world.work()
    world.put(b"a")
    while not isinstance(world.step(), Store):
        pass
    world.pass_time(WEEK_S + 1)
    world.work_for(60)
    assert world.destination.elements() == [b"a"]


def test_capability_that_was_changed_under_a_request_leaves_doubt_until_it_is_put_back() -> None:
    world = edge()
    world.put(*numbered(3))
    while not world.destination.elements():
        world.step()
    other = Issuer.from_secret(SECRET, epoch=4).mint(serial=9)
    world.capability = other
    world.restart()
    world.work_for(60)
    assert world.forwarding.state is State.IN_DOUBT
    assert "changed" in world.forwarding.reason
    world.capability = ROOT
    world.work_for(60)
    assert world.destination.elements() == numbered(3)


def test_clean_end_leaves_nothing_to_ask_again() -> None:
    world = edge()
    world.put(*numbered(MAX_BEGUN))
    while len(world.destination.elements()) < MAX_BEGUN:
        world.step()
    world.world.store.write(world.forwarding.farewell(), sync=True)
    world.capability = ISSUER.mint(serial=9)
    world.restart()
    world.put(b"more")
    world.work_for(60)
    assert world.destination.elements() == [*numbered(MAX_BEGUN), b"more"]


# --- the source ---------------------------------------------------------------------------------


def test_woof_that_is_made_again_is_forwarded_from_its_beginning() -> None:
    world = edge()
    world.put(*numbered(5))
    world.work()
    world.world.decide(lambda staging: staging.delete(SOURCE))
    world.work_for(10)
    assert "there is no WooF" in world.forwarding.reason
    world.world.create(SOURCE, 10)
    world.put(b"x", b"y")
    world.work_for(10)
    assert world.destination.elements() == [*numbered(5), b"x", b"y"]
    assert world.forwarding.record.gone == 0


def test_what_was_lost_to_damage_is_counted_and_passed() -> None:
    world = edge()
    world.put(*numbered(3))
    world.work()
    world.put(*numbered(3))
    world.forwarding.lost(5)
    world.work()
    assert world.destination.elements() == [*numbered(3), b"2"]
    assert world.forwarding.record.gone == 2


@given(st.binary(max_size=300))
def test_damaged_record_is_told(data: bytes) -> None:
    world = edge()
    world.put(b"a")
    world.work()
    world.world.store.write([(b"forward/R" + SOURCE.encode(), data)], sync=True)
    with contextlib.suppress(CorruptDatabaseError):
        assert isinstance(read_record(world.world.store, SOURCE), ForwardRecord)


def test_records_of_one_woof_are_not_those_of_another() -> None:
    world = edge(cut=True)
    world.put(b"a")
    world.cut = False
    while not isinstance(world.step(), Store):
        pass
    assert len(read_envelopes(world.world.store, SOURCE)) == 1
    assert read_envelopes(world.world.store, SOURCE[:-1]) == []
    assert read_record(world.world.store, SOURCE[:-1]) is None


def test_requests_are_puts_to_the_target() -> None:
    world = edge()
    world.put(b"a")
    world.work()
    for data in world.destination.requests:
        envelope = decode_envelope(data)
        assert (envelope.op, envelope.target) == (Operation.PUT, TARGET)


def test_destination_that_fails_gets_the_same_request_for_as_long_as_it_does() -> None:
    # What it could not make durable may be there all the same when it is started again.
    world = edge()
    world.put(b"a")
    asked = world.until_sending()
    kept = dict(world.destination.world.store.scan(b"", None))
    world.destination.answer(asked.request)
    landed = dict(world.destination.world.store.scan(b"", None))

    def fail(checked: Checked, staging: Staging) -> Outcome:
        raise StorageError("a broken database")

    world.destination.world.store.write(
        [(key, kept.get(key)) for key in {**kept, **landed}], sync=True
    )
    world.destination.restart()
    world.destination.service.change = fail  # type: ignore[method-assign]
    world.work_for(600)
    assert world.forwarding.reason == "the destination cannot write"
    world.destination.world.store.write(landed.items(), sync=True)
    world.destination.restart()
    world.work_for(60)
    assert world.destination.elements() == [b"a"]


def test_request_that_a_failing_destination_refused_is_carried_out_when_it_works_again() -> None:
    def fail(checked: Checked, staging: Staging) -> Outcome:
        raise StorageError("a broken database")

    world = edge()
    world.put(b"a")
    world.destination.service.change = fail  # type: ignore[method-assign]
    world.work_for(600)
    world.destination.restart()
    world.work_for(60)
    assert world.destination.elements() == [b"a"]


def test_numbers_that_are_given_again_after_a_restore_are_forwarded_again() -> None:
    world = edge()
    world.put(*numbered(5))
    world.work()
    ahead = replace(world.forwarding.record, through=9)
    world.world.store.write([progress(SOURCE, ahead)], sync=True)
    world.restart()
    world.work()
    world.put(b"again")
    world.work()
    assert world.destination.elements() == [*numbered(5), b"again"]


def test_gap_in_what_was_read_is_looked_at_again() -> None:
    world = edge()
    world.put(*numbered(3))
    world.work()
    forwarding = world.forwarding
    forwarding.collected([(4, b"a"), (6, b"c")], now_us=world.now_us, chance=0.0)
    assert forwarding.begun == [4]
    assert forwarding.record.gone == 0


def test_requests_that_were_made_anew_are_not_in_doubt() -> None:
    world = edge()
    delete(world)
    world.put(b"a", b"b")
    world.work()
    world.restart()
    world.work_for(5)
    world.until_resting_ends()
    world.until_sending()
    world.destination.world.create(TARGET, 100)
    world.pass_time(WEEK_S + 1)
    world.work_for(60)
    assert world.destination.elements() == [b"a", b"b"]


def test_our_clock_may_stand_still_for_longer_than_a_request_lasts() -> None:
    world = edge()
    world.put(b"a")
    world.work()
    world.destination.now_us += 8 * DAY
    world.put(b"b")
    world.work_for(5)
    assert world.destination.elements() == [b"a", b"b"]
