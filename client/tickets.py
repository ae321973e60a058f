"""Calls under way, kept so that another command can fetch their answers.

Rules kept here:

* One file a call, 0600 in a folder 0700 beside the keyring: a ticket holds authority.
* A ticket is kept before its call is sent, under a name of its own; once the node has told the
  call's id, that is its name.
* What cannot have an outcome any more (a day after its deadline) is removed on the way.
* A damaged file is left alone.

Not handled here: asking nodes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters.secret_files import (
    check_secret_folder,
    make_secret_folder,
    read_secret,
    write_secret,
)
from edgistry.calls import MAX_TICKET_BYTES, Ticket, decode_ticket, encode_ticket
from edgistry.errors import FileError, Refused, UnknownRequestError

KEPT_AFTER_DEADLINE_US = 24 * 3600 * 1_000_000
"""Nodes keep an outcome for a day."""
_SUFFIX = ".ticket"
_UNSENT = "unsent-"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A ticket and the name under which it is kept."""

    name: str
    ticket: Ticket

    @property
    def is_sent(self) -> bool:
        """Whether a node has told the call's id, which is its name then."""
        return not self.name.startswith(_UNSENT)


class Tickets:
    """The tickets in one folder. Every call looks at the folder anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> Tickets:
        """Those in the user's configuration (``XDG_CONFIG_HOME``, else ``~/.config``)."""
        base = environment.get("XDG_CONFIG_HOME", "")
        # The XDG specification: a relative path is to be ignored.
        config = Path(base) if base.startswith("/") else Path.home() / ".config"
        return cls(config / "edgistry" / "requests")

    def keep(self, ticket: Ticket) -> str:
        """Keep ``ticket``, whose call is about to be sent; its name until then."""
        make_secret_folder(self.folder)
        name = _unsent_name(ticket)
        write_secret(self._path(name), encode_ticket(ticket), force=True)
        return name

    def sent(self, ticket: Ticket, request_id: str) -> None:
        """The call of a kept ``ticket`` has that id.

        Raises:
            FileError: the id cannot be a name.
        """
        path = self._path(_unsent_name(ticket))
        if path.exists():
            path.replace(self._path(request_id))

    def remove(self, name: str) -> None:
        """Forget the ticket of that name; it need not be there."""
        self._path(name).unlink(missing_ok=True)

    def get(self, name: str) -> Kept:
        """The ticket of that name.

        Raises:
            UnknownRequestError: there is none.
            MalformedError, FileError, DirectoryError: it cannot be read.
        """
        if not _NAME.fullmatch(name) or not self._path(name).exists():
            raise UnknownRequestError(f"no request {name[:80]!r} was made here")
        check_secret_folder(self.folder)
        data = read_secret(self._path(name), limit=MAX_TICKET_BYTES)
        return Kept(name=name, ticket=decode_ticket(data))

    def find(self, *, handle: str, action: str, keys: Collection[bytes]) -> Kept | None:
        """The call that was made with one of these keys before."""
        for kept in self.all():
            ticket = kept.ticket
            is_there = (ticket.handle, ticket.action) == (handle, action)
            if is_there and ticket.idempotency_key in keys:
                return kept
        return None

    def all(self) -> Iterator[Kept]:
        """Every readable ticket, by name."""
        if not self.folder.exists():
            return
        check_secret_folder(self.folder)
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                yield self.get(path.name.removesuffix(_SUFFIX))
            except Refused:
                continue

    def remove_old(self, now_us: int) -> None:
        """Forget the tickets whose outcome no node can have any more."""
        for kept in list(self.all()):
            deadline_us = kept.ticket.request.envelope.deadline
            if deadline_us + KEPT_AFTER_DEADLINE_US < now_us:
                self.remove(kept.name)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise FileError(f"{name[:80]!r} cannot be the name of a request")
        return self.folder / f"{name}{_SUFFIX}"


def _unsent_name(ticket: Ticket) -> str:
    return _UNSENT + hashlib.sha256(ticket.envelope).hexdigest()[:20]
