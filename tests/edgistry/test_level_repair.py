"""Repairing damaged databases: what is whole comes back, and nothing else."""

from __future__ import annotations

import fcntl
import random
import subprocess
import sys
from pathlib import Path

import pytest

from edgistry.adapters.level_repair import Repaired, find_damage, repair
from edgistry.adapters.leveldb import LevelKeyValue, repairing_path
from edgistry.errors import (
    CorruptDatabaseError,
    DatabaseLayoutError,
    DatabaseLockedError,
    DirectoryError,
)
from edgistry.kv import KeyValue
from edgistry.woof_audit import LostElements, lost_elements
from edgistry.woof_keys import elements_of, number_bytes

from .test_disk_faults import filled, flip, newest
from .woof_tools import World


def contents(directory: Path) -> dict[bytes, bytes]:
    store = LevelKeyValue(directory, create=False)
    found = dict(store.scan(b"", None))
    store.close()
    return found


def files(directory: Path) -> dict[str, bytes]:
    skipped = ("LOCK", "LOG", "LOG.old")
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name not in skipped
    }


def repaired(directory: Path) -> Repaired:
    damage = find_damage(directory)
    assert damage is not None
    done = repair(directory, damage)
    assert find_damage(directory) is None
    return done


def test_whole_database_has_no_damage_and_is_not_changed(tmp_path: Path) -> None:
    filled(tmp_path / "db", tables=True)
    before = files(tmp_path / "db")
    assert find_damage(tmp_path / "db") is None
    assert files(tmp_path / "db") == before
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_a_database_of_another_version_is_not_taken_for_damaged(tmp_path: Path) -> None:
    def look(_: KeyValue) -> None:
        raise DatabaseLayoutError("layout 1")

    filled(tmp_path / "db", tables=True)
    with pytest.raises(DatabaseLayoutError):
        find_damage(tmp_path / "db", look)
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_any_flipped_bit_leaves_only_true_entries_and_most_of_them(
    tmp_path: Path, seed: int, tables: bool
) -> None:
    entries = filled(tmp_path / "db", tables=tables)
    seeded = random.Random(seed)
    damaged = newest(tmp_path / "db", "*.ldb" if tables else "*.log")
    flip(damaged, seeded.randrange(damaged.stat().st_size))
    before = files(tmp_path / "db")
    damage = find_damage(tmp_path / "db")
    if damage is None:
        assert contents(tmp_path / "db") == entries  # a bit that nothing depends on
        return
    assert files(tmp_path / "db") == before
    done = repair(tmp_path / "db", damage)
    found = contents(tmp_path / "db")
    assert done.entries == len(found) >= 200
    assert found.items() <= entries.items()
    assert files(done.kept) == before


@pytest.mark.parametrize("where", ["MANIFEST-*", "CURRENT"])
@pytest.mark.parametrize("tables", [True, False])
def test_without_the_list_of_files_every_entry_comes_back(
    tmp_path: Path, where: str, tables: bool
) -> None:
    entries = filled(tmp_path / "db", tables=tables)
    newest(tmp_path / "db", where).unlink()
    repaired(tmp_path / "db")
    assert contents(tmp_path / "db") == entries


@pytest.mark.parametrize("seed", range(8))
def test_log_is_checked_also_when_the_list_of_files_is_gone(tmp_path: Path, seed: int) -> None:
    entries = filled(tmp_path / "db", tables=False)
    newest(tmp_path / "db", "MANIFEST-*").unlink()
    log = newest(tmp_path / "db", "*.log")
    flip(log, random.Random(seed).randrange(log.stat().st_size))
    done = repaired(tmp_path / "db")
    found = contents(tmp_path / "db")
    assert found.items() <= entries.items()
    assert len(found) < len(entries)
    assert any("drop" in remark for remark in done.remarks)


def test_deleted_and_overwritten_entries_do_not_come_back(tmp_path: Path) -> None:
    filled(tmp_path / "db", tables=True)
    store = LevelKeyValue(tmp_path / "db")
    store.write([(b"00001", None), (b"00002", b"newer")], sync=True)
    store._db.close()
    newest(tmp_path / "db", "MANIFEST-*").unlink()
    repaired(tmp_path / "db")
    found = contents(tmp_path / "db")
    assert b"00001" not in found
    assert found[b"00002"] == b"newer"


def test_missing_table_costs_its_entries_and_a_missing_log_the_newest(tmp_path: Path) -> None:
    for name, where in (("table", "*.ldb"), ("log", "*.log")):
        entries = filled(tmp_path / name, tables=True)
        store = LevelKeyValue(tmp_path / name)
        store.write([(b"new", b"1")], sync=True)
        store._db.close()
        newest(tmp_path / name, where).unlink()
        repaired(tmp_path / name)
        expected = {b"new": b"1"} if name == "table" else entries
        assert contents(tmp_path / name) == expected


def test_second_repair_keeps_the_first_damaged_files(tmp_path: Path) -> None:
    kept = []
    for _ in range(2):
        filled(tmp_path / "db", tables=False)
        newest(tmp_path / "db", "CURRENT").unlink()
        kept.append(repaired(tmp_path / "db").kept.name)
    assert kept == ["db.damaged-1", "db.damaged-2"]


def test_meaning_is_examined_where_the_bytes_are_whole(tmp_path: Path) -> None:
    filled(tmp_path / "db", tables=True)

    def look(store: KeyValue) -> None:
        if store.get(b"00007") is not None:
            raise CorruptDatabaseError("entry 7 contradicts entry 8")

    assert find_damage(tmp_path / "db", look) == "entry 7 contradicts entry 8"
    before = files(tmp_path / "db")
    with pytest.raises(CorruptDatabaseError, match="contradicts"):
        repair(tmp_path / "db", "entry 7", look)
    assert files(tmp_path / "db") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db"]


def test_interrupted_repair_is_refused_on_opening_and_can_be_done_again(tmp_path: Path) -> None:
    entries = filled(tmp_path / "db", tables=False)
    newest(tmp_path / "db", "CURRENT").unlink()
    repairing_path(tmp_path / "db").mkdir()  # ended while it copied
    (repairing_path(tmp_path / "db") / "000005.ldb").write_bytes(b"half")
    with pytest.raises(CorruptDatabaseError, match="interrupted"):
        LevelKeyValue(tmp_path / "db")
    repaired(tmp_path / "db")
    assert contents(tmp_path / "db") == entries


def test_repair_interrupted_at_its_last_step_loses_nothing(tmp_path: Path) -> None:
    entries = filled(tmp_path / "db", tables=True)
    (tmp_path / "db").rename(repairing_path(tmp_path / "db"))  # the damaged one is aside already
    with pytest.raises(CorruptDatabaseError, match="interrupted"):
        LevelKeyValue(tmp_path / "db")
    assert repaired(tmp_path / "db").entries == len(entries)
    assert contents(tmp_path / "db") == entries


def test_database_in_use_is_neither_examined_nor_repaired(tmp_path: Path) -> None:
    filled(tmp_path / "db", tables=True)
    program = (
        "import sys; from pathlib import Path;"
        "from edgistry.adapters.leveldb import LevelKeyValue;"
        "store = LevelKeyValue(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(DatabaseLockedError):
            find_damage(tmp_path / "db")
        with pytest.raises(DatabaseLockedError):
            repair(tmp_path / "db", "none")
    assert find_damage(tmp_path / "db") is None


def test_missing_database_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="no database"):
        find_damage(tmp_path / "db")


def test_lock_is_let_go_after_looking(tmp_path: Path) -> None:
    filled(tmp_path / "db", tables=True)
    find_damage(tmp_path / "db")
    with (tmp_path / "db" / "LOCK").open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_audit_names_the_elements_that_are_lost(tmp_path: Path) -> None:
    world = World(LevelKeyValue(tmp_path / "db"))
    for name, history in (("a/whole", 5), ("a/torn", 20), ("a/empty", 3)):
        world.create(name, history)
    for number in range(30):
        world.put("a/whole", b"%d" % number)
        world.put("a/torn", b"%d" % number)
    assert list(lost_elements(world.store)) == []
    prefix = elements_of(world.woofs.info("a/torn").id)
    gone = [11, 12, 20, 21, 22, 25]
    world.store.write([(prefix + number_bytes(number), None) for number in gone], sync=False)
    assert list(lost_elements(world.store)) == [
        LostElements(woof="a/torn", first=first, last=last)
        for first, last in ((11, 12), (20, 22), (25, 25))
    ]
    world.store.close()
