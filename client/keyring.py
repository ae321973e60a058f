"""The keyring: a person's capabilities, one file each, and the choice of the right one.

Rules kept here:

* The folder is 0700 and every file 0600. A folder that others can enter is not read.
* A file is named after its entry and holds the capability's text, after lines that begin with
  "#". One of them may say what the capability is for (``# for: PLACE``: a node's address, a
  handle), since objects of different issuers may have the same names.
* The choice is the least authority that suffices: the narrowest object, then the fewest rights,
  then the one that ends first. Capabilities that the chosen one requires go beside it.
* A damaged file is named and left alone; the others stay usable.

Not handled here: asking an issuer for capabilities, or telling it that one was removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters.secret_files import (
    check_secret_folder,
    make_secret_folder,
    read_secret,
    write_secret,
)
from edgistry.capability import Capability
from edgistry.captext import danger_text, parse_text
from edgistry.envelope import MAX_CAPABILITIES, RIGHTS_NEEDED, Operation
from edgistry.errors import (
    FileError,
    InvalidValueError,
    NoCapabilityError,
    NotFoundError,
    Refused,
)
from edgistry.rights import Right, covers

_SUFFIX = ".edgcap"
_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,63}")
_PLACE = re.compile(r"# for: (\S+)")
_MAX_BYTES = 16 * 1024
_ANYBODY = bytes(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringEntry:
    """One capability of the keyring. ``place`` is what it is for; "" fits everywhere."""

    name: str
    capability: Capability
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A file of the keyring that holds no capability, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What authority is needed for. ``client`` is the caller's 8-byte id, ``None`` for whichever
    the capability names."""

    operation: Operation
    target: str
    handler: str = ""
    payload: bytes = b""
    client: bytes | None = None
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The entry to use, and what it requires beside it, in the order of the envelope."""

    entry: KeyringEntry
    beside: tuple[Capability, ...] = ()


class Keyring:
    """The capabilities in one folder. Every call looks at the folder anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> Keyring:
        """The keyring in the user's configuration (``XDG_CONFIG_HOME``, else ``~/.config``)."""
        base = environment.get("XDG_CONFIG_HOME", "")
        # The XDG specification: a relative path is to be ignored.
        config = Path(base) if base.startswith("/") else Path.home() / ".config"
        return cls(config / "edgistry" / "keyring")

    def add(
        self, name: str, capability: Capability, *, place: str = "", force: bool = False
    ) -> KeyringEntry:
        """Keep ``capability`` under ``name``.

        Raises:
            InvalidValueError: a name that cannot be a file's, or a place with blanks.
            AlreadyThereError: the name is taken and ``force`` is not set.
            DirectoryError, FileError: the folder is unsafe, or cannot be written.
        """
        path = self._path(name)
        if place and not _PLACE.fullmatch(f"# for: {place}"):
            raise InvalidValueError(f"place {place!r}: write one word, an address or a handle")
        comment = f"# for: {place}\n" if place else ""
        make_secret_folder(self.folder)
        text = f"{comment}{danger_text(capability)}\n"
        write_secret(path, text.encode(), force=force)
        return KeyringEntry(name=name, capability=capability, place=place)

    def entry(self, name: str) -> KeyringEntry:
        """The entry called ``name``.

        Raises:
            NotFoundError: there is none.
            MalformedError, FileError: it is damaged.
        """
        if not _NAME.fullmatch(name) or not self._path(name).exists():
            raise NotFoundError(f"the keyring has no {name!r}")
        check_secret_folder(self.folder)
        text = read_secret(self._path(name), limit=_MAX_BYTES).decode("utf-8", "replace")
        place = next((found[1] for found in map(_PLACE.fullmatch, text.splitlines()) if found), "")
        capability = parse_text(without_comments(text))
        return KeyringEntry(name=name, capability=capability, place=place)

    def entries(self) -> tuple[list[KeyringEntry], list[Damaged]]:
        """All entries by name, and the files that are none.

        Raises:
            DirectoryError: others have access to the folder.
        """
        if not self.folder.exists():
            return [], []
        check_secret_folder(self.folder)
        entries: list[KeyringEntry] = []
        damaged: list[Damaged] = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            name = path.name.removesuffix(_SUFFIX)
            try:
                entries.append(self.entry(name))
            except Refused as error:
                damaged.append(Damaged(name=name, why=error.detail))
        return entries, damaged

    def remove(self, name: str) -> None:
        """Forget the entry called ``name``, damaged or not.

        Raises:
            NotFoundError: there is none.
            FileError: it cannot be removed.
        """
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise NotFoundError(f"the keyring has no {name!r}") from None
        except OSError as error:
            raise FileError(f"cannot remove {name}: {error.strerror}") from None

    def choose(self, wanted: Wanted, *, now_us: int) -> Choice:
        """The entry with the least authority that allows ``wanted`` at ``now_us``.

        Raises:
            NoCapabilityError: no entry does; the detail has the reason of each that was considered.
            DirectoryError: others have access to the folder.
        """
        entries, _ = self.entries()
        held = [each.capability for each in entries]
        fitting: list[Choice] = []
        reasons: list[str] = []
        for entry in entries:
            if entry.place and wanted.place and entry.place != wanted.place:
                reasons.append(f"{entry.name}: it is for {entry.place}")
                continue
            choice = Choice(entry=entry, beside=_beside(entry.capability, held))
            try:
                check(choice, wanted, now_us=now_us)
            except Refused as error:
                reasons.append(f"{entry.name}: {error.detail}")
            else:
                fitting.append(choice)
        if not fitting:
            why = "; ".join(reasons) or "it is empty"
            target = wanted.target or "everything"
            raise NoCapabilityError(f"no capability in the keyring allows this on {target} ({why})")
        return min(fitting, key=lambda choice: _authority(choice.entry, wanted))

    def beside(
        self, capability: Capability, given: Sequence[Capability] = ()
    ) -> tuple[Capability, ...]:
        """``given``, and what else ``capability`` requires, as far as the keyring has it.

        Raises:
            DirectoryError: something is missing, and others have access to the folder.
        """
        found = _beside(capability, given)
        if _missing(capability, found):
            entries, _ = self.entries()
            found = _beside(capability, [*given, *(each.capability for each in entries)])
        return (*given, *(each for each in found if each not in given))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidValueError(
                f"name {name[:80]!r}: use 1-64 of a-z, 0-9, '.', '_', '-', not '.' first"
            )
        return self.folder / f"{name}{_SUFFIX}"


def check(choice: Choice, wanted: Wanted, *, now_us: int) -> None:
    """Raises the ``Refused`` that a holder can foresee, if there is one."""
    named = choice.entry.capability.chain.clients
    client = wanted.client or (named[0] if named else _ANYBODY)
    choice.entry.capability.check(
        wanted.operation,
        wanted.target,
        wanted.payload,
        client=client,
        now_us=now_us,
        handler=wanted.handler,
        beside=choice.beside,
    )


def without_comments(text: str) -> str:
    """``text`` without the lines that begin with "#", and without blanks around it."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines).strip()


def _beside(capability: Capability, others: Sequence[Capability]) -> tuple[Capability, ...]:
    """What ``capability`` requires, and what that requires, as far as it is among ``others``.

    Of several that would do it is the one that lives longest.
    """
    found = [capability]
    while len(found) < MAX_CAPABILITIES:
        wanted = next(iter(_missing(capability, found[1:])), None)
        fitting = [each for each in others if each not in found and wanted in each.chain.ids]
        if wanted is None or not fitting:
            break
        found.append(max(fitting, key=lambda each: each.chain.not_after_us))
    return tuple(found[1:])


def _missing(capability: Capability, beside: Sequence[Capability]) -> list[bytes]:
    """Ids that ``capability``, or one ``beside`` it, requires and that are not there."""
    wanted = [each for holder in (capability, *beside) for each in holder.chain.rare.required]
    return [each for each in wanted if not any(each in other.chain.ids for other in beside)]


def _authority(entry: KeyringEntry, wanted: Wanted) -> tuple[int, int, bool, int, str]:
    """Sorts by how much more than ``wanted`` the entry could do.

    Of two that could do as much, one for just that place is surely of the issuer there.
    """
    needed = RIGHTS_NEEDED[wanted.operation]
    if wanted.operation == Operation.PUT and wanted.handler:
        needed |= Right.INVOKE
    granting = [
        (len(each.object), each.rights.bit_count())
        for each in entry.capability.entries
        if not needed & ~each.rights and covers(each.object, wanted.target)
    ]
    longest, rights = max(granting, key=lambda pair: (pair[0], -pair[1]), default=(0, 0))
    elsewhere = entry.place != wanted.place
    return -longest, rights, elsewhere, entry.capability.chain.not_after_us, entry.name
