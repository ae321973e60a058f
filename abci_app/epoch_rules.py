"""What the chain lets members do with the keys of privacy epochs.

Rules kept here (privacy.md, *Who answers*):

* A member asks for the key of the current epoch or the next one by publishing an X25519 key, for
  itself alone. Asking again for the current epoch takes back what was sealed to it.
* An epoch begins with a key that is sealed to members that asked, and only when the one before is
  over: it has lasted its time, or there is none, or its key is known to somebody who is a member
  no more, or it is abandoned: a minute after it began, more than two thirds of the members have
  asked for its key and have none (nobody who has it answers, or nobody has it).
* Any member may give the current key to members that asked and have none; all of a batch or none.
* The state has the current epoch, the one before and what is asked for the next. Older ones are
  deleted: nothing that was sealed is readable for longer than its reader keeps the private key.

Pure, consensus code. Not handled here: whether a key was sealed well, which nobody but its reader
can tell (it publishes again), who is to make a key and when (``epochs``), and secrets altogether.
"""

from __future__ import annotations

from edgistry.codec import replace
from edgistry.errors import (
    DuplicateError,
    EpochNotDueError,
    InvalidValueError,
    NotAMemberError,
    PrivacyEpochError,
)
from edgistry.transactions import EpochKey, EpochShare, MemberKey, NodeId

from .block_state import Block, BlockState
from .schema import CURRENT_EPOCH_KEY, CurrentEpoch, StoredEpoch, epoch_key

ABANDONED_AFTER_US = 60_000_000
_TO_COME = StoredEpoch(since_us=0, check=b"", keys=(), sealed=())


def publish_key(state: BlockState, block: Block, node_id: NodeId, body: MemberKey) -> None:
    """Note the key that ``node_id`` wants the key of an epoch sealed to."""
    current = _current(state)
    if body.epoch not in (current, current + 1):
        raise PrivacyEpochError(f"a key for epoch {body.epoch}; the chain is in {current}")
    epoch = state.get(epoch_key(body.epoch), StoredEpoch) or _TO_COME
    keys = {node: key for node, key in epoch.keys if node in block.members}
    keys[node_id] = body.public
    sealed = tuple(each for each in epoch.sealed if each[0] != node_id)
    state.put(
        epoch_key(body.epoch), replace(epoch, keys=tuple(sorted(keys.items())), sealed=sealed)
    )


def begin_epoch(state: BlockState, block: Block, _: NodeId, body: EpochKey) -> None:
    """Begin the next epoch."""
    number = _current(state)
    if body.epoch != number + 1:
        raise PrivacyEpochError(f"epoch {body.epoch} cannot begin; the chain is in {number}")
    current = state.get(epoch_key(number), StoredEpoch) if number else None
    if current is not None and not is_over(
        current,
        members=block.members,
        epoch_us=block.parameters.epoch_us,
        now_us=block.now_us,
    ):
        raise EpochNotDueError(f"epoch {number} is not over yet")
    epoch = state.get(epoch_key(body.epoch), StoredEpoch) or _TO_COME
    _check_asked(epoch, block, body.sealed)
    state.put(
        epoch_key(body.epoch),
        replace(epoch, since_us=block.now_us, check=body.check, sealed=body.sealed),
    )
    state.put(CURRENT_EPOCH_KEY, CurrentEpoch(number=body.epoch))
    if number > 1:
        state.delete(epoch_key(number - 1))


def add_shares(state: BlockState, block: Block, _: NodeId, body: EpochShare) -> None:
    """Add what is sealed to members that have nothing yet."""
    number = _current(state)
    epoch = state.get(epoch_key(number), StoredEpoch) if number else None
    if epoch is None or body.epoch != number:
        raise PrivacyEpochError(f"shares of epoch {body.epoch}; the chain is in {number}")
    _check_asked(epoch, block, body.sealed)
    sealed = dict(epoch.sealed)
    for node, _sealed in body.sealed:
        if node in sealed:
            raise DuplicateError(f"node {node.hex()} has the key of epoch {number} already")
    sealed.update(body.sealed)
    state.put(epoch_key(number), replace(epoch, sealed=tuple(sorted(sealed.items()))))


def is_over(epoch: StoredEpoch, *, members: frozenset[NodeId], epoch_us: int, now_us: int) -> bool:
    """Whether the epoch after ``epoch``, the current one, may begin at block time ``now_us``."""
    lasted_us = now_us - epoch.since_us
    if lasted_us >= epoch_us:
        return True
    has_it = {node for node, _ in epoch.sealed}
    if not has_it <= members:
        return True
    lacking = sum(1 for node, _ in epoch.keys if node in members and node not in has_it)
    return 3 * lacking > 2 * len(members) and lasted_us >= ABANDONED_AFTER_US


def _check_asked(epoch: StoredEpoch, block: Block, sealed: tuple[tuple[bytes, bytes], ...]) -> None:
    asked = {node for node, _ in epoch.keys}
    for node, _ in sealed:
        if node not in block.members:
            raise NotAMemberError(f"an epoch key sealed to {node.hex()}, which is no member")
        if node not in asked:
            raise InvalidValueError(f"node {node.hex()} has published no key for that epoch")


def _current(state: BlockState) -> int:
    current = state.get(CURRENT_EPOCH_KEY, CurrentEpoch)
    return 0 if current is None else current.number
