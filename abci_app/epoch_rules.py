"""What the chain lets members do with the keys of privacy epochs.

Rules kept here (privacy.md, *Who answers*):

* A member asks for the key of the current epoch or the next one by publishing an X25519 key, for
  itself alone. Asking again for the current epoch takes back what was sealed to it; that it was
  given something once stays on record.
* An epoch begins with a key that is sealed to members that asked, and only when the one before is
  over: it has lasted its time; or one who ever had its key is a member no more, and its maker has
  it, whether sealed to itself or not; or it is given up: a minute after it began, more than two
  thirds of the members have asked for its key and have none, or took back what they were given.
  The first epoch is due when the first member asks.
* Members begin epochs by turns (``turns``), 20 s of block time apart, counted from when the one
  before was over. Whose epoch was given up comes last from then on, until others have done so too,
  or an epoch of its own was not given up.
* One who has or had the current key may give it to members that asked and have none, by turns that
  are counted from when they asked; all of a batch or none.
* The state has the current epoch, the one before, the last one before that was not given up, and
  what is asked for the next. Others are deleted: nothing that was sealed is readable for longer
  than its reader keeps the private key.

Pure, consensus code. Not handled here: whether a key was sealed well, which nobody but its reader
can tell (it publishes again), when to make one within one's turn (``epochs``), and secrets.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgistry.codec import replace
from edgistry.errors import (
    DuplicateError,
    EpochNotDueError,
    InvalidValueError,
    NotAMemberError,
    PrivacyEpochError,
)
from edgistry.transactions import EpochKey, EpochShare, MemberKey, NodeId

from . import turns
from .block_state import Block, BlockState
from .schema import CURRENT_EPOCH_KEY, NO_EPOCH, CurrentEpoch, StoredEpoch, epoch_key
from .turns import TURN_US

GIVEN_UP_AFTER_US = 60_000_000


def current_epoch(state: BlockState) -> CurrentEpoch:
    """What the chain says of its privacy epochs now."""
    return state.get(CURRENT_EPOCH_KEY, CurrentEpoch) or NO_EPOCH


def publish_key(state: BlockState, block: Block, node_id: NodeId, body: MemberKey) -> None:
    """Note the key that ``node_id`` wants the key of an epoch sealed to."""
    number = current_epoch(state).number
    if body.epoch not in (number, number + 1):
        raise PrivacyEpochError(f"a key for epoch {body.epoch}; the chain is in {number}")
    epoch = state.get(epoch_key(body.epoch), StoredEpoch) or _to_come(block)
    keys = {node: key for node, key in epoch.keys if node in block.members}
    keys[node_id] = body.public
    epoch = replace(epoch, keys=tuple(sorted(keys.items())))
    if body.epoch == number:
        epoch = _judged(_asked_late(epoch, block, node_id), block)
    state.put(epoch_key(body.epoch), epoch)


def begin_epoch(state: BlockState, block: Block, node_id: NodeId, body: EpochKey) -> None:
    """Begin the next epoch."""
    chain = current_epoch(state)
    number = chain.number
    if body.epoch != number + 1:
        raise PrivacyEpochError(f"epoch {body.epoch} cannot begin; the chain is in {number}")
    current = state.get(epoch_key(number), StoredEpoch) if number else None
    coming = state.get(epoch_key(body.epoch), StoredEpoch) or _to_come(block)
    due_us = due_at_us(current, coming, epoch_us=block.parameters.epoch_us)
    if block.now_us < due_us:
        raise EpochNotDueError(f"epoch {number} is not over yet")
    order = makers_after(
        current,
        number,
        members=block.members,
        chain_id=block.parameters.chain_id,
        given_up=chain.given_up,
    )
    rank = order.index(node_id)
    if block.now_us < due_us + rank * TURN_US:
        raise EpochNotDueError(f"{rank} members come before this one in beginning {body.epoch}")
    _check_asked(coming, block, body.sealed)
    begun = replace(
        coming, since_us=block.now_us, check=body.check, sealed=body.sealed, maker=node_id
    )
    # A key that is sealed to hardly anybody: who has asked and was given nothing asks no more.
    state.put(epoch_key(body.epoch), _judged(begun, block))
    after = _after(chain, current, block)
    state.put(CURRENT_EPOCH_KEY, after)
    for old in sorted({number - 1, chain.good} - {after.good}):
        if old > 0:
            state.delete(epoch_key(old))


def add_shares(state: BlockState, block: Block, node_id: NodeId, body: EpochShare) -> None:
    """Add what is sealed to members that have nothing yet."""
    number = current_epoch(state).number
    epoch = state.get(epoch_key(number), StoredEpoch) if number else None
    if epoch is None or body.epoch != number:
        raise PrivacyEpochError(f"shares of epoch {body.epoch}; the chain is in {number}")
    _check_asked(epoch, block, body.sealed)
    sealed = dict(epoch.sealed)
    for node, _sealed in body.sealed:
        if node in sealed:
            raise DuplicateError(f"node {node.hex()} has the key of epoch {number} already")
        from_us = gives_from_us(epoch, node_id, node, members=block.members)
        if from_us is None:
            raise PrivacyEpochError(f"shares of epoch {number} from one who was given no key of it")
        if block.now_us < from_us:
            raise EpochNotDueError(f"others come before this one in giving to {node.hex()}")
    sealed.update(body.sealed)
    epoch = replace(epoch, sealed=tuple(sorted(sealed.items())))
    state.put(epoch_key(number), _judged(epoch, block))


def look_at_members(state: BlockState, block: Block) -> None:
    """Note whether the current epoch is over, now that ``block`` has other members."""
    number = current_epoch(state).number
    epoch = state.get(epoch_key(number), StoredEpoch) if number else None
    if epoch is not None:
        state.put(epoch_key(number), _judged(epoch, block))


def due_at_us(current: StoredEpoch | None, coming: StoredEpoch, *, epoch_us: int) -> int:
    """Block time (µs) from which the epoch ``coming`` may begin, after ``current``.

    It may still become earlier, or later again.
    """
    if current is None:
        return coming.since_us
    due_us = current.since_us + epoch_us
    return min(due_us, current.over_us) if current.over_us else due_us


def makers_after(
    current: StoredEpoch | None,
    number: int,
    *,
    members: frozenset[NodeId],
    chain_id: str,
    given_up: Iterable[tuple[bytes, int]],
) -> list[bytes]:
    """``members`` in the order in which they may begin the epoch after ``number``, the current one.

    ``given_up`` is what the chain says of epochs before it.
    """
    found = dict(given_up)
    if current is not None and is_given_up(current, members):
        found[current.maker] = number
    return turns.makers(members, chain_id=chain_id, epoch=number + 1, given_up=found)


def gives_from_us(
    epoch: StoredEpoch, giver: NodeId, node: bytes, *, members: frozenset[NodeId]
) -> int | None:
    """Block time (µs) from which ``giver`` may give the key of ``epoch``, the current one.

    ``node`` has published a key for it. ``None``: the giver was never given it.
    """
    others = members - {node}
    having = others.intersection((epoch.maker, *dict(epoch.sealed)))
    once_having = others.intersection(epoch.took_back)
    order = turns.givers(having, once_having, public=dict(epoch.keys)[node])
    if giver not in order:
        return None
    asked_us = dict(epoch.late).get(node, epoch.since_us)
    return asked_us + order.index(giver) * TURN_US


def holders(epoch: StoredEpoch) -> frozenset[bytes]:
    """Who is known to have the key of ``epoch``, which has begun, or to have had it once."""
    return frozenset((epoch.maker, *dict(epoch.sealed), *epoch.took_back))


def is_given_up(epoch: StoredEpoch, members: frozenset[NodeId]) -> bool:
    """Whether more than two thirds of ``members`` say that they have no key of ``epoch``."""
    lacking = {node for node, _ in epoch.keys} - {node for node, _ in epoch.sealed}
    lacking.update(epoch.took_back)
    return 3 * len(lacking.intersection(members)) > 2 * len(members)


def _judged(epoch: StoredEpoch, block: Block) -> StoredEpoch:
    """``epoch``, the current one, with the time from which it is over before its time."""
    since_us: list[int] = []
    if not holders(epoch) <= block.members:
        since_us.append(block.now_us)
    if is_given_up(epoch, block.members):
        since_us.append(max(block.now_us, epoch.since_us + GIVEN_UP_AFTER_US))
    if since_us and epoch.over_us:
        since_us.append(epoch.over_us)
    return replace(epoch, over_us=min(since_us, default=0))


def _asked_late(epoch: StoredEpoch, block: Block, node_id: NodeId) -> StoredEpoch:
    late = {node: asked_us for node, asked_us in epoch.late if node in block.members}
    late[node_id] = block.now_us
    sealed = dict(epoch.sealed)
    took_back = set(epoch.took_back)
    if sealed.pop(node_id, None) is not None:
        took_back.add(node_id)
    return replace(
        epoch,
        sealed=tuple(sorted(sealed.items())),
        late=tuple(sorted(late.items())),
        took_back=tuple(sorted(took_back)),
    )


def _after(chain: CurrentEpoch, current: StoredEpoch | None, block: Block) -> CurrentEpoch:
    """What the chain says of its epochs once the one after ``current`` has begun."""
    if current is None:
        return CurrentEpoch(number=1, good=0)
    given_up = {node: epoch for node, epoch in chain.given_up if node in block.members}
    good = chain.good
    maker = NodeId(current.maker)
    if not is_given_up(current, block.members):
        good = chain.number
        given_up.pop(maker, None)
    elif maker in block.members:
        given_up[maker] = chain.number
    return CurrentEpoch(
        number=chain.number + 1, good=good, given_up=tuple(sorted(given_up.items()))
    )


def _check_asked(epoch: StoredEpoch, block: Block, sealed: Iterable[tuple[bytes, bytes]]) -> None:
    asked = {node for node, _ in epoch.keys}
    for node, _ in sealed:
        if node not in block.members:
            raise NotAMemberError(f"an epoch key sealed to {node.hex()}, which is no member")
        if node not in asked:
            raise InvalidValueError(f"node {node.hex()} has published no key for that epoch")


def _to_come(block: Block) -> StoredEpoch:
    return StoredEpoch(since_us=block.now_us, check=b"", keys=(), sealed=())
