"""``edgistry-node member``: who the members of a chain are, and changing it by signed files.

Rules kept here: signing needs no running node and no network, so that each operator signs on their
own machine; a file is written whole or not at all, and nothing is overwritten but a proposal that
is signed.

Not handled here: what the chain takes (``membership``), making the new node (``initialize``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import click

from edgistry.adapters.commands import (
    directory_argument,
    json_option,
    option,
    print_json,
    print_table,
    tell,
)
from edgistry.adapters.crypto import public_key_of, signer
from edgistry.adapters.secret_files import write_whole
from edgistry.codec import Document, decode_json, encode_json
from edgistry.errors import InvalidValueError, MalformedError
from edgistry.transactions import node_id_of

from . import comet_config
from .cli_shared import DURATION, read_file
from .cli_waiting import admin_client, not_yet, wait_option, wait_until_settled
from .config import DEFAULT_BASE_PORT
from .directory import open_directory, read_registry_seed
from .initialize import init_joining, invitation_of
from .member_files import (
    MAX_FILE_BYTES,
    Invitation,
    MemberCard,
    Proposal,
    body_of_proposal,
    sign_proposal,
    subject_of,
)
from .members_api import MembersAnswer, SubmittedAnswer

T = TypeVar("T", bound=Document)

file_argument = click.argument(
    "file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path)
)


class ProposalAnswer(Document):
    """A proposal, and how many have signed it."""

    file: str
    subject: str
    change: int
    signatures: int


class ChangeAnswer(Document):
    """A change on its way to the chain, or on it."""

    sequence: int
    tentative: bool
    """Whether the chain has not confirmed it yet."""
    height: int


class JoinAnswer(Document):
    """The directory of a node that wants to join a chain."""

    directory: str
    node: str
    chain_id: str
    card: str


@click.group()
def member() -> None:
    """List the members of the chain, take nodes in and remove them.

    \b
    A node joins:  member invite (at a member) → join (at the new one) → member propose-join
                   → member sign (more than two thirds of the members) → member submit
    One goes:      member leave, or member propose-removal → sign → submit
    """


@member.command("list")
@directory_argument
@json_option
def member_list(directory: Path, as_json: bool) -> None:
    """List the members of the chain, as the node in DIR, which must run, knows them.

    LEASE says whether the node is there; POWER is its vote.
    """
    with admin_client(directory) as client:
        answer = client.members()
    if as_json:
        print_json(answer)
        return
    rows = [
        (each.name, each.node, each.power, "alive" if each.alive else "lapsed")
        for each in answer.members
    ]
    print_table(("NAME", "NODE", "POWER", "LEASE"), rows)
    for former in answer.former:
        tell(f"node {former.node} is a member no more since {former.left}")


@member.command("invite")
@directory_argument
@option(
    "--host", env="EDGISTRY_HOST", metavar="HOST",
    help="Where other nodes reach this one.  [default: the addresses in node.toml]",
)  # fmt: skip
def member_invite(directory: Path, host: str | None) -> None:
    """Print what a new node has to know: the genesis, and where the nodes are.

    It is no secret, and no permission: who joins is decided by signatures.
    """
    layout, config = open_directory(directory)
    print_json(invitation_of(layout, config, host=host))


@click.command("join")
@directory_argument
@option(
    "--invitation", "file", env="EDGISTRY_INVITATION", metavar="FILE", required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `edgistry-node member invite` printed at a member.",
)  # fmt: skip
@option("--name", env="EDGISTRY_NAME", metavar="NAME", required=True, help="Name of the node.")
@option(
    "--host", env="EDGISTRY_HOST", metavar="HOST", default="127.0.0.1",
    help="Where other nodes reach this one.",
)  # fmt: skip
@option(
    "--base-port", env="EDGISTRY_BASE_PORT", type=click.IntRange(1, 65535), metavar="PORT",
    default=DEFAULT_BASE_PORT, help="Port of the HTTP API; the three after it are taken as well.",
)  # fmt: skip
@json_option
def join(directory: Path, file: Path, name: str, host: str, base_port: int, as_json: bool) -> None:
    """Make a node in DIR that is to join a running chain.

    It follows the chain as soon as it runs and its members let its engine in, which is when they
    have taken it in: give them DIR/member.json.
    """
    invitation = _read(file, Invitation)
    made, card = init_joining(directory, invitation, name=name, host=host, base_port=base_port)
    if as_json:
        print_json(
            JoinAnswer(
                directory=str(made.root),
                node=node_id_of(bytes.fromhex(card.public_key)).hex(),
                chain_id=card.chain_id,
                card=str(made.member_card_file),
            )
        )
        return
    click.echo(f"node {name} for chain {card.chain_id} is in {made.root}")
    click.echo(f"members take it in: edgistry-node member propose-join … {made.member_card_file}")
    click.echo(f"run it: edgistry-node run {directory}")


out_option = option(
    "--out", env="EDGISTRY_OUT", metavar="FILE", required=True,
    type=click.Path(dir_okay=False, path_type=Path), help="Where to write the proposal.",
)  # fmt: skip
good_for_option = option(
    "--good-for", "good_for_s", env="EDGISTRY_GOOD_FOR", type=DURATION, metavar="DURATION",
    default="168h", help="How long the proposal may be submitted.",
)  # fmt: skip


@member.command("propose-join")
@directory_argument
@click.argument(
    "card", metavar="CARD", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@out_option
@good_for_option
@json_option
def propose_join(directory: Path, card: Path, out: Path, good_for_s: float, as_json: bool) -> None:
    """Propose to take in the node whose member.json is CARD, and sign it for the node in DIR."""
    new = _read(card, MemberCard)
    _propose(directory, out, good_for_s, joins=new, as_json=as_json)
    if not as_json and new.link:
        tell(f"for [link] peers in every node.toml, to be read at the next start: {new.link}")


@member.command("propose-removal")
@directory_argument
@click.argument("node", metavar="NODE")
@out_option
@good_for_option
@json_option
def propose_removal(
    directory: Path, node: str, out: Path, good_for_s: float, as_json: bool
) -> None:
    """Propose to remove NODE, a name or id as `member list` shows it, and sign it."""
    _propose(directory, out, good_for_s, removes=node, as_json=as_json)


@member.command("sign")
@directory_argument
@file_argument
@json_option
def member_sign(directory: Path, file: Path, as_json: bool) -> None:
    """Sign the proposal in FILE with the key of the node in DIR, which need not run.

    The signature is added to FILE, which then goes to the next one.
    """
    proposal = _signed(directory, _read(file, Proposal))
    _write(file, proposal, replaces=True)
    _show(file, proposal, as_json=as_json)


@member.command("submit")
@directory_argument
@file_argument
@wait_option
@json_option
def member_submit(directory: Path, file: Path, wait_s: float, as_json: bool) -> None:
    """Send the signed proposal in FILE through the node in DIR, a member.

    Changes of other members that were submitted in the meantime make it void.
    """
    proposal = _read(file, Proposal)
    body_of_proposal(proposal)
    with admin_client(directory) as client:
        answer = client.submit_change(proposal)
        settled, height = wait_until_settled(
            client, answer.sequence, height=answer.height, timeout_s=wait_s
        )
    _done(subject_of(proposal), answer, settled, height, as_json=as_json)


@member.command("leave")
@directory_argument
@option("--yes", env="EDGISTRY_YES", is_flag=True, help="Do not ask.")
@wait_option
@json_option
def member_leave(directory: Path, yes: bool, wait_s: float, as_json: bool) -> None:
    """Let the node in DIR, which must run, leave the chain.

    Its services are listed no more, and its devices reach nobody through it. It comes back only
    when more than two thirds of the members take it in again.
    """
    if not yes:
        click.confirm("the node leaves its chain; are you sure", abort=True)
    with admin_client(directory) as client:
        answer = client.leave()
        settled, height = wait_until_settled(
            client, answer.sequence, height=answer.height, timeout_s=wait_s
        )
    _done("the node leaves", answer, settled, height, as_json=as_json)


def _propose(
    directory: Path,
    out: Path,
    good_for_s: float,
    *,
    joins: MemberCard | None = None,
    removes: str | None = None,
    as_json: bool,
) -> None:
    with admin_client(directory) as client:
        known = client.members()
    proposal = Proposal(
        chain_id=known.chain_id,
        change=known.changes + 1,
        not_after_us=known.block_time_us + round(good_for_s * 1_000_000),
        joins=joins,
        removes=None if removes is None else _node_named(known, removes),
        signatures={},
    )
    signed = _signed(directory, proposal)
    _write(out, signed, replaces=False)
    _show(out, signed, as_json=as_json)
    if not as_json:
        others = len(known.members) - (1 if removes is not None else 0)
        tell(f"{others * 2 // 3 + 1} of {others} members have to sign it")


def _node_named(known: MembersAnswer, text: str) -> str:
    # By id first: somebody's name can look like another one's id.
    named = [each.node for each in known.members if text == each.node]
    named += [each.node for each in known.members if text == each.name]
    if named:
        return named[0]
    raise InvalidValueError(f"{text!r} is no member; `edgistry-node member list` shows them")


def _signed(directory: Path, proposal: Proposal) -> Proposal:
    layout, _ = open_directory(directory)
    genesis = comet_config.read_genesis(layout.genesis_file)
    if genesis.chain_id != proposal.chain_id:
        raise InvalidValueError(
            f"the proposal is for the chain {proposal.chain_id!r}; the node in {directory} belongs"
            f" to {genesis.chain_id!r}"
        )
    seed = read_registry_seed(layout)
    node_id = node_id_of(public_key_of(seed))
    if proposal.removes == node_id.hex():
        raise InvalidValueError("the node to be removed has no say in it; it can leave by itself")
    return sign_proposal(proposal, node_id, signer(seed))


def _show(file: Path, proposal: Proposal, *, as_json: bool) -> None:
    answer = ProposalAnswer(
        file=str(file),
        subject=subject_of(proposal),
        change=proposal.change,
        signatures=len(proposal.signatures),
    )
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{answer.subject}: signed by {answer.signatures}, in {file}")


def _done(what: str, answer: SubmittedAnswer, settled: bool, height: int, *, as_json: bool) -> None:
    if as_json:
        print_json(ChangeAnswer(sequence=answer.sequence, tentative=not settled, height=height))
    else:
        click.echo(f"{what}{not_yet(not settled)}")


def _read(file: Path, kind: type[T]) -> T:
    try:
        return decode_json(read_file(file, limit=MAX_FILE_BYTES), kind, limit=MAX_FILE_BYTES)
    except MalformedError as error:
        raise MalformedError(f"{file}: {error}") from None


def _write(file: Path, document: Document, *, replaces: bool) -> None:
    write_whole(file, encode_json(document, indent=2) + b"\n", force=replaces)
