"""At most once: the window, racing duplicates, crashes, lock-out, resynchronisation."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.capability import BoundRequest
from edgistry.envelope import GENERIC_REFUSAL, Operation, Status, reply_to
from edgistry.errors import (
    ExpiredError,
    FutureError,
    InvalidValueError,
    NotFoundError,
    StaleError,
    TooManyClientsError,
    UnavailableError,
)
from edgistry.kv import Change, KeyValue, MemoryKeyValue
from edgistry.operations import SequenceFix, encode_sequence_fix
from edgistry.replay import MAX_CLIENTS, Outcome, Remembered, ReplayGuard, Running, Ticket
from edgistry.replay_window import MAX_AHEAD_US, WINDOW
from edgistry.sequence import Sequencer
from edgistry.verifier import Checked

from .grants import DAY, ISSUER, ME, MINUTE, NOW, ROOT, YOU, Server, bind, check


class FlakyKeyValue(MemoryKeyValue):
    """Fails to write while ``broken``."""

    broken = False

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.broken:
            raise OSError("no space left on device")
        super().write(changes, sync=sync)


def copied(store: MemoryKeyValue) -> MemoryKeyValue:
    """The store as a restart after a crash finds it."""
    again = MemoryKeyValue()
    again.write(store.scan(b"", None), sync=True)
    return again


# --- once ------------------------------------------------------------------------------------


def test_identical_envelope_gets_the_identical_reply_and_runs_once() -> None:
    server = Server()
    request = bind(ROOT)
    replies = {server.answer(request.encoded) for _ in range(5)}
    assert len(replies) == len(server.executed) == 1


def test_retry_after_the_deadline_still_learns_what_happened() -> None:
    server = Server()
    request = bind(ROOT)
    first = server.answer(request.encoded)
    assert server.answer(request.encoded, now_us=request.envelope.deadline + 1) == first


def test_same_sequence_with_another_tag_is_stale() -> None:
    server = Server()
    server.send(bind(ROOT))
    assert server.send(bind(ROOT, target="ns/other")).status == Status.STALE
    assert len(server.executed) == 1


def test_refusal_by_the_executor_is_remembered_like_any_reply() -> None:
    server = Server()
    request = bind(ROOT)

    def refuse(checked: Checked) -> Outcome:
        server.executed.append(checked)
        raise NotFoundError("no such WooF")

    for _ in range(2):
        assert server.send(request, execute=refuse).status == Status.NOT_FOUND
    assert len(server.executed) == 1


def test_strike_reply_and_changes_are_one_synced_batch() -> None:
    batches: list[tuple[list[Change], bool]] = []

    class Recording(MemoryKeyValue):
        def write(self, changes: Iterable[Change], *, sync: bool) -> None:
            entries = list(changes)
            batches.append((entries, sync))
            super().write(entries, sync=sync)

    server = Server(Recording())
    batches.clear()
    reply = server.answer(bind(ROOT).encoded)
    ((changes, sync),) = batches
    assert sync
    assert (b"done/1", b"1") in changes
    assert reply in [value for _, value in changes]


def test_failed_execution_changes_nothing_and_may_be_sent_again() -> None:
    store = FlakyKeyValue()
    server = Server(store)
    request = bind(ROOT)
    before = list(store.scan(b"", None))
    store.broken = True
    with pytest.raises(OSError, match="no space"):
        server.answer(request.encoded)
    store.broken = False
    assert list(store.scan(b"", None)) == before
    assert server.send(request).status == Status.OK
    assert len(server.executed) == 2


def test_racing_duplicates_execute_once_and_all_get_the_same_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    request = bind(ROOT)
    arrived = threading.Semaphore(0)
    admit = server.guard.admit

    def counted(checked: Checked, *, now_us: int) -> object:
        admission = admit(checked, now_us=now_us)
        arrived.release()
        return admission

    def slow(checked: Checked) -> Outcome:
        # All sixteen are in before the one that executes is done.
        assert all(arrived.acquire(timeout=10) for _ in range(16))
        return server.execute(checked)

    monkeypatch.setattr(server.guard, "admit", counted)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: server.answer(request.encoded, execute=slow), range(16)))
    assert len(set(replies)) == 1
    assert len(server.executed) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(2, 8))
def test_any_interleaving_executes_each_request_once(order: list[int], threads: int) -> None:
    server = Server()
    requests = [bind(ROOT, sequence=NOW + number) for number in range(6)]
    with ThreadPoolExecutor(threads) as pool:
        replies = list(pool.map(lambda n: (n, server.answer(requests[n].encoded)), order))
    assert len(server.executed) == len(set(order))
    assert len(set(replies)) == len(set(order))


def test_duplicate_of_an_abandoned_request_is_told_to_send_again() -> None:
    server = Server()
    request = bind(ROOT)
    checked = check(request)
    ticket = server.guard.admit(checked, now_us=NOW)
    assert isinstance(ticket, Ticket)
    running = server.guard.admit(check(request), now_us=NOW)
    assert isinstance(running, Running)
    ticket.abandon()
    with pytest.raises(UnavailableError):
        running.reply.result(0)
    assert isinstance(server.guard.admit(check(request), now_us=NOW), Ticket)


def test_waiting_duplicate_of_a_failed_request_gets_a_proven_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    request = bind(ROOT)
    waiting = threading.Event()
    admit = server.guard.admit

    def observed(checked: Checked, *, now_us: int) -> object:
        admission = admit(checked, now_us=now_us)
        if isinstance(admission, Running):
            waiting.set()
        return admission

    def fail(checked: Checked) -> Outcome:
        second.append(pool.submit(server.answer, request.encoded))
        assert waiting.wait(10)
        raise OSError("broken")

    second: list[Future[bytes]] = []
    monkeypatch.setattr(server.guard, "admit", observed)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.answer, request.encoded, execute=fail)
        with pytest.raises(OSError, match="broken"):
            first.result(10)
        assert request.open_reply(second[0].result(10)).status == Status.BUSY
    assert server.send(request).status == Status.OK
    assert len(server.executed) == 1


def test_different_requests_of_one_client_run_beside_each_other() -> None:
    server = Server()
    barrier = threading.Barrier(4)

    def together(checked: Checked) -> Outcome:
        barrier.wait(10)
        return Outcome()

    requests = [bind(ROOT, sequence=NOW + number).encoded for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: server.answer(data, execute=together), requests))


def test_final_reply_takes_the_place_of_accepted() -> None:
    server = Server()
    request = bind(ROOT, Operation.PUT, handler="h", payload=b"x")
    accepted = server.answer(request.encoded, execute=lambda _: Outcome(status=Status.ACCEPTED))
    assert request.open_reply(accepted).status == Status.ACCEPTED
    final = check(request).reply(Status.OK, result=7, payload=b"done")
    server.store.write(server.guard.final_reply(check(request), final), sync=True)
    assert server.answer(request.encoded) == final
    assert server.executed == []


def test_final_reply_of_an_unknown_request_changes_nothing() -> None:
    assert Server().guard.final_reply(check(bind(ROOT)), b"x") == []


# --- the window ------------------------------------------------------------------------------


def accept(server: Server, *sequences: int, **more: object) -> list[int]:
    return [
        server.send(bind(ROOT, sequence=sequence, **more)).status  # type: ignore[arg-type]
        for sequence in sequences
    ]


def test_sequences_may_arrive_in_any_order_within_the_window() -> None:
    server = Server()
    assert accept(server, NOW + 9, NOW, NOW + 5, NOW - 7) == [0, 0, 0, 0]
    assert accept(server, NOW + 5, target="ns/x") == [Status.STALE]


def test_full_window_refuses_what_lies_below_it() -> None:
    server = Server()
    accept(server, *(NOW + 2 * number for number in range(WINDOW)))
    assert accept(server, NOW - 1) == [Status.STALE]
    assert accept(server, NOW + 1) == [Status.OK]  # pushes NOW out
    assert accept(server, NOW + 1, NOW, target="ns/x") == [Status.STALE, Status.STALE]


def test_forgotten_request_is_stale_and_not_executed_again() -> None:
    server = Server()
    first = bind(ROOT)
    server.send(first)
    accept(server, *(NOW + number for number in range(1, WINDOW + 1)))
    assert server.send(first).status == Status.STALE
    assert len(server.executed) == WINDOW + 1


def test_window_keeps_no_more_than_64_strikes_and_replies() -> None:
    server = Server()
    accept(server, *(NOW + number for number in range(200)))
    keys = [key for key, _ in server.store.scan(b"replay/", b"replay0")]
    assert sum(key.startswith(b"replay/S") for key in keys) == WINDOW
    assert sum(key.startswith(b"replay/R") for key in keys) == WINDOW
    assert len(keys) == 2 * WINDOW + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.booleans()), max_size=150))
def test_window_is_the_rule_of_the_specification(steps: list[tuple[int, bool]]) -> None:
    """Against the rule said directly; a True is a crash before the request."""
    server = Server()
    executed: set[int] = set()
    highest: list[int] = []
    for offset, crash in steps:
        if crash:
            server = Server(copied(server.store))
        sequence = NOW + offset
        fresh = sequence not in highest and (len(highest) < WINDOW or sequence > min(highest))
        (status,) = accept(server, sequence, target=f"ns/{len(executed)}")
        assert (status == Status.OK) == fresh
        if fresh:
            assert sequence not in executed
            executed.add(sequence)
            highest = sorted([*highest, sequence])[-WINDOW:]


def test_deadline_includes_its_last_microsecond() -> None:
    server = Server()
    request = bind(ROOT, deadline=NOW)
    assert server.send(bind(ROOT, deadline=NOW - 1)).status == Status.EXPIRED
    assert server.send(request).status == Status.OK


def test_expired_and_future_requests_leave_no_trace() -> None:
    server = Server()
    before = list(server.store.scan(b"", None))
    assert server.send(bind(ROOT, deadline=NOW - 1)).status == Status.EXPIRED
    assert server.send(bind(ROOT, sequence=NOW + MAX_AHEAD_US + 1)).status == Status.FUTURE
    assert server.send(bind(ROOT, sequence_epoch=1)).status == Status.STALE
    assert list(server.store.scan(b"", None)) == before
    assert server.guard._states == {}
    assert server.executed == []


def test_sequence_may_be_five_minutes_ahead() -> None:
    server = Server()
    assert accept(server, NOW + MAX_AHEAD_US, deadline=NOW + DAY) == [Status.OK]
    assert accept(server, NOW + MAX_AHEAD_US + 1, deadline=NOW + DAY) == [Status.FUTURE]


def test_refusals_tell_where_to_continue() -> None:
    server = Server()
    accept(server, NOW, NOW + 3)
    stale = server.send(bind(ROOT, target="ns/x"))
    assert (stale.sequence_epoch, stale.sequence_floor) == (0, NOW + 3)
    future = server.send(bind(ROOT, sequence=NOW + DAY, deadline=NOW + DAY))
    assert (future.status, future.sequence_floor) == (Status.FUTURE, NOW)


def test_errors_of_admission_carry_proven_replies() -> None:
    guard = ReplayGuard(MemoryKeyValue())
    for fields, kind in (
        ({"sequence_epoch": 1}, StaleError),
        ({"deadline": NOW - 1}, ExpiredError),
        ({"sequence": NOW + DAY, "deadline": NOW + DAY}, FutureError),
    ):
        request = bind(ROOT, **fields)  # type: ignore[arg-type]
        with pytest.raises(kind) as caught:
            guard.admit(check(request), now_us=NOW)
        assert request.open_reply(reply_to(caught.value)).status == kind.wire_status


# --- grants and clients ----------------------------------------------------------------------


def test_windows_of_grants_and_proven_clients_are_apart() -> None:
    server = Server()
    other = ISSUER.mint(serial=2)
    mine, yours = ROOT.derive(client=ME), ROOT.derive(client=YOU)
    requests = [bind(ROOT), bind(other), bind(mine), bind(yours, client=YOU)]
    assert [server.send(request).status for request in requests] == [0, 0, 0, 0]


def test_client_id_without_its_caveat_opens_no_window_of_its_own() -> None:
    server = Server()
    assert server.send(bind(ROOT, client=ME)).status == Status.OK
    assert server.send(bind(ROOT, client=YOU)).status == Status.STALE


def test_a_client_with_64_sequences_ahead_does_not_lock_out_another() -> None:
    server = Server()
    attacker = ROOT.derive(client=YOU)
    for number in range(WINDOW):
        sequence = NOW + MAX_AHEAD_US - number
        request = bind(attacker, client=YOU, sequence=sequence, deadline=NOW + DAY)
        assert server.send(request).status == Status.OK
    assert server.send(bind(ROOT.derive(client=ME))).status == Status.OK
    assert server.send(bind(ROOT)).status == Status.OK
    assert server.send(bind(ISSUER.mint(serial=2))).status == Status.OK
    assert server.send(bind(attacker, client=YOU)).status == Status.STALE


def crowd(number: int, **more: object) -> BoundRequest:
    client = number.to_bytes(8, "big")
    return bind(ROOT.derive(client=client), client=client, **more)  # type: ignore[arg-type]


def test_seventeenth_client_of_a_grant_is_told_busy_and_live_ones_go_on() -> None:
    server = Server()
    for number in range(1, MAX_CLIENTS + 1):
        assert server.send(crowd(number)).status == Status.OK
    for _ in range(2):
        assert server.send(crowd(17)).status == Status.BUSY
    assert server.send(crowd(5, sequence=NOW + 1)).status == Status.OK
    assert server.send(bind(ISSUER.mint(serial=2).derive(client=ME))).status == Status.OK
    assert len(server.executed) == 18


def test_seventeenth_client_is_busy_after_a_restart_too() -> None:
    server = Server()
    for number in range(1, MAX_CLIENTS + 1):
        server.send(crowd(number))
    again = Server(copied(server.store))
    assert again.send(crowd(17)).status == Status.BUSY
    with pytest.raises(TooManyClientsError):
        again.guard.admit(check(crowd(17)), now_us=NOW)


def test_windows_that_are_over_make_room() -> None:
    server = Server()
    for number in range(1, MAX_CLIENTS + 1):
        server.send(crowd(number, deadline=NOW + number * MINUTE))
    later = NOW + 3 * MINUTE + 1
    request = crowd(17, sequence=later, deadline=later + MINUTE)
    assert server.send(request, now_us=later).status == Status.OK
    for number in (1, 2, 3):
        assert server.send(crowd(number), now_us=later).status == Status.EXPIRED
    assert server.send(crowd(4, sequence=NOW + 1, deadline=later), now_us=later).status == 0


def test_clock_that_is_set_back_makes_no_dropped_request_fresh_again() -> None:
    server = Server()
    request = bind(ROOT)
    server.send(request)
    assert server.guard.sweep(now_us=NOW + DAY) == 1
    assert server.send(request, now_us=NOW).status == Status.EXPIRED
    again = Server(copied(server.store))
    assert again.send(request, now_us=NOW).status == Status.EXPIRED
    fresh = bind(ROOT, sequence=NOW + 1, deadline=NOW + DAY)
    assert again.send(fresh, now_us=NOW).status == Status.OK
    assert len(server.executed) == 1


def test_sweep_drops_windows_that_are_over_and_only_those() -> None:
    server = Server()
    for number in range(1, 6):
        server.send(crowd(number, deadline=NOW + number * MINUTE))
    assert server.guard.sweep(now_us=NOW + 3 * MINUTE) == 2
    assert server.guard.sweep(now_us=NOW + DAY, limit=1) == 1
    assert server.guard.sweep(now_us=NOW + DAY) == 2
    keys = [key for key, _ in server.store.scan(b"replay/", b"replay0")]
    assert keys == [b"replay/Z\x00"]


def test_sweep_keeps_nobody_waiting_for_windows_that_live() -> None:
    """A node has one for each of its devices, and lets their exchanges in from its event loop."""
    locked: list[bool] = []
    guards: list[ReplayGuard] = []

    class Watched(MemoryKeyValue):
        def scan(self, *where: Any, **how: Any) -> Iterator[tuple[bytes, bytes]]:
            locked.append(guards[-1]._lock.locked() if guards else False)
            return super().scan(*where, **how)

    server = Server(Watched())
    for number in range(1, 4):
        server.send(crowd(number, deadline=NOW + DAY))
    guard = ReplayGuard(server.store)
    guards.append(guard)
    locked.clear()
    assert guard.sweep(now_us=NOW + MINUTE) == 0
    assert len(locked) >= 4
    assert not any(locked)
    assert not guard._states, "nor are they loaded"


def test_window_with_a_running_request_is_not_dropped() -> None:
    guard = ReplayGuard(MemoryKeyValue())
    ticket = guard.admit(check(bind(ROOT)), now_us=NOW)
    assert isinstance(ticket, Ticket)
    assert guard.sweep(now_us=NOW + DAY) == 0


# --- crashes ---------------------------------------------------------------------------------


def test_replay_after_a_crash_gets_the_remembered_reply() -> None:
    server = Server()
    request = bind(ROOT)
    first = server.answer(request.encoded)
    again = Server(copied(server.store))
    assert again.answer(request.encoded) == first
    assert again.executed == []


def test_batches_may_become_durable_in_any_order_without_forgetting_a_strike() -> None:
    """Two requests push two others out; only the later batch survives the crash."""
    server = Server()
    low = [bind(ROOT, sequence=NOW + number) for number in range(WINDOW)]
    for request in low:
        server.send(request)
    tickets = []
    for number in (1000, 2000):
        ticket = server.guard.admit(check(bind(ROOT, sequence=NOW + number)), now_us=NOW)
        assert isinstance(ticket, Ticket)
        tickets.append(ticket)
    reply = tickets[1].checked.reply(0)
    tickets[0].changes(reply)
    server.store.write(tickets[1].changes(reply), sync=True)
    again = Server(copied(server.store))
    for request in low[:3]:
        assert again.answer(request.encoded) != GENERIC_REFUSAL
    assert again.executed == []
    lost = tickets[0].checked.envelope
    assert again.send(bind(ROOT, sequence=lost.sequence)).status == Status.OK


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_order_of_batches_and_no_crash_executes_anything_twice(data: st.DataObject) -> None:
    """Tickets in flight, their batches written in any order, some never; then a crash; then all
    requests again."""
    store = MemoryKeyValue()
    guard = ReplayGuard(store)
    done: set[int] = set()
    requests = {n: bind(ROOT, sequence=NOW + n) for n in range(100)}
    for _ in range(3):
        numbers = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=99, unique=True))
        tickets = []
        for number in numbers:
            try:
                ticket = guard.admit(check(requests[number]), now_us=NOW)
            except StaleError:
                continue
            if isinstance(ticket, Ticket):
                assert number not in done
                tickets.append((number, ticket))
        prepared = [
            (number, ticket, ticket.changes(ticket.checked.reply(0)))
            for number, ticket in data.draw(st.permutations(tickets))
        ]
        written = data.draw(st.integers(0, len(prepared)))
        for number, ticket, changes in data.draw(st.permutations(prepared))[:written]:
            store.write(changes, sync=True)
            ticket.done(b"")
            done.add(number)
        store = copied(store)
        guard = ReplayGuard(store)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_killed_process_remembers_what_it_answered(folder: Path) -> None:
    """LevelDB files as a kill leaves them: copied while the database is open."""
    store = LevelKeyValue(folder / "live")
    guard = ReplayGuard(store)
    executed = []

    def execute(checked: Checked) -> Outcome:
        executed.append(checked)
        return Outcome(result=len(executed), changes=[(b"effect", b"%d" % len(executed))])

    requests = [bind(ROOT, sequence=NOW + number) for number in range(WINDOW + 5)]
    replies = [guard.once(check(request), execute, now_us=NOW) for request in requests]
    shutil.copytree(folder / "live", folder / "killed", ignore=shutil.ignore_patterns("LOCK"))
    store.close()
    again = LevelKeyValue(folder / "killed")
    guard = ReplayGuard(again)
    for request, reply in zip(requests[5:], replies[5:], strict=True):
        assert guard.once(check(request), execute, now_us=NOW) == reply
    for request in requests[:5]:
        with pytest.raises(StaleError):
            guard.once(check(request), execute, now_us=NOW)
    assert len(executed) == len(requests)
    assert again.get(b"effect") == b"%d" % len(requests)
    again.close()


# --- sequence fix ----------------------------------------------------------------------------


def fixed(server: Server, serial: int, client: bytes, floor: int, *, sequence: int = NOW) -> int:
    fixer = ISSUER.mint(serial=99)
    payload = encode_sequence_fix(SequenceFix(serial, client, floor))
    request = bind(fixer, Operation.SEQUENCE_FIX, "", payload=payload, sequence=sequence)
    return server.send(request).status


@pytest.mark.parametrize("restart", [False, True])
def test_sequence_fix_lowers_a_floor_and_old_envelopes_stay_dead(restart: bool) -> None:
    server = Server()
    ahead = [bind(ROOT, sequence=NOW + MAX_AHEAD_US - n, deadline=NOW + DAY) for n in range(70)]
    for request in ahead:
        server.send(request)
    assert fixed(server, 1, bytes(8), NOW - 1) == Status.OK
    if restart:
        server = Server(copied(server.store))
    executed = len(server.executed)
    for request in ahead:
        assert server.send(request).status == Status.STALE
    assert len(server.executed) == executed
    assert server.send(bind(ROOT)).sequence_epoch == 1
    assert server.send(bind(ROOT, sequence_epoch=1)).status == Status.OK
    assert server.send(bind(ROOT, sequence=NOW - 1, sequence_epoch=1)).status == Status.STALE


def test_sequence_fix_can_raise_a_floor() -> None:
    server = Server()
    assert fixed(server, 1, bytes(8), NOW + 10) == Status.OK
    assert accept(server, NOW + 10, sequence_epoch=1) == [Status.STALE]
    assert accept(server, NOW + 11, sequence_epoch=1) == [Status.OK]


def test_sequence_fix_repeated_is_answered_and_not_carried_out_twice() -> None:
    server = Server()
    for _ in range(3):
        assert fixed(server, 1, bytes(8), NOW) == Status.OK
    assert server.send(bind(ROOT)).sequence_epoch == 1
    assert fixed(server, 1, bytes(8), NOW, sequence=NOW + 1) == Status.OK
    assert server.send(bind(ROOT)).sequence_epoch == 2


def test_fixed_window_is_never_dropped() -> None:
    server = Server()
    fixed(server, 1, bytes(8), NOW)
    server.guard.sweep(now_us=NOW + DAY)
    assert server.send(bind(ROOT, deadline=NOW + 7 * DAY)).status == Status.STALE


def test_request_in_flight_during_a_fix_stays_dead_in_the_new_epoch() -> None:
    """Its batch is written after the fix; then the machine crashes."""
    server = Server()
    request = bind(ROOT)
    ticket = server.guard.admit(check(request), now_us=NOW)
    assert isinstance(ticket, Ticket)
    fixed(server, 1, bytes(8), NOW - 1)
    after = bind(ROOT, sequence_epoch=1)
    assert server.send(after).status == Status.OK
    server.store.write(ticket.changes(b"reply"), sync=True)
    ticket.done(b"reply")
    for guarded in (server, Server(copied(server.store))):
        assert guarded.send(request).status == Status.STALE
        assert guarded.send(after).status == Status.OK
    assert len(server.executed) == 1


def test_strike_of_a_new_epoch_proves_a_fix_whose_batch_was_lost() -> None:
    server = Server()
    request = bind(ROOT)
    server.send(request)
    server.guard.fix(label=b"", serial=1, client=bytes(8), floor=NOW - 5, now_us=NOW)
    after = bind(ROOT, sequence_epoch=1)
    server.send(after)
    again = Server(copied(server.store))
    assert again.send(request).status == Status.STALE
    again.answer(after.encoded)
    assert again.executed == []


@pytest.mark.parametrize("floor", [-1, (1 << 64) - 1, 1 << 64])
def test_sequence_fix_needs_a_floor_of_64_bits(floor: int) -> None:
    guard = ReplayGuard(MemoryKeyValue())
    with pytest.raises(InvalidValueError):
        guard.fix(label=b"", serial=1, client=bytes(8), floor=floor, now_us=NOW)


# --- the client's side -----------------------------------------------------------------------


def exchange(server: Server, sequencer: Sequencer, clock_us: int) -> int:
    """One request by a client that follows what it is told; the number of attempts."""
    for attempt in range(1, 5):
        request = bind(
            ROOT,
            sequence=sequencer.next(clock_us),
            sequence_epoch=sequencer.epoch,
            deadline=sequencer.time_us(clock_us) + DAY,
        )
        if not sequencer.follow(server.send(request), now_us=clock_us):
            return attempt
    raise AssertionError("the client did not resynchronise")


@pytest.mark.parametrize("error_us", [-3 * DAY, -1, 0, MINUTE, 3 * DAY])
def test_client_with_a_wrong_clock_resynchronises_by_itself(error_us: int) -> None:
    server = Server()
    sequencer = Sequencer()
    assert exchange(server, sequencer, NOW + error_us) <= 2
    assert exchange(server, sequencer, NOW + error_us + 1) == 1


def test_client_continues_above_the_floor_after_losing_its_state() -> None:
    server = Server()
    accept(server, *(NOW + number for number in range(WINDOW)))
    assert exchange(server, Sequencer(), NOW - 10) == 2


def test_client_follows_a_sequence_fix() -> None:
    server = Server()
    sequencer = Sequencer()
    exchange(server, sequencer, NOW)
    fixed(server, 1, bytes(8), NOW - DAY)
    assert exchange(server, sequencer, NOW - MINUTE) == 2
    assert sequencer.epoch == 1


def test_sequences_rise_even_when_the_clock_stands() -> None:
    sequencer = Sequencer()
    assert [sequencer.next(5), sequencer.next(5), sequencer.next(4), sequencer.next(9)] == [
        5, 6, 7, 9
    ]  # fmt: skip


def test_a_store_is_all_that_is_remembered() -> None:
    store: KeyValue = MemoryKeyValue()
    guard = ReplayGuard(store)
    request = check(bind(ROOT))
    guard.once(request, lambda _: Outcome(), now_us=NOW)
    guard._states.clear()
    assert isinstance(guard.admit(check(bind(ROOT)), now_us=NOW), Remembered)
