"""Files with secrets in them: written whole, for their owner only, and not over others unasked.

Rules kept here:

* A secret is never in a file that others may read, not even for a moment: the file is created 0600
  under a temporary name in the same folder, made durable, and only then takes its place.
* Without ``force`` an existing file is left alone, also when two programs write at once.
* A folder for secrets is 0700; one that others can enter is refused, not repaired silently.

Not handled here: what the secrets are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ..errors import (
    AlreadyThereError,
    DirectoryError,
    FileError,
    NotFoundError,
    TooLargeError,
)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_secret(path: Path, data: bytes, *, force: bool) -> None:
    """Afterwards ``path`` holds ``data`` durably, with mode 0600. Raises as ``write_whole``."""
    write_whole(path, data, force=force, mode=0o600)


def write_whole(path: Path, data: bytes, *, force: bool, mode: int = 0o666) -> None:
    """Afterwards ``path`` holds ``data`` durably, with ``mode`` as far as the umask allows it.

    Raises:
        AlreadyThereError: ``path`` exists and ``force`` is not set; it is unchanged.
        FileError: the file cannot be written; ``path`` is unchanged.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        _write_new(temporary, data, mode)
        try:
            if force:
                temporary.replace(path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError:
        raise AlreadyThereError(f"{path} exists") from None
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror}") from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path, *, limit: int) -> bytes:
    """The content of ``path``.

    Raises:
        NotFoundError: there is no such file.
        TooLargeError: it has more than ``limit`` bytes.
        FileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise TooLargeError(f"{path} has more than {limit} bytes")
    return data


def others_may_read(path: Path) -> bool:
    """Whether anyone but the owner has access to ``path``; a missing file is nobody's."""
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except FileNotFoundError:
        return False


def make_secret_folder(folder: Path) -> None:
    """Afterwards ``folder`` exists and only its owner can enter it.

    Raises:
        DirectoryError: it exists and others have access to it, or it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise DirectoryError(f"cannot make {folder}: {error.strerror}") from None
    check_secret_folder(folder)


def check_secret_folder(folder: Path) -> None:
    """Raises: DirectoryError: ``folder`` is not a folder, or others have access to it."""
    if not folder.is_dir():
        raise DirectoryError(f"{folder} is not a folder")
    if others_may_read(folder):
        raise DirectoryError(f"others have access to {folder}; say `chmod 700 {folder}`")
