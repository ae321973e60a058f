"""``KeyValue`` on LevelDB.

Rules kept here:

* A batch is written with ``transaction=True``: without it plyvel writes the half that succeeded
  when the caller's loop raises.
* Nothing is dropped silently. Checksums are verified on opening and on every read (LevelDB alone
  answers a flipped bit as if it were the value). A directory whose CURRENT or newest log is gone
  is refused (LevelDB would begin an empty database in its place, and delete the old files).
* After a write has failed, no further write is taken by this process. LevelDB would append behind
  the torn record, and everything after that, acknowledged and synced, is lost at the next opening
  (tried on a full tmpfs: 100 of 100). Reading goes on; opening again repairs the torn record.
* Errors of the library become refusals that say what to do.

This is the only module that imports plyvel. Not handled here: the repair (``level_repair.py``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

try:
    import plyvel
except ImportError:
    # Python 3.13 and later: the wheel is plyvel-next, and its module is named after it.
    import plyvel_next as plyvel

from ..errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    DirectoryError,
    DiskFullError,
    Refused,
    StorageError,
)
from ..kv import Change

WRITE_BUFFER_BYTES = 4 << 20
"""Bounds what is replayed when a process was killed: about 0.2 s on a small machine."""

_CACHE_BYTES = 8 << 20
_NO_SPACE = ("No space left on device", "Disk quota exceeded")
_NEW_MANIFEST = b"MANIFEST-000001\n"
_ABOVE_ALL_KEYS = b"\xff" * 16


class LevelKeyValue:
    """An open LevelDB database at ``path``; one process may hold it at a time.

    Raises (on opening):
        DatabaseLockedError: another process has it open.
        CorruptDatabaseError: its files are damaged, or some are missing.
        DiskFullError: no space for what opening writes.
        DirectoryError: the path cannot be created or written.

    Reading raises ``CorruptDatabaseError`` where a file is damaged, ``StorageError`` where it
    cannot be read. Writing raises ``DiskFullError`` or ``StorageError``.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._failure: Refused | None = None
        self._unflushed = False
        check_files(path)
        try:
            self._db = plyvel.DB(str(path), create_if_missing=create, **_OPTIONS)
        except plyvel.Error as error:
            raise _opening_refused(path, error) from None

    @property
    def failure(self) -> Refused | None:
        """Why no further write is taken; ``None`` while all is well."""
        return self._failure

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise self._refused(error) from None
        return value

    def scan(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            # plyvel's plain iterators end, without a word, where the last block is damaged; the
            # raw ones raise at every step.
            with contextlib.closing(self._db.raw_iterator(verify_checksums=True)) as at:
                if reverse:
                    yield from _backwards(at, start, stop)
                else:
                    yield from _forwards(at, start, stop)
        except plyvel.Error as error:
            raise self._refused(error) from None

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self._failure is not None:
            raise type(self._failure)(f"no more writes since: {self._failure.detail}")
        try:
            with self._db.write_batch(transaction=True, sync=sync) as batch:
                put, delete = batch.put, batch.delete
                for key, value in changes:
                    if value is None:
                        delete(key)
                    else:
                        put(key, value)
        except plyvel.Error as error:
            self._failure = self._refused(error)
            raise self._failure from None
        self._unflushed = True

    def close(self) -> None:
        if self._unflushed and self._failure is None and not self._db.closed:
            # Compacting any range flushes what is in memory, here one without keys: the next
            # opening then has no log to replay. What fails is replayed after all.
            with contextlib.suppress(plyvel.Error):
                self._db.compact_range(start=_ABOVE_ALL_KEYS, stop=_ABOVE_ALL_KEYS + b"\xff")
        self._db.close()

    def _refused(self, error: plyvel.Error) -> Refused:
        text = _words(error)
        if _is_corruption(error, text):
            return CorruptDatabaseError(f"{self.path}: {text}")
        return _storage_refusal(f"{self.path}: {text}")


def _forwards(at: Any, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    at.seek(start)
    valid, item, step = at.valid, at.item, at.next
    while valid():
        entry: tuple[bytes, bytes] = item()
        if stop is not None and entry[0] >= stop:
            return
        yield entry
        step()


def _backwards(at: Any, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    if stop is not None:
        at.seek(stop)
    if stop is not None and at.valid():
        at.prev()
    else:
        at.seek_to_last()
    valid, item, step = at.valid, at.item, at.prev
    while valid():
        entry: tuple[bytes, bytes] = item()
        if entry[0] < start:
            return
        yield entry
        step()


_OPTIONS = {
    "paranoid_checks": True,
    "write_buffer_size": WRITE_BUFFER_BYTES,
    "lru_cache_size": _CACHE_BYTES,
    "bloom_filter_bits": 10,
}


def check_files(path: Path) -> None:
    """Return if ``path`` may be opened: missing, empty, new, or with the files that belong there.

    Raises:
        CorruptDatabaseError: files are missing that LevelDB would not miss.
    """
    repairing = repairing_path(path)
    if repairing.exists():
        raise CorruptDatabaseError(f"{path}: a repair was interrupted; {repairing} is its rest")
    try:
        names = [entry.name for entry in path.iterdir()]
    except OSError:
        return
    logs = [name for name in names if name.endswith(".log")]
    tables = [name for name in names if name.endswith((".ldb", ".sst"))]
    if "CURRENT" not in names:
        if tables or any((path / name).stat().st_size for name in logs):
            raise CorruptDatabaseError(f"{path}: the file CURRENT is missing")
    elif not logs and (path / "CURRENT").read_bytes() != _NEW_MANIFEST:
        # Only a database that was never open, or was just repaired, has no log.
        raise CorruptDatabaseError(f"{path}: the log with the newest writes is missing")


def repairing_path(path: Path) -> Path:
    """Where a repair of ``path`` works before it takes its place."""
    return path.with_name(path.name + ".repairing")


def danger_open_skipping_damage(path: Path, *, create: bool = False) -> None:
    """Open and close ``path``; what is damaged in its log is dropped (its checksums decide).

    Raises:
        Refused: more is damaged than the log, or the path cannot be used.
    """
    try:
        options = {**_OPTIONS, "paranoid_checks": False}
        plyvel.DB(str(path), create_if_missing=create, **options).close()
    except plyvel.Error as error:
        raise _opening_refused(path, error) from None


def danger_rebuild(path: Path) -> None:
    """Make ``path`` anew from every block that is whole; what is damaged is dropped.

    Raises:
        Refused: it cannot be done.
    """
    try:
        plyvel.repair_db(str(path), **_OPTIONS)
    except plyvel.Error as error:
        raise _opening_refused(path, error) from None


def _words(error: plyvel.Error) -> str:
    """What LevelDB says. It tells kinds of errors apart in words only, with paths among them."""
    words = error.args[0] if error.args else b""
    return words.decode(errors="replace") if isinstance(words, bytes) else str(words)


def _is_corruption(error: plyvel.Error, text: str) -> bool:
    return isinstance(error, plyvel.CorruptionError) or text.startswith("Corruption")


def _storage_refusal(detail: str) -> Refused:
    kind = DiskFullError if any(sign in detail for sign in _NO_SPACE) else StorageError
    return kind(detail)


def _opening_refused(path: Path, error: plyvel.Error) -> Refused:
    text = _words(error)
    # "IO error: lock PATH/LOCK: ..."; without that word it is the lock file that cannot be opened.
    if text.startswith("IO error: lock "):
        return DatabaseLockedError(f"{path} is open in another process")
    if _is_corruption(error, text):
        return CorruptDatabaseError(f"{path}: {text}")
    if any(sign in text for sign in _NO_SPACE):
        return DiskFullError(f"cannot open the database {path}: {text}")
    return DirectoryError(f"cannot open the database {path}: {text}")
