"""What a node does next about the keys of privacy epochs: ask, open, make, give, forget.

Rules kept here (privacy.md, *Who answers*):

* A member asks for the next epoch's key as soon as an epoch has begun, and for the current one when
  it cannot open what it was given (its private key is lost, or the seal is another's or garbage);
  each time with a new key, and ever more slowly, so that a member that gives garbage wastes little.
* When an epoch is over, members make the next key by the turns that the chain gives them; who comes
  next steps in 20 s later, counted from when it noticed. It waits until all members have asked, but
  a minute at most, and not for those whose own epoch was given up.
* A member that asked late is given the key by one that has it, by the chain's turns again.
* Keys that are of no use any more are destroyed: private keys once opened, keys that the chain did
  not take, the key of an epoch that the chain no longer keeps. That of one before the current is
  destroyed a day after its end, but not before the current one's is here: it is gone on with.
* What is given can be checked, so that nothing is taken on trust: the key of an epoch is one whose
  check stands on the chain.

Times are block time, which moves on by 10 s when nothing happens: a node that lags sees its turn
later. ``Planner`` remembers since when it has seen what it waits for; forgotten in a restart, that
makes it wait anew. Pure: it never sees a secret, only what is held (``Held``). Not handled here:
doing it (``epoch_keeper``), what the chain accepts (``epoch_rules``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgistry.transactions import NodeId

from .epoch_rules import due_at_us, gives_from_us, is_given_up, makers_after
from .schema import EpochStates, StoredEpoch
from .turns import TURN_US

GRACE_US = 60_000_000
FIRST_GRACE_US = 10_000_000
"""Before the first epoch nobody gets handles; who asks late is given its key all the same."""
KEPT_AFTER_US = 24 * 3600 * 1_000_000
"""How long an epoch's key is kept after its end: what was given out in it is good for so long."""
MAX_PATIENCE_US = 600_000_000

Seen = tuple[object, ...]
"""Something that a planner waits for, by what makes it this and no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The committed state, as of one block."""

    chain_id: str
    states: EpochStates
    members: frozenset[NodeId]
    now_us: int
    """Block time."""
    latest_us: int
    """The wall clock, or block time if that is later: nothing is kept longer than by this one."""
    epoch_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a node holds, without the secrets."""

    asked: frozenset[tuple[int, bytes]] = frozenset()
    """(epoch, public key) for which it has the private one."""
    made: frozenset[tuple[int, bytes]] = frozenset()
    """(epoch, check) of keys that it made."""
    keys: Mapping[int, bytes] = field(default_factory=dict)
    """The check of each epoch's key that it has."""
    useless: frozenset[bytes] = frozenset()
    """Seals that do not open, or not to the epoch's key; keys that nothing can be sealed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Draw a key for ``epoch`` and publish it."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Open ``sealed`` with the private key of ``public``; the key of ``epoch`` has ``check``."""

    epoch: int
    public: bytes
    sealed: bytes
    check: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """The key made for ``epoch`` with ``check`` is the epoch's."""

    epoch: int
    check: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """Draw the key of ``epoch`` and seal it to each of ``members``: (node id, public key)."""

    epoch: int
    members: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Give:
    """Seal the key of ``epoch`` to each of ``members``: (node id, public key)."""

    epoch: int
    members: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Destroy these private keys, made keys and epoch keys."""

    asked: frozenset[tuple[int, bytes]]
    made: frozenset[tuple[int, bytes]]
    keys: frozenset[int]


Step = Ask | Open | Adopt | Make | Give | Forget


class Planner:
    """What node ``node_id`` does next, one step after the other."""

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._since: dict[Seen, int] = {}
        self._asked_again: dict[int, int] = {}

    def next_step(self, now: Situation, held: Held, *, may_send: bool) -> Step | None:
        """The next step; ``None`` when there is nothing to do before something changes.

        ``may_send`` says whether what was sent before has come to an end: while it has not, only
        steps that send nothing are taken.
        """
        self._forget_what_is_over(now)
        step = _stale(now, held) or _opens(self._node_id, now, held)
        if step is not None or not may_send or self._node_id not in now.members:
            return step
        return next(self._sends(now, held), None)

    def _sends(self, now: Situation, held: Held) -> Iterator[Step]:
        number, _, current, coming, *_ = now.states
        lacks = current is not None and number not in held.keys
        if current is not None and lacks and self._must_ask_again(now, current, held):
            yield Ask(epoch=number)
        if not self._has_asked(number + 1, coming, held):
            yield Ask(epoch=number + 1)
        elif coming is not None:
            yield from self._makes(now, coming, held)
        if current is not None and not lacks:
            yield from self._gives(now, current, held)

    # --- asking ---------------------------------------------------------------------------------

    def _has_asked(self, number: int, epoch: StoredEpoch | None, held: Held) -> bool:
        public = None if epoch is None else dict(epoch.keys).get(self._node_id)
        return public is not None and (number, public) in held.asked

    def _must_ask_again(self, now: Situation, current: StoredEpoch, held: Held) -> bool:
        number = now.states.number
        sealed = dict(current.sealed).get(self._node_id)
        if self._has_asked(number, current, held) and (
            sealed is None or sealed not in held.useless
        ):
            return False
        times = self._asked_again.get(number, 0)
        patience_us = min(MAX_PATIENCE_US, TURN_US << min(times, 8)) if times else 0
        if self._waited_us(now, "ask again", number, times) < patience_us:
            return False
        self._asked_again = {number: times + 1}
        return True

    # --- making and giving ----------------------------------------------------------------------

    def _makes(self, now: Situation, coming: StoredEpoch, held: Held) -> Iterator[Step]:
        states = now.states
        due_us = due_at_us(states.current, coming, epoch_us=now.epoch_us)
        if now.now_us < due_us:
            return
        order = makers_after(
            states.current,
            states.number,
            members=now.members,
            chain_id=now.chain_id,
            given_up=states.given_up,
        )
        wait_us = order.index(self._node_id) * TURN_US
        asked = [each for each in coming.keys if each[0] in now.members]
        if self._misses_somebody(now, asked):
            wait_us += FIRST_GRACE_US if states.current is None else GRACE_US
        if self._waited_us(now, "make", due_us) < wait_us:
            return
        members = _sealable(asked, held)
        if members:
            yield Make(epoch=states.number + 1, members=members)

    def _misses_somebody(self, now: Situation, asked: list[tuple[bytes, bytes]]) -> bool:
        """Whether a member has not asked yet that should be waited for.

        Not for one that made garbage: it comes last in turn, and could be first all the same if all
        others waited for it.
        """
        missing = now.members - {node for node, _ in asked} - dict(now.states.given_up).keys()
        current = now.states.current
        if current is not None and is_given_up(current, now.members):
            missing -= {current.maker}
        return bool(missing)

    def _gives(self, now: Situation, current: StoredEpoch, held: Held) -> Iterator[Step]:
        having = dict(current.sealed)
        mine = [
            (node, public)
            for node, public in current.keys
            if node in now.members and node not in having and self._may_give(now, current, node)
        ]
        members = _sealable(mine, held)
        if members:
            yield Give(epoch=now.states.number, members=members)

    def _may_give(self, now: Situation, current: StoredEpoch, node: bytes) -> bool:
        from_us = gives_from_us(current, self._node_id, node, members=now.members)
        return from_us is not None and now.now_us >= from_us

    # --- remembering ----------------------------------------------------------------------------

    def _waited_us(self, now: Situation, *what: object) -> int:
        return now.now_us - self._since.setdefault((now.states.number, *what), now.now_us)

    def _forget_what_is_over(self, now: Situation) -> None:
        number = now.states.number
        self._since = {seen: since for seen, since in self._since.items() if seen[0] == number}


def _sealable(members: list[tuple[bytes, bytes]], held: Held) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(each for each in members if each[1] not in held.useless)


def _opens(node_id: NodeId, now: Situation, held: Held) -> Step | None:
    for epoch, stored in sorted(now.states.kept().items(), reverse=True):
        if epoch in held.keys or _is_too_old(epoch, now, held):
            continue
        if (epoch, stored.check) in held.made:
            return Adopt(epoch=epoch, check=stored.check)
        public = dict(stored.keys).get(node_id)
        sealed = dict(stored.sealed).get(node_id)
        if sealed is None or public is None or sealed in held.useless:
            continue
        if (epoch, public) in held.asked:
            return Open(epoch=epoch, public=public, sealed=sealed, check=stored.check)
    return None


def _stale(now: Situation, held: Held) -> Forget | None:
    number = now.states.number
    checks = {
        epoch: stored.check
        for epoch, stored in now.states.kept().items()
        if not _is_too_old(epoch, now, held)
    }
    keys = frozenset(epoch for epoch, check in held.keys.items() if checks.get(epoch) != check)
    asked = frozenset(
        each
        for each in held.asked
        if each[0] <= number and (each[0] not in checks or each[0] in held.keys)
    )
    made = frozenset(
        each
        for each in held.made
        if each[0] <= number and (each[0] in held.keys or checks.get(each[0]) != each[1])
    )
    if not (keys or asked or made):
        return None
    return Forget(asked=asked, made=made, keys=keys)


def _is_too_old(epoch: int, now: Situation, held: Held) -> bool:
    """Whether ``epoch``, not the current one, ended so long ago that nothing of it is good."""
    number, _, current, *_ = now.states
    if epoch == number or current is None or held.keys.get(number) != current.check:
        return False
    return now.latest_us - current.since_us >= KEPT_AFTER_US
