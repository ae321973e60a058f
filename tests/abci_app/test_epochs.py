"""What a node does next about epoch keys, as a function of what it sees and what it holds."""

from __future__ import annotations

import pytest

from abci_app import turns
from abci_app.epochs import (
    GRACE_US,
    KEPT_AFTER_US,
    Adopt,
    Ask,
    Forget,
    Give,
    Held,
    Make,
    Open,
    Planner,
    Situation,
    Step,
)
from abci_app.schema import EpochStates, StoredEpoch
from abci_app.turns import TURN_US

from .chain_world import CHAIN, SECOND, Node
from .epoch_world import members

EPOCH_US = 600 * SECOND
NODES = members(3)
ME, NEXT, LAST = NODES
"""In the order of their ids."""
CHECK = b"c" * 16


def public(node: Node) -> bytes:
    return node.id[:4] + bytes(28)


def seal(node: Node) -> bytes:
    return node.id + bytes(60)


def epoch(
    *,
    asked: list[Node],
    sealed: list[Node] | None = None,
    since_us: int = 0,
    check: bytes = CHECK,
    over_us: int = 0,
) -> StoredEpoch:
    return StoredEpoch(
        since_us=since_us,
        check=b"" if sealed is None else check,
        keys=tuple((node.id, public(node)) for node in asked),
        sealed=tuple((node.id, seal(node)) for node in sealed or []),
        maker=sealed[0].id if sealed else b"",
        over_us=over_us,
    )


def situation(
    number: int = 1,
    *,
    current: StoredEpoch | None = None,
    coming: StoredEpoch | None = None,
    previous: StoredEpoch | None = None,
    now_us: int = SECOND,
    nodes: list[Node] = NODES,
    good: tuple[int, StoredEpoch] | None = None,
    given_up: tuple[tuple[bytes, int], ...] = (),
) -> Situation:
    return Situation(
        chain_id=CHAIN,
        states=EpochStates(number, previous, current, coming, good=good, given_up=given_up),
        members=frozenset(node.id for node in nodes),
        now_us=now_us,
        latest_us=now_us,
        epoch_us=EPOCH_US,
    )


def step(now: Situation, held: Held, *, node: Node = ME, may_send: bool = True) -> Step | None:
    return Planner(node.id).next_step(now, held, may_send=may_send)


ASKED_NEXT = frozenset({(2, public(ME))})
HAS_KEY = Held(asked=ASKED_NEXT, keys={1: CHECK})
IN_EPOCH = epoch(asked=NODES, sealed=NODES)
ALL_ASK = epoch(asked=NODES)


def test_the_first_thing_is_to_ask() -> None:
    assert step(situation(0), Held()) == Ask(epoch=1)
    assert step(situation(0), Held(), may_send=False) is None


def test_one_who_is_no_member_sends_nothing() -> None:
    assert step(situation(0, nodes=[NEXT]), Held()) is None


def test_with_the_key_and_the_next_asked_for_there_is_nothing_to_do() -> None:
    assert step(situation(current=IN_EPOCH, coming=ALL_ASK), HAS_KEY) is None


def test_a_key_asked_for_with_a_private_key_that_is_lost_is_asked_for_again() -> None:
    now = situation(current=IN_EPOCH, coming=ALL_ASK)
    assert step(now, Held(keys={1: CHECK})) == Ask(epoch=2)
    assert step(now, Held(asked=ASKED_NEXT)) == Ask(epoch=1)


def test_what_was_given_is_opened_before_anything_is_sent() -> None:
    now = situation(current=IN_EPOCH)
    held = Held(asked=frozenset({(1, public(ME))}))
    expected = Open(epoch=1, public=public(ME), sealed=seal(ME), check=CHECK)
    assert step(now, held) == step(now, held, may_send=False) == expected


def test_a_seal_that_does_not_open_is_answered_by_asking_again() -> None:
    now = situation(current=IN_EPOCH, coming=ALL_ASK)
    held = Held(asked=ASKED_NEXT | {(1, public(ME))}, useless=frozenset({seal(ME)}))
    planner = Planner(ME.id)
    assert planner.next_step(now, held, may_send=True) == Ask(epoch=1)
    # The next time it takes longer.
    assert planner.next_step(now, held, may_send=True) is None
    later = situation(current=IN_EPOCH, coming=ALL_ASK, now_us=SECOND + 2 * TURN_US)
    assert planner.next_step(later, held, may_send=True) == Ask(epoch=1)


def test_one_who_asked_and_was_given_nothing_waits() -> None:
    now = situation(current=epoch(asked=NODES, sealed=[NEXT]), coming=ALL_ASK)
    held = Held(asked=ASKED_NEXT | {(1, public(ME))})
    assert step(now, held) is None


def test_a_key_made_here_is_adopted_when_the_chain_took_it() -> None:
    now = situation(current=IN_EPOCH)
    held = Held(made=frozenset({(1, CHECK)}))
    assert step(now, held, may_send=False) == Adopt(epoch=1, check=CHECK)


def test_a_key_made_here_that_the_chain_did_not_take_is_forgotten() -> None:
    other = (1, b"o" * 16)
    now = situation(current=IN_EPOCH)
    found = step(now, Held(made=frozenset({other})), may_send=False)
    assert found == Forget(asked=frozenset(), made=frozenset({other}), keys=frozenset())


def maker(rank: int, nodes: list[Node] = NODES) -> Node:
    order = turns.makers([node.id for node in nodes], chain_id=CHAIN, epoch=2, given_up={})
    return next(node for node in nodes if node.id == order[rank])


@pytest.mark.parametrize("turn", range(3))
def test_members_make_keys_by_turns(turn: int) -> None:
    node = maker(turn)
    planner = Planner(node.id)
    held = Held(asked=frozenset({(2, public(node))}), keys={1: CHECK})
    steps = [
        planner.next_step(
            situation(current=IN_EPOCH, coming=ALL_ASK, now_us=EPOCH_US + waited_us),
            held,
            may_send=True,
        )
        for waited_us in (0, TURN_US, 2 * TURN_US)
    ]
    make = Make(epoch=2, members=ALL_ASK.keys)
    assert steps == [make if waited >= turn else None for waited in range(3)]


def test_those_who_have_not_asked_are_waited_for_a_minute() -> None:
    first, second = maker(0), maker(1)
    planner = Planner(first.id)
    held = Held(asked=frozenset({(2, public(first))}), keys={1: CHECK})
    coming = epoch(asked=[first, second])
    for waited_us, expected in ((0, None), (GRACE_US, Make(epoch=2, members=coming.keys))):
        now = situation(current=IN_EPOCH, coming=coming, now_us=EPOCH_US + waited_us)
        assert planner.next_step(now, held, may_send=True) == expected


def test_one_whose_epoch_was_given_up_is_not_waited_for() -> None:
    first, second = maker(0), maker(1)
    held = Held(asked=frozenset({(2, public(first))}), keys={1: CHECK})
    coming = epoch(asked=[first, second])
    now = situation(current=IN_EPOCH, coming=coming, now_us=EPOCH_US, given_up=((maker(2).id, 1),))
    assert step(now, held, node=first) == Make(epoch=2, members=coming.keys)


def test_a_new_key_is_due_when_an_epoch_is_over_before_its_time() -> None:
    left = [ME, NEXT]
    first = maker(0, left)
    for over_us, asked in ((0, None), (2 * SECOND, None), (SECOND, epoch(asked=left).keys)):
        current = epoch(asked=NODES, sealed=NODES, over_us=over_us)
        now = situation(current=current, coming=ALL_ASK, nodes=left)
        held = Held(asked=frozenset({(2, public(first))}), keys={1: CHECK})
        # Nothing is sealed to who left.
        expected = None if asked is None else Make(epoch=2, members=asked)
        assert step(now, held, node=first) == expected


def test_turns_begin_anew_when_an_epoch_is_over_at_another_time() -> None:
    """It looked over, was not when those who lacked the key were given it, and now is."""
    node = maker(1)
    planner = Planner(node.id)
    held = Held(asked=frozenset({(2, public(node))}), keys={1: CHECK})
    make = Make(epoch=2, members=ALL_ASK.keys)
    found = []
    for now_us, over_us in ((1, 1), (20, 0), (40, 40), (50, 40), (60, 40)):
        current = epoch(asked=NODES, sealed=NODES, over_us=over_us * SECOND)
        now = situation(current=current, coming=ALL_ASK, now_us=now_us * SECOND)
        found.append(planner.next_step(now, held, may_send=True))
    assert found == [None, None, None, None, make]


def test_a_member_that_came_late_is_given_the_key_by_turns() -> None:
    current = epoch(asked=NODES, sealed=[ME, NEXT])
    found = {}
    for node in (ME, NEXT):
        held = Held(asked=frozenset({(2, public(node))}), keys={1: CHECK})
        for turn in range(3):
            now = situation(current=current, coming=ALL_ASK, now_us=turn * TURN_US)
            if step(now, held, node=node) == Give(epoch=1, members=((LAST.id, public(LAST)),)):
                found[node] = turn
                break
    order = turns.givers([ME.id, NEXT.id], (), public=public(LAST))
    assert {node.id: turn for node, turn in found.items()} == {order[0]: 0, order[1]: 1}


def test_nothing_is_sealed_to_a_key_that_is_none() -> None:
    current = epoch(asked=NODES, sealed=[ME, NEXT])
    planner = Planner(ME.id)
    held = Held(asked=ASKED_NEXT, keys={1: CHECK}, useless=frozenset({public(LAST)}))
    for turn in range(4):
        now = situation(current=current, coming=ALL_ASK, now_us=SECOND + turn * TURN_US)
        assert planner.next_step(now, held, may_send=True) is None


def test_private_keys_go_when_the_key_is_here() -> None:
    mine = frozenset({(1, public(ME)), (1, b"x" * 32)})
    found = step(situation(current=IN_EPOCH), Held(asked=mine | ASKED_NEXT, keys={1: CHECK}))
    assert found == Forget(asked=mine, made=frozenset(), keys=frozenset())


def test_a_private_key_goes_with_the_epoch_that_it_was_for() -> None:
    """The chain does not say any more what was sealed to it."""
    kept, lost = frozenset({(3, public(ME))}), frozenset({(1, public(ME))})
    before = epoch(asked=NODES, sealed=[NEXT], check=b"b" * 16)
    now = situation(3, previous=before, current=epoch(asked=NODES, sealed=[NEXT]))
    found = step(now, Held(asked=kept | lost), may_send=False)
    assert found == Forget(asked=lost, made=frozenset(), keys=frozenset())


@pytest.mark.parametrize("age_us", [0, KEPT_AFTER_US - 1, KEPT_AFTER_US])
def test_the_key_before_goes_a_day_after_its_end(age_us: int) -> None:
    before = epoch(asked=NODES, sealed=NODES, check=b"b" * 16)
    current = epoch(asked=NODES, sealed=NODES, since_us=EPOCH_US)
    now = situation(2, previous=before, current=current, now_us=EPOCH_US + age_us)
    found = step(now, Held(keys={1: b"b" * 16, 2: CHECK}), may_send=False)
    if age_us < KEPT_AFTER_US:
        assert found is None
    else:
        assert found == Forget(asked=frozenset(), made=frozenset(), keys=frozenset({1}))


def test_a_node_that_lacks_the_current_key_keeps_the_one_it_goes_on_with() -> None:
    good = epoch(asked=NODES, sealed=NODES, check=b"g" * 16)
    bad = epoch(asked=NODES, sealed=NODES, check=b"b" * 16, since_us=EPOCH_US)
    current = epoch(asked=NODES, sealed=NODES, since_us=EPOCH_US)
    now = situation(
        4,
        previous=bad,
        current=current,
        coming=epoch(asked=NODES),
        now_us=EPOCH_US + 2 * KEPT_AFTER_US,
        good=(2, good),
    )
    useless = frozenset({seal(ME)})
    asked = frozenset({(4, public(ME)), (5, public(ME))})
    held = Held(asked=asked, keys={2: b"g" * 16}, useless=useless)
    assert step(now, held, may_send=False) is None
    # With the current one here it is a key like any other.
    found = step(now, Held(asked=asked, keys={2: b"g" * 16, 4: CHECK}), may_send=False)
    assert found == Forget(
        asked=frozenset({(4, public(ME))}), made=frozenset(), keys=frozenset({2})
    )


def test_a_key_of_the_last_good_epoch_is_opened_behind_those_given_up() -> None:
    good = epoch(asked=NODES, sealed=NODES, check=b"g" * 16)
    bad = epoch(asked=NODES, sealed=[NEXT], check=b"b" * 16)
    now = situation(4, previous=bad, current=bad, good=(2, good))
    held = Held(asked=frozenset({(2, public(ME))}))
    expected = Open(epoch=2, public=public(ME), sealed=seal(ME), check=b"g" * 16)
    assert step(now, held, may_send=False) == expected


@pytest.mark.parametrize("held", [{3: CHECK}, {1: b"x" * 16}], ids=["number", "check"])
def test_keys_that_the_chain_does_not_know_go(held: dict[int, bytes]) -> None:
    found = step(situation(current=IN_EPOCH), Held(keys=held), may_send=False)
    assert found == Forget(asked=frozenset(), made=frozenset(), keys=frozenset(held))
