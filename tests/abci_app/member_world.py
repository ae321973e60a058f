"""Changes of members, signed by those who decide about them."""

from __future__ import annotations

from typing import TypeVar

from edgistry.adapters import crypto
from edgistry.codec import replace
from edgistry.membership import NewMember, NodeJoin, NodeRemove, change_bytes

from .chain_world import CHAIN, SECOND, START_US, Node

Change = TypeVar("Change", NodeJoin, NodeRemove)
LATER_US = START_US + 3600 * SECOND


def card(node: Node, power: int = 10) -> NewMember:
    return NewMember(
        public_key=node.public_key,
        name=node.name,
        validator_key=node.validator_key,
        peer_id=node.peer_id,
        power=power,
    )


def signed(change: Change, *signers: Node, chain_id: str = CHAIN) -> Change:
    message = change_bytes(chain_id, change)
    found = sorted((node.id, crypto.sign(node.seed, message)) for node in signers)
    return replace(change, signatures=tuple(found))


def joins(
    node: Node, *signers: Node, change: int = 1, not_after_us: int = LATER_US, power: int = 10
) -> NodeJoin:
    body = NodeJoin(
        change=change, not_after_us=not_after_us, member=card(node, power), signatures=()
    )
    return signed(body, *signers)


def removes(
    node: Node, *signers: Node, change: int = 1, not_after_us: int = LATER_US
) -> NodeRemove:
    body = NodeRemove(change=change, not_after_us=not_after_us, node=node.id, signatures=())
    return signed(body, *signers)
