"""Choosing a member: whose turn it is, who is preferred, and what a choice may cost."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from abci_app.anycast import MAX_LOOKED_AT, Member, Members


def keys(count: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(count)]


def anyone(_: bytes) -> bool:
    return True


def gini(counts: list[int]) -> float:
    ordered = sorted(counts)
    weighted = sum(rank * count for rank, count in enumerate(ordered, 1))
    total = sum(ordered)
    return 2 * weighted / (len(ordered) * total) - (len(ordered) + 1) / len(ordered)


@given(st.integers(1, 50), st.integers(1, 200))
def test_the_numbers_of_choices_differ_by_one_at_most(members: int, choices: int) -> None:
    group = Members([Member(key, 0) for key in keys(members)], seed=b"s")

    chosen = Counter(group.choose(is_fit=anyone) for _ in range(choices))

    counts = [chosen[key] for key in keys(members)]
    assert sum(counts) == choices
    assert max(counts) - min(counts) <= 1


def test_four_nodes_that_choose_by_themselves_spread_evenly() -> None:
    members = [Member(key, 0) for key in keys(100)]
    nodes = [Members(members, seed=b"node %d" % number) for number in range(4)]
    draw = random.Random(7)

    chosen = Counter(draw.choice(nodes).choose(is_fit=anyone) for _ in range(1000))

    assert gini([chosen[key] for key in keys(100)]) <= 0.2


def test_the_order_is_another_one_for_another_seed() -> None:
    members = [Member(key, 0) for key in keys(100)]
    orders = [
        [group.choose(is_fit=anyone) for _ in range(100)]
        for group in (Members(members, seed=b"a"), Members(members, seed=b"b"))
    ]

    assert orders[0] != orders[1]
    assert sorted(map(bytes, filter(None, orders[0]))) == keys(100)


def test_who_wakes_sooner_is_chosen_until_all_of_those_are_busy() -> None:
    soon, late = keys(4)[:2], keys(4)[2:]
    group = Members([*(Member(k, 0) for k in soon), *(Member(k, 3) for k in late)], seed=b"s")
    load: Counter[bytes] = Counter()

    def is_fit(key: bytes) -> bool:
        return load[key] < 2

    order = []
    for _ in range(8):
        key = group.choose(is_fit=is_fit)
        assert key is not None
        load[key] += 1
        order.append(key)

    assert set(order[:4]) == set(soon)
    assert set(order[4:]) == set(late)
    assert group.choose(is_fit=is_fit) is None


def test_a_member_to_be_avoided_is_not_chosen() -> None:
    group = Members([Member(key, 0) for key in keys(3)], seed=b"s")

    chosen = {group.choose(is_fit=anyone, avoid=keys(3)[:2]) for _ in range(5)}

    assert chosen == {keys(3)[2]}


def test_nobody_is_chosen_of_nobody() -> None:
    assert Members([], seed=b"s").choose(is_fit=anyone) is None
    assert len(Members([], seed=b"s")) == 0


def test_a_choice_looks_at_a_bounded_number_of_members() -> None:
    group = Members([Member(key, 0) for key in keys(10_000)], seed=b"s")
    looked: list[bytes] = []

    def is_fit(key: bytes) -> bool:
        looked.append(key)
        return False

    assert group.choose(is_fit=is_fit) is None
    assert len(looked) == MAX_LOOKED_AT
    group.choose(is_fit=is_fit)
    # The next choice goes on where this one gave up.
    assert len(set(looked)) == 2 * MAX_LOOKED_AT
