"""Reading a capability from a file of the operator's.

Rules kept here: a file that others can read is refused; lines that begin with "#" are for people;
what is in the file is never quoted.

Not handled here: writing such files, and what the capability allows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..capability import Capability
from ..captext import parse_text
from ..errors import FileError, MalformedError

MAX_FILE_BYTES: Final = 16 * 1024
"""A capability's text has at most 2782 characters; the rest is left for comments."""


def read_capability(path: Path) -> Capability:
    """The capability in the file at ``path``.

    Raises:
        FileError: it cannot be read, or others can read it too.
        MalformedError: it holds no capability.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FileError(f"{path}: the capability cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise FileError(f"{path}: others may read this capability; run `chmod 600 {path}`")
    if len(data) > MAX_FILE_BYTES:
        raise MalformedError(f"{path}: too long for a capability")
    lines = data.decode("utf-8", "replace").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    try:
        return parse_text(text)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from None
