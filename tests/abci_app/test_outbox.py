"""The outbox against a chain that drops, delays, refuses and restarts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import abci_app.outbox as outbox_module
import abci_app.outbox_queue as queue_module
from abci_app.outbox import MAX_IN_FLIGHT, RESEND_S, Outbox
from abci_app.schema import SequenceState
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    ChainMismatchError,
    CorruptDatabaseError,
    InvalidValueError,
    UnavailableError,
)
from edgistry.kv import Change, KeyValue, MemoryKeyValue
from edgistry.transactions import (
    Kind,
    NodeId,
    NodeLease,
    RegionPut,
    ServicesWithdraw,
    pack_cells,
    parse_body,
    parse_transaction,
)

from .simulated_chain import REFUSAL, SimulatedChain

NODE = NodeId(b"n" * 20)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """An outbox with a simulated chain and a hand-wound clock."""

    def __init__(self, store: KeyValue | None = None) -> None:
        self.store = MemoryKeyValue() if store is None else store
        self.chain = SimulatedChain()
        self.clock = Clock()
        self.restart()

    def restart(self, *, chain_replays: bool = True) -> None:
        self.caught_up = True
        self.outbox = Outbox(
            self.store,
            chain_id="test",
            node_id=NODE,
            sign=lambda message: bytes(64),
            reader=self.chain,
            sink=self.chain,
            caught_up=lambda: self.caught_up,
            clock_s=self.clock,
        )
        if not chain_replays:
            self.outbox.follow_shortened_chain()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def body(number: int) -> ServicesWithdraw:
    return ServicesWithdraw(keys=(number.to_bytes(16, "big"),))


def bulky() -> RegionPut:
    return RegionPut(name="r", version=1, cells=pack_cells(list(range(8192))))


async def test_accepted_transactions_reach_the_chain_in_order(bench: Bench) -> None:
    assert await bench.outbox.append([body(1), body(2)]) == 2
    assert await bench.outbox.append([body(3)]) == 3
    await bench.outbox.step()
    bench.chain.commit()
    assert [parse_body(t) for t in bench.chain.history()] == [body(1), body(2), body(3)]
    assert bench.outbox.pending == 3
    await bench.outbox.step()
    assert bench.outbox.pending == 0


async def test_nothing_is_sent_before_it_is_durable(bench: Bench) -> None:
    seen: list[tuple[bytes, bool]] = []
    write = bench.store.write

    def watch(changes: list[Change], *, sync: bool) -> None:
        write(changes, sync=sync)
        seen.extend((key, sync) for key, _ in changes)
        assert bench.chain.submitted == []

    bench.store.write = watch  # type: ignore[method-assign,assignment]
    await bench.outbox.append([body(1)], also=lambda first: [(b"mine", bytes([first]))])
    assert (b"mine", True) in seen
    assert {sync for _, sync in seen} == {True}


async def test_callers_changes_are_in_the_same_write(bench: Bench) -> None:
    writes: list[list[bytes]] = []
    write = bench.store.write

    def watch(changes: list[Change], *, sync: bool) -> None:
        writes.append([key for key, _ in changes])
        write(changes, sync=sync)

    bench.store.write = watch  # type: ignore[method-assign,assignment]
    await bench.outbox.append([body(1)], also=lambda first: [(b"mine", b"")])
    assert len(writes) == 1
    assert b"mine" in writes[0]
    assert len(writes[0]) > 1


async def test_caller_that_raises_leaves_nothing_behind(bench: Bench) -> None:
    def fail(first: int) -> list[Change]:
        raise InvalidValueError("no")

    with pytest.raises(InvalidValueError):
        await bench.outbox.append([body(1)], also=fail)
    assert bench.outbox.pending == 0
    assert await bench.outbox.append([body(2)]) == 1


async def test_changes_without_transaction_are_written_too(bench: Bench) -> None:
    await bench.outbox.append([], also=lambda first: [(b"mine", b"x")])
    assert bench.store.get(b"mine") == b"x"
    assert await bench.outbox.step() is None


async def test_at_most_sixteen_transactions_are_in_flight(bench: Bench) -> None:
    await bench.outbox.append([body(number) for number in range(40)])
    await bench.outbox.step()
    assert bench.chain.submitted == list(range(1, MAX_IN_FLIGHT + 1))
    bench.chain.commit(5)
    await bench.outbox.step()
    assert bench.chain.submitted[MAX_IN_FLIGHT:] == list(range(17, 22))


async def test_at_most_two_megabytes_are_in_flight(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 65_000
    monkeypatch.setattr(outbox_module, "MAX_IN_FLIGHT_BYTES", 3 * size + 3 * 2000)
    await bench.outbox.append([bulky() for _ in range(6)])
    await bench.outbox.step()
    assert bench.chain.submitted == [1, 2, 3]


async def test_one_transaction_is_sent_whatever_its_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_IN_FLIGHT_BYTES", 1)
    await bench.outbox.append([body(1), body(2)])
    await bench.outbox.step()
    assert bench.chain.submitted == [1]


async def test_silently_dropped_transactions_are_sent_again_after_three_seconds(
    bench: Bench,
) -> None:
    bench.chain.full = True
    await bench.outbox.append([body(1), body(2)])
    assert await bench.outbox.step() == RESEND_S
    bench.chain.full = False
    bench.clock.now_s += RESEND_S - 0.1
    await bench.outbox.step()
    assert bench.chain.mempool == []
    bench.clock.now_s += 0.1
    await bench.outbox.step()
    assert bench.chain.submitted == [1, 2, 1, 2]
    assert len(bench.chain.mempool) == 2


async def test_progress_postpones_the_resend(bench: Bench) -> None:
    await bench.outbox.append([body(1), body(2)])
    await bench.outbox.step()
    bench.clock.now_s += 2.0
    bench.chain.commit(1)
    await bench.outbox.step()
    bench.clock.now_s += 2.0
    await bench.outbox.step()
    assert bench.chain.submitted == [1, 2]


async def test_sink_that_is_away_is_tried_again_with_growing_pauses(bench: Bench) -> None:
    bench.chain.away = True
    await bench.outbox.append([body(1)])
    pauses = []
    for _ in range(8):
        pause = await bench.outbox.step()
        assert pause is not None
        pauses.append(pause)
        bench.clock.now_s += pause
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    bench.chain.away = False
    await bench.outbox.step()
    assert len(bench.chain.mempool) == 1


async def test_transaction_that_cannot_be_read_stops_the_node(bench: Bench) -> None:
    class Damaged(MemoryKeyValue):
        def get(self, key: bytes) -> bytes | None:
            if key.startswith(b"wnode/outbox\0e"):
                raise CorruptDatabaseError("a block does not have its checksum")
            return super().get(key)

    bench.store = Damaged()
    bench.restart()
    await bench.outbox.append([body(1)])
    # To try again would not mend it, and nobody would hear of it.
    with pytest.raises(CorruptDatabaseError):
        await bench.outbox.step()


async def test_refused_transaction_becomes_a_dead_letter_and_the_next_goes_through(
    bench: Bench,
) -> None:
    bench.chain.refuse = {2}
    await bench.outbox.append([body(1), body(2), body(3)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    assert bench.outbox.pending == 0
    [letter] = bench.outbox.dead_letters.newest(10)
    assert (letter.sequence, letter.code) == (2, REFUSAL)
    assert parse_body(parse_transaction(letter.transaction)) == body(2)
    assert "not-owner" in letter.reason
    assert bench.outbox.dead_letters.between(3, 9) == []
    assert bench.outbox.dead_letters.between(1, 2) == [letter]


async def test_refusal_during_a_crash_is_still_found_afterwards(bench: Bench) -> None:
    bench.chain.refuse = {1}
    await bench.outbox.append([body(1)])
    await bench.outbox.step()
    bench.chain.commit()
    bench.restart()
    await bench.outbox.step()
    assert len(bench.outbox.dead_letters) == 1


async def test_confirmed_entries_leave_the_database(bench: Bench) -> None:
    before = len(list(bench.store.scan(b"", None)))
    await bench.outbox.append([body(number) for number in range(10)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    # The log's two counters and the last sequence stay.
    assert len(list(bench.store.scan(b"", None))) == before + 3


async def test_queue_goes_on_after_a_crash_where_it_was(bench: Bench) -> None:
    await bench.outbox.append([body(1), body(2)])
    bench.restart()
    assert (bench.outbox.pending, bench.outbox.settled_through) == (2, 0)
    assert await bench.outbox.append([body(3)]) == 3
    await bench.outbox.step()
    bench.chain.commit()
    assert [parse_body(t) for t in bench.chain.history()] == [body(1), body(2), body(3)]


async def test_sequence_is_not_given_again_when_the_chain_replays_from_nothing(
    bench: Bench,
) -> None:
    await bench.outbox.append([body(1), body(2)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    kept, bench.chain.state = bench.chain.state, SequenceState(last=0)
    bench.restart()
    assert await bench.outbox.append([body(3)]) == 3
    assert bench.outbox.gap == 2
    await bench.outbox.step()
    assert bench.chain.submitted == [1, 2]
    bench.chain.state = kept
    await bench.outbox.step()
    assert (bench.outbox.gap, bench.chain.submitted) == (0, [1, 2, 3])


async def test_database_older_than_the_chain_is_noticed_and_goes_on_after_it(
    bench: Bench,
) -> None:
    bench.chain.state = SequenceState(last=7)
    bench.restart()
    assert await bench.outbox.append([body(1)]) == 8
    bench.chain.state = SequenceState(last=9)
    bench.restart()
    await bench.outbox.step()
    assert await bench.outbox.append([body(1)]) == 10


async def test_what_waits_gets_new_sequences_on_a_chain_that_lost_blocks_for_good(
    bench: Bench,
) -> None:
    await bench.outbox.append([body(1), body(2), body(3)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    await bench.outbox.append([body(4), body(5)])
    bench.chain.state = SequenceState(last=1)
    bench.chain.committed.clear()
    bench.restart(chain_replays=False)
    assert (bench.outbox.pending, bench.outbox.gap) == (2, 0)
    assert await bench.outbox.append([body(6)]) == 4
    bench.restart(chain_replays=False)
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    assert [parse_body(t) for t in bench.chain.history()] == [body(4), body(5), body(6)]
    assert bench.outbox.pending == 0


async def test_empty_outbox_follows_a_chain_that_lost_blocks_for_good(bench: Bench) -> None:
    await bench.outbox.append([body(1), body(2)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    bench.chain.state = SequenceState(last=0)
    bench.restart(chain_replays=False)
    assert await bench.outbox.append([body(3)]) == 1


async def test_transaction_on_its_way_keeps_its_sequence_on_a_chain_that_lost_nothing(
    bench: Bench,
) -> None:
    await bench.outbox.append([body(1), body(2)])
    await bench.outbox.step()
    bench.chain.commit(1)
    bench.restart(chain_replays=False)
    await bench.outbox.step()
    bench.chain.commit()
    assert [parse_body(t) for t in bench.chain.history()] == [body(1), body(2)]


async def test_what_is_accepted_while_catching_up_is_never_taken_for_what_the_chain_has(
    bench: Bench,
) -> None:
    await bench.outbox.append([body(1), body(2)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    # From here on the database is a copy: the chain has had sequences 3 to 5 as well.
    bench.restart()
    bench.caught_up = False
    assert await bench.outbox.append([body(3)]) == 3
    assert await bench.outbox.step() is not None
    assert bench.chain.submitted == [1, 2]
    bench.chain.state = SequenceState(last=4, refused=((3, 9),))
    await bench.outbox.append([body(4)])
    await bench.outbox.step()
    assert bench.outbox.pending == 2
    bench.restart()
    bench.caught_up = False
    bench.chain.state = SequenceState(last=5)
    await bench.outbox.step()
    assert bench.outbox.pending == 2
    bench.caught_up = True
    await bench.outbox.step()
    assert bench.chain.submitted == [1, 2, 6, 7]
    bench.chain.commit()
    await bench.outbox.step()
    assert (bench.outbox.pending, len(bench.outbox.dead_letters)) == (0, 0)
    assert [parse_body(t) for t in bench.chain.history()] == [body(n) for n in range(1, 5)]
    assert await bench.outbox.append([body(5)]) == 8


async def test_what_is_accepted_while_catching_up_is_sent_as_it_is_once_caught_up(
    bench: Bench,
) -> None:
    bench.caught_up = False
    assert await bench.outbox.append([body(1)]) == 1
    await bench.outbox.step()
    assert bench.chain.submitted == []
    bench.restart()
    await bench.outbox.step()
    assert bench.chain.submitted == [1]
    bench.caught_up = False
    assert await bench.outbox.append([body(2)]) == 2
    await bench.outbox.step()
    assert bench.chain.submitted == [1, 2]


async def test_refusals_from_before_a_chain_lost_blocks_are_not_those_of_now(
    bench: Bench,
) -> None:
    bench.chain.refuse = {2, 3}
    await bench.outbox.append([body(1), body(2), body(3)])
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    bench.chain.state = SequenceState(last=1)
    bench.chain.refuse = {3}
    bench.restart(chain_replays=False)
    assert await bench.outbox.append([body(4), body(5)]) == 3
    await bench.outbox.step()
    bench.chain.commit()
    await bench.outbox.step()
    [letter] = bench.outbox.dead_letters.between(2, 3)
    assert parse_body(parse_transaction(letter.transaction)) == body(5)
    assert len(bench.outbox.dead_letters) == 3


async def test_database_of_another_chain_or_node_is_refused(bench: Bench) -> None:
    for chain_id, node_id in [("other", NODE), ("test", NodeId(b"o" * 20))]:
        with pytest.raises(ChainMismatchError):
            Outbox(
                bench.store,
                chain_id=chain_id,
                node_id=node_id,
                sign=lambda message: bytes(64),
                reader=bench.chain,
                sink=bench.chain,
            )


async def test_full_outbox_refuses_and_keeps_what_it_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.outbox.append([body(1)])
    monkeypatch.setattr(queue_module, "MAX_PENDING_BYTES", 150)
    with pytest.raises(UnavailableError):
        await bench.outbox.append([body(2)])
    assert bench.outbox.pending == 1


async def test_waiting_ends_when_the_sequence_is_settled(bench: Bench) -> None:
    running = asyncio.create_task(bench.outbox.run())
    sequence = await bench.outbox.append([body(1)])
    waiting = asyncio.create_task(bench.outbox.wait_until(sequence, 30.0))
    await bench.chain.arrived.wait()
    assert not waiting.done()
    bench.chain.commit()
    bench.outbox.notify()
    assert await waiting is True
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_waiting_for_what_does_not_come_ends_with_the_time(bench: Bench) -> None:
    sequence = await bench.outbox.append([body(1)])
    assert await bench.outbox.wait_until(sequence, 0.01) is False
    assert await bench.outbox.wait_until(sequence - 1, 0.01) is True


async def test_cancelled_append_agrees_with_the_database(bench: Bench) -> None:
    appending = asyncio.create_task(bench.outbox.append([body(1)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    in_memory = bench.outbox.pending
    bench.restart()
    assert in_memory == bench.outbox.pending


async def test_kinds_that_wait_can_be_asked_for(bench: Bench) -> None:
    await bench.outbox.append([body(1)])
    assert not bench.outbox.has_pending(Kind.NODE_LEASE)
    sequence = await bench.outbox.append([NodeLease()])
    assert bench.outbox.has_pending(Kind.NODE_LEASE)
    assert bench.outbox.is_pending(sequence)
    assert not bench.outbox.is_pending(sequence + 1)


@pytest.fixture
def disk() -> Iterator[LevelKeyValue]:
    with tempfile.TemporaryDirectory(prefix="edg") as directory:
        store = LevelKeyValue(Path(directory) / "queues.ldb")
        yield store
        store.close()


async def test_concurrent_appends_on_disk_get_consecutive_sequences(disk: LevelKeyValue) -> None:
    bench = Bench(disk)
    sequences = await asyncio.gather(*(bench.outbox.append([body(n)]) for n in range(30)))
    assert sorted(sequences) == list(range(1, 31))
    while bench.outbox.pending:
        await bench.outbox.step()
        bench.chain.commit()
    assert sorted(parse_body(t).keys for t in bench.chain.history()) == [  # type: ignore[union-attr]
        body(n).keys for n in range(30)
    ]


class OutboxUnderFire(RuleBasedStateMachine):
    """Whatever happens, what was accepted reaches the chain once, in order, or the dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.accepted: list[ServicesWithdraw] = []
        self.refused: set[int] = set()

    @initialize()
    def begin(self) -> None:
        self.bench = Bench()

    @rule(count=st.integers(1, 20), refused=st.sets(st.integers(0, 19), max_size=3))
    def accept(self, count: int, refused: set[int]) -> None:
        first = len(self.accepted) + 1
        bodies = [body(first + at) for at in range(count)]
        assert self.runner.run(self.bench.outbox.append(bodies)) == first + count - 1
        self.accepted += bodies
        self.bench.chain.refuse |= {first + at for at in refused if at < count}

    @rule()
    def step(self) -> None:
        self.runner.run(self.bench.outbox.step())

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.clock.now_s += seconds

    @rule(count=st.integers(0, 20))
    def block(self, count: int) -> None:
        self.bench.chain.commit(count)

    @rule()
    def engine_loses_its_mempool(self) -> None:
        self.bench.chain.forget_mempool()

    @rule(full=st.booleans())
    def mempool_fills_or_empties(self, full: bool) -> None:
        self.bench.chain.full = full

    @rule(after=st.none() | st.integers(0, 5))
    def engine_goes_or_comes(self, after: int | None) -> None:
        self.bench.chain.away = False
        self.bench.chain.away_after = after

    @rule()
    def node_is_killed(self) -> None:
        self.bench.restart()

    @invariant()
    def chain_has_a_prefix_of_what_was_accepted(self) -> None:
        history = [parse_body(transaction) for transaction in self.bench.chain.history()]
        assert history == self.accepted[: len(history)]

    @invariant()
    def flight_is_bounded(self) -> None:
        assert self.bench.chain.greatest_flight[0] <= MAX_IN_FLIGHT

    @invariant()
    def sent_never_runs_ahead_of_the_window(self) -> None:
        chain = self.bench.chain
        assert max(chain.submitted, default=0) <= chain.state.last + MAX_IN_FLIGHT

    @rule()
    def everything_heals(self) -> None:
        bench = self.bench
        bench.chain.away, bench.chain.full, bench.chain.away_after = False, False, None
        for _ in range(4 * len(self.accepted) + 4):
            bench.clock.now_s += 10.0
            self.step()
            bench.chain.commit()
        self.step()
        assert bench.outbox.pending == 0
        assert [parse_body(t) for t in bench.chain.history()] == self.accepted
        letters = bench.outbox.dead_letters.newest(1000)
        assert {letter.sequence for letter in letters} == bench.chain.refuse
        assert len(letters) == len(bench.chain.refuse)
        for letter in letters:
            sent = parse_body(parse_transaction(letter.transaction))
            assert sent == self.accepted[letter.sequence - 1]

    def teardown(self) -> None:
        try:
            self.everything_heals()
        finally:
            self.runner.close()


TestOutboxUnderFire = OutboxUnderFire.TestCase
TestOutboxUnderFire.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
