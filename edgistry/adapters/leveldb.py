"""``KeyValue`` on LevelDB.

Rules kept here: a batch is written with ``transaction=True`` (without it plyvel writes the half
that succeeded when the caller's loop raises); errors of the library become refusals that say what
to do. This is the only module that imports plyvel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import plyvel
except ImportError:
    # Python 3.13 and later: the wheel is plyvel-next, and its module is named after it.
    import plyvel_next as plyvel

from ..errors import CorruptDatabaseError, DatabaseLockedError, DirectoryError, Refused
from ..kv import Change


class LevelKeyValue:
    """An open LevelDB database at ``path``; one process may hold it at a time.

    Raises (on opening):
        DatabaseLockedError: another process has it open.
        CorruptDatabaseError: LevelDB finds its files damaged.
        DirectoryError: the path cannot be created or written.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        try:
            # paranoid_checks: damage is reported at once instead of silently dropping entries.
            self._db = plyvel.DB(
                str(path),
                create_if_missing=create,
                paranoid_checks=True,
                write_buffer_size=4 << 20,
                lru_cache_size=8 << 20,
                bloom_filter_bits=10,
            )
        except plyvel.Error as error:
            raise _refusal(path, error) from None

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def scan(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with self._db.iterator(start=start, stop=stop, reverse=reverse) as entries:
            yield from entries

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        with self._db.write_batch(transaction=True, sync=sync) as batch:
            for key, value in changes:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)

    def close(self) -> None:
        self._db.close()


def _refusal(path: Path, error: plyvel.Error) -> Refused:
    """What an error on opening means. LevelDB tells it in words only, with the path among them."""
    words = error.args[0] if error.args else b""
    text = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    # "IO error: lock PATH/LOCK: ..."; without that word it is the lock file that cannot be opened.
    if text.startswith("IO error: lock "):
        return DatabaseLockedError(f"{path} is open in another process")
    if isinstance(error, plyvel.CorruptionError) or text.startswith("Corruption"):
        return CorruptDatabaseError(f"{path}: {text}")
    return DirectoryError(f"cannot open the database {path}: {text}")
