"""The key-value seam: memory and LevelDB behave alike, and like a dictionary."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import CorruptDatabaseError, DatabaseLockedError, DirectoryError
from edgistry.kv import Change, KeyValue, MemoryKeyValue, prefix_end

# Few distinct bytes, so that keys are prefixes of each other and meet again.
KEYS = st.text("\x00a\xff", max_size=3).map(lambda text: text.encode("latin-1"))
VALUES = st.binary(max_size=5)
BATCHES = st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=6)


@pytest.fixture(params=["memory", "leveldb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue
    opened = MemoryKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "db")
    yield opened
    opened.close()


class SameAsADictionary(RuleBasedStateMachine):
    """Both stores follow one dictionary through any sequence of writes, reads and restarts."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="edg")
        self.level = LevelKeyValue(Path(self.folder) / "db")
        self.memory = MemoryKeyValue()
        self.model: dict[bytes, bytes] = {}

    def stores(self) -> tuple[KeyValue, KeyValue]:
        return self.level, self.memory

    @rule(batch=BATCHES)
    def write(self, batch: list[Change]) -> None:
        for store in self.stores():
            store.write(iter(batch), sync=False)
        for key, value in batch:
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        for store in self.stores():
            assert store.get(key) == self.model.get(key)

    @rule(start=KEYS, stop=st.none() | KEYS, reverse=st.booleans())
    def scan(self, start: bytes, stop: bytes | None, reverse: bool) -> None:
        expected = sorted(
            (key, value)
            for key, value in self.model.items()
            if key >= start and (stop is None or key < stop)
        )
        for store in self.stores():
            found = list(store.scan(start, stop, reverse=reverse))
            assert found == (expected[::-1] if reverse else expected)

    @rule(prefix=KEYS)
    def scan_a_prefix(self, prefix: bytes) -> None:
        expected = sorted(key for key in self.model if key.startswith(prefix))
        for store in self.stores():
            assert [key for key, _ in store.scan(prefix, prefix_end(prefix))] == expected

    @rule()
    def reopen(self) -> None:
        self.level.close()
        self.level = LevelKeyValue(Path(self.folder) / "db", create=False)

    @invariant()
    def nothing_more_and_nothing_less(self) -> None:
        for store in self.stores():
            assert dict(store.scan(b"", None)) == self.model

    def teardown(self) -> None:
        self.level.close()
        shutil.rmtree(self.folder)


TestSameAsADictionary = SameAsADictionary.TestCase
TestSameAsADictionary.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def failing(batch: Iterable[Change]) -> Iterator[Change]:
    yield from batch
    raise ZeroDivisionError


def test_a_batch_that_fails_halfway_writes_nothing(store: KeyValue) -> None:
    store.write([(b"a", b"1")], sync=True)
    with pytest.raises(ZeroDivisionError):
        store.write(failing([(b"a", b"2"), (b"b", b"3")]), sync=True)
    assert list(store.scan(b"", None)) == [(b"a", b"1")]


def test_a_later_change_of_a_key_in_one_batch_wins(store: KeyValue) -> None:
    store.write([(b"a", b"1"), (b"a", b"2"), (b"b", b"3"), (b"b", None)], sync=True)
    assert list(store.scan(b"", None)) == [(b"a", b"2")]


def test_a_scan_may_be_left_early_and_written_through(store: KeyValue) -> None:
    store.write([(bytes([at]), b"") for at in range(100)], sync=False)
    for key, _ in store.scan(b"", None):
        store.write([(key, None)], sync=False)
        if key == b"\x05":
            break
    assert next(store.scan(b"", None))[0] == b"\x06"


def test_closing_twice_is_safe(store: KeyValue) -> None:
    store.close()
    store.close()


@given(st.binary(max_size=4), st.binary(max_size=6))
def test_keys_are_below_the_end_of_a_prefix_exactly_when_they_begin_with_it(
    prefix: bytes, key: bytes
) -> None:
    end = prefix_end(prefix)
    assert (key >= prefix and (end is None or key < end)) == key.startswith(prefix)


# --- LevelDB only ------------------------------------------------------------------------------


def test_a_database_open_in_this_process_is_refused_as_locked(tmp_path: Path) -> None:
    held = LevelKeyValue(tmp_path / "db")
    with pytest.raises(DatabaseLockedError, match="another process"):
        LevelKeyValue(tmp_path / "db")
    held.close()
    LevelKeyValue(tmp_path / "db").close()


def test_a_synced_batch_outlives_a_process_that_dies(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path;"
        "from edgistry.adapters.leveldb import LevelKeyValue;"
        "store = LevelKeyValue(Path(sys.argv[1]));"
        "store.write([(b'a', b'1'), (b'b', b'2')], sync=True);"
        "os._exit(9)"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "db")], cwd=root, check=False
    )
    assert ended.returncode == 9
    store = LevelKeyValue(tmp_path / "db", create=False)
    assert list(store.scan(b"", None)) == [(b"a", b"1"), (b"b", b"2")]
    store.close()


def test_a_missing_database_is_not_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="db"):
        LevelKeyValue(tmp_path / "db", create=False)


def test_a_file_in_place_of_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("not a database")
    with pytest.raises(DirectoryError, match="Not a directory"):
        LevelKeyValue(tmp_path / "blocks")


def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = LevelKeyValue(tmp_path / "db")
    store.write([(b"key", b"value")], sync=True)
    store.close()
    (manifest,) = (tmp_path / "db").glob("MANIFEST-*")
    manifest.write_bytes(b"\x00" * 200)
    with pytest.raises(CorruptDatabaseError, match="db"):
        LevelKeyValue(tmp_path / "db")
    assert manifest.read_bytes() == b"\x00" * 200
