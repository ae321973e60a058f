"""Following log files: the last lines, and what is added, also after a file was rotated.

Rules kept here: only whole lines are shown; a file that is not there yet is waited for.

Not handled here: where the lines go, and how often one looks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from edgistry.errors import FileError

Show = Callable[[str], None]
"""Takes one line."""

_TYPICAL_LINE_BYTES = 400


class LogFollower:
    """Shows the last ``lines`` lines of the file at ``path``, then what is added to it."""

    def __init__(self, path: Path, show: Show, *, lines: int = 0) -> None:
        self._path = path
        self._show = show
        self._rest = b""
        self._file = self._open()
        if self._file is not None:
            _seek_to_last(self._file, lines)

    def look(self) -> None:
        """Show the lines that were added since the last look.

        Raises:
            FileError: the file is there and cannot be read.
        """
        if self._file is None:
            self._file = self._open()
        if self._file is None:
            return
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in whole:
            self._show(line.decode(errors="replace"))
        if self._was_replaced(self._file):
            self._file.close()
            self._file, self._rest = self._open(), b""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[bytes] | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileError(f"{self._path}: {error.strerror}") from None

    def _was_replaced(self, file: IO[bytes]) -> bool:
        try:
            now = self._path.stat()
        except OSError:
            return False
        return now.st_size < file.tell() or now.st_ino != os.fstat(file.fileno()).st_ino


def _seek_to_last(file: IO[bytes], lines: int) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - lines * _TYPICAL_LINE_BYTES))
    kept = file.read().splitlines(keepends=True)[-lines:] if lines else []
    file.seek(size - sum(map(len, kept)))
