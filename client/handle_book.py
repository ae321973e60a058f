"""Handles that were shown to the user, remembered so that a beginning will do.

Rules kept here:

* One file, ``handles`` in the keyring's folder, 0600: a handle tells what its owner looked at. One
  line for each, the latest last, at most ``MAX_REMEMBERED``; the oldest go first.
* A beginning means a handle when it has ``MIN_BEGINNING`` characters and fits one that is
  remembered and no other. The whole text of a handle means itself, remembered or not.
* A line that is no handle is skipped, and gone with the next change: the list is a convenience,
  and never a reason to refuse what has a whole handle, or to keep an answer back. A list that
  cannot be written, where settings are read-only say, brings a remark.

Not handled here: which handles are still good (nodes know), capabilities on them (``keyring``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgistry.adapters.secret_files import make_secret_folder, read_secret, write_secret
from edgistry.errors import InvalidValueError, MalformedError, Refused, UnknownHandleError
from edgistry.handles import HANDLE_CHARACTERS, SHORT_TEXT, parse_handle_text

from .keyring import Keyring
from .output import remark

MAX_REMEMBERED = 4000
"""About 400 KB."""
MIN_BEGINNING = 8
"""48 bits: two handles that begin alike are as good as never seen."""


class HandleBook:
    """The handles in one file. Every call looks at the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> HandleBook:
        """That in the user's configuration."""
        return cls(Keyring.of_user(environment).folder / "handles")

    def handles(self) -> list[str]:
        """Those remembered, the latest last; none if they cannot be read."""
        try:
            data = read_secret(self.path, limit=2 * MAX_REMEMBERED * HANDLE_CHARACTERS)
        except Refused:
            return []
        return [line for line in data.decode("ascii", "replace").splitlines() if _is_handle(line)]

    def remember(self, handles: Iterable[str]) -> None:
        """Keep these too, if they can be kept."""
        known = self.handles()
        # A dict keeps the order: what is shown again is the latest.
        latest = dict.fromkeys([*reversed(list(handles)), *reversed(known)])
        kept = [each for each in latest if _is_handle(each)][:MAX_REMEMBERED]
        kept.reverse()
        if kept == known:
            return
        try:
            make_secret_folder(self.path.parent)
            write_secret(self.path, "".join(f"{each}\n" for each in kept).encode(), force=True)
        except Refused as error:
            remark(f"remark: handles are not remembered, use the whole of them: {error.detail}")

    def whole(self, text: str) -> str:
        """The handle that ``text`` is, or begins; a whole one is remembered.

        Raises:
            InvalidValueError: too short, or the beginning of several.
            UnknownHandleError: no handle, and the beginning of none that is remembered.
        """
        if _is_handle(text):
            if text not in self.handles():
                self.remember([text])
            return text
        if len(text) < MIN_BEGINNING:
            raise InvalidValueError(
                f"handle {text!r}: give {MIN_BEGINNING} characters of it at least"
            )
        found = [each for each in self.handles() if each.startswith(text)]
        if len(found) > 1:
            raise InvalidValueError(
                f"handle {text!r}: {len(found)} that were shown here begin so; give more of it"
            )
        if not found:
            raise UnknownHandleError(
                f"no handle that was shown here begins with {text[:HANDLE_CHARACTERS]!r};"
                " `edgistry discover` shows handles, and remembers them, or give all of it"
            )
        return found[0]


def short(handle: str) -> str:
    """What people see of a handle."""
    return handle[:SHORT_TEXT]


def shown_place(place: str) -> str:
    """What people see of what a capability is for: a node's address, or a handle."""
    return short(place) if _is_handle(place) else place


def _is_handle(text: str) -> bool:
    try:
        parse_handle_text(text)
    except MalformedError:
        return False
    return True
