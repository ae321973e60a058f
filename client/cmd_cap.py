"""``edgistry cap``: look at capabilities, narrow them, and keep them.

Everything here works without asking anybody: a capability is all that its holder needs to narrow
it (paper §3.1). Whether it was revoked, or its epoch is over, only the issuer knows.

Not handled here: choosing a capability for a call, which the keyring does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgistry.adapters.secret_files import write_secret
from edgistry.capability import Capability
from edgistry.captext import danger_text
from edgistry.codec import Document
from edgistry.duration import parse_moment
from edgistry.envelope import Operation
from edgistry.errors import MalformedError
from edgistry.judge import NEWEST
from edgistry.rights import check_object, parse_rights
from edgistry.wording import visible

from .cap_view import (
    capability_tree,
    end_of,
    grant_text,
    moment_text,
    shown_capability,
    tree_lines,
)
from .capability_source import capability_of, with_required
from .handle_book import HandleBook, shown_place
from .keyring import Choice, Keyring, KeyringEntry, Wanted, check
from .output import print_json, print_table, remark
from .params import Parsed, json_option, option

_MAX_PAYLOAD = 1024 * 1024


def _now_us() -> int:
    return time.time_ns() // 1000


def _hexadecimal(length: int, what: str) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        if len(data) != length or len(text) != 2 * length:
            raise MalformedError(f"{text[:50]!r}: {what} has {2 * length} hexadecimal digits")
        return data

    return read


def _operation(text: str) -> Operation:
    names = {each.name.lower().replace("_", "-"): each for each in Operation}
    if text not in names:
        raise MalformedError(f"{text[:50]!r} is no operation; they are {', '.join(names)}")
    return names[text]


_RIGHTS = Parsed("RIGHTS", parse_rights)
_OBJECT = Parsed("OBJECT", check_object)
_WHEN = Parsed("WHEN", lambda text: parse_moment(text, now_us=_now_us()))
_CLIENT = Parsed("CLIENT", _hexadecimal(8, "a client id"))
_ID = Parsed("ID", _hexadecimal(16, "a capability's id"))
_OPERATION = Parsed("OPERATION", _operation)

_force_option = option(
    "--force", is_flag=True, allow_from_autoenv=False, help="Replace what is there."
)


class MadeDocument(Document):
    """A capability that was made or kept, without its secret."""

    id: str
    name: str


class CheckDocument(Document):
    """What a holder can tell; refusals are errors."""

    allowed: bool
    id: str
    name: str | None
    beside: list[str]


class EntryLine(Document):
    """One entry of the keyring."""

    name: str
    id: str
    grants: list[str]
    not_after_us: int | None
    place: str


class KeyringDocument(Document):
    """The keyring; ``damaged`` are names of files that hold no capability."""

    folder: str
    entries: list[EntryLine]
    damaged: list[str]


@click.group("cap")
def cap() -> None:
    """Look at capabilities, narrow them, and keep them. Nobody is contacted.

    A capability is a bearer secret: whoever has it may do what it says. Give it as a file, or
    through standard input (-): an argument stays in the shell's history.
    """


@cap.command("show", short_help="Show who may do what, until when.")
@click.argument("source", metavar="TEXT|FILE")
@option("--danger", is_flag=True, allow_from_autoenv=False, help="Print the secret text as well.")
@json_option
def show(source: str, danger: bool, as_json: bool) -> None:
    """Show who may do what, until when, as a tree.

    FILE is a file with a capability; - reads standard input, and a name that is no file is looked
    up in the keyring. TEXT works too, but stays in the shell's history. The secret is never
    shown, unless you say --danger.
    """
    capability = capability_of(source)
    text = danger_text(capability) if danger else None
    if as_json:
        print_json(shown_capability(capability, danger_text=text))
        return
    for line in tree_lines(capability_tree(capability, now_us=_now_us())):
        click.echo(visible(line))
    if text is not None:
        remark("The next line is a secret: whoever sees it may do all of this.")
        click.echo(text)


@cap.command("id", short_help="Print the public id.")
@click.argument("source", metavar="FILE")
@json_option
def print_id(source: str, as_json: bool) -> None:
    """Print the public id: what --require and revocation name a capability by.

    FILE as in `edgistry cap show`.
    """
    capability = capability_of(source)
    if as_json:
        print_json({"id": capability.id.hex()})
    else:
        click.echo(capability.id.hex())


@cap.command("derive", short_help="Make a narrower capability.")
@click.argument("source", metavar="FILE")
@option("--allow", type=_RIGHTS, metavar="RIGHTS", help="Keep these rights only: get,latest.")
@option(
    "--object",
    "object_name",
    type=_OBJECT,
    metavar="OBJECT",
    envvar="EDGISTRY_CAP_DERIVE_OBJECT",
    help="Keep ns or ns/woof.",
)
@option("--expires", type=_WHEN, metavar="WHEN", help="The end: 2h from now, or a time.")
@option("--not-before", type=_WHEN, metavar="WHEN", help="The beginning, likewise.")
@option("--client", type=_CLIENT, metavar="CLIENT", help="Only this client: 16 hex digits.")
@option(
    "--handler",
    "handlers",
    multiple=True,
    metavar="NAME",
    envvar="EDGISTRY_CAP_DERIVE_HANDLER",
    help="Only through this handler.",
)
@option(
    "--require",
    type=_ID,
    multiple=True,
    metavar="ID",
    help="Useless without the capability of this id beside it (`edgistry cap id`).",
)
@option("--max-payload", type=int, metavar="N", help="Payloads of at most N bytes.")
@option("--veil", is_flag=True, help="Only handler puts and newest elements, unnumbered.")
@option("--seal", is_flag=True, help="Nobody can narrow it further.")
@option("-o", "--output", required=True, metavar="OUT", help="The file to write; - prints.")
@_force_option
@json_option
def derive(
    source: str,
    output: str,
    force: bool,
    as_json: bool,
    expires: int | None,
    not_before: int | None,
    **narrowing: Any,
) -> None:
    """Make a capability that can do less, and write it to OUT (mode 0600).

    FILE as in `edgistry cap show`. Without options it can do as much as FILE, but can be revoked
    on its own. Options that take several values are given several times.

    \b
    Example:
      edgistry cap derive mine --allow get,latest --object sensors/temp --expires 2h -o theirs
    """
    derived = capability_of(source).derive(
        not_after_us=expires, not_before_us=not_before, **narrowing
    )
    text = danger_text(derived)
    if output == "-":
        click.echo(text)
        return
    write_secret(Path(output), f"{text}\n".encode(), force=force)
    if as_json:
        print_json(MadeDocument(id=derived.id.hex(), name=output))
    else:
        click.echo(derived.id.hex())
        remark(f"Wrote {output}; `edgistry cap show {output}` shows what it can do.")


@cap.command("check", short_help="Tell whether something is allowed.")
@click.argument("source", metavar="[FILE]", required=False)
@option(
    "--op",
    "operation",
    type=_OPERATION,
    required=True,
    metavar="OPERATION",
    envvar="EDGISTRY_CAP_CHECK_OP",
    help="What to do: get, put, latest, scan, delete, ….",
)
@option("--target", type=_OBJECT, required=True, metavar="OBJECT", help="ns/woof, ns, or ''.")
@option("--handler", default="", metavar="NAME", help="The handler that a put names.")
@option(
    "--payload-bytes",
    type=click.IntRange(0, _MAX_PAYLOAD),
    metavar="N",
    help="Length of the payload; a get of the newest element by default.",
)
@option("--client", type=_CLIENT, metavar="CLIENT", help="As this client: 16 hex digits.")
@option("--at", type=_WHEN, metavar="WHEN", help="At another time than now.")
@option("--beside", multiple=True, metavar="FILE", help="A capability to send beside it.")
@option(
    "--for",
    "place",
    default="",
    metavar="PLACE",
    envvar="EDGISTRY_CAP_CHECK_FOR",
    help="Only entries of the keyring for this place.",
)
@json_option
def check_use(
    source: str | None,
    payload_bytes: int | None,
    at: int | None,
    beside: tuple[str, ...],
    as_json: bool,
    **wanted: Any,
) -> None:
    """Tell whether a capability allows an operation, and why not (exit code 1).

    FILE as in `edgistry cap show`; without it the keyring is searched, and the capability with the
    least authority that suffices is named. Only the issuer knows whether a capability was revoked.
    """
    now_us = _now_us() if at is None else at
    asked = Wanted(payload=_payload(wanted["operation"], payload_bytes), **wanted)
    if source is None:
        choice = Keyring.of_user().choose(asked, now_us=now_us)
    else:
        capability, required = with_required(source, beside)
        entry = KeyringEntry(name=source, capability=capability)
        choice = Choice(entry=entry, beside=required)
        check(choice, asked, now_us=now_us)
    chosen = choice.entry.capability
    if as_json:
        ids = [each.id.hex() for each in choice.beside]
        name = choice.entry.name if source is None else None
        print_json(CheckDocument(allowed=True, id=chosen.id.hex(), name=name, beside=ids))
        return
    by = choice.entry.name if source is None else chosen.id.hex()
    click.echo(visible(f"allowed by {by}"))
    for each in choice.beside:
        click.echo(f"beside {each.id.hex()}")


def _payload(operation: Operation, length: int | None) -> bytes:
    if length is None:
        return NEWEST if operation == Operation.GET else b""
    return bytes(length)


@cap.command("list", short_help="List the keyring.")
@json_option
def list_entries(as_json: bool) -> None:
    """List the capabilities in the keyring (in the user's configuration, 0700)."""
    keyring = Keyring.of_user()
    entries, damaged = keyring.entries()
    if as_json:
        print_json(
            KeyringDocument(
                folder=str(keyring.folder),
                entries=[_entry_line(each) for each in entries],
                damaged=[each.name for each in damaged],
            )
        )
        return
    now_us = _now_us()
    print_table(
        f"Capabilities in {keyring.folder}",
        ("name", "may", "until", "for", "id"),
        [_row(each, now_us) for each in entries],
    )
    for each in damaged:
        remark(f"damaged: {each.name}: {each.why}")
    if not entries and not damaged:
        remark("The keyring is empty; `edgistry cap add FILE` puts a capability in.")


def _entry_line(entry: KeyringEntry) -> EntryLine:
    return EntryLine(
        name=entry.name,
        id=entry.capability.id.hex(),
        grants=_grants(entry.capability),
        not_after_us=end_of(entry.capability),
        place=entry.place,
    )


def _grants(capability: Capability) -> list[str]:
    return [grant_text(each) for each in capability.entries]


def _row(entry: KeyringEntry, now_us: int) -> tuple[str, ...]:
    ends = end_of(entry.capability)
    until = "no end" if ends is None else moment_text(ends, now_us)
    may = "; ".join(_grants(entry.capability))
    return entry.name, may, until, shown_place(entry.place) or "anywhere", entry.capability.id.hex()


@cap.command("add", short_help="Put a capability into the keyring.")
@click.argument("source", metavar="FILE")
@option("--name", metavar="NAME", help="Its name; by default the beginning of its id.")
@option(
    "--for",
    "place",
    default="",
    metavar="PLACE",
    envvar="EDGISTRY_CAP_ADD_FOR",
    help="What it is for: a node as http://HOST:PORT, or a handle, or a beginning of one that was"
    " shown here.",
)
@_force_option
@json_option
def add(source: str, name: str | None, place: str, force: bool, as_json: bool) -> None:
    """Put a capability into the keyring, where commands find it by what they want to do.

    FILE as in `edgistry cap show`; it stays where it is.
    """
    capability = capability_of(source)
    identity = capability.id.hex()
    if place and "://" not in place:
        place = HandleBook.of_user().whole(place)
    entry = Keyring.of_user().add(name or identity[:12], capability, place=place, force=force)
    if as_json:
        print_json(MadeDocument(id=identity, name=entry.name))
    else:
        click.echo(entry.name)
        if source != "-":
            remark(f"Kept as {entry.name}; remove {source} if you do not need it elsewhere.")


@cap.command("remove", short_help="Forget a capability.")
@click.argument("name", metavar="NAME")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a capability from the keyring.

    It keeps working for everybody else who has it: only its issuer can revoke it.
    """
    Keyring.of_user().remove(name)
    if as_json:
        print_json({"removed": name})
    else:
        remark(f"Removed {name}.")
