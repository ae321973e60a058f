"""Repairing a damaged LevelDB database, as far as that can be done, and saying what is lost.

Rules kept here:

* The damaged files are kept whole beside the repaired ones: nothing is deleted that was there.
* The repair works on a copy that takes the database's place when it is complete. Interrupted at
  any point it can be started again, and meanwhile the database refuses to open.
* What is salvaged has a checksum that fits. LevelDB's own repair checks tables, but takes the bytes
  of a log as they are; so logs are replayed by LevelDB's opening, which checks, before it.
* Only the one who holds the database's lock looks or repairs.

Not handled here: what the entries mean, and whether some could be had from elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import (
    CorruptDatabaseError,
    DatabaseLayoutError,
    DatabaseLockedError,
    DirectoryError,
    DiskFullError,
    Refused,
    StorageError,
)
from ..kv import KeyValue
from .leveldb import (
    LevelKeyValue,
    danger_open_skipping_damage,
    danger_rebuild,
    repairing_path,
)

MAX_REMARKS = 20
"""Lines of LevelDB's own account that are passed on."""

_TABLES = (".ldb", ".sst")
_WORDS_OF_LOSS = ("dropping", "ignoring", "may have been lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What became of a damaged database."""

    damage: str
    """What was wrong."""
    entries: int
    """How many are there now."""
    kept: Path
    """Where the damaged files are."""
    remarks: tuple[str, ...]
    """What LevelDB says that it left out, in its words."""


Look = Callable[[KeyValue], None]
"""Reads what it likes of a database, and raises ``CorruptDatabaseError`` if it is wrong."""


def find_damage(path: Path, look: Look | None = None) -> str | None:
    """What is wrong with the database at ``path``; ``None``: nothing. It is not changed.

    ``look`` may examine what the entries mean, once all of them could be read.

    Raises:
        DatabaseLockedError: somebody has it open.
        DirectoryError: there is no database, or no room beside it.
        DatabaseLayoutError: ``look`` found that another version of this program wrote it.
    """
    if not path.is_dir():
        if repairing_path(path).exists():
            return "a repair was interrupted"
        raise DirectoryError(f"there is no database at {path}")
    copy = path.with_name(path.name + ".checking")
    with _locked(path), _errors_as_refusals(path):
        shutil.rmtree(copy, ignore_errors=True)
        try:
            _copy(path, copy)
            _examine(copy, look)
        except DatabaseLayoutError:
            raise  # it is whole
        except CorruptDatabaseError as error:
            return error.detail.replace(str(copy), str(path))
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    return "a repair was interrupted" if repairing_path(path).exists() else None


def repair(path: Path, damage: str, look: Look | None = None) -> Repaired:
    """Put a repaired database in the place of the one at ``path``; ``damage`` is its trouble.

    Raises:
        DatabaseLockedError: somebody has it open.
        CorruptDatabaseError: nothing that is whole could be made of it. It is as it was.
        DirectoryError, StorageError: no room beside it, or the like. It is as it was.
    """
    work = repairing_path(path)
    remarks: list[str] = []
    if path.is_dir():
        with _locked(path), _errors_as_refusals(path):
            shutil.rmtree(work, ignore_errors=True)
            try:
                _copy(path, work)
                entries = _salvage(work, look, remarks)
            except Refused:
                shutil.rmtree(work, ignore_errors=True)
                raise
            kept = move_aside(path)
    else:
        # Interrupted between the last two steps: the work is complete.
        kept = _newest_kept(path)
        entries = _examine(work, look)
    with _errors_as_refusals(path):
        _rename(work, path)
    return Repaired(damage=damage, entries=entries, kept=kept, remarks=tuple(remarks[:MAX_REMARKS]))


def move_aside(path: Path) -> Path:
    """Give the database at ``path`` another name beside it, which is free; that name."""
    number = 1
    while (kept := _kept_name(path, number)).exists():
        number += 1
    _rename(path, kept)
    return kept


def _salvage(work: Path, look: Look | None, remarks: list[str]) -> int:
    """Make ``work`` whole; how many entries it has.

    Raises:
        CorruptDatabaseError: that did not work.
    """
    try:
        danger_open_skipping_damage(work)
    except (DiskFullError, StorageError):
        raise
    except Refused:
        # Its list of files is damaged, or a file is missing: only a rebuild makes a new list.
        _turn_logs_into_tables(work, remarks)
        danger_rebuild(work)
    _add_remarks(work, remarks)
    try:
        entries = _examine(_opened_once(work), look)
    except CorruptDatabaseError:
        danger_rebuild(work)
        _add_remarks(work, remarks)
        entries = _examine(_opened_once(work), look)
    shutil.rmtree(work / "lost", ignore_errors=True)  # whole, they are in what is kept
    return entries


def _turn_logs_into_tables(work: Path, remarks: list[str]) -> None:
    """Replay each log of ``work`` in a database of its own, and take over the tables it makes.

    Entries keep the sequence numbers that say which of two is newer.
    """
    number = 1 + max(
        (int(path.stem) for path in work.iterdir() if path.stem.isdecimal()), default=0
    )
    scratch = work / "scratch"
    for log in sorted(work.glob("*.log")):
        _opened_once(scratch, create=True)
        for empty in scratch.glob("*.log"):
            empty.unlink()
        log.rename(scratch / f"{number:06}.log")
        _opened_once(scratch)
        _add_remarks(scratch, remarks)
        for table in sorted(path for path in scratch.iterdir() if path.suffix in _TABLES):
            table.rename(work / f"{number:06}{table.suffix}")
            number += 1
        shutil.rmtree(scratch)


def _opened_once(path: Path, *, create: bool = False) -> Path:
    """``path``, with what LevelDB's opening makes: among it a log."""
    danger_open_skipping_damage(path, create=create)
    return path


def _examine(path: Path, look: Look | None) -> int:
    """Read every entry of the database at ``path``; how many there are.

    Raises:
        CorruptDatabaseError: something is wrong.
    """
    store = LevelKeyValue(path, create=False)
    try:
        entries = sum(1 for _ in store.scan(b"", None))
        if look is not None:
            look(store)
    finally:
        store.close()
    return entries


def _copy(source: Path, target: Path) -> None:
    """Copy a database. Tables are never written again, so a second name for each is enough."""
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        if path.name == "LOCK" or not path.is_file():
            continue
        if path.suffix in _TABLES:
            try:
                os.link(path, target / path.name)
            except OSError:  # a file system without hard links
                shutil.copy2(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)


def _add_remarks(work: Path, remarks: list[str]) -> None:
    for name in ("LOG.old", "LOG"):
        with contextlib.suppress(OSError):
            for line in (work / name).read_text("utf-8", "replace").splitlines():
                if any(word in line for word in _WORDS_OF_LOSS):
                    remark = line.split(" ", 2)[-1].replace(str(work) + "/", "")
                    if remark not in remarks:
                        remarks.append(remark)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold LevelDB's own lock of the database.

    Raises:
        DatabaseLockedError: another process has it open.
    """
    with _errors_as_refusals(path), (path / "LOCK").open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise DatabaseLockedError(f"{path} is open in another process") from None
        yield


@contextlib.contextmanager
def _errors_as_refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DirectoryError(f"cannot repair {path}: {error}") from None


def _rename(old: Path, new: Path) -> None:
    os.sync()  # what was copied, before it gets the name that counts
    old.rename(new)
    directory = os.open(new.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _kept_name(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.damaged-{number}")


def _newest_kept(path: Path) -> Path:
    number = 1
    while _kept_name(path, number + 1).exists():
        number += 1
    return _kept_name(path, number)
