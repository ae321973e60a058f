"""Files that operators pass on to change who the members of a chain are.

Three of them, JSON: an *invitation*, with which a new node's directory is made; the *card* of that
node, public; and a *proposal*, which members sign one after the other, each on its own machine.

Rules kept here: pure; strict. A file holds nothing secret. Not handled here: what is signed
(``edgistry.membership``), and the commands (``cli_member``).
"""

from __future__ import annotations

from typing import Annotated

from edgistry.codec import Document, Meta, replace
from edgistry.errors import InvalidValueError
from edgistry.membership import (
    DEFAULT_POWER,
    MAX_POWER,
    MAX_SIGNATURES,
    NewMember,
    NodeJoin,
    NodeRemove,
    SignedChange,
    change_bytes,
    check_change,
)
from edgistry.transactions import NodeId, Sign, node_id_of

MAX_FILE_BYTES = 2_000_000

Hex20 = Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Meta(pattern="^[0-9a-f]{128}$")]
Moment = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Invitation(Document):
    """What a new node has to know of a running chain."""

    genesis: str
    """``genesis.json``, as it is."""
    peers: tuple[str, ...]
    """For [peers] members: ID@HOST:PORT of each node's engine."""
    links: tuple[str, ...]
    """For [link] peers: ID@HOST:PORT of each node's link."""


class MemberCard(Document):
    """A node that wants to be a member of ``chain_id``."""

    chain_id: str
    name: str
    public_key: Hex32
    validator_key: Hex32
    peer_id: Hex20
    link: str = ""
    """For the other nodes' [link] peers: ID@HOST:PORT; for people, it is not signed."""
    power: Annotated[int, Meta(ge=1, le=MAX_POWER)] = DEFAULT_POWER


class Proposal(Document):
    """A change of the members: one ``joins``, or the node with that id is removed."""

    chain_id: str
    change: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    not_after_us: Moment
    signatures: Annotated[dict[Hex20, Hex64], Meta(max_length=MAX_SIGNATURES)]
    """By node id."""
    joins: MemberCard | None = None
    removes: Hex20 | None = None


def body_of_proposal(proposal: Proposal) -> SignedChange:
    """The body of the transaction that carries ``proposal``.

    Raises:
        InvalidValueError: it proposes nothing, or two things, or a node for another chain.
        MalformedError: a name that is none.
    """
    signatures = tuple(
        sorted(
            (bytes.fromhex(node), bytes.fromhex(signature))
            for node, signature in proposal.signatures.items()
        )
    )
    card, removed = proposal.joins, proposal.removes
    if (card is None) == (removed is None):
        raise InvalidValueError("a proposal takes one node in, or removes one")
    change: SignedChange
    if card is not None:
        if card.chain_id != proposal.chain_id:
            raise InvalidValueError(
                f"the node is made for {card.chain_id!r}, the proposal for {proposal.chain_id!r}"
            )
        change = NodeJoin(
            change=proposal.change,
            not_after_us=proposal.not_after_us,
            member=NewMember(
                public_key=bytes.fromhex(card.public_key),
                name=card.name,
                validator_key=bytes.fromhex(card.validator_key),
                peer_id=bytes.fromhex(card.peer_id),
                power=card.power,
            ),
            signatures=signatures,
        )
    else:
        change = NodeRemove(
            change=proposal.change,
            not_after_us=proposal.not_after_us,
            node=bytes.fromhex(removed or ""),
            signatures=signatures,
        )
    check_change(change)
    return change


def sign_proposal(proposal: Proposal, node_id: NodeId, sign: Sign) -> Proposal:
    """``proposal`` with the signature of the node ``node_id`` as well. Raises as above."""
    message = change_bytes(proposal.chain_id, body_of_proposal(proposal))
    signatures = {**proposal.signatures, node_id.hex(): sign(message).hex()}
    return replace(proposal, signatures=dict(sorted(signatures.items())))


def subject_of(proposal: Proposal) -> str:
    """What a person signs, in a line. Raises as ``body_of_proposal``."""
    change = body_of_proposal(proposal)
    if isinstance(change, NodeJoin):
        node = node_id_of(change.member.public_key)
        return f"take in {change.member.name}, node {node.hex()}, power {change.member.power}"
    return f"remove node {change.node.hex()}"
