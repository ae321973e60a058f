"""Counting an import: durable, confirmed, refused, tentative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

import abci_app.import_run as import_module
from abci_app.admin_api import (
    DeviceRow,
    Outcome,
    RegisterAnswer,
    RowOutcome,
    SettledAnswer,
    SettledRefusal,
)
from abci_app.fleet import BadRow, LineNumber
from abci_app.import_run import ImportRun, Rejected
from edgistry.errors import CannotReachError

from .solo_node import row


class FakeNode:
    """Accepts every row in one transaction a batch; blocks come when told."""

    def __init__(self) -> None:
        self.batches: list[list[DeviceRow]] = []
        self.sequence = 0
        self.through = 0
        self.refused: dict[int, str] = {}
        self.asked: list[tuple[int, int, float]] = []
        self.outcomes: dict[int, tuple[Outcome, int]] = {}
        self.now_s = 0.0
        self.fails_at: int | None = None

    def register_all(self, batches: Iterable[list[DeviceRow]]) -> Iterator[RegisterAnswer]:
        return map(self._register, batches)

    def _register(self, rows: list[DeviceRow]) -> RegisterAnswer:
        if self.fails_at == len(self.batches):
            raise CannotReachError("gone")
        self.batches.append(rows)
        self.sequence += 1
        outcomes = []
        for each in rows:
            outcome, sequence = self.outcomes.get(each.line, ("added", self.sequence))
            outcomes.append(
                RowOutcome(line=each.line, outcome=outcome, sequence=sequence, handle="h")
            )
        return RegisterAnswer(outcomes=tuple(outcomes), height=self.through)

    def settled(self, *, first: int, last: int, timeout_s: float) -> SettledAnswer:
        self.asked.append((first, last, timeout_s))
        if self.through < last:
            self.now_s += timeout_s
        refused = [
            SettledRefusal(sequence=sequence, reason=reason)
            for sequence, reason in self.refused.items()
            if first <= sequence <= min(last, self.through)
        ]
        return SettledAnswer(through=self.through, height=self.through, refused=tuple(refused))

    def clock_s(self) -> float:
        return self.now_s


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def rows(count: int) -> Iterator[DeviceRow]:
    return (row(number, lat=0.0) for number in range(count))


def test_rows_go_in_batches_of_512(node: FakeNode) -> None:
    ImportRun(node).send(rows(1100))
    assert [len(batch) for batch in node.batches] == [512, 512, 76]


def test_nothing_is_sent_for_a_file_without_good_rows(node: FakeNode) -> None:
    run = ImportRun(node)
    run.send([BadRow(line=LineNumber(2), reason="bad")])
    assert node.batches == []
    assert run.accepted == 0
    assert run.result().rejected == (Rejected(line=2, reason="bad"),)


def test_confirmed_rows_are_counted_by_outcome(node: FakeNode) -> None:
    node.outcomes = {2: ("updated", 1), 3: ("unchanged", 0), 4: ("updated", 0)}
    run = ImportRun(node)
    run.send(rows(5))
    node.through = 1
    run.wait(10.0)
    result = run.result()
    assert (result.added, result.updated, result.unchanged, result.tentative) == (2, 2, 1, 0)
    assert result.height == 1


def test_rows_without_a_block_are_accepted_and_tentative(node: FakeNode) -> None:
    run = ImportRun(node, clock_s=node.clock_s)
    run.send(rows(600))
    node.through = 1
    run.wait(60.0)
    result = run.result()
    assert (result.added, result.tentative, run.accepted) == (600, 88, 600)
    assert 60.0 <= node.now_s < 70.0


def test_no_wait_looks_once(node: FakeNode) -> None:
    run = ImportRun(node, clock_s=node.clock_s)
    run.send(rows(1))
    run.wait(0.0)
    assert len(node.asked) == 1
    assert run.result().tentative == 1


def test_rows_that_the_chain_refused_are_rejected_with_line_and_reason(node: FakeNode) -> None:
    node.refused = {2: "not-owner"}
    run = ImportRun(node)
    run.send(rows(514))
    node.through = 2
    run.wait(10.0)
    result = run.result()
    assert (result.added, result.tentative) == (512, 0)
    assert [each.line for each in result.rejected] == [514, 515]
    assert {each.reason for each in result.rejected} == {"not-owner"}


def test_unchanged_row_whose_transaction_is_refused_is_rejected(node: FakeNode) -> None:
    node.outcomes = {2: ("unchanged", 1)}
    node.refused = {1: "no"}
    run = ImportRun(node)
    run.send(rows(1))
    node.through = 1
    run.wait(10.0)
    assert run.accepted == 0


def test_rejections_are_in_order_of_lines(node: FakeNode) -> None:
    node.outcomes = {3: ("rejected", 0)}
    run = ImportRun(node)
    run.send([*rows(2), BadRow(line=LineNumber(1), reason="x")])
    assert [each.line for each in run.result().rejected] == [1, 3]


def test_rejections_beyond_the_limit_are_counted(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module, "MAX_LISTED", 3)
    run = ImportRun(node)
    run.send(BadRow(line=LineNumber(n), reason="x") for n in range(10))
    assert (len(run.result().rejected), run.unlisted) == (3, 7)


def test_what_was_accepted_before_the_node_vanished_is_known(node: FakeNode) -> None:
    node.fails_at = 1
    run = ImportRun(node)
    with pytest.raises(CannotReachError):
        run.send(rows(1000))
    assert run.accepted == 512


def test_long_import_forgets_what_is_confirmed_while_it_runs(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module, "MAX_BATCH_RECORDS", 2)
    monkeypatch.setattr(import_module, "_LOOK_EVERY", 4)
    run = ImportRun(node)
    node.through = 1000
    run.send(rows(100))
    assert run.waiting < 10
    assert len(node.asked) > 10


def test_progress_adds_up_to_what_was_waited_for(node: FakeNode) -> None:
    run = ImportRun(node, clock_s=node.clock_s)
    run.send(rows(600))
    steps: list[int] = []

    def progress(done: int) -> None:
        steps.append(done)
        node.through += 1

    run.wait(60.0, progress)
    assert sum(steps) == 600
