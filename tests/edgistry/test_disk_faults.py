"""What disks do: fill up, forbid writing, lose their power, flip bits, lose files."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    DirectoryError,
    DiskFullError,
    StorageError,
)

from .small_disk import fill, read_only, small_disk
from .woof_tools import World

ROOT = Path(__file__).parents[2]


def newest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern))


def write_until_refused(store: LevelKeyValue, *, portion: int = 3000) -> StorageError:
    while True:
        try:
            store.write([(b"filler", bytes(portion))], sync=True)
        except StorageError as error:
            return error


# --- full ----------------------------------------------------------------------------------------


async def test_full_disk_refuses_puts_keeps_every_acknowledged_one_and_goes_on_reading() -> None:
    with small_disk() as disk:
        store = LevelKeyValue(disk / "db")
        woofs = DurableWoofs(store)
        await woofs.create_namespace("a")
        await woofs.create("a/b", 10_000)
        acknowledged = {await woofs.put("a/b", b"%d" % n): b"%d" % n for n in range(50)}
        ballast = fill(disk)
        refused = None
        while refused is None:
            try:
                acknowledged[await woofs.put("a/b", bytes(2000))] = bytes(2000)
            except DiskFullError as error:
                refused = error
        assert "No space left on device" in refused.detail
        assert dict(woofs.woofs.scan("a/b")) == acknowledged
        ballast.unlink()
        # LevelDB would take it now, and lose it at the next opening: behind a torn record.
        with pytest.raises(DiskFullError, match="no more writes since"):
            await woofs.put("a/b", b"refused although there is space again")
        await woofs.close()
        store.close()

        store = LevelKeyValue(disk / "db")
        woofs = DurableWoofs(store)
        found = dict(woofs.woofs.scan("a/b"))
        assert {number: found.get(number) for number in acknowledged} == acknowledged
        assert await woofs.put("a/b", b"after") == max(found) + 1
        await woofs.close()
        store.close()


def test_writing_behind_a_failed_write_would_lose_what_is_acknowledged() -> None:
    """Why a store that failed takes no more writes: LevelDB itself does take them."""
    with small_disk() as disk:
        store = LevelKeyValue(disk / "db")
        store.write([(b"before", b"")], sync=True)
        ballast = fill(disk)
        write_until_refused(store)
        ballast.unlink()
        store._failure = None
        store.write([(b"behind", b"")], sync=True)
        assert store.get(b"behind") == b""
        store._db.close()
        try:
            store = LevelKeyValue(disk / "db")
            found = store.get(b"behind")
            store.close()
        except CorruptDatabaseError:
            found = None
        assert found is None


def test_opening_on_a_full_disk_says_that_it_is_full() -> None:
    with small_disk() as disk:
        store = LevelKeyValue(disk / "db")
        store.write([(b"key", b"value")], sync=True)
        store.close()
        ballast = fill(disk)
        with pytest.raises(DiskFullError, match="db"):
            LevelKeyValue(disk / "db")
        ballast.unlink()
        store = LevelKeyValue(disk / "db")
        assert store.get(b"key") == b"value"
        store.close()


# --- read-only -----------------------------------------------------------------------------------


def test_read_only_directory_is_refused_on_opening() -> None:
    with small_disk() as disk:
        LevelKeyValue(disk / "db").close()
        with read_only(disk / "db", disk), pytest.raises(DirectoryError, match="db"):
            LevelKeyValue(disk / "db")


def test_directory_that_vanishes_refuses_writes(tmp_path: Path) -> None:
    store = LevelKeyValue(tmp_path / "db")
    shutil.rmtree(tmp_path / "db")
    # The log is open and takes what it is given, until a new one is due.
    assert isinstance(write_until_refused(store, portion=100_000), StorageError)
    store.close()


# --- a second process ----------------------------------------------------------------------------


def test_second_process_on_the_same_database_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from edgistry.adapters.leveldb import LevelKeyValue;"
        "from edgistry.errors import DatabaseLockedError\n"
        "try: LevelKeyValue(Path(sys.argv[1]))\n"
        "except DatabaseLockedError as error: print(error.code)"
    )
    store = LevelKeyValue(tmp_path / "db")
    store.write([(b"key", b"value")], sync=True)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == DatabaseLockedError.code
    store.write([(b"key2", b"value")], sync=True)
    store.close()


# --- power ---------------------------------------------------------------------------------------


def test_power_cut_loses_nothing_acknowledged_and_shows_nothing_torn(tmp_path: Path) -> None:
    seeded = random.Random(2024)
    world = World(LevelKeyValue(tmp_path / "db"), remembered_keys=1000)
    world.create("a/b", 10_000)
    elements = {}

    def put(number: int, *, sync: bool) -> None:
        elements[number] = seeded.randbytes(seeded.choice([0, 1, 64, 3000, 40_000]))
        with world.woofs.lock:
            staging = world.woofs.begin()
            assert number == staging.put(
                "a/b", elements[number], handler="h", idempotency_key=b"%d" % number
            )
            world.store.write(staging.changes, sync=sync)
            staging.settle()

    for number in range(1, 11):
        put(number, sync=True)
    log = newest(tmp_path / "db", "*.log")
    synced = log.stat().st_size
    for number in range(11, 41):
        put(number, sync=False)
    ended = log.stat().st_size
    survivors = []
    for cut in [synced, ended, synced + 1, *(seeded.randint(synced, ended) for _ in range(60))]:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "db", copy)
        with newest(copy, "*.log").open("r+b") as file:
            file.truncate(cut)
        after = World(LevelKeyValue(copy), remembered_keys=1000)
        latest = after.woofs.latest("a/b")
        survivors.append(latest)
        assert 10 <= latest <= 40
        assert list(after.woofs.scan("a/b")) == [(n, elements[n]) for n in range(1, latest + 1)]
        assert [each.number for each in after.woofs.triggers("h")] == list(range(1, latest + 1))
        for number in range(1, latest + 1):
            assert after.put("a/b", b"again", idempotency_key=b"%d" % number) == number
        assert after.put("a/b", b"next") == latest + 1
        after.store.close()
        shutil.rmtree(copy)
    assert (survivors[0], survivors[1]) == (10, 40)
    assert len(set(survivors)) > 5
    world.store.close()


# --- damage --------------------------------------------------------------------------------------


def filled(directory: Path, *, tables: bool) -> dict[bytes, bytes]:
    """A database at ``directory`` with entries in tables or only in its log; the entries."""
    seeded = random.Random(5)
    entries = {b"%05d" % n: seeded.randbytes(200) for n in range(400)}
    store = LevelKeyValue(directory)
    for key, value in entries.items():
        store.write([(key, value)], sync=False)
    if tables:
        store.close()
    else:
        store._db.close()
    return entries


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bit_in_a_table_is_never_read_as_a_value(tmp_path: Path, seed: int) -> None:
    entries = filled(tmp_path / "db", tables=True)
    table = newest(tmp_path / "db", "*.ldb")
    flip(table, random.Random(seed).randrange(table.stat().st_size))

    def right(read: Callable[[], object], expected: object) -> None:
        with contextlib.suppress(CorruptDatabaseError):
            assert read() == expected

    store = LevelKeyValue(tmp_path / "db")
    for key, value in entries.items():
        right(lambda key=key: store.get(key), value)  # type: ignore[misc]
    right(lambda: dict(store.scan(b"", None)), entries)
    right(lambda: dict(store.scan(b"", None, reverse=True)), entries)
    store.close()


def test_flipped_bit_in_an_element_is_refused_with_the_name_of_the_repair(tmp_path: Path) -> None:
    filled(tmp_path / "db", tables=True)
    flip(newest(tmp_path / "db", "*.ldb"), 20)
    store = LevelKeyValue(tmp_path / "db")
    with pytest.raises(CorruptDatabaseError, match="checksum") as refused:
        store.get(b"00000")
    store.close()
    assert str(tmp_path) in refused.value.detail
    assert "edgistry-node repair" in refused.value.advice()


def test_damage_at_the_end_of_a_scan_is_told_and_not_taken_for_the_end(tmp_path: Path) -> None:
    entries = filled(tmp_path / "db", tables=True)
    table = newest(tmp_path / "db", "*.ldb")
    at = table.read_bytes().rindex(entries[b"00399"][-20:])
    flip(table, at)
    store = LevelKeyValue(tmp_path / "db")
    for reverse in (False, True):
        with pytest.raises(CorruptDatabaseError):
            list(store.scan(b"", None, reverse=reverse))
    store.close()


@pytest.mark.parametrize("where", ["*.log", "MANIFEST-*", "CURRENT"])
def test_flipped_bit_in_another_file_is_refused_on_opening(tmp_path: Path, where: str) -> None:
    filled(tmp_path / "db", tables=False)
    damaged = newest(tmp_path / "db", where)
    flip(damaged, damaged.stat().st_size // 2)
    before = damaged.read_bytes()
    with pytest.raises(CorruptDatabaseError, match=str(tmp_path)):
        LevelKeyValue(tmp_path / "db")
    assert damaged.read_bytes() == before


@pytest.mark.parametrize(
    ("where", "tables"),
    [("*.ldb", True), *((each, t) for each in ("*.log", "MANIFEST-*", "CURRENT") for t in (0, 1))],
)
def test_missing_file_is_refused_on_opening_and_the_others_stay(
    tmp_path: Path, where: str, tables: bool
) -> None:
    filled(tmp_path / "db", tables=tables)
    newest(tmp_path / "db", where).unlink()
    before = {path.name for path in (tmp_path / "db").iterdir() if path.suffix in (".ldb", ".log")}
    with pytest.raises(CorruptDatabaseError, match=str(tmp_path)):
        LevelKeyValue(tmp_path / "db")
    after = {path.name for path in (tmp_path / "db").iterdir()}
    assert before <= after


def test_database_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    LevelKeyValue(tmp_path / "a").close()
    LevelKeyValue(tmp_path / "whole").close()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "MANIFEST-000001").write_bytes(b"")  # before CURRENT was written
    LevelKeyValue(tmp_path / "b").close()


def test_failure_to_write_is_shown_and_says_what_to_do() -> None:
    with small_disk() as disk:
        store = LevelKeyValue(disk / "db")
        before = store.failure
        fill(disk)
        refused = write_until_refused(store)
        assert before is None
        assert store.failure is refused
        assert "restart" in refused.advice()
        store.close()
