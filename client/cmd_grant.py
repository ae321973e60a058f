"""``edgistry grant``: capabilities on services, from the nodes that their devices are at home at.

Rules kept here: what is granted goes into the keyring, where commands find it by the handle; a
grant replaces an earlier one on the same thing, and those that ended long ago go.

Not handled here: narrowing a capability and passing it on (``cmd_cap``).
"""

from __future__ import annotations

import asyncio

import click

from edgistry.adapters.clock import wall_us
from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient
from edgistry.codec import Document
from edgistry.errors import InvalidValueError
from edgistry.grants_api import USES, Grant, Granted, Use

from .cap_view import moment_text
from .granted import keep, remove_ended
from .handle_book import HandleBook, short
from .identity import read_identity
from .keyring import Keyring, KeyringEntry
from .output import print_facts, print_json, print_table, remark
from .params import DURATION, HandleCommand, json_option, node_options, option


class GrantLine(Document):
    """One capability that was granted."""

    name: str
    """In the keyring."""
    action: str
    may: str
    id: str


class GrantDocument(Document):
    handle: str
    type: str
    not_after_us: int
    granted: list[GrantLine]


class IdentityDocument(Document):
    client: str
    """The id that operators name in node.toml, 16 hex digits."""
    public_key: str
    """Ed25519, hex."""


@click.group("grant")
def grant() -> None:
    """Ask for capabilities on services of devices."""


@grant.command("request", cls=HandleCommand, short_help="Ask for capabilities on a service.")
@click.argument("handle", metavar="HANDLE")
@option(
    "--allow",
    default="call",
    show_default=True,
    metavar="USES",
    help="call, get, separated by commas: have actions carried out; read what was asked last.",
)
@option(
    "--action",
    "actions",
    multiple=True,
    metavar="ACTION",
    help="Only this action; may be given again. By default all that the node grants.",
)
@option(
    "--ttl",
    "ttl_s",
    type=DURATION,
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long the capabilities live.",
)
@node_options
@json_option
def request(
    handle: str,
    allow: str,
    actions: tuple[str, ...],
    ttl_s: float,
    node: str,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Ask the home node of the service HANDLE (of `edgistry discover`) for capabilities.

    A beginning of a handle that was shown here will do, of 8 characters or more.

    The node's policy decides; `edgistry grant id` shows the id that its operator may have to name.
    What is granted is for you alone, and kept in the keyring for `edgistry call HANDLE ACTION`.
    Grants that ended more than a day ago are removed from it.
    """
    handle = HandleBook.of_user().whole(handle)
    keys = read_identity()
    uses = read_uses(allow)
    made = asyncio.run(_ask(keys, handle, uses, actions, round(ttl_s), node, timeout_s))
    keyring = Keyring.of_user()
    entries = [(each, keep(keyring, made, each, handle)) for each in made.granted]
    removed = remove_ended(keyring, now_us=wall_us())
    if as_json:
        print_json(
            GrantDocument(
                handle=handle,
                type=made.type,
                not_after_us=made.not_after_us,
                granted=[_line(each, entry) for each, entry in entries],
            )
        )
        return
    until = moment_text(made.not_after_us, wall_us())
    print_table(
        f"Granted on {made.type} {short(handle)}",
        ("name", "action", "may", "until"),
        [(entry.name, each.action, _may(each), until) for each, entry in entries],
    )
    remark(f"Kept in the keyring. `edgistry call {short(handle)} ACTION` uses them.")
    if removed:
        remark(f"Removed {removed} that ended more than a day ago.")


@grant.command("id", short_help="Show who you are to nodes.")
@json_option
def show_id(as_json: bool) -> None:
    """Show the id that grants name; keys are made if there are none.

    An operator who wants to grant you what is not open to anyone names the client id in node.toml,
    section [grants].
    """
    keys = read_identity()
    found = IdentityDocument(client=keys.id.hex(), public_key=keys.public_key.hex())
    if as_json:
        print_json(found)
    else:
        print_facts([("client id", found.client), ("public key", found.public_key)])


def read_uses(text: str) -> tuple[Use, ...]:
    """The uses in ``text``, separated by commas.

    Raises:
        InvalidValueError: one that there is not, or none.
    """
    known: dict[str, Use] = {str(use): use for use in USES}
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise InvalidValueError(f"--allow {word[:40]!r}: use {', '.join(known)}")
    return tuple(use for name, use in known.items() if name in words)


async def _ask(
    keys: ClientKeys,
    handle: str,
    uses: tuple[Use, ...],
    actions: tuple[str, ...],
    ttl_s: int,
    node: str,
    timeout_s: float,
) -> Grant:
    async with HttpClient(node, timeout_s=timeout_s) as http:
        return await request_grant(http, keys, handle, uses=uses, actions=actions, ttl_s=ttl_s)


def _line(granted: Granted, entry: KeyringEntry) -> GrantLine:
    return GrantLine(
        name=entry.name, action=granted.action, may=_may(granted), id=entry.capability.id.hex()
    )


def _may(granted: Granted) -> str:
    return "call" if granted.is_call else "look"
