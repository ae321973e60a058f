"""Requests to devices: what clients and devices see of the mailbox, and what never happens.

The scenarios of the first part are what people of other systems suffer from.
"""

from __future__ import annotations

from typing import Any

import pytest

from abci_app.mailbox import UNKNOWN_EFFECT
from abci_app.mailbox_boxes import Decision
from abci_app.mailbox_exchange import DAMAGED, UNREADABLE
from abci_app.mailbox_records import ENVELOPES, SENT, forgetting_key
from abci_app.mailbox_states import State
from edgistry.envelope import Status
from edgistry.errors import (
    ExpiredError,
    InvalidValueError,
    KeyReusedError,
    MailboxFullError,
    NotEndedError,
    NotFoundError,
    SentBeforeError,
    TwoAgentsError,
    UnknownRequestError,
)
from edgistry.kv import prefix_end
from edgistry.messages import ExchangeUp, RequestResult, ResultKind

from .mail_world import ALICE, BOB, DEVICE, HOUR, MINUTE, SECOND, Device, Mail

# --- what people suffer from elsewhere ----------------------------------------------------------


def test_request_to_a_sleeping_device_is_queued_and_not_called_delivered() -> None:
    """thingsboard 7123, leshan 1286."""
    mail = Mail()
    request = mail.submit()
    mail.passes(10 * MINUTE)
    assert mail.state(request) == State.QUEUED
    device = Device(mail)
    device.exchange()
    assert mail.state(request) == State.LEASED, "handed down, which is not yet durable there"
    device.exchange()
    assert mail.state(request) == State.ACKED


def test_waiting_request_survives_a_restart_in_every_state() -> None:
    """thingsboard 11642."""
    mail = Mail()
    device = Device(mail)
    acked = mail.submit()
    device.exchange()
    device.exchange(count=0)
    leased = mail.submit()
    device.exchange()
    queued = mail.submit()
    mail.crash()
    assert mail.states([queued, leased, acked]) == [State.QUEUED, State.LEASED, State.ACKED]
    device.wake()
    device.execute()
    device.exchange()
    assert mail.states([queued, leased, acked]) == [State.RESPONDED] * 3
    mail.crash()
    assert [mail.acknowledge(each) for each in (queued, leased, acked)] == [State.DELIVERED] * 3


def test_odd_response_does_not_wedge_the_queue() -> None:
    """thingsboard 8712."""
    mail = Mail()
    device = Device(mail)
    odd, good = mail.submit(), mail.submit()
    device.exchange()
    device.execute()
    device.results[odd] = RequestResult(request_id=odd, kind=1, reply=b"\xff not a reply")
    device.results[b"?" * 16] = RequestResult(request_id=b"?" * 16, kind=1, reply=b"?")
    device.exchange()
    assert mail.states([odd, good]) == [State.FAILED, State.RESPONDED]
    assert mail.record(odd).reason == UNREADABLE
    assert device.results == {}, "all are confirmed, the odd ones too"


def test_full_queue_says_so_and_when_to_come_back() -> None:
    """azure-iot-sdk-java 23."""
    mail = Mail(depth=3)
    for _ in range(3):
        mail.submit()
    with pytest.raises(MailboxFullError) as caught:
        mail.submit(party=BOB)
    assert caught.value.retry_after_s == 900
    assert len(mail.boxes.live) == 3
    Device(mail).wake()
    mail.submit(party=BOB)


def test_request_that_never_arrives_is_counted_and_dies() -> None:
    """azure-iot-sdk-csharp 2737: a delivery count that stays 0 lets poison loop for ever."""
    mail = Mail(attempts=3)
    device = Device(mail)
    poison, good = mail.submit(priority=9), mail.submit()
    counts = []
    for _ in range(3):
        device.exchange(count=1, lose_down=True)
        counts.append(mail.record(poison).attempts)
    device.exchange()
    assert counts == [1, 2, 3]
    assert mail.state(poison) == State.DEAD
    assert mail.record(poison).reason == "it was handed down 3 times and never arrived"
    device.execute()
    device.exchange()
    assert mail.state(good) == State.RESPONDED


def test_expired_request_is_told_and_never_handed_down() -> None:
    """iotagent-node-lib 460 and 509."""
    mail = Mail()
    request = mail.submit()
    mail.passes(HOUR - 1)
    assert mail.state(request) == State.QUEUED
    mail.passes(1)
    assert mail.state(request) == State.EXPIRED
    device = Device(mail)
    device.wake()
    assert device.executed == []


def test_device_fetches_with_nothing_to_tell() -> None:
    """iotagent-ul 234: sending made-up telemetry to fetch a command."""
    mail = Mail()
    mail.submit("open the valve")
    device = Device(mail)
    device.exchange(results={})
    assert device.envelopes == [b"open the valve"]


# --- clients ------------------------------------------------------------------------------------


def test_request_sent_again_is_the_same_one_in_every_state() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit("once")
    for after in (lambda: None, mail.crash, device.exchange, device.wake, mail.crash):
        after()
        assert mail.submit("once") == request
    device.execute()
    device.exchange()
    mail.submit("once")
    mail.acknowledge(request)
    mail.submit("once")
    device.wake()
    assert device.executed == [request]
    assert mail.state(request) == State.DELIVERED


def test_known_request_is_not_shown_to_who_has_another_fetch_key() -> None:
    mail = Mail()
    mail.submit("once")
    with pytest.raises(KeyReusedError):
        mail.submit("once", fetch_hash=bytes(32))


def test_idempotency_key_is_known_an_hour_after_the_delivery_and_until_the_deadline() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit("once", deadline_us=mail.now_us + MINUTE)
    device.wake()
    mail.acknowledge(request)
    mail.passes(HOUR - 1)
    assert mail.state(request) == State.DELIVERED
    mail.passes(1)
    assert mail.boxes.lookup(request) is None
    assert [key for key, _ in mail.store.scan(b"", None) if not key.startswith(b"mailbox/d/")] == []


def test_id_is_known_until_the_deadline_whatever_became_of_it() -> None:
    mail = Mail()
    device = Device(mail)
    delivered, waiting = (mail.submit(deadline_us=mail.now_us + 72 * HOUR) for _ in range(2))
    device.wake()
    mail.acknowledge(delivered)
    mail.passes(72 * HOUR - 1)
    assert mail.states([delivered, waiting]) == [State.DELIVERED, State.RESPONDED]
    mail.passes(1)
    assert mail.boxes.lookup(delivered) is mail.boxes.lookup(waiting) is None


@pytest.mark.parametrize("fate", ["queued", "leased", "cancelled", "answered", "delivered"])
@pytest.mark.parametrize("restarted", [False, True])
def test_envelope_is_one_request_until_its_deadline_whatever_became_of_it(
    fate: str, restarted: bool
) -> None:
    """Who has recorded it cannot have it carried out, or answered, under an id of his own."""
    mail = Mail()
    request = mail.submit("mine", envelope=b"recorded")
    device = Device(mail)
    if fate == "cancelled":
        mail.cancel(request)
    elif fate == "leased":
        device.exchange()
    elif fate != "queued":
        device.wake()
    if fate == "delivered":
        mail.acknowledge(request)
    if restarted:
        mail.crash()
    mail.now_us += HOUR - 1
    for theirs in ({}, {"party": BOB}, {"service": bytes(16)}):
        with pytest.raises(SentBeforeError):
            mail.submit("theirs", envelope=b"recorded", **theirs)
    assert mail.submit("mine", envelope=b"recorded") == request
    for _ in range(2):
        mail.passes(48 * HOUR)
    assert [key for key, _ in mail.store.scan(SENT, prefix_end(SENT))] == []


def test_envelope_is_one_request_before_it_is_durable_too() -> None:
    mail = Mail()
    decision = Decision(mail.boxes)
    mail.mailbox.submit(
        decision, mail.asked("mine", envelope=b"e"), now_us=mail.now_us, retry_after_s=1
    )
    with pytest.raises(SentBeforeError):
        mail.submit("theirs", envelope=b"e")
    decision.take_back()
    mail.submit("theirs", envelope=b"e")


def test_entry_of_a_time_that_does_not_count_is_removed_alone() -> None:
    mail = Mail()
    request = mail.submit()
    Device(mail).wake()
    mail.store.write([(forgetting_key(mail.now_us, request), b"")], sync=True)
    mail.passes(SECOND)
    assert mail.state(request) == State.RESPONDED
    assert mail.store.get(forgetting_key(mail.now_us - SECOND, request)) is None


def test_request_that_can_never_run_is_refused() -> None:
    mail = Mail()
    with pytest.raises(ExpiredError):
        mail.submit(deadline_us=mail.now_us)
    with pytest.raises(InvalidValueError):
        mail.submit(not_before_us=mail.now_us + HOUR)
    assert mail.boxes.live == {}


def test_client_has_its_share_and_no_more() -> None:
    mail = Mail(share=2)
    first = mail.submit()
    mail.submit()
    with pytest.raises(MailboxFullError):
        mail.submit()
    mail.submit(party=BOB)
    mail.cancel(first)
    mail.submit()
    mail.crash()
    with pytest.raises(MailboxFullError):
        mail.submit()


def test_services_of_one_device_have_shares_of_their_own() -> None:
    """Else a client could tell by what is refused which services are one device's."""
    mail = Mail(share=2, unfetched=2)
    for _ in range(2):
        mail.submit()
    mail.submit("other", service=b"t" * 16)
    with pytest.raises(MailboxFullError):
        mail.submit()
    Device(mail).wake()
    with pytest.raises(MailboxFullError, match="outcomes wait"):
        mail.submit()
    mail.submit("another", service=b"t" * 16)


def test_node_has_no_share_of_its_own_device() -> None:
    """What it needs of a device may be more than a client's share."""
    mail = Mail(share=2)
    for _ in range(3):
        mail.submit(service=b"", party=bytes(12))
    assert len(mail.boxes.live) == 3


def test_client_that_never_fetches_is_stopped_in_time() -> None:
    mail = Mail(unfetched=2)
    device = Device(mail)
    first = mail.submit()
    device.wake()
    mail.submit()
    device.wake()
    with pytest.raises(MailboxFullError):
        mail.submit()
    mail.acknowledge(first)
    mail.submit()


def test_queue_is_bounded_in_bytes() -> None:
    mail = Mail(bytes=1000)
    mail.submit(envelope=bytes(600))
    with pytest.raises(MailboxFullError):
        mail.submit(envelope=bytes(401))
    mail.submit(envelope=bytes(400))


def test_node_is_bounded_too() -> None:
    mail = Mail(total=2)
    mail.submit(device="e" * 26)
    mail.submit(device="f" * 26)
    with pytest.raises(MailboxFullError):
        mail.submit()


def test_outcome_waits_a_day_for_its_client() -> None:
    mail = Mail()
    request = mail.submit()
    Device(mail).wake()
    mail.passes(24 * HOUR - 1)
    assert mail.state(request) == State.RESPONDED
    mail.passes(1)
    assert mail.boxes.lookup(request) is None


def test_outcome_is_acknowledged_only_when_there_is_one() -> None:
    mail = Mail()
    request = mail.submit()
    with pytest.raises(NotEndedError):
        mail.acknowledge(request)
    with pytest.raises(UnknownRequestError):
        mail.acknowledge(b"?" * 16)
    Device(mail).wake()
    assert mail.acknowledge(request) == State.DELIVERED
    assert mail.acknowledge(request) == State.DELIVERED


# --- taking back --------------------------------------------------------------------------------


def test_cancelled_request_that_was_not_handed_down_never_runs() -> None:
    mail = Mail()
    request = mail.submit()
    assert mail.cancel(request) == State.CANCELLED
    device = Device(mail)
    device.wake()
    assert (device.executed, mail.state(request)) == ([], State.CANCELLED)


def test_cancelled_request_on_the_device_is_recalled_from_it() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    assert mail.cancel(request) == State.LEASED, "nobody knows yet"
    device.exchange()
    assert device.cancelled == [request]
    device.exchange()
    assert (device.executed, mail.state(request)) == ([], State.CANCELLED)


def test_request_that_is_recalled_is_recalled_once() -> None:
    mail = Mail()
    request = mail.submit()
    Device(mail).exchange()
    mail.cancel(request)
    decision = Decision(mail.boxes)
    mail.mailbox.cancel(decision, request, now_us=mail.now_us)
    assert decision.changes == []


def test_cancelled_request_that_was_executed_already_tells_its_answer() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    device.execute()
    mail.cancel(request)
    device.exchange()
    assert mail.state(request) == State.RESPONDED


def test_cancelled_request_that_was_lost_on_the_way_is_cancelled_for_certain() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(lose_down=True)
    assert mail.cancel(request) == State.LEASED
    device.wake()
    assert (device.executed, mail.state(request)) == ([], State.CANCELLED)


def test_cancelling_what_has_ended_changes_nothing() -> None:
    mail = Mail()
    request = mail.submit()
    Device(mail).wake()
    assert mail.cancel(request) == State.RESPONDED
    with pytest.raises(UnknownRequestError):
        mail.cancel(b"?" * 16)


# --- leases and deadlines -----------------------------------------------------------------------


def test_request_lost_on_the_way_down_is_handed_down_by_the_next_exchange() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(lose_down=True)
    device.wake()
    assert device.executed == [request]
    assert mail.record(request).attempts == 2


def test_lease_lasts_as_long_as_the_device_sleeps() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(lose_down=True, back_in_s=600)
    mail.passes(20 * MINUTE - 1)
    assert mail.state(request) == State.LEASED
    mail.passes(1)
    assert mail.state(request) == State.QUEUED


def test_answer_after_the_lease_is_over_counts() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    device.execute()
    mail.passes(10 * MINUTE)
    assert mail.state(request) == State.QUEUED
    device.exchange()
    assert mail.state(request) == State.RESPONDED
    assert device.executed == [request]


def test_acknowledgement_after_the_lease_is_over_counts() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    mail.passes(10 * MINUTE)
    down = device.exchange()
    assert down is not None
    assert down.requests == ()
    assert mail.state(request) == State.ACKED


def test_last_attempt_is_given_until_its_outcome_is_due() -> None:
    mail = Mail(attempts=1)
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    mail.passes(30 * MINUTE)
    assert mail.state(request) == State.LEASED
    device.execute()
    device.exchange()
    assert mail.state(request) == State.RESPONDED


def test_answer_made_before_the_deadline_may_arrive_after_it() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(back_in_s=600)
    device.execute()
    mail.passes(HOUR + 15 * MINUTE)
    assert mail.state(request) != State.EXPIRED
    device.exchange()
    assert mail.state(request) == State.RESPONDED


def test_outcome_is_waited_for_as_long_as_the_device_sleeps_by_now() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit(deadline_us=mail.now_us + 10 * MINUTE)
    device.exchange(back_in_s=60)
    device.exchange(back_in_s=3600)
    until_us = mail.record(request).result_until_us
    device.exchange(back_in_s=3601)
    assert mail.record(request).result_until_us == until_us, "a second is not worth a write"
    mail.passes(9 * MINUTE)
    device.execute()
    mail.passes(51 * MINUTE)
    assert mail.state(request) == State.ACKED
    device.exchange()
    assert mail.state(request) == State.RESPONDED


def test_request_withheld_past_its_deadline_is_not_executed() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(back_in_s=600)
    mail.passes(HOUR + SECOND)
    device.execute()
    device.exchange()
    assert (device.executed, mail.state(request)) == ([], State.EXPIRED)


def test_end_of_a_request_that_vanished_with_its_device_says_that_nobody_knows() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(back_in_s=600)
    device.exchange(count=0, back_in_s=600)
    assert mail.state(request) == State.ACKED
    mail.passes(HOUR + 20 * MINUTE)
    assert mail.state(request) == State.EXPIRED
    assert mail.record(request).reason == UNKNOWN_EFFECT
    assert "nobody knows" in UNKNOWN_EFFECT, "as of other nodes' requests, and as the docs say"


def test_device_that_says_it_sleeps_for_ever_keeps_no_request_for_ever() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(back_in_s=0xFFFFFFFF)
    device.exchange(count=0, back_in_s=0xFFFFFFFF)
    assert mail.state(request) == State.ACKED
    mail.passes(15 * 24 * HOUR)
    assert mail.state(request) == State.EXPIRED


def test_request_is_not_handed_down_before_its_time() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit(not_before_us=mail.now_us + 90 * SECOND)
    down = device.exchange()
    assert down is not None
    assert (down.requests, down.more, down.next_wake_s) == ((), False, 90)
    mail.passes(90 * SECOND)
    device.wake()
    assert mail.state(request) == State.RESPONDED


# --- the device ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "state"),
    [
        (Status.OK, ResultKind.RESPONDED, State.RESPONDED),
        (Status.NOT_FOUND, ResultKind.RESPONDED, State.RESPONDED),
        (Status.HANDLER_FAILED, ResultKind.RESPONDED, State.FAILED),
        (Status.NO_RIGHT, ResultKind.REJECTED, State.REJECTED),
        (Status.EXPIRED, ResultKind.REJECTED, State.EXPIRED),
        (Status.CANCELLED, ResultKind.REJECTED, State.REJECTED),
    ],
)
def test_result_ends_its_request(status: Status, kind: ResultKind, state: State) -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    device.tell(request, status, kind)
    device.exchange()
    assert mail.state(request) == state


def test_result_heard_again_changes_nothing() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    device.execute()
    again = dict(device.results)
    device.exchange(lose_down=True)
    assert mail.state(request) == State.RESPONDED
    device.tell(request, Status.HANDLER_FAILED)
    device.exchange()
    device.exchange(results=again)
    assert mail.state(request) == State.RESPONDED
    assert device.results == {}


def test_result_for_the_request_of_another_device_is_thrown_away() -> None:
    mail = Mail()
    request = mail.submit()
    Device(mail).exchange()
    thief = Device(mail, "e" * 26)
    thief.tell(request)
    thief.exchange()
    assert mail.state(request) == State.LEASED
    assert thief.results == {}


def test_device_gets_as_much_as_it_asks_for() -> None:
    mail = Mail()
    for number, size in enumerate((50, 5000, 50, 50)):
        mail.submit(envelope=(b"%d" % number).ljust(size))
    device = Device(mail)
    down = device.exchange(count=2, limit=1000)
    assert down is not None
    assert [len(each.envelope) for each in down.requests] == [50, 50]
    assert down.more
    down = device.exchange(count=9)
    assert down is not None
    assert [len(each.envelope) for each in down.requests] == [5000, 50]
    assert not down.more


def test_bytes_that_one_client_takes_are_not_there_for_another_in_the_same_round() -> None:
    mail = Mail()
    mail.submit("a", envelope=b"a" * 600)
    mail.submit("b", envelope=b"b" * 600, party=BOB)
    device = Device(mail)
    device.exchange(limit=1000)
    assert len(device.envelopes) == 1
    device.exchange(limit=1000)
    assert len(device.envelopes) == 2


def test_request_in_an_answer_that_may_still_come_is_not_handed_down_again() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange(lose_down=True)
    device.settled = 0
    device.exchange()
    assert (device.envelopes, mail.state(request)) == ([], State.LEASED)
    device.exchange()
    assert len(device.envelopes) == 1


def test_agent_that_was_replaced_is_refused() -> None:
    mail = Mail()
    mail.submit()
    first, second = Device(mail), Device(mail, instance=b"agent..2")
    first.exchange(count=0)
    second.exchange(count=0)
    with pytest.raises(TwoAgentsError):
        first.exchange()
    mail.crash()
    third = Device(mail, instance=b"agent..3")
    third.exchange(count=0)
    for replaced in (first, second):
        with pytest.raises(TwoAgentsError):
            replaced.exchange()
    third.wake()
    assert len(third.executed) == 1


def test_exchange_that_had_ended_is_noticed() -> None:
    mail = Mail()
    device, copy = Device(mail), Device(mail)
    device.exchange()
    device.exchange()
    with pytest.raises(TwoAgentsError):
        copy.exchange()


def test_restarted_agent_keeps_what_it_had_and_gets_what_it_lost() -> None:
    mail = Mail()
    device = Device(mail)
    kept = mail.submit()
    device.exchange()
    lost = mail.submit()
    device.exchange(lose_down=True)
    restarted = Device(mail, instance=b"agent..2")
    restarted.results, restarted.waiting = device.results, device.waiting
    restarted.known = device.known
    restarted.exchange()
    restarted.execute()
    restarted.exchange()
    assert sorted(restarted.executed) == sorted([kept, lost])


def test_account_of_a_device_adds_up_once() -> None:
    mail = Mail()
    device = Device(mail)
    device.exchange()
    device.exchange(back_in_s=600)
    known = mail.boxes.device(device.id)
    assert (known.exchanges, known.back_in_s, known.seen_us) == (2, 600, mail.now_us)
    assert (known.awake_ms, known.sent, known.received) == (10, 200, 20)
    device.counter, device.settled = device.counter - 1, 0
    device.exchange(back_in_s=600)
    assert mail.boxes.device(device.id) == known, "the same exchange in another envelope"
    mail.crash()
    assert mail.boxes.device(device.id) == known


# --- order --------------------------------------------------------------------------------------


def order_of(mail: Mail, count: int = 256) -> list[str]:
    """Envelopes in the order in which a device gets them, ``count`` at a time."""
    device = Device(mail)
    while True:
        down = device.exchange(count=count)
        assert down is not None
        if not down.requests:
            return [each.decode() for each in device.envelopes]


def test_higher_priority_goes_first_and_then_who_came_first() -> None:
    mail = Mail()
    for key, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 9)):
        mail.submit(key, priority=priority)
    assert order_of(mail, count=1) == ["d", "b", "a", "c"]


def test_clients_take_turns() -> None:
    mail = Mail()
    for number in range(4):
        mail.submit(f"alice {number}", priority=9)
    mail.submit("bob 0", party=BOB)
    mail.submit("bob 1", party=BOB)
    assert order_of(mail)[:4] == ["alice 0", "bob 0", "alice 1", "bob 1"]


@pytest.mark.parametrize("wish", [{"count": 1}, {"limit": 60}])
def test_clients_take_turns_also_at_a_device_that_takes_one_request_at_a_time(
    wish: dict[str, Any],
) -> None:
    mail = Mail()
    device = Device(mail)
    mail.submit("bob 0", party=BOB)
    for number in range(4):
        mail.submit(f"alice {number}", priority=9)
    for _ in range(3):
        device.exchange(**wish)
        mail.submit(priority=9)
    assert device.envelopes == [b"alice 0", b"bob 0", b"alice 1"]


def test_client_that_comes_later_has_its_turn_in_the_round_under_way() -> None:
    mail = Mail()
    device = Device(mail)
    for number in range(3):
        mail.submit(f"alice {number}", priority=9)
    device.exchange(count=1)
    mail.submit("bob 0", party=BOB)
    device.exchange(count=1)
    device.exchange(count=1)
    device.exchange(count=1)
    assert device.envelopes == [b"alice 0", b"bob 0", b"alice 1", b"alice 2"]
    device.exchange(count=1)
    assert not mail.exchanges._had_turn, "nothing is kept of a queue that is empty"


@pytest.mark.parametrize("count", [1, 3, 256])
def test_no_request_is_overtaken_more_than_32_times(count: int) -> None:
    mail = Mail(share=1000)
    for number in range(100):
        mail.submit(str(number), priority=number % 10)
    order = [int(each) for each in order_of(mail, count)]
    assert sorted(order) == list(range(100))
    for place, number in enumerate(order):
        assert sum(other > number for other in order[:place]) <= 32


def test_request_that_waits_for_its_time_is_not_overtaken_too_often_either() -> None:
    mail = Mail(share=1000)
    mail.submit("early", not_before_us=mail.now_us + MINUTE)
    for number in range(40):
        mail.submit(str(number))
    mail.submit("bob", party=BOB)
    first = order_of(mail, count=5)
    assert len(first) == 33
    assert "bob" in first
    mail.crash()
    mail.now_us += MINUTE
    device = Device(mail, instance=b"agent..2")
    device.exchange(count=1)
    assert device.envelopes == [b"early"]


# --- one answer for several ---------------------------------------------------------------------


def hot(mail: Mail, key: str, **more: Any) -> bytes:
    return mail.submit(key, **{"content": b"hot", "max_age_us": MINUTE, **more})


def test_requests_for_the_same_answer_go_to_the_device_once() -> None:
    mail = Mail()
    device = Device(mail)
    first, second, third = hot(mail, "a"), hot(mail, "b"), hot(mail, "c", party=BOB)
    mail.crash()
    device.wake()
    assert device.executed == [first]
    assert mail.states([first, second, third]) == [State.RESPONDED] * 3
    assert mail.record(second).attempts == 0


@pytest.mark.parametrize(
    "fields",
    [{"max_age_us": 0}, {"content": b"cold"}, {"content": b""}, {"device": "e" * 26}],
)
def test_request_for_an_answer_of_its_own_gets_one(fields: dict[str, Any]) -> None:
    mail = Mail()
    hot(mail, "a")
    assert mail.record(hot(mail, "b", **fields)).leader == b""


def test_request_after_the_device_was_given_one_goes_itself() -> None:
    mail = Mail()
    hot(mail, "a")
    Device(mail).exchange()
    assert mail.record(hot(mail, "b")).leader == b""


def test_request_after_the_device_may_have_been_given_one_goes_itself() -> None:
    mail = Mail()
    first = hot(mail, "a")
    Device(mail).exchange(lose_down=True)
    mail.passes(MINUTE)
    assert (mail.state(first), mail.record(first).held) == (State.QUEUED, True)
    assert mail.record(hot(mail, "b")).leader == b"", "that answer would be a minute old already"


def test_nobody_waits_for_a_request_that_waits_for_its_time() -> None:
    mail = Mail()
    later = mail.now_us + SECOND
    hot(mail, "a", not_before_us=later)
    assert mail.record(hot(mail, "b")).leader == b""
    assert mail.record(hot(mail, "c", not_before_us=later)).leader == b""


@pytest.mark.parametrize("end", ["cancelled", "failed", "expired", "too old"])
def test_request_goes_itself_when_the_answer_of_another_is_of_no_use(end: str) -> None:
    mail = Mail()
    device = Device(mail)
    first = hot(mail, "a", deadline_us=mail.now_us + 10 * MINUTE)
    second = hot(mail, "b")
    if end == "cancelled":
        mail.cancel(first)
    elif end == "failed":
        device.exchange()
        device.tell(first, Status.HANDLER_FAILED)
    elif end == "expired":
        mail.passes(10 * MINUTE)
    else:
        device.exchange()
        mail.passes(MINUTE + 1)
        device.execute()
    device.exchange()
    device.execute()
    device.exchange()
    assert mail.state(second) == State.RESPONDED
    assert second in device.executed
    assert not mail.shared.followers


def test_request_overtaken_often_enough_waits_for_no_other_answer() -> None:
    """Or it would hold up all behind it, and the one that it waits for may be among them."""
    mail = Mail(share=100)
    device = Device(mail)
    now_us = mail.now_us
    hot(mail, "leader", sequence=now_us + 10)
    hot(mail, "follower", sequence=now_us + 9)
    for number in range(33):
        mail.submit(f"{number}", priority=1, sequence=now_us + 100 + number)
    for _ in range(36):
        device.exchange(count=1)
    assert device.envelopes[32:] == [b"follower", b"leader", b"32"]
    device.execute()
    device.exchange()
    assert len(device.executed) == 35
    assert not mail.boxes.devices(), "all have ended"


def test_request_whose_deadline_has_passed_is_answered_with_no_other_answer() -> None:
    mail = Mail()
    device = Device(mail)
    first = hot(mail, "a")
    late = hot(mail, "b", deadline_us=mail.now_us + SECOND)
    device.exchange()
    device.execute()
    mail.now_us += SECOND
    device.exchange()
    assert mail.state(first) == State.RESPONDED
    mail.passes(0)
    assert mail.state(late) == State.EXPIRED


def test_request_that_follows_another_is_cancelled_for_certain() -> None:
    mail = Mail()
    device = Device(mail)
    hot(mail, "a")
    second = hot(mail, "b")
    device.exchange()
    assert mail.cancel(second) == State.CANCELLED


def test_age_counts_from_when_the_device_could_first_have_it() -> None:
    mail = Mail()
    device = Device(mail)
    first = hot(mail, "a")
    device.exchange(lose_down=True)
    mail.passes(SECOND)
    device.exchange(lose_down=True)
    assert mail.record(first).leased_us == mail.now_us, "the first one did not arrive"
    leased_us = mail.now_us
    mail.passes(10 * MINUTE)
    assert mail.state(first) == State.QUEUED
    device.settled = 0
    device.exchange()
    assert mail.record(first).leased_us == leased_us, "the second one may have arrived"


# --- dead letters, and devices that leave -------------------------------------------------------


def dead_one(mail: Mail, key: str = "poison") -> bytes:
    request = mail.submit(key)
    device = Device(mail, instance=key.encode().ljust(8)[:8])
    device.exchange(lose_down=True)
    device.exchange(count=0)
    assert mail.state(request) == State.DEAD
    return request


def replay(mail: Mail, *requests: bytes) -> int:
    return mail.decide(lambda decision: mail.mailbox.replay(decision, requests, now_us=mail.now_us))


def test_dead_letter_can_be_replayed_until_its_client_knows() -> None:
    mail = Mail(attempts=1)
    request = dead_one(mail)
    mail.crash()
    assert [each.id for each in mail.mailbox.letters(10)] == [request]
    replay(mail, request)
    assert mail.mailbox.letters(10) == []
    Device(mail, instance=b"agent..9").wake()
    assert mail.state(request) == State.RESPONDED

    told = dead_one(mail, "told")
    mail.acknowledge(told)
    with pytest.raises(InvalidValueError):
        replay(mail, told)


def test_dead_letters_are_replayed_all_or_none() -> None:
    mail = Mail(attempts=1)
    request = dead_one(mail)
    for wrong in (b"?" * 16, mail.submit()):
        with pytest.raises(NotFoundError):
            replay(mail, request, wrong)
    assert mail.state(request) == State.DEAD
    mail.now_us += HOUR
    with pytest.raises(ExpiredError):
        replay(mail, request)


def test_letter_that_is_being_replayed_is_not_purged() -> None:
    """Its envelope is needed, while the store still lists it."""
    mail = Mail(attempts=1)
    number = dead_one(mail)
    decision = Decision(mail.boxes)
    mail.mailbox.replay(decision, [number], now_us=mail.now_us)
    with pytest.raises(NotFoundError):
        mail.decide(lambda other: mail.mailbox.purge(other, [number]))
    mail.store.write(decision.changes, sync=True)
    decision.settle()
    device = Device(mail, instance=b"agent..2")
    device.wake()
    assert mail.state(number) == State.RESPONDED


def test_client_of_a_purged_dead_letter_still_learns_the_end() -> None:
    mail = Mail(attempts=1)
    request = dead_one(mail)
    mail.decide(lambda decision: mail.mailbox.purge(decision, [request]))
    assert mail.mailbox.letters(10) == []
    assert mail.state(request) == State.DEAD
    assert mail.acknowledge(request) == State.DELIVERED


def test_envelope_is_kept_as_long_as_it_is_needed() -> None:
    mail = Mail(attempts=1)
    dead = dead_one(mail)
    assert mail.boxes.envelope(dead), "it may be tried again"
    mail.acknowledge(dead)
    assert mail.boxes.envelope(dead) is None
    answered = mail.submit()
    Device(mail, instance=b"agent..2").wake()
    assert mail.state(answered) == State.RESPONDED
    assert mail.boxes.envelope(answered) is None


def test_clients_of_a_device_that_leaves_learn_it() -> None:
    mail = Mail()
    device = Device(mail)
    held = mail.submit()
    device.exchange()
    waiting = mail.submit()
    other = mail.submit(device="e" * 26)
    count = mail.decide(
        lambda decision: mail.mailbox.forget_device(decision, device.id, now_us=mail.now_us)
    )
    assert count == 2
    assert mail.states([held, waiting, other]) == [
        State.CANCELLED, State.CANCELLED, State.QUEUED,
    ]  # fmt: skip
    assert UNKNOWN_EFFECT in mail.record(held).reason
    assert UNKNOWN_EFFECT not in mail.record(waiting).reason
    assert mail.boxes.device(device.id).exchanges == 0
    assert [key for key, _ in mail.store.scan(b"mailbox/d/", b"mailbox/e")] == []


# --- decisions ----------------------------------------------------------------------------------


def test_decision_taken_back_leaves_no_trace() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.wake()
    before = dict(mail.store.scan(b"", None))

    def decide(decision: Decision) -> None:
        mail.mailbox.acknowledge(decision, request, now_us=mail.now_us)
        mail.mailbox.submit(decision, mail.asked("other"), now_us=mail.now_us, retry_after_s=1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        mail.decide(decide)
    assert dict(mail.store.scan(b"", None)) == before
    assert mail.state(request) == State.RESPONDED
    assert mail.boxes.live == mail.boxes._unsettled == {}
    assert mail.boxes.count(b"s" * 16, ALICE).unfetched == 1
    assert mail.submit("other")


def test_record_is_seen_while_the_writer_settles_it() -> None:
    """Who only looks holds no lock."""

    class Settled(dict[bytes, Any]):
        def __contains__(self, key: object) -> bool:
            found = super().__contains__(key)
            self.clear()
            return found

    mail = Mail()
    number = mail.submit()
    decision = Decision(mail.boxes)
    mail.mailbox.cancel(decision, number, now_us=mail.now_us)
    mail.store.write(decision.changes, sync=True)
    mail.boxes._unsettled = Settled(mail.boxes._unsettled)
    assert mail.state(number) == State.CANCELLED


def test_later_decision_is_not_forgotten_when_an_earlier_one_is_written() -> None:
    mail = Mail()
    request = mail.submit()
    first, second = Decision(mail.boxes), Decision(mail.boxes)
    mail.mailbox.cancel(first, request, now_us=mail.now_us)
    mail.mailbox.acknowledge(second, request, now_us=mail.now_us)
    mail.store.write(first.changes, sync=True)
    first.settle()
    assert mail.state(request) == State.DELIVERED
    mail.store.write(second.changes, sync=True)
    second.settle()
    mail.crash()
    assert mail.state(request) == State.DELIVERED


def has_work(mail: Mail, want_count: int = 1, want_bytes: int = 1 << 20) -> bool:
    up = ExchangeUp(
        version=1, instance=bytes(8), counter=1, want_count=want_count, want_bytes=want_bytes
    )
    return mail.exchanges.has_work(DEVICE, up, now_us=mail.now_us)


def test_there_is_work_while_there_is_something_to_tell() -> None:
    mail = Mail()
    assert not has_work(mail)
    request = mail.submit()
    assert has_work(mail)
    assert not has_work(mail, want_count=0)
    device = Device(mail)
    device.exchange()
    assert not has_work(mail)
    mail.cancel(request)
    assert has_work(mail, want_count=0)
    device.exchange(results={}, limit=0)
    mail.submit("later", not_before_us=mail.now_us + SECOND)
    assert not has_work(mail)
    mail.now_us += SECOND
    assert has_work(mail)


def test_request_that_does_not_fit_is_no_work() -> None:
    """Or a device that is always awake would ask again and again, and get nothing."""
    mail = Mail()
    mail.submit(envelope=bytes(1000))
    assert not has_work(mail, want_bytes=1000)
    assert has_work(mail, want_bytes=1100)


def test_request_whose_envelope_is_lost_holds_up_nothing() -> None:
    mail = Mail()
    device = Device(mail)
    lost, good = mail.submit(), mail.submit()
    mail.store.write([(ENVELOPES + lost, None)], sync=True)
    device.exchange()
    assert mail.state(lost) == State.EXPIRED
    assert mail.record(lost).reason == DAMAGED
    assert device.waiting == [good]


def test_device_is_not_woken_twice_for_one_recalled_request() -> None:
    mail = Mail()
    device = Device(mail)
    request = mail.submit()
    device.exchange()
    device.waiting.clear()  # it has begun
    mail.cancel(request)
    assert has_work(mail)
    device.exchange()
    assert not has_work(mail)


def test_request_past_its_deadline_is_not_handed_down_before_anybody_has_noticed() -> None:
    mail = Mail()
    mail.submit()
    mail.now_us += HOUR
    device = Device(mail)
    device.exchange()
    assert device.envelopes == []


def test_request_is_not_handed_down_before_it_is_durable() -> None:
    mail = Mail()
    decision = Decision(mail.boxes)
    mail.mailbox.submit(decision, mail.asked(), now_us=mail.now_us, retry_after_s=1)
    device = Device(mail)
    assert not has_work(mail)
    device.exchange()
    assert device.envelopes == []
    mail.store.write(decision.changes, sync=True)
    decision.settle()
    assert has_work(mail)
    device.exchange()
    assert len(device.envelopes) == 1
