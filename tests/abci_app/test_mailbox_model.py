"""Random lives of a mailbox: every history is legal, and every request has one visible end."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from abci_app.mailbox import UNKNOWN_EFFECT
from abci_app.mailbox_boxes import Boxes
from abci_app.mailbox_records import RECORDS, read_request
from abci_app.mailbox_states import (
    MOVES,
    OUTSTANDING,
    UNFETCHED,
    IllegalMoveError,
    State,
    check_move,
    path_between,
)
from edgistry.errors import MailboxFullError
from edgistry.kv import MemoryKeyValue, prefix_end

from .mail_world import ALICE, BOB, HOUR, MINUTE, SECOND, Device, Mail


class Life:
    """A mailbox and two devices to which everything happens, in an order drawn from a seed."""

    def __init__(self, seed: int, store: MemoryKeyValue | None = None) -> None:
        self.random = random.Random(seed)
        decade_s = 10 * 365 * 24 * 3600
        self.mail = Mail(store, attempts=4, share=40, keep_s=decade_s, remember_s=decade_s)
        self.devices = [Device(self.mail), Device(self.mail, "e" * 26)]
        self.requests: list[bytes] = []
        self.ends: dict[bytes, State] = {}
        self.unclear: set[bytes] = set()
        """Requests whose clients were told that nobody knows whether they ran."""
        self.starts = 0

    def step(self) -> None:
        draw = self.random
        event = draw.choices(
            [self.submits, self.exchanges, self.executes, self.cancels, self.fetches,
             self.waits, self.crashes, self.restarts_device],
            [30, 30, 20, 4, 15, 6, 1, 1],
        )[0]  # fmt: skip
        event()

    def submits(self) -> None:
        draw = self.random
        key = str(draw.randrange(1 << 30) if draw.random() < 0.9 else len(self.requests))
        now_us = self.mail.now_us
        try:
            request = self.mail.submit(
                key,
                party=draw.choice([ALICE, BOB]),
                device=draw.choice(self.devices).id,
                priority=draw.randrange(10),
                deadline_us=now_us + draw.choice([MINUTE, HOUR, 24 * HOUR]),
                not_before_us=draw.choice([0, 0, 0, now_us + 30 * SECOND]),
                content=draw.choice([b"", b"hot", b"cold"]),
                max_age_us=draw.choice([0, 5 * MINUTE]),
            )
        except MailboxFullError:
            return
        if request not in self.mail.histories or len(self.mail.histories[request]) == 1:
            self.requests.append(request)

    def exchanges(self) -> None:
        draw = self.random
        draw.choice(self.devices).exchange(
            lose_up=draw.random() < 0.1,
            lose_down=draw.random() < 0.1,
            count=draw.choice([0, 1, 4, 256]),
            back_in_s=draw.choice([0, 600]),
        )

    def executes(self) -> None:
        self.random.choice(self.devices).execute()

    def cancels(self) -> None:
        if self.requests:
            self.mail.cancel(self.random.choice(self.requests[-50:]))

    def fetches(self) -> None:
        """A client looks, is told once how its request ended, and says that it knows."""
        if not self.requests:
            return
        request = self.random.choice(self.requests[-50:])
        state = self.mail.state(request)
        if state in UNFETCHED:
            self.sees(request, state)
            if self.random.random() < 0.7:
                self.mail.acknowledge(request)

    def sees(self, request: bytes, state: State) -> None:
        assert self.ends.setdefault(request, state) == state, "it ended twice"
        if self.mail.record(request).reason == UNKNOWN_EFFECT:
            self.unclear.add(request)

    def waits(self) -> None:
        self.mail.passes(self.random.choice([SECOND, MINUTE, 10 * MINUTE]))

    def crashes(self) -> None:
        self.mail.crash()

    def restarts_device(self) -> None:
        """Its memory is durable; only the agent is another one."""
        device = self.random.choice(self.devices)
        self.starts += 1
        device.instance = self.starts.to_bytes(8, "big")
        device.counter = device.settled = 0

    def finish(self) -> None:
        """Nothing is lost any more, nobody asks for more, and everybody fetches."""
        for _ in range(6):
            for device in self.devices:
                device.wake()
                device.execute()
                device.exchange()
            self.mail.passes(10 * MINUTE)
        self.mail.passes(24 * HOUR + HOUR)
        for request in self.requests:
            state = self.mail.state(request)
            assert state not in OUTSTANDING, "stuck"
            if state != State.DELIVERED:
                self.sees(request, state)
                self.mail.acknowledge(request)

    def check(self) -> None:
        executed = [each for device in self.devices for each in device.executed]
        assert len(set(executed)) == len(executed), "executed once"
        answered = self.mail.shared.followers.union(executed)
        for request in self.requests:
            history = self.mail.histories[request]
            assert history[0] == State.QUEUED
            assert history[-1] == State.DELIVERED
            for before, after in pairwise(history):
                assert before == after or path_between(before, after)
            check_ends(history)
            end = self.ends[request]
            if request in self.unclear:
                assert end == State.EXPIRED
            else:
                assert (end == State.RESPONDED) == (request in answered)


def check_ends(history: list[State]) -> None:
    """It ended once and stayed so, whatever the table says; what the device had it kept."""
    ends = [each for each in history if each not in {State.QUEUED, State.LEASED, State.ACKED}]
    assert history[len(history) - len(ends) :] == ends, history
    assert len(set(ends)) == 2, history  # the end, and that its client knows it
    if State.ACKED in history:
        after = history[history.index(State.ACKED) :]
        assert not {State.QUEUED, State.LEASED, State.DEAD} & set(after), history


@pytest.mark.parametrize("seed", range(4))
def test_each_request_has_one_end_and_runs_at_most_once(seed: int) -> None:
    life = Life(seed)
    for _ in range(700):
        life.step()
    life.finish()
    life.check()
    assert len(life.requests) > 80
    assert len(set(life.ends.values())) >= 3, "the life was eventful"
    assert life.mail.shared.followers


@pytest.mark.soak
def test_ten_thousand_requests_have_legal_histories() -> None:
    life = Life(77)
    while len(life.requests) < 10_000:
        life.step()
    life.finish()
    life.check()


def test_memory_says_what_the_store_says() -> None:
    life = Life(5)
    for _ in range(300):
        life.step()
        boxes, fresh = life.mail.boxes, Boxes(life.mail.store)
        assert boxes.live == fresh.live
        assert boxes._counts.keys() == fresh._counts.keys()
        for where, count in boxes._counts.items():
            known = fresh._counts[where]
            assert (count.outstanding, count.unfetched) == (known.outstanding, known.unfetched)
        for device in boxes.devices():
            assert boxes.box(device).requests == fresh.box(device).requests
            assert boxes.box(device).size == fresh.box(device).size
        assert boxes._unsettled == {}
        assert boxes._followers == fresh._followers


def test_nothing_is_left_of_requests_that_are_over() -> None:
    life = Life(6)
    for _ in range(300):
        life.step()
    life.finish()
    life.mail.passes(20 * 365 * 24 * HOUR)
    left = [key for key, _ in life.mail.store.scan(b"", None)]
    assert len(left) == len([key for key in left if key.startswith(b"mailbox/d/")]) == 2
    boxes = life.mail.boxes
    in_memory = (boxes.live, boxes._boxes, boxes._counts, boxes._unsettled, boxes._followers)
    assert not any(in_memory)


def test_agenda_does_not_grow_with_what_has_ended() -> None:
    mail = Mail()
    device = Device(mail)
    for _ in range(60):
        mail.submit()
        device.wake()
        mail.acknowledge(device.executed[-1])
    assert len(mail.boxes._due) < 40


def test_stored_states_are_those_of_the_table() -> None:
    mail = Mail()
    mail.submit()
    Device(mail).wake()
    records = [read_request(each) for _, each in mail.store.scan(RECORDS, prefix_end(RECORDS))]
    assert [each.outcome for each in records] == [State.RESPONDED]


# --- the table ----------------------------------------------------------------------------------


def test_every_state_can_be_reached_and_has_its_row() -> None:
    assert set(MOVES) == set(State)
    for state in set(State) - {State.QUEUED}:
        assert path_between(State.QUEUED, state)[-1] == state
    for state in set(State) - {State.DELIVERED}:
        assert path_between(state, State.DELIVERED)[-1] == State.DELIVERED


def test_move_that_is_not_in_the_table_is_a_bug() -> None:
    for before in State:
        for after in set(State) - MOVES[before]:
            with pytest.raises(IllegalMoveError):
                check_move(before, after)
    with pytest.raises(IllegalMoveError):
        path_between(State.DELIVERED, State.QUEUED)
    with pytest.raises(IllegalMoveError):
        path_between(State.RESPONDED, State.EXPIRED)


def test_late_result_implies_lease_and_acknowledgement() -> None:
    assert path_between(State.QUEUED, State.RESPONDED) == (
        State.LEASED, State.ACKED, State.RESPONDED,
    )  # fmt: skip
