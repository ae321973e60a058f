"""One import: rows go to the node in batches, and are counted until the chain has them.

Rules kept here:

* Memory stays small whatever the file's size: 512 rows at a time, and for each transaction on its
  way its counts and line numbers.
* A row counts as added, updated or unchanged when the node has made it durable. It counts as
  rejected instead when the chain refuses it, and as tentative while the chain has not answered.
* At most ``MAX_LISTED`` rejections are kept; the others are counted.

Not handled here: files and terminals (``cli_register``), and what makes a row new (the node).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from edgistry.codec import Document
from edgistry.transactions import MAX_BATCH_RECORDS

from .admin_api import DeviceRow, RegisterAnswer, RowOutcome, SettledAnswer
from .fleet import BadRow

MAX_LISTED = 10_000
"""Rejections listed one by one; a file with more is not the one that was meant."""
POLL_S = 5.0
_LOOK_EVERY = 32
"""Batches between two looks at how far the chain is, so that what waits stays short."""

Progress = Callable[[int], None]
"""Told of so many more rows."""


class Rejected(Document):
    """A row that was not imported."""

    line: int
    reason: str


class ImportResult(Document):
    """What an import did, as ``--json`` prints it."""

    added: int
    updated: int
    unchanged: int
    rejected: tuple[Rejected, ...]
    tentative: int
    """How many of the accepted rows the chain has not confirmed yet."""
    height: int
    """Height of the chain when the import ended."""


class ImportNode(Protocol):
    """What an import needs of the node."""

    def register_all(self, batches: Iterable[list[DeviceRow]]) -> Iterator[RegisterAnswer]: ...
    def settled(self, *, first: int, last: int, timeout_s: float) -> SettledAnswer: ...


@dataclass(slots=True)
class _Count:
    """Accepted rows, by outcome."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0

    def count(self, outcome: str) -> None:
        if outcome == "added":
            self.added += 1
        elif outcome == "updated":
            self.updated += 1
        else:
            self.unchanged += 1

    def merge(self, other: _Count) -> None:
        self.added += other.added
        self.updated += other.updated
        self.unchanged += other.unchanged

    @property
    def rows(self) -> int:
        return self.added + self.updated + self.unchanged


@dataclass(slots=True)
class _Waiting:
    """The rows that one transaction carries."""

    count: _Count = field(default_factory=_Count)
    lines: array[int] = field(default_factory=lambda: array("q"))


class ImportRun:
    """An import into ``node``; call ``send``, then ``wait``, then read ``result``."""

    def __init__(self, node: ImportNode, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock_s = clock_s
        self._count = _Count()
        self._waiting: dict[int, _Waiting] = {}
        self._rejected: list[Rejected] = []
        self._height: int | None = None
        self.unlisted = 0
        """Rejections beyond those that are listed."""
        self.handle = ""
        """Of the row sent last."""

    @property
    def accepted(self) -> int:
        """Rows that the node has made durable and the chain has not refused."""
        return self._count.rows + self.waiting

    @property
    def waiting(self) -> int:
        """Those of them that the chain has not confirmed."""
        return sum(waiting.count.rows for waiting in self._waiting.values())

    def send(self, rows: Iterable[DeviceRow | BadRow]) -> None:
        """Give all good rows to the node. Raises what the node refuses as a whole."""
        answers = self._node.register_all(self._batches(rows))
        for number, answer in enumerate(answers, start=1):
            self._height = answer.height
            for outcome in answer.outcomes:
                self._take(outcome)
            if number % _LOOK_EVERY == 0:
                self._look(0.0)

    def _batches(self, rows: Iterable[DeviceRow | BadRow]) -> Iterator[list[DeviceRow]]:
        batch: list[DeviceRow] = []
        for row in rows:
            if isinstance(row, BadRow):
                self._reject(row.line, row.reason)
                continue
            batch.append(row)
            if len(batch) == MAX_BATCH_RECORDS:
                yield batch
                batch = []
        if batch:
            yield batch

    def wait(self, timeout_s: float, progress: Progress = lambda rows: None) -> None:
        """Wait until the chain has answered for every row, at most ``timeout_s``."""
        if self._height is None:
            # No row was good enough to be sent, but the result names the chain's height.
            self._height = self._node.settled(first=1, last=0, timeout_s=0.0).height
        deadline_s = self._clock_s() + timeout_s
        while self._waiting:
            left_s = deadline_s - self._clock_s()
            before = self.waiting
            self._look(max(0.0, min(left_s, POLL_S)))
            progress(before - self.waiting)
            if left_s <= 0:
                return

    def result(self) -> ImportResult:
        """What came of it so far."""
        total = _Count()
        total.merge(self._count)
        for waiting in self._waiting.values():
            total.merge(waiting.count)
        return ImportResult(
            added=total.added,
            updated=total.updated,
            unchanged=total.unchanged,
            rejected=tuple(sorted(self._rejected, key=lambda each: each.line)),
            tentative=self.waiting,
            height=self._height or 0,
        )

    def _take(self, outcome: RowOutcome) -> None:
        if outcome.outcome == "rejected":
            self._reject(outcome.line, outcome.reason)
            return
        self.handle = outcome.handle
        if outcome.sequence == 0:
            self._count.count(outcome.outcome)
            return
        waiting = self._waiting.setdefault(outcome.sequence, _Waiting())
        waiting.count.count(outcome.outcome)
        waiting.lines.append(outcome.line)

    def _look(self, timeout_s: float) -> None:
        """Ask how far the chain is; it answers early when the first of ours is done."""
        if not self._waiting:
            return
        first = min(self._waiting)
        answer = self._node.settled(first=first, last=first, timeout_s=timeout_s)
        if answer.through > first:
            last = max(each for each in self._waiting if each <= answer.through)
            answer = self._node.settled(first=first, last=last, timeout_s=0.0)
        self._height = answer.height
        refused = {refusal.sequence: refusal.reason for refusal in answer.refused}
        for sequence in [each for each in self._waiting if each <= answer.through]:
            self._settle(self._waiting.pop(sequence), refused.get(sequence))

    def _settle(self, waiting: _Waiting, reason: str | None) -> None:
        if reason is None:
            self._count.merge(waiting.count)
            return
        for line in waiting.lines:
            self._reject(line, reason)

    def _reject(self, line: int, reason: str) -> None:
        if len(self._rejected) < MAX_LISTED:
            self._rejected.append(Rejected(line=line, reason=reason))
        else:
            self.unlisted += 1
