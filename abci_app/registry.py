"""The registry's rules: what a block does to the replicated state.

Rules kept here (consensus.md, *Transactions* and *Time*):

* Everything comes in as an argument: committed state, block time, transactions. Records are
  visited in key order. The same blocks give the same state everywhere.
* A transaction must carry its node's next sequence. It then consumes it even when its body is
  refused; the refusal is remembered in the state with its error number (the last 16 of each
  node). A refused body changes nothing else: all of a batch is checked before any of it is done.
* Records and regions belong to the node that created them; regions of a former member to nobody. A
  record that moves does so when the next privacy epoch begins (``moves``).
* Lease time is block time without the outages: when a block comes more than the outage gap after
  the one before, all of the gap but one beat (10 s) is added to the replicated shift. A node's
  records are visible while its lease, counted in lease time, lives; publishing revives a lapsed
  one. Records are deleted when the lease has been dead for the deletion period, at most 512 a
  block, lowest node id and key first.

Pure. Not handled here: the keys of privacy epochs (``epoch_rules``), members (``membership``), who
signed (``signatures``), the hash (``merkle``), durability (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from edgistry.cell import check_cell, is_cell, resolution_of
from edgistry.errors import (
    BadSignatureError,
    DuplicateError,
    EpochNotDueError,
    InvalidValueError,
    MalformedError,
    MembershipError,
    NotAMemberError,
    NotOwnerError,
    PrivacyEpochError,
    Refused,
    TooFewSignaturesError,
    TooLargeError,
    WrongChainError,
    WrongSequenceError,
    WrongVersionError,
)
from edgistry.membership import NodeJoin, NodeLeave, NodeRemove
from edgistry.transactions import (
    EpochKey,
    EpochShare,
    MemberKey,
    NodeId,
    NodeLease,
    RegionPut,
    ServicesPut,
    ServicesWithdraw,
    Transaction,
    Verify,
    parse_body,
    unpack_cells,
)

from .block_state import Block, BlockState
from .epoch_rules import add_shares, begin_epoch, current_epoch, publish_key
from .membership import join, leave, remove, withdraw_former
from .moves import put_over
from .nesting import check_nesting, is_surely_shallow
from .schema import (
    BEAT_S,
    LEASE_CLOCK_KEY,
    MAX_REFUSED,
    PARAMETERS_KEY,
    ChainParameters,
    Lease,
    LeaseClock,
    Member,
    SequenceState,
    StoredRegion,
    StoredService,
    lease_key,
    member_key,
    region_key,
    sequence_key,
    service_key,
    stored_service,
)

MAX_DELETED = 512
"""Records deleted in one block: what one batch costs."""


REFUSALS = (
    BadSignatureError,
    DuplicateError,
    EpochNotDueError,
    InvalidValueError,
    MalformedError,
    MembershipError,
    NotAMemberError,
    NotOwnerError,
    PrivacyEpochError,
    TooFewSignaturesError,
    TooLargeError,
    WrongChainError,
    WrongSequenceError,
    WrongVersionError,
)
"""All that a transaction may be refused for. Anything else that is raised while a block is applied
(a damaged database, say) stops the node, although it may be a ``Refused`` elsewhere."""


def genesis(
    state: BlockState, parameters: ChainParameters, members: Mapping[NodeId, Member], time_us: int
) -> None:
    """Write the first state: parameters, members, and one lease period for each member.

    The lease spares a node that publishes before its first renewal from looking long dead.
    """
    state.put(PARAMETERS_KEY, parameters)
    state.put(LEASE_CLOCK_KEY, LeaseClock(shift_us=0))
    for node_id, member in members.items():
        state.put(member_key(node_id), member)
        state.put(lease_key(node_id), Lease(expires_us=time_us + parameters.lease_us))


def begin_block(
    state: BlockState,
    parameters: ChainParameters,
    members: Iterable[NodeId],
    *,
    previous_us: int,
    block_us: int,
    verify: Verify,
) -> Block:
    """Advance lease time to this block's and delete what has been dead for long.

    ``previous_us`` is the time of the block before (of genesis for the first), ``block_us`` of
    this one, both in microseconds.
    """
    shift_us = _advance_clock(state, parameters, previous_us=previous_us, block_us=block_us)
    block = Block(
        parameters=parameters,
        members=frozenset(members),
        now_us=block_us,
        lease_now_us=block_us - shift_us,
        verify=verify,
    )
    _delete_expired(state, block)
    return block


def execute(state: BlockState, block: Block, transaction: Transaction) -> Block:
    """Apply ``transaction``, whose chain, membership and signature have been checked.

    The block for the transactions after it: its members may be others.

    Raises:
        WrongSequenceError: not the next sequence; nothing has changed.
        MalformedError: the body nests too deep to be judged; nothing has changed.
        REFUSALS: the body was refused; the sequence is consumed and the refusal noted.
    """
    node_id = NodeId(transaction.node_id)
    sequences = sequence_of(state, node_id)
    check_sequence(transaction, last=sequences.last)
    refusal, after = _apply_body(state, block, node_id, transaction)
    refused = sequences.refused
    if refusal is not None:
        refused = (*refused, (transaction.sequence, refusal.number))[-MAX_REFUSED:]
    state.put(sequence_key(node_id), SequenceState(last=transaction.sequence, refused=refused))
    if refusal is not None:
        raise refusal
    return after


def sequence_of(state: BlockState, node_id: NodeId) -> SequenceState:
    """The sequence state of ``node_id``; one that never sent has consumed none."""
    return state.get(sequence_key(node_id), SequenceState) or SequenceState(last=0)


def check_sequence(transaction: Transaction, *, last: int) -> None:
    """Raises ``WrongSequenceError`` unless ``transaction`` carries the sequence after ``last``."""
    if transaction.sequence != last + 1:
        raise WrongSequenceError(
            f"sequence {transaction.sequence} where {last + 1} is next",
            expected=last + 1,
            got=transaction.sequence,
        )


def check_depth(transaction: Transaction) -> None:
    """Raises ``MalformedError`` when the body nests too deep to be judged."""
    if is_surely_shallow(bytes(transaction.body)):
        return
    try:
        parse_body(transaction)
    except MalformedError:
        # What parsed is shallow; only what did not can be too deep, so only that is measured.
        check_nesting(bytes(transaction.body))


def _apply_body(
    state: BlockState, block: Block, node_id: NodeId, transaction: Transaction
) -> tuple[Refused | None, Block]:
    try:
        body = parse_body(transaction)
    except MalformedError as error:
        # What parsed is shallow; only what did not can be too deep, so only that is measured.
        check_nesting(bytes(transaction.body))
        return error, block
    try:
        after = _RULES[type(body)](state, block, node_id, body)
    except REFUSALS as error:
        return error, block
    return None, after or block


def _renew_lease(state: BlockState, block: Block, node_id: NodeId, _: NodeLease) -> None:
    expires_us = block.lease_now_us + block.parameters.lease_us
    state.put(lease_key(node_id), Lease(expires_us=expires_us))


def _put_services(state: BlockState, block: Block, node_id: NodeId, body: ServicesPut) -> None:
    records = {service_key(record.key): record for record in body.records}
    if len(records) < len(body.records):
        raise DuplicateError("a record key stands twice in one batch")
    epoch = current_epoch(state).number
    new: list[bytes] = []
    for key, record in records.items():
        check_cell(record.cell)
        old = state.get(key, StoredService)
        if old is None:
            new.append(record.key)
        elif old.home != node_id:
            raise NotOwnerError(f"record {record.key.hex()} belongs to another node")
    for key, record in records.items():
        old = state.get(key, StoredService)
        state.put(key, put_over(old, stored_service(node_id, record), epoch=epoch))
    for record_key in new:
        state.add_home(node_id, record_key)
    lease = state.get(lease_key(node_id), Lease)
    if lease is None or lease.expires_us <= block.lease_now_us:
        _renew_lease(state, block, node_id, NodeLease())


def _withdraw_services(
    state: BlockState, block: Block, node_id: NodeId, body: ServicesWithdraw
) -> None:
    if len(set(body.keys)) < len(body.keys):
        raise DuplicateError("a record key stands twice in one batch")
    found: list[bytes] = []
    for key in body.keys:
        service = state.get(service_key(key), StoredService)
        # Gone already is what the sender wants: age may have deleted it on the way.
        if service is None:
            continue
        if service.home != node_id:
            raise NotOwnerError(f"record {key.hex()} belongs to another node")
        found.append(key)
    for key in found:
        _delete_service(state, node_id, key)


def _put_region(state: BlockState, block: Block, node_id: NodeId, body: RegionPut) -> None:
    old = state.get(region_key(body.name), StoredRegion)
    # What a former member has named could be changed by nobody.
    if old is not None and old.owner != node_id and old.owner in block.members:
        raise NotOwnerError(f"region {body.name!r} belongs to another node")
    expected = 1 if old is None else old.version + 1
    if body.version != expected:
        raise WrongVersionError(
            f"region {body.name!r} version {body.version} where {expected} is next"
        )
    for cell in unpack_cells(body.cells):
        if not is_cell(cell):
            raise InvalidValueError(f"region {body.name!r}: {cell:x} is not an H3 cell")
        if resolution_of(cell) > _FINEST_REGION_CELL:
            raise InvalidValueError(f"region {body.name!r}: cell {cell:x} is finer than 7")
    state.put(
        region_key(body.name), StoredRegion(owner=node_id, version=body.version, cells=body.cells)
    )


_FINEST_REGION_CELL = 7

_RULES: dict[type, Callable[[BlockState, Block, NodeId, Any], Block | None]] = {
    NodeLease: _renew_lease,
    ServicesPut: _put_services,
    ServicesWithdraw: _withdraw_services,
    RegionPut: _put_region,
    MemberKey: publish_key,
    EpochKey: begin_epoch,
    EpochShare: add_shares,
    NodeJoin: join,
    NodeLeave: leave,
    NodeRemove: remove,
}


def _delete_service(state: BlockState, node_id: NodeId, key: bytes) -> None:
    state.delete(service_key(key))
    state.drop_home(node_id, key)


def _advance_clock(
    state: BlockState, parameters: ChainParameters, *, previous_us: int, block_us: int
) -> int:
    clock = state.get(LEASE_CLOCK_KEY, LeaseClock) or LeaseClock(shift_us=0)
    gap_us = block_us - previous_us
    if gap_us <= parameters.outage_gap_us:
        return clock.shift_us
    shift_us = clock.shift_us + gap_us - BEAT_S * 1_000_000
    state.put(LEASE_CLOCK_KEY, LeaseClock(shift_us=shift_us))
    return shift_us


def _delete_expired(state: BlockState, block: Block) -> None:
    left = MAX_DELETED - withdraw_former(state, MAX_DELETED)
    if not left:
        return
    for node_id in sorted(block.members):
        lease = state.get(lease_key(node_id), Lease)
        dead_since_us = 0 if lease is None else lease.expires_us
        if block.lease_now_us - dead_since_us <= block.parameters.delete_after_us:
            continue
        for key in list(islice(state.committed_keys_of(node_id), left)):
            _delete_service(state, node_id, key)
            left -= 1
        if not left:
            return
