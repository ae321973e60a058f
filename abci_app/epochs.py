"""What a node does next about the keys of privacy epochs: ask, open, make, give, forget.

Rules kept here (privacy.md, *Who answers*):

* A member asks for the next epoch's key as soon as an epoch has begun, and for the current one when
  it cannot open what it was given (its private key is lost, or the seal is another's or garbage);
  each time with a new key, and ever more slowly, so that a member that gives garbage wastes little.
* When an epoch is over, one member makes the next key: members take turns by (index + epoch), and
  the next in turn steps in 20 s later. It waits until all members have asked, but a minute at most.
* A member that asked late is given the key by one that has it; turns again, drawn by the key that
  it asked with, so that the one who gave garbage is not always first.
* Keys that are of no use any more are destroyed: private keys once opened, keys that the chain did
  not take, the key of an epoch a day after its end or when two have begun since.
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

from edgistry.transactions import MAX_MEMBERS, NodeId

from .epoch_rules import is_over
from .schema import EpochStates, StoredEpoch

TURN_US = 20_000_000
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
        number, _, current, coming = now.states
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
        number, _, current, _ = now.states
        if current is not None and not is_over(
            current, members=now.members, epoch_us=now.epoch_us, now_us=now.now_us
        ):
            return
        everybody = sorted(now.members)
        asked = [each for each in coming.keys if each[0] in now.members]
        turn = (everybody.index(self._node_id) + number + 1) % len(everybody)
        wait_us = turn * TURN_US
        if len(asked) < len(everybody):
            wait_us += GRACE_US if number else FIRST_GRACE_US
        if self._waited_us(now, "make", number + 1) < wait_us:
            return
        members = _sealable(asked, held)
        if members:
            yield Make(epoch=number + 1, members=members)

    def _gives(self, now: Situation, current: StoredEpoch, held: Held) -> Iterator[Step]:
        having = [node for node, _ in current.sealed if node in now.members]
        lacking = [
            (node, public)
            for node, public in current.keys
            if node in now.members and node not in having and node != self._node_id
        ]
        mine = [
            (node, public)
            for node, public in lacking
            if self._waited_us(now, "give", now.states.number, node, public)
            >= self._turn(having, public) * TURN_US
        ]
        members = _sealable(mine, held)
        if members:
            yield Give(epoch=now.states.number, members=members)

    def _turn(self, having: list[bytes], public: bytes) -> int:
        """How many of those who have the key come before this node in giving it to ``public``."""
        if self._node_id not in having:
            return len(having)
        first = int.from_bytes(public[:4], "big")
        return (having.index(self._node_id) - first) % len(having)

    # --- remembering ----------------------------------------------------------------------------

    def _waited_us(self, now: Situation, *what: object) -> int:
        return now.now_us - self._since.setdefault((now.states.number, *what), now.now_us)

    def _forget_what_is_over(self, now: Situation) -> None:
        number = now.states.number
        self._since = {seen: since for seen, since in self._since.items() if seen[0] == number}


def _sealable(members: list[tuple[bytes, bytes]], held: Held) -> tuple[tuple[bytes, bytes], ...]:
    good = [each for each in members if each[1] not in held.useless]
    return tuple(good[:MAX_MEMBERS])


def _opens(node_id: NodeId, now: Situation, held: Held) -> Step | None:
    number, previous, current, _ = now.states
    for epoch, stored in ((number, current), (number - 1, previous)):
        if stored is None or epoch in held.keys or _is_too_old(epoch, now):
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
    number, previous, current, _ = now.states
    checks = {
        epoch: stored.check
        for epoch, stored in ((number - 1, previous), (number, current))
        if stored is not None and not _is_too_old(epoch, now)
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


def _is_too_old(epoch: int, now: Situation) -> bool:
    """Whether ``epoch``, not the current one, ended so long ago that nothing of it is good."""
    number, _, current, _ = now.states
    if epoch == number or current is None:
        return False
    return now.latest_us - current.since_us >= KEPT_AFTER_US
