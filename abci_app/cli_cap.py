"""``edgistry-node cap``: grant capabilities of this node, and revoke them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgistry.adapters.clock import wall_us
from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.codec import Document
from edgistry.duration import parse_moment
from edgistry.errors import (
    AlreadyThereError,
    DirectoryError,
    FileError,
    InvalidValueError,
    MalformedError,
)
from edgistry.rights import check_object, names_of, parse_rights

from .cli_waiting import admin_client
from .directory import write_secret
from .issuing_api import MintAnswer, MintRequest


class MintedDocument(Document):
    """A capability that was granted; the secret only where it was asked for."""

    id: str
    grant: str
    epoch: int
    file: str | None
    danger_text: str | None = None


@click.group()
def cap() -> None:
    """Grant capabilities of a node, and revoke them.

    A capability says who may do what with the node's WooFs. It is a bearer secret: whoever has it
    may use it, and may pass on a narrower one (`edgistry cap derive`) without asking the node.
    """


def _when(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_moment(text, now_us=wall_us())
    except MalformedError as error:
        raise click.BadParameter(str(error)) from None


def _rights(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    try:
        return tuple(names_of(parse_rights(text)))
    except InvalidValueError as error:
        raise click.BadParameter(str(error)) from None


def _object(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    try:
        return check_object(text)
    except MalformedError as error:
        raise click.BadParameter(str(error)) from None


def _client(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    digits = text.lower()
    if len(digits) != 16 or not set(digits) <= set("0123456789abcdef"):
        raise click.BadParameter(f"{text[:50]!r}: a client id has 16 hexadecimal digits")
    return digits


@cap.command("mint", short_help="Grant a new capability.")
@directory_argument
@option(
    "--object",
    env="EDGISTRY_CAP_OBJECT",
    metavar="OBJECT",
    default="",
    show_default=False,
    callback=_object,
    help="On what: ns or ns/woof.  [default: everything]",
)
@option(
    "--allow",
    "rights",
    env="EDGISTRY_CAP_ALLOW",
    metavar="RIGHTS",
    default="all",
    callback=_rights,
    help="To do what: put,get,latest.",
)
@option(
    "--not-after",
    "--expires",
    "not_after_us",
    env="EDGISTRY_CAP_NOT_AFTER",
    metavar="WHEN",
    callback=_when,
    help="The end: 30d from now, or a time.  [default: none]",
)
@option(
    "--not-before",
    "not_before_us",
    env="EDGISTRY_CAP_NOT_BEFORE",
    metavar="WHEN",
    callback=_when,
    help="The beginning, likewise.",
)
@option(
    "--client",
    env="EDGISTRY_CAP_CLIENT",
    metavar="CLIENT",
    callback=_client,
    help="Only this client: 16 hex digits.",
)
@option(
    "--handler",
    "handlers",
    env="EDGISTRY_CAP_HANDLER",
    metavar="NAME",
    multiple=True,
    help="Only puts that name this handler; may be given several times.",
)
@option(
    "--max-payload",
    env="EDGISTRY_CAP_MAX_PAYLOAD",
    metavar="N",
    type=click.IntRange(0, 0xFFFFFFFF),
    help="Payloads of at most N bytes.",
)
@option(
    "--out",
    "-o",
    "out",
    env="EDGISTRY_CAP_OUT",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write it to this new file (mode 0600).",
)
@option(
    "--text",
    "as_text",
    env="EDGISTRY_CAP_TEXT",
    is_flag=True,
    help="Print the secret text instead.",
)
@json_option
def mint(directory: Path, out: Path | None, as_text: bool, as_json: bool, **asked: Any) -> None:
    """Grant a new capability of the node in DIR, which must run.

    The secret goes to FILE, and nowhere else unless you say --text. Grant the least that
    suffices: no other capability can do more than the one it derives from.

    \b
    Example:
      edgistry-node cap mint DIR --object sensors --allow put,get,latest -o sensors.cap
    """
    if (out is None) != as_text:
        raise click.UsageError("say --out FILE, or --text to print the secret")
    if out is not None and out.exists():
        raise AlreadyThereError(f"{out} exists")
    with admin_client(directory) as client:
        made = client.mint(MintRequest(**asked))
    if out is not None:
        _write(out, made)
    if as_json:
        print_json(
            MintedDocument(
                id=made.id,
                grant=made.grant,
                epoch=made.epoch,
                file=None if out is None else str(out),
                danger_text=made.danger_text if as_text else None,
            )
        )
    elif as_text:
        tell("the next line is a secret: whoever sees it may do all of this")
        click.echo(made.danger_text)
    else:
        click.echo(made.id)
        tell(f"wrote {out}; `edgistry cap show {out}` says what it can do")


def _write(path: Path, made: MintAnswer) -> None:
    try:
        write_secret(path, f"{made.danger_text}\n".encode())
    except DirectoryError:
        raise AlreadyThereError(f"{path} exists") from None
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror}") from None


@cap.command("revoke", short_help="Revoke a capability.")
@directory_argument
@click.argument("public_id", metavar="ID")
@json_option
def revoke(directory: Path, public_id: str, as_json: bool) -> None:
    """Revoke the capability with this public id, and all that derive from it.

    `edgistry cap id FILE` prints the id. The node in DIR must run. It remembers 256 ids.
    """
    digits = public_id.lower()
    if len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        raise click.UsageError(f"{public_id[:50]!r}: an id has 32 hexadecimal digits")
    with admin_client(directory) as client:
        answer = client.revoke(digits)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"revoked {answer.id}; {answer.revoked} of 256 ids are in use")
