"""``edgistry-agent pair | pairing-file | unpair``: which nodes a device trusts, and trust it.

Rules kept here:

* What changes keys or pairings holds the directory: the agent does not run meanwhile. What offers
  the device's place holds that too: no move comes between.
* Un-pairing always works, whether or not the nodes can be told, and also when what is kept of them
  is damaged: the key's epoch rises first, and with it everything that was signed with the old one
  is void. One that was interrupted there is finished by the next.
* A code may come from standard input: arguments are seen by other users of the machine.

Not handled here: the link (``pair_link``), files (``pairing``).
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click

from edgistry.adapters.clock import wall_us
from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.adapters.http import run as run_loop
from edgistry.adapters.secret_files import read_secret, write_secret
from edgistry.codec import Document
from edgistry.errors import AlreadyPairedError, FileError, NotPairedError, Refused
from edgistry.pairing import (
    CODE_PREFIX,
    MAX_ANSWER_BYTES,
    PairingAnswer,
    PairingOffer,
    decode_answer,
    encode_offer,
    parse_code,
)
from edgistry.position import SEED_BYTES

from .config import AgentConfig
from .directory import (
    AgentDirectory,
    hold,
    hold_whereabouts,
    open_directory,
    read_device_id,
    read_device_secret,
    read_epoch,
    read_manifest,
    write_epoch,
)
from .offer import offer_of
from .pair_link import ask_to_leave, ask_to_pair
from .pairing import (
    ROLES,
    Pairing,
    Role,
    forget_pairing,
    pairing_of,
    read_pairing,
    read_pairings,
    write_pairing,
)
from .whereabouts import current_whereabouts

TIMEOUT_S = 30.0
LEAVE_TIMEOUT_S = 10.0

fallback_option = option(
    "--fallback", "is_fallback", env="EDGISTRY_FALLBACK", is_flag=True,
    help="The node to ask while the primary one does not answer; it lists no services.",
)  # fmt: skip


class PairAnswer(Document):
    """A node that the device is paired with now."""

    device: str
    role: Role
    node: str
    """Name of the node."""
    url: str


class UnpairAnswer(Document):
    """What un-pairing did."""

    device: str
    epoch: int
    """Of the device's key, from now on."""
    told: tuple[str, ...]
    """Names of the nodes that know, or knew it before."""
    not_told: tuple[str, ...]
    """Names of the nodes that could not be told, or their roles if what is kept is damaged."""


@click.command("pair")
@directory_argument
@option(
    "--node", "url", env="EDGISTRY_NODE", metavar="URL", required=True,
    help="The node's HTTP API, as the device reaches it.",
)  # fmt: skip
@option(
    "--code", env="EDGISTRY_CODE", metavar="CODE",
    help="What `edgistry-node pair-code` printed; - reads it from standard input.",
)  # fmt: skip
@option(
    "--answer", "answer_file", env="EDGISTRY_ANSWER", metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What `edgistry-node device import` wrote, instead of a code.",
)  # fmt: skip
@fallback_option
@json_option
def pair(
    directory: Path,
    url: str,
    code: str | None,
    answer_file: Path | None,
    is_fallback: bool,
    as_json: bool,
) -> None:
    """Pair the device in DIR with a node: it becomes the device's home.

    The device gives the node the key of its current epoch, and gets a capability to poll with. The
    node then creates what DIR/manifest.toml names on the device, and lists its services. After a
    change of the manifest pair again, with a new code of the same node.

    Without a network to the node see `edgistry-agent pairing-file`.
    """
    if (code is None) == (answer_file is None):
        raise click.UsageError("give either --code or --answer")
    layout, config = open_directory(directory)
    role: Role = "fallback" if is_fallback else "primary"
    with hold(layout), hold_whereabouts(layout):
        if answer_file is not None:
            pairing = _from_file(layout, answer_file, url=url, role=role)
        else:
            pairing = _from_code(layout, config, code or "", url=url, role=role)
        write_pairing(layout.root, pairing)
    answer = pairing.answer
    if as_json:
        print_json(PairAnswer(device=answer.device, role=role, node=answer.node_name, url=url))
    else:
        click.echo(f"paired with {answer.node_name}; run it: edgistry-agent run {directory}")


@click.command("pairing-file")
@directory_argument
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@fallback_option
@json_option
def pairing_file(directory: Path, file: Path, is_fallback: bool, as_json: bool) -> None:
    """Write to FILE what the device in DIR would tell a node, to carry it there.

    At the node: edgistry-node device import NODE_DIR FILE --out ANSWER. Then here: edgistry-agent
    pair DIR --node URL --answer ANSWER. FILE is a secret: who has it can command the device.
    """
    layout, config = open_directory(directory)
    with hold_whereabouts(layout):
        offer = _offer(layout, config, "fallback" if is_fallback else "primary")
        write_secret(file, encode_offer(offer), force=False)
    if as_json:
        print_json({"device": offer.device, "file": str(file)})
    else:
        click.echo(f"carry {file} to the node: edgistry-node device import NODE_DIR {file}")


@click.command("unpair")
@directory_argument
@json_option
def unpair(directory: Path, as_json: bool) -> None:
    """Part the device in DIR from all its nodes.

    Its key enters a new epoch: whatever was signed with the old one, by nodes or for clients, is
    void. A node that does not answer is not told; revoke the device there.
    """
    layout, _ = open_directory(directory)
    with hold(layout):
        epoch = read_epoch(layout)
        pairings, damaged = _kept(layout)
        write_epoch(layout, epoch + 1)
        told = [each for each in pairings if _leave(each)]
        for role in ROLES:
            forget_pairing(layout.root, role)
    answer = UnpairAnswer(
        device=read_device_id(layout),
        epoch=epoch + 1,
        told=tuple(each.answer.node_name for each in told),
        not_told=(
            *(each.answer.node_name for each in pairings if each not in told),
            *(f"the {role} node" for role in damaged),
        ),
    )
    if as_json:
        print_json(answer)
        return
    click.echo(f"epoch {answer.epoch}: everything signed before is void")
    for name in answer.not_told:
        tell(f"{name} could not be told: edgistry-node device revoke NODE_DIR {answer.device}")
    if not pairings and not damaged:
        tell("the device was not paired with a node")


def _kept(layout: AgentDirectory) -> tuple[list[Pairing], list[Role]]:
    """The pairings that are kept, of whatever epoch, and the roles of those that are damaged."""
    found: list[Pairing] = []
    damaged: list[Role] = []
    for role in ROLES:
        try:
            pairing = read_pairing(layout.root, role, epoch=None)
        except FileError as error:
            tell(error.detail)
            damaged.append(role)
        else:
            found += [] if pairing is None else [pairing]
    return found, damaged


def _leave(pairing: Pairing) -> bool:
    try:
        run_loop(ask_to_leave(pairing, now_us=wall_us(), timeout_s=LEAVE_TIMEOUT_S))
    except NotPairedError as error:
        tell(f"{pairing.answer.node_name}: {error.detail}")
    except Refused as error:
        tell(f"{pairing.answer.node_name}: {error.detail}")
        return False
    return True


def _offer(layout: AgentDirectory, config: AgentConfig, role: Role) -> PairingOffer:
    manifest = read_manifest(layout)
    seed = secrets.token_bytes(SEED_BYTES)
    return offer_of(
        manifest,
        current_whereabouts(layout.whereabouts_file, manifest, seed=seed),
        period_s=config.cycle.period_s,
        device=read_device_id(layout),
        secret=read_device_secret(layout),
        epoch=read_epoch(layout),
        role=role,
    )


def _from_code(
    layout: AgentDirectory, config: AgentConfig, text: str, *, url: str, role: Role
) -> Pairing:
    if text == "-":
        text = sys.stdin.readline(len(CODE_PREFIX) + 256)
    code = parse_code(text)
    _check_no_other_node(layout, role, code.node_key)
    offer = _offer(layout, config, role)
    answer = run_loop(ask_to_pair(offer, url=url, code=code, timeout_s=TIMEOUT_S))
    return _pairing(layout, answer, url=url, role=role, node_key=code.node_key)


def _from_file(layout: AgentDirectory, file: Path, *, url: str, role: Role) -> Pairing:
    answer = decode_answer(read_secret(file, limit=MAX_ANSWER_BYTES))
    _check_no_other_node(layout, role, answer.node_key)
    return _pairing(layout, answer, url=url, role=role, node_key=answer.node_key)


def _pairing(
    layout: AgentDirectory, answer: PairingAnswer, *, url: str, role: Role, node_key: bytes
) -> Pairing:
    return pairing_of(
        answer,
        role=role,
        url=url,
        device=read_device_id(layout),
        epoch=read_epoch(layout),
        node_key=node_key,
    )


def _check_no_other_node(layout: AgentDirectory, role: Role, node_key: bytes) -> None:
    """Refuse to hand the key of this epoch to one more node in place of another that has it."""
    for known in read_pairings(layout.root, epoch=read_epoch(layout)):
        if (known.role == role) != (known.answer.node_key == node_key):
            raise AlreadyPairedError(
                f"{known.answer.node_name} is the device's {known.role} node, and has its key;"
                " `edgistry-agent unpair` parts them"
            )
