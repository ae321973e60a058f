"""Changes of who the members of a chain are: the bodies of these transactions, and what is signed.

Rules kept here:

* A change that others decide about is signed by members one by one, each with its registry key:
  Ed25519 over ``b"edgistry member 1\\0"`` and the MessagePack array ``[chain id, kind, change,
  not_after_us, subject]``. ``subject`` is the new member, or the id of the one to be removed.
* ``change`` is the number of the change, one more than the chain has had: so what was signed is
  good once, for the members that signed it, and for nothing after any other change. Who leaves says
  it too: else what came too late, behind its removal, would take it out once it is in again.
* Node ids of those who signed ascend strictly.

Bytes in, values out. Not handled here: how many have to sign and what follows
(``abci_app.membership``), and the transaction around a body (``transactions``).
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated

from .codec import Meta, Wire, encode
from .errors import MalformedError

MEMBER_TAG = b"edgistry member 1\0"
JOIN_KIND, LEAVE_KIND, REMOVE_KIND = 8, 9, 10
MAX_POWER = 1000
DEFAULT_POWER = 10
MAX_SIGNATURES = 128

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NodeId = Annotated[bytes, Meta(min_length=20, max_length=20)]
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
_Change = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
_Time = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

Signatures = Annotated[tuple[tuple[_NodeId, _Signature], ...], Meta(max_length=MAX_SIGNATURES)]
"""(node id, its signature), node ids strictly ascending."""


class NewMember(Wire):
    """A node that is to be a member."""

    public_key: _Key
    """Ed25519: its registry key; its node id follows from it."""
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    validator_key: _Key
    """Ed25519: what its engine signs votes with."""
    peer_id: _NodeId
    """What its engine connects as."""
    power: Annotated[int, Meta(ge=1, le=MAX_POWER)]
    """Its voting power; that of the members of genesis is 10."""


class NodeJoin(Wire):
    """Take ``member`` in."""

    change: _Change
    not_after_us: _Time
    """Block time (µs) after which it is good no more."""
    member: NewMember
    signatures: Signatures


class NodeLeave(Wire):
    """The sender leaves."""

    change: _Change


class NodeRemove(Wire):
    """Remove the member ``node``."""

    change: _Change
    not_after_us: _Time
    node: _NodeId
    signatures: Signatures


SignedChange = NodeJoin | NodeRemove
"""What members decide about."""


def change_bytes(chain_id: str, change: SignedChange) -> bytes:
    """What the signatures of ``change`` cover, on the chain ``chain_id``."""
    if isinstance(change, NodeJoin):
        subject: object = change.member
        kind = JOIN_KIND
    else:
        subject, kind = change.node, REMOVE_KIND
    return MEMBER_TAG + encode((chain_id, kind, change.change, change.not_after_us, subject))


def check_change(change: SignedChange) -> None:
    """Raises ``MalformedError`` for a name that is none, or node ids that do not ascend."""
    if isinstance(change, NodeJoin) and not _NAME.fullmatch(change.member.name):
        raise MalformedError(f"member name {change.member.name!a}: use 1-64 of A-Z a-z 0-9 . _ -")
    signers = [node for node, _ in change.signatures]
    if any(left >= right for left, right in itertools.pairwise(signers)):
        raise MalformedError("node ids are not strictly ascending")
