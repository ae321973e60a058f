"""Registering: idempotent, resumable, honest about what the chain refused."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import abci_app.outbox_queue as queue_module
from abci_app.admin_api import DeviceRow, RowOutcome
from abci_app.devices import parse_handle
from abci_app.outbox import Outbox
from abci_app.registration import Registrar
from abci_app.schema import SequenceState, stored_service
from edgistry.codec import replace
from edgistry.errors import MalformedError, NotFoundError, UnavailableError
from edgistry.kv import MemoryKeyValue
from edgistry.region import published_cell
from edgistry.transactions import ServiceRecord, ServicesPut, parse_body

from .simulated_registry import NODE, OTHER, SimulatedRegistry


def row(number: int, **changes: object) -> DeviceRow:
    plain = DeviceRow(
        line=number + 2,
        id=None,
        name=f"hut {number}",
        lat=46.0 + number / 100,
        lon=8.0,
        type="thermometer",
        actions=("read",),
    )
    return replace(plain, **changes)


class Bench:
    """A registrar over a simulated registry; every draw is another number."""

    def __init__(self) -> None:
        self.store = MemoryKeyValue()
        self.chain = SimulatedRegistry()
        self.now_s = 0.0
        self.counter = itertools.count(1)
        self.restart()

    def restart(self) -> None:
        self.outbox = Outbox(
            self.store,
            chain_id="test",
            node_id=NODE,
            sign=lambda message: bytes(64),
            reader=self.chain,
            sink=self.chain,
            clock_s=lambda: self.now_s,
        )
        self.registrar = Registrar(
            self.store,
            node_id=NODE,
            owner=b"o" * 8,
            reader=self.chain,
            outbox=self.outbox,
            draw=lambda size: next(self.counter).to_bytes(size, "big"),
        )
        self.outbox.on_settled = self.registrar.settled

    async def block(self) -> None:
        self.now_s += 10.0
        await self.outbox.step()
        self.chain.commit()
        await self.outbox.step()

    def bodies(self) -> list[object]:
        return [parse_body(transaction) for transaction in self.chain.history()]

    def states(self) -> list[str]:
        return [device.state for device in self.registrar.page(after=None, limit=1000).devices]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def kinds(outcomes: list[RowOutcome]) -> list[str]:
    return [outcome.outcome for outcome in outcomes]


async def test_added_rows_are_published_in_one_transaction(bench: Bench) -> None:
    outcomes = await bench.registrar.register([row(1), row(2)])
    assert kinds(outcomes) == ["added", "added"]
    assert {outcome.sequence for outcome in outcomes} == {1}
    assert bench.states() == ["pending", "pending"]
    await bench.block()
    assert bench.states() == ["published", "published"]
    [body] = bench.bodies()
    assert isinstance(body, ServicesPut)
    assert [record.cell for record in body.records] == [
        published_cell(46.01, 8.0, 7),
        published_cell(46.02, 8.0, 7),
    ]
    assert {outcome.handle for outcome in outcomes} == {
        device.handle for device in bench.registrar.page(after=None, limit=9).devices
    }


async def test_second_run_changes_nothing(bench: Bench) -> None:
    first = await bench.registrar.register([row(1), row(2)])
    again = await bench.registrar.register([row(1), row(2)])
    assert kinds(again) == ["unchanged", "unchanged"]
    assert [each.sequence for each in again] == [1, 1]
    await bench.block()
    third = await bench.registrar.register([row(2), row(1)])
    assert kinds(third) == ["unchanged", "unchanged"]
    assert [each.sequence for each in third] == [0, 0]
    assert {each.handle for each in third} == {each.handle for each in first}
    assert len(bench.chain.committed) == 1
    assert bench.outbox.pending == 0


async def test_exact_repeats_in_one_batch_count_as_unchanged(bench: Bench) -> None:
    outcomes = await bench.registrar.register([row(1), row(1), row(1, id="a"), row(1, id="a")])
    assert kinds(outcomes) == ["added", "unchanged", "added", "unchanged"]
    await bench.block()
    assert len(bench.chain.records) == 2


async def test_changed_row_with_an_id_is_updated_under_the_same_key(bench: Bench) -> None:
    [first] = await bench.registrar.register([row(1, id="a")])
    await bench.block()
    [second] = await bench.registrar.register([row(1, id="a", type="valve", lat=40.0)])
    assert (second.outcome, second.handle) == ("updated", first.handle)
    await bench.block()
    [stored] = bench.chain.records.values()
    assert (stored.type, stored.cell) == ("valve", published_cell(46.01, 8.0, 7))
    [entry] = bench.registrar.page(after=None, limit=9).devices
    assert (entry.lat, entry.moved) == (40.0, True), "it waits for an epoch to begin"
    assert await bench.registrar.place_moved() == 1
    await bench.block()
    [stored] = bench.chain.records.values()
    assert stored.cell == published_cell(40.0, 8.0, 7)
    assert await bench.registrar.place_moved() == 0


async def test_last_of_two_different_rows_with_one_id_wins_in_one_batch(bench: Bench) -> None:
    outcomes = await bench.registrar.register([row(1, id="a"), row(1, id="a", type="valve")])
    assert kinds(outcomes) == ["added", "updated"]
    await bench.block()
    [stored] = bench.chain.records.values()
    assert stored.type == "valve"


async def test_move_within_the_cell_is_kept_here_and_costs_no_transaction(bench: Bench) -> None:
    await bench.registrar.register([row(1, id="a")])
    await bench.block()
    [moved] = await bench.registrar.register([row(1, id="a", lat=46.01000001, name="new")])
    assert (moved.outcome, moved.sequence) == ("updated", 0)
    assert bench.outbox.pending == 0
    [device] = bench.registrar.page(after=None, limit=9).devices
    assert (device.name, device.lat, device.state) == ("new", 46.01000001, "published")


async def test_change_while_the_first_version_is_pending_is_sent_after_it(bench: Bench) -> None:
    await bench.registrar.register([row(1, id="a")])
    [second] = await bench.registrar.register([row(1, id="a", type="valve")])
    assert (second.outcome, second.sequence) == ("updated", 2)
    await bench.block()
    [stored] = bench.chain.records.values()
    assert stored.type == "valve"


async def test_bad_row_in_a_batch_costs_only_itself(bench: Bench) -> None:
    outcomes = await bench.registrar.register([row(1), row(2, lat=91.0), row(3)])
    assert kinds(outcomes) == ["added", "rejected", "added"]
    assert outcomes[1].line == 4
    assert "lat 91.0" in outcomes[1].reason
    await bench.block()
    assert len(bench.chain.records) == 2


async def test_batch_of_bad_rows_sends_nothing(bench: Bench) -> None:
    assert kinds(await bench.registrar.register([row(1, resolution=8)])) == ["rejected"]
    assert await bench.registrar.register([]) == []
    assert bench.outbox.pending == 0


async def test_batch_too_large_for_one_transaction_is_split(bench: Bench) -> None:
    actions = tuple(f"{letter}{'x' * 31}" for letter in "abcdefghijklmnop")
    outcomes = await bench.registrar.register([row(n, actions=actions) for n in range(512)])
    assert {outcome.sequence for outcome in outcomes} == {1, 2}
    await bench.block()
    assert len(bench.chain.records) == 512
    assert bench.states() == ["published"] * 512


async def test_refused_batch_is_unpublished_and_a_later_import_tries_again(bench: Bench) -> None:
    bench.chain.refuse = {1}
    await bench.registrar.register([row(1), row(2)])
    await bench.block()
    assert bench.states() == ["unpublished", "unpublished"]
    assert len(bench.outbox.dead_letters) == 1
    again = await bench.registrar.register([row(1), row(2)])
    assert kinds(again) == ["added", "added"]
    await bench.block()
    assert bench.states() == ["published", "published"]


async def test_refused_update_is_tried_again_as_an_update(bench: Bench) -> None:
    await bench.registrar.register([row(1, id="a")])
    await bench.block()
    bench.chain.refuse = {2}
    await bench.registrar.register([row(1, id="a", type="valve")])
    await bench.block()
    assert bench.states() == ["unpublished"]
    assert kinds(await bench.registrar.register([row(1, id="a", type="valve")])) == ["updated"]


async def test_repeat_of_a_row_that_is_refused_meanwhile_hears_of_the_refusal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.chain.refuse = {1}
    await bench.registrar.register([row(1)])
    await bench.outbox.step()
    bench.chain.commit()
    append = bench.outbox.append

    async def refused_first(*bodies: Any, **more: Any) -> int:
        await bench.outbox.step()
        return await append(*bodies, **more)

    monkeypatch.setattr(bench.outbox, "append", refused_first)
    repeat, other = await bench.registrar.register([row(1), row(2)])
    assert (repeat.outcome, repeat.sequence, other.sequence) == ("unchanged", 1, 2)
    assert [letter.sequence for letter in bench.outbox.dead_letters.between(1, 1)] == [1]


async def test_record_that_the_chain_deleted_is_published_again(bench: Bench) -> None:
    await bench.registrar.register([row(1)])
    await bench.block()
    bench.chain.records.clear()
    assert bench.states() == ["unpublished"]
    assert kinds(await bench.registrar.register([row(1)])) == ["added"]
    await bench.block()
    assert bench.states() == ["published"]


async def test_nothing_of_a_batch_is_kept_when_the_outbox_is_full(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_PENDING_BYTES", 10)
    with pytest.raises(UnavailableError):
        await bench.registrar.register([row(1)])
    assert bench.states() == []


async def test_concurrent_imports_of_one_file_add_each_device_once(bench: Bench) -> None:
    rows = [row(number) for number in range(20)]
    answers = await asyncio.gather(*(bench.registrar.register(rows) for _ in range(3)))
    assert sorted(itertools.chain(*map(kinds, answers))) == ["added"] * 20 + ["unchanged"] * 40
    await bench.block()
    assert len(bench.chain.records) == 20


# --- withdrawing --------------------------------------------------------------------------------


async def test_withdrawn_device_leaves_the_chain_and_then_the_node(bench: Bench) -> None:
    outcomes = await bench.registrar.register([row(1), row(2)])
    await bench.block()
    assert await bench.registrar.withdraw([outcomes[0].handle]) == (1, 2)
    assert sorted(bench.states()) == ["published", "withdrawing"]
    await bench.block()
    assert bench.states() == ["published"]
    assert len(bench.chain.records) == 1
    with pytest.raises(NotFoundError):
        await bench.registrar.withdraw([outcomes[0].handle])


async def test_unknown_handle_withdraws_nothing(bench: Bench) -> None:
    [known] = await bench.registrar.register([row(1)])
    with pytest.raises(NotFoundError):
        await bench.registrar.withdraw([known.handle, "A" * 22])
    with pytest.raises(MalformedError):
        await bench.registrar.withdraw([known.handle, "what"])
    assert bench.states() == ["pending"]


async def test_withdrawing_twice_waits_for_the_first(bench: Bench) -> None:
    [known] = await bench.registrar.register([row(1)])
    assert await bench.registrar.withdraw([known.handle, known.handle]) == (1, 2)
    assert await bench.registrar.withdraw([known.handle]) == (0, 2)
    await bench.block()
    assert bench.states() == []


async def test_device_that_never_reached_the_chain_is_simply_forgotten(bench: Bench) -> None:
    bench.chain.refuse = {1}
    [known] = await bench.registrar.register([row(1)])
    await bench.block()
    assert await bench.registrar.withdraw([known.handle]) == (1, 0)
    assert bench.states() == []
    assert bench.outbox.pending == 0


async def test_device_withdrawn_while_the_registry_is_replayed_leaves_the_chain(
    bench: Bench,
) -> None:
    [known] = await bench.registrar.register([row(1)])
    await bench.block()
    state, records = bench.chain.state, dict(bench.chain.records)
    bench.chain.state = SequenceState(last=0)
    bench.chain.records.clear()
    bench.restart()
    assert await bench.registrar.withdraw([known.handle]) == (1, 2)
    assert bench.states() == ["withdrawing"]
    bench.chain.state = state
    bench.chain.records.update(records)
    await bench.block()
    assert (bench.states(), bench.chain.records) == ([], {})


async def test_device_registered_again_while_leaving_stays(bench: Bench) -> None:
    [known] = await bench.registrar.register([row(1)])
    await bench.block()
    await bench.registrar.withdraw([known.handle])
    [again] = await bench.registrar.register([row(1)])
    assert again.outcome == "added"
    await bench.block()
    assert bench.states() == ["published"]
    assert len(bench.chain.records) == 1


async def test_refused_withdrawal_leaves_an_ordinary_device(bench: Bench) -> None:
    [known] = await bench.registrar.register([row(1)])
    await bench.block()
    bench.chain.refuse = {2}
    await bench.registrar.withdraw([known.handle])
    await bench.block()
    assert bench.states() == ["published"]


async def test_withdrawal_is_finished_after_a_crash(bench: Bench) -> None:
    [known] = await bench.registrar.register([row(1)])
    await bench.block()
    await bench.registrar.withdraw([known.handle])
    await bench.outbox.step()
    bench.chain.commit()
    bench.restart()
    await bench.outbox.step()
    assert bench.states() == []


async def test_record_of_another_node_is_never_taken_for_ours(bench: Bench) -> None:
    [known] = await bench.registrar.register([row(1)])
    await bench.block()
    key = parse_handle(known.handle)
    stored = bench.chain.records[key]
    bench.chain.records[key] = stored_service(
        OTHER,
        ServiceRecord(
            key=key,
            type=stored.type,
            cell=stored.cell,
            actions=stored.actions,
            wake=stored.wake,
            commitment=stored.commitment,
            owner=stored.owner,
            crowd=stored.crowd,
        ),
    )
    assert bench.states() == ["unpublished"]


# --- listing ------------------------------------------------------------------------------------


async def test_pages_hold_every_device_once(bench: Bench) -> None:
    await bench.registrar.register([row(number) for number in range(7)])
    seen: list[str] = []
    after: str | None = None
    while True:
        page = bench.registrar.page(after=after, limit=3)
        seen += [device.name for device in page.devices]
        after = page.next
        if after is None:
            break
    assert sorted(seen) == [f"hut {number}" for number in range(7)]


async def test_bodies_never_hold_a_key_twice(bench: Bench) -> None:
    await bench.registrar.register([row(1, id="a"), row(2, id="a"), row(3, id="a")])
    await bench.block()
    [body] = bench.bodies()
    assert isinstance(body, ServicesPut)
    assert len(body.records) == 1


class ImportsUnderFire(RuleBasedStateMachine):
    """Any mix of imports, withdrawals, refusals and crashes ends as the last import says."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.wanted: dict[str, str] = {}

    @initialize()
    def begin(self) -> None:
        self.bench = Bench()

    def register(self, rows: list[DeviceRow]) -> list[RowOutcome]:
        return self.runner.run(self.bench.registrar.register(rows))

    @rule(
        rows=st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from(["valve", "camera"])), max_size=6
        )
    )
    def import_rows(self, rows: list[tuple[int, str]]) -> None:
        outcomes = self.register([row(n, id=str(n), type=kind) for n, kind in rows])
        for (number, kind), outcome in zip(rows, outcomes, strict=True):
            before = self.wanted.get(str(number))
            if before is None:
                # A device whose withdrawal was refused is still there.
                assert outcome.outcome == "added" or self.bench.chain.refuse
            elif before != kind:
                assert outcome.outcome == "updated"
            self.wanted[str(number)] = kind

    @rule(number=st.integers(0, 5))
    def withdraw(self, number: int) -> None:
        page = self.bench.registrar.page(after=None, limit=100)
        for device in page.devices:
            if device.id == str(number):
                self.runner.run(self.bench.registrar.withdraw([device.handle]))
                self.wanted.pop(device.id, None)

    @rule(commit=st.booleans())
    def step(self, commit: bool) -> None:
        self.bench.now_s += 3.0
        self.runner.run(self.bench.outbox.step())
        if commit:
            self.bench.chain.commit()

    @rule(ahead=st.integers(1, 3))
    def refuse_one(self, ahead: int) -> None:
        sequence = self.bench.chain.state.last + ahead
        self.bench.chain.refuse.add(sequence)

    @rule()
    def node_is_killed(self) -> None:
        self.bench.restart()

    @invariant()
    def nothing_wanted_is_forgotten(self) -> None:
        devices = self.bench.registrar.page(after=None, limit=100).devices
        present = {device.id: device.type for device in devices if device.state != "withdrawing"}
        assert self.wanted.items() <= present.items()

    def teardown(self) -> None:
        try:
            self.bench.chain.refuse.clear()
            for _ in range(4):
                self.runner.run(self.bench.block())
            # What was refused is tried again by the next import and the next withdrawal.
            self.register([row(int(n), id=n, type=kind) for n, kind in self.wanted.items()])
            for device in self.bench.registrar.page(after=None, limit=100).devices:
                if device.id not in self.wanted:
                    self.runner.run(self.bench.registrar.withdraw([device.handle]))
            for _ in range(4):
                self.runner.run(self.bench.block())
            published = sorted(stored.type for stored in self.bench.chain.records.values())
            assert published == sorted(self.wanted.values())
            assert self.bench.states() == ["published"] * len(self.wanted)
            outcomes = self.register(
                [row(int(n), id=n, type=kind) for n, kind in self.wanted.items()]
            )
            assert kinds(outcomes) == ["unchanged"] * len(self.wanted)
            assert self.bench.outbox.pending == 0
        finally:
            self.runner.close()


TestImportsUnderFire = ImportsUnderFire.TestCase
TestImportsUnderFire.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
