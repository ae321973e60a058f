"""The journal against a plain list, on both stores."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    TooLargeError,
)
from edgistry.journal import Journal
from edgistry.kv import KeyValue, MemoryKeyValue


@pytest.fixture(params=["memory", "leveldb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = (
        MemoryKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "journal.ldb")
    )
    yield opened
    opened.close()


def test_numbers_begin_at_one_and_rise_by_one(store: KeyValue) -> None:
    journal = Journal(store, "a/b")
    assert [journal.put(b"x"), journal.put(b""), journal.put(b"x")] == [1, 2, 3]
    assert (journal.earliest(), journal.latest()) == (1, 3)


def test_number_is_not_given_again_after_everything_was_trimmed(store: KeyValue) -> None:
    journal = Journal(store, "a/b")
    journal.put(b"x")
    journal.put(b"y")
    store.write(journal.trim(2), sync=True)
    assert Journal(store, "a/b").put(b"z") == 3


def test_append_is_one_set_of_changes_that_joins_another_batch(store: KeyValue) -> None:
    journal = Journal(store, "a/b")
    appended = journal.append([b"x", b"y"])
    assert journal.latest() == 0
    store.write([*appended.changes, (b"other", b"table")], sync=True)
    assert (appended.first, appended.last) == (1, 2)
    assert list(journal.scan()) == [(1, b"x"), (2, b"y")]


def test_appending_nothing_changes_nothing(store: KeyValue) -> None:
    assert Journal(store, "a/b").append([]).changes == []


def test_wrong_numbers_are_refused_each_in_its_own_way(store: KeyValue) -> None:
    journal = Journal(store, "a/b")
    with pytest.raises(EmptyWoofError):
        journal.get(1)
    journal.put(b"x")
    journal.put(b"y")
    store.write(journal.trim(1), sync=True)
    with pytest.raises(ElementEvictedError):
        journal.get(1)
    with pytest.raises(ElementEvictedError):
        journal.get(0)
    with pytest.raises(ElementNotYetError):
        journal.get(3)
    assert journal.get(2) == b"y"


def test_element_over_the_limit_is_refused_and_nothing_is_put(store: KeyValue) -> None:
    journal = Journal(store, "a/b", element_limit=3)
    with pytest.raises(TooLargeError):
        journal.append([b"ok", b"four"])
    assert journal.put(b"abc") == 1


@pytest.mark.parametrize("name", ["", "A", "a\0b", "a b", "x" * 129, "/a"])
def test_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        Journal(MemoryKeyValue(), name)


def test_journals_with_prefixing_names_do_not_mix(store: KeyValue) -> None:
    short, long = Journal(store, "a"), Journal(store, "ab")
    short.put(b"short")
    long.put(b"long")
    long.put(b"long")
    assert list(short.scan()) == [(1, b"short")]
    assert long.tail(9) == [(2, b"long"), (1, b"long")]


def test_trimming_beyond_the_end_keeps_later_elements(store: KeyValue) -> None:
    journal = Journal(store, "a")
    journal.put(b"x")
    store.write(journal.trim(10), sync=True)
    journal.put(b"y")
    assert list(journal.scan()) == [(2, b"y")]
    assert journal.trim(1) == []


class JournalAgainstList(RuleBasedStateMachine):
    """Any run of appends, trims and restarts reads as a list that lost its head."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[bytes] = []
        self.trimmed = 0
        self.open()

    def open(self) -> None:
        self.store: KeyValue = MemoryKeyValue()

    def reopen(self) -> None:
        pass

    @property
    def journal(self) -> Journal:
        return Journal(self.store, "model/log")

    @rule(elements=st.lists(st.binary(max_size=8), max_size=4))
    def append(self, elements: list[bytes]) -> None:
        appended = self.journal.append(elements)
        self.store.write(appended.changes, sync=False)
        self.elements += elements
        assert appended.last == len(self.elements)

    @rule(through=st.integers(-1, 30))
    def trim(self, through: int) -> None:
        self.store.write(self.journal.trim(through), sync=False)
        self.trimmed = max(self.trimmed, min(through, len(self.elements)))

    @rule()
    def restart(self) -> None:
        self.reopen()

    @rule(first=st.integers(-2, 30), last=st.integers(-2, 30), count=st.integers(-1, 30))
    def windows_agree(self, first: int, last: int, count: int) -> None:
        readable = self.readable()
        assert list(self.journal.scan(first, last)) == [
            e for e in readable if first <= e[0] <= last
        ]
        newest = readable[::-1][: max(count, 0)]
        assert self.journal.tail(count) == newest

    @invariant()
    def reads_as_the_list(self) -> None:
        assert self.journal.latest() == len(self.elements)
        assert self.journal.earliest() == self.trimmed + 1
        assert list(self.journal.scan()) == self.readable()
        for number, element in self.readable():
            assert self.journal.get(number) == element

    def readable(self) -> list[tuple[int, bytes]]:
        return [(n, e) for n, e in enumerate(self.elements, 1) if n > self.trimmed]


class JournalOnDiskAgainstList(JournalAgainstList):
    def open(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="edg"))
        self.store = LevelKeyValue(self.directory / "db")

    def reopen(self) -> None:
        self.store.close()
        self.store = LevelKeyValue(self.directory / "db")

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)


TestJournalAgainstList = JournalAgainstList.TestCase
TestJournalAgainstList.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestJournalOnDiskAgainstList = JournalOnDiskAgainstList.TestCase
TestJournalOnDiskAgainstList.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None
)
