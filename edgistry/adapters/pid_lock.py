"""One process for a directory: a locked file that says which.

Rules kept here:

* The lock is the kernel's (``flock``): it ends with its process, however that ends. The pid in the
  file is for people, and means nothing without the lock.

Not handled here: which directory, and what the process does there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import DatabaseLockedError, DirectoryError


@contextlib.contextmanager
def hold_lock(pid_file: Path, *, in_use: str) -> Iterator[None]:
    """Be the one process that holds ``pid_file`` (made 0600) while the block runs.

    Raises:
        DatabaseLockedError: another process does; the detail is ``in_use`` and which.
        DirectoryError: the file cannot be made.
    """
    try:
        handle = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DirectoryError(f"{error.filename}: {error.strerror}") from None
    with os.fdopen(handle, "r+b") as file:
        if not _lock(file.fileno()):
            pid = file.read(20).split()
            who = f"process {pid[0].decode()}" if pid else "another process"
            raise DatabaseLockedError(f"{in_use} {who}") from None
        _note(file.fileno(), f"{os.getpid()}\n".encode())
        try:
            yield
        finally:
            _note(file.fileno(), b"")


def _note(handle: int, text: bytes) -> None:
    # For people: a disk that is full keeps nobody from the lock.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)


def _lock(handle: int) -> bool:
    # ``holder_of`` takes the lock for an instant to look: a few tries tell it from a holder.
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.03)
        else:
            return True
    return False


def holder_of(pid_file: Path) -> int | None:
    """Pid of the process that holds ``pid_file`` now, or ``None``."""
    try:
        with pid_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                words = file.read(20).split()
                return int(words[0]) if words and words[0].isdigit() else None
    except OSError:
        return None
    return None
