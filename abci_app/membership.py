"""Who the members of the chain are, while it runs: they are taken in, they leave, are removed.

Rules kept here (consensus.md, *Transactions*, and *ABCI server rules*, 10):

* More than two thirds of the members take a node in, each with its signature; more than two thirds
  of the others remove one; anyone leaves by itself. What was signed is good once: it has the number
  of the change, and a time after which it is good no more.
* Keys, peer ids and names are each one member's. A chain keeps at least one member, and one that
  votes.
* A change acts at once: what a member sends behind its removal, in the same block, is refused. The
  engine is told of validators whose power is another after the block than before it.
* Who is a member no more has no lease, so its records are hidden; they are deleted at most 512 a
  block. Until they are it cannot come back. Its sequence stays, so that nothing that was taken
  is good again. An epoch whose key it had is over.

Pure, consensus code; ``Block.verify`` does the arithmetic. Not handled here: what is signed
(``edgistry.membership``), epochs (``epoch_rules``), whom the engine lets in (``queries``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_changes
from itertools import islice

from edgistry.codec import Wire, replace
from edgistry.errors import (
    BadSignatureError,
    DuplicateError,
    MembershipError,
    NotAMemberError,
    TooFewSignaturesError,
)
from edgistry.membership import NewMember, NodeJoin, NodeLeave, NodeRemove, change_bytes
from edgistry.transactions import MAX_MEMBERS, NodeId, node_id_of

from .block_state import Block, BlockState
from .epoch_rules import look_at_members
from .schema import (
    MEMBERS,
    ROLL_KEY,
    Former,
    Lease,
    Member,
    Roll,
    former_key,
    lease_key,
    member_key,
    service_key,
    unpack,
)


def join(state: BlockState, block: Block, _: NodeId, body: NodeJoin) -> Block:
    """Take a node in; the block for what follows."""
    node_id = node_id_of(body.member.public_key)
    if len(block.members) >= MAX_MEMBERS:
        raise MembershipError(f"a chain has at most {MAX_MEMBERS} members")
    _check_new(state, block, node_id, body.member)
    _check_signed(state, block, body, block.members)
    state.delete(former_key(node_id))
    state.put(
        member_key(node_id),
        Member(
            public_key=body.member.public_key,
            name=body.member.name,
            validator_key=body.member.validator_key,
            peer_id=body.member.peer_id,
            power=body.member.power,
        ),
    )
    expires_us = block.lease_now_us + block.parameters.lease_us
    state.put(lease_key(node_id), Lease(expires_us=expires_us))
    return _changed(state, block, block.members | {node_id})


def leave(state: BlockState, block: Block, node_id: NodeId, body: NodeLeave) -> Block:
    """The sender is a member no more; the block for what follows."""
    _check_next(state, body.change)
    return _take_out(state, block, node_id)


def remove(state: BlockState, block: Block, _: NodeId, body: NodeRemove) -> Block:
    """A node is a member no more; the block for what follows."""
    node_id = NodeId(body.node)
    if node_id not in block.members:
        raise NotAMemberError(f"node {node_id.hex()} is no member")
    _check_signed(state, block, body, block.members - {node_id})
    return _take_out(state, block, node_id)


def withdraw_former(state: BlockState, limit: int) -> int:
    """Delete up to ``limit`` records of those who are members no more; how many there were."""
    done = 0
    for node_id in state.committed_former():
        former = state.get(former_key(node_id), Former)
        if former is None or not former.withdrawing:
            continue
        for key in list(islice(state.committed_keys_of(node_id), limit - done)):
            state.delete(service_key(key))
            state.drop_home(node_id, key)
            done += 1
        if done == limit:
            break
        state.put(former_key(node_id), replace(former, withdrawing=False))
    return done


def validator_updates(
    before: Mapping[bytes, bytes | None], values: Mapping[bytes, Wire | None]
) -> tuple[tuple[bytes, int], ...]:
    """(validator key, power) of those whose power a block changed, keys ascending; 0: none left.

    ``before`` and ``values`` are those of ``BlockChanges``.
    """
    was: dict[bytes, int] = {}
    now: dict[bytes, int] = {}
    for key, data in before.items():
        if not key.startswith(MEMBERS):
            continue
        after = values[key]
        for powers, member in (
            (was, None if data is None else unpack(data, Member)),
            (now, after if isinstance(after, Member) else None),
        ):
            if member is not None and member.power:
                powers[member.validator_key] = member.power
    changed = (key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    return tuple((key, now.get(key, 0)) for key in sorted(changed))


def _take_out(state: BlockState, block: Block, node_id: NodeId) -> Block:
    left = block.members - {node_id}
    if not left:
        raise MembershipError("the last member of a chain stays")
    member = _member(state, node_id)
    if member.power and not any(_member(state, each).power for each in sorted(left)):
        raise MembershipError("the last member that votes stays")
    state.delete(member_key(node_id))
    state.delete(lease_key(node_id))
    state.put(
        former_key(node_id),
        Former(left_us=block.now_us, peer_id=member.peer_id, withdrawing=True),
    )
    return _changed(state, block, left)


def _changed(state: BlockState, block: Block, members: frozenset[NodeId]) -> Block:
    state.put(ROLL_KEY, Roll(changes=_changes(state) + 1))
    after = with_changes(block, members=members)
    look_at_members(state, after)
    return after


def _check_new(state: BlockState, block: Block, node_id: NodeId, new: NewMember) -> None:
    if node_id in block.members:
        raise DuplicateError(f"node {node_id.hex()} is a member already")
    former = state.get(former_key(node_id), Former)
    if former is not None and former.withdrawing:
        raise MembershipError(f"the records of node {node_id.hex()} are still being deleted")
    for each in sorted(block.members):
        member = _member(state, each)
        for what, taken, wanted in (
            ("name", member.name, new.name),
            ("validator key", member.validator_key, new.validator_key),
            ("peer id", member.peer_id, new.peer_id),
        ):
            if taken == wanted:
                raise DuplicateError(f"member {member.name} has that {what}")


def _check_signed(
    state: BlockState, block: Block, body: NodeJoin | NodeRemove, voters: frozenset[NodeId]
) -> None:
    _check_next(state, body.change)
    if block.now_us > body.not_after_us:
        raise MembershipError("what was signed is good no more: its time is over")
    # Counted before anything is verified: too few cost no arithmetic.
    signed = [NodeId(node) for node, _ in body.signatures]
    for node in signed:
        if node not in voters:
            raise NotAMemberError(f"signed by {node.hex()}, which has no say in this")
    if 3 * len(signed) <= 2 * len(voters):
        raise TooFewSignaturesError(
            f"{len(signed)} of {len(voters)} members have signed; it takes more than two thirds"
        )
    message = change_bytes(block.parameters.chain_id, body)
    for signer, signature in body.signatures:
        if not block.verify(_member(state, NodeId(signer)).public_key, message, signature):
            raise BadSignatureError(f"the signature of node {signer.hex()} does not verify")


def _check_next(state: BlockState, change: int) -> None:
    number = _changes(state) + 1
    if change != number:
        raise MembershipError(f"signed as change {change} of the members; {number} is next")


def _member(state: BlockState, node_id: NodeId) -> Member:
    member = state.get(member_key(node_id), Member)
    if member is None:
        raise LookupError(f"node {node_id.hex()} is among the members without being one")
    return member


def _changes(state: BlockState) -> int:
    roll = state.get(ROLL_KEY, Roll)
    return 0 if roll is None else roll.changes
