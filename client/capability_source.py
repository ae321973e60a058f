"""Where commands take a capability from: a file, standard input, the keyring, or its text.

Rules kept here:

* A capability is a bearer secret. Its text as an argument ends up in the shell's history and in
  the list of processes, so there is always another way, and using it brings a remark.
* A file that others can read brings a remark too.
* What is neither a file nor a name is quoted only if it could be a name: anything else may be a
  capability's text with something before it.
* What a named capability requires is looked for in the keyring, as far as it is not named too.
* Lines that begin with "#" are for people and are skipped.

Not handled here: what the text means (``edgistry.captext``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edgistry.adapters.secret_files import others_may_read, read_secret
from edgistry.capability import Capability
from edgistry.captext import PREFIX, parse_text
from edgistry.errors import NotFoundError, TooLargeError

from .keyring import Keyring, without_comments
from .output import remark

MAX_SOURCE_BYTES = 16 * 1024
"""A capability's text has at most 2782 characters; the rest is left for comments."""

_LONGEST_QUOTED = 64
"""Characters of a keyring's name; the shortest capability's text has more."""


def capability_of(source: str) -> Capability:
    """The capability that a command's argument means.

    Raises:
        NotFoundError: neither a file nor a name in the keyring.
        MalformedError: what is there is no capability.
        FileError, TooLargeError: it cannot be read, or is too large to be one.
    """
    if source == "-":
        return _from_text(_standard_input())
    if source.lstrip().startswith(PREFIX):
        remark(
            "remark: the capability is now in this shell's history, and others could see it among "
            "the processes; better give a file, or - and standard input"
        )
        return _from_text(source)
    path = Path(source)
    if _exists(path):
        if path.is_file() and others_may_read(path):
            remark(f"remark: others can read {source}; say `chmod 600 {source}`")
        return _from_text(read_secret(path, limit=MAX_SOURCE_BYTES).decode("utf-8", "replace"))
    try:
        return Keyring.of_user().entry(source).capability
    except NotFoundError:
        named = source if len(source) <= _LONGEST_QUOTED else "the argument"
        raise NotFoundError(f"{named} is neither a file nor a name in the keyring") from None


def with_required(source: str, beside: Sequence[str]) -> tuple[Capability, tuple[Capability, ...]]:
    """The capability that an argument means, and those to send with it: as far as it requires them.

    Raises as ``capability_of``, and ``DirectoryError`` where the keyring is needed and unsafe.
    """
    capability = capability_of(source)
    return capability, Keyring.of_user().beside(capability, tuple(map(capability_of, beside)))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than any name of a file, say
        return False


def _standard_input() -> str:
    data = sys.stdin.buffer.read(MAX_SOURCE_BYTES + 1)
    if len(data) > MAX_SOURCE_BYTES:
        raise TooLargeError(f"standard input has more than {MAX_SOURCE_BYTES} bytes")
    return data.decode("utf-8", "replace")


def _from_text(text: str) -> Capability:
    return parse_text(without_comments(text))
