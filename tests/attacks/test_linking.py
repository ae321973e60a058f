"""Linking: what two clients see of a service, or one in two epochs, cannot be laid together.

The attacker has whole answers: handles, attributes, the order in which services came, the cursors
between pages. Devices are equal in attributes, since those that differ in them are told apart by
them (privacy.md, *Attack tests*, 4). AUC is how often the attacker ranks a true pair before a wrong
one: 0.5 is guessing.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from abci_app.discovery import ServiceIndex
from abci_app.epoch_keys import ARITHMETIC
from abci_app.profiles import Listed, Profile
from edgistry.cover import cover_of
from edgistry.handles import CellOrder, HandleKey, Place, Target
from edgistry.region import published_cell
from edgistry.requests_api import to_bytes, to_text
from edgistry.transactions import NodeId, RecordKey

SERVICES = 600
PAGE = 50
MOST = 0.55
CELL = published_cell(64.13, -21.94, 7)
ALICE, BOB = b"a" * 16, b"b" * 16
HOMES = [bytes([number]) * 20 for number in range(4)]


@dataclass(frozen=True)
class Seen:
    """One listing of all services: what came, in order, and the cursors between pages."""

    handles: list[str]
    cursors: list[str]
    truth: list[bytes]
    """The record keys, which the attacker has not."""


class Cluster:
    """Services that differ in nothing but their keys."""

    def __init__(self, seed: int) -> None:
        drawn = random.Random(seed)
        self.keys = {epoch: HandleKey(epoch, drawn.randbytes(32), ARITHMETIC) for epoch in (1, 2)}
        self.index = ServiceIndex()
        self.index.rebuild(
            (
                drawn.randbytes(16),
                Listed(CELL, Profile(drawn.choice(HOMES), "valve", ("read",), 1, b"o" * 8)),
            )
            for _ in range(SERVICES)
        )

    def seen(self, design: Design, epoch: int, tag: bytes) -> Seen:
        """What the client with ``tag`` gets in ``epoch``."""
        keys, after = self.keys[epoch], None
        handles: list[str] = []
        cursors: list[str] = []
        truth: list[bytes] = []
        while True:
            page = self.index.search(
                cover_of([CELL]),
                None,
                limit=PAGE,
                order=design.order(keys, tag),
                after=after,
                is_visible=lambda _: True,
            )
            for each in page.items:
                target = Target(NodeId(each.profile.home), RecordKey(each.key))
                handles.append(design.handle(keys, tag, target))
                truth.append(each.key)
            after = page.next
            if after is None:
                return Seen(handles, cursors, truth)
            cursors.append(design.cursor(keys, tag, after.place))


class PlainOrder:
    """Naive: services come in the order of their keys."""

    def joined(self, records: bytes) -> bytes:
        return records


@dataclass(frozen=True)
class Design:
    """How handles, order and cursors are made."""

    handle: Callable[[HandleKey, bytes, Target], str]
    order: Callable[[HandleKey, bytes], CellOrder | PlainOrder]
    cursor: Callable[[HandleKey, bytes, bytes], str]


def sealed_cursor(keys: HandleKey, tag: bytes, place: bytes) -> str:
    return keys.seal_cursor(tag, Place(CELL, place))


OURS = Design(
    handle=lambda keys, tag, target: keys.own(tag, target).text,
    order=lambda keys, tag: keys.order(tag),
    cursor=sealed_cursor,
)
KEYS_AS_HANDLES = Design(
    handle=lambda _keys, _tag, target: to_text(target.record),
    order=OURS.order,
    cursor=OURS.cursor,
)
IN_ORDER_OF_KEYS = Design(
    handle=OURS.handle,
    order=lambda _keys, _tag: PlainOrder(),
    cursor=OURS.cursor,
)
ONE_ORDER_FOR_ALL = Design(
    handle=OURS.handle,
    order=lambda keys, _tag: HandleKey(0, bytes(32), ARITHMETIC).order(bytes(16)),
    cursor=OURS.cursor,
)
OPEN_CURSORS = Design(
    handle=OURS.handle,
    order=IN_ORDER_OF_KEYS.order,
    cursor=lambda _keys, _tag, place: to_text(place),
)

Attack = Callable[[Seen, Seen], float]


# --- two clients --------------------------------------------------------------------------------


def in_common(design: Design) -> int:
    """How many of two clients' handles are the same, or begin or end alike."""
    cluster = Cluster(seed=1)
    alice, bob = (cluster.seen(design, 1, tag) for tag in (ALICE, BOB))
    parts = [{part for text in each.handles for part in (text, text[:16])} for each in (alice, bob)]
    return len(parts[0] & parts[1])


def test_two_clients_have_no_handle_in_common() -> None:
    assert in_common(OURS) == 0


def test_record_keys_as_handles_would_be_all_in_common() -> None:
    assert in_common(KEYS_AS_HANDLES) >= SERVICES


def test_one_client_has_the_same_handles_at_every_node() -> None:
    cluster, again = Cluster(seed=1), Cluster(seed=1)
    assert cluster.seen(OURS, 1, ALICE) == again.seen(OURS, 1, ALICE)


# --- two epochs, and two clients by other things than handles -----------------------------------


def auc(scores: Callable[[int, int], float], pairs: list[int], seeded: random.Random) -> float:
    """How often the true pair (at, pairs[at]) scores more than a wrong one; half for a tie."""
    won = 0.0
    for at, true in enumerate(pairs):
        wrong = seeded.choice([each for each in range(len(pairs)) if each != true])
        mine, other = scores(at, true), scores(at, wrong)
        won += (mine > other) + 0.5 * (mine == other)
    return won / len(pairs)


def paired(first: Seen, second: Seen) -> list[int]:
    """Where each service of the first listing is in the second."""
    places = {key: at for at, key in enumerate(second.truth)}
    return [places[key] for key in first.truth]


def by_rank(first: Seen, second: Seen) -> float:
    """Services that come at about the same place are the same."""
    return auc(lambda one, two: -abs(one - two), paired(first, second), random.Random(2))


def by_bytes(first: Seen, second: Seen) -> float:
    """Handles that have the same bytes at the same places are the same service."""
    ones = [to_bytes(each, "it")[:52] for each in first.handles]
    twos = [to_bytes(each, "it")[:52] for each in second.handles]

    def alike(one: int, two: int) -> float:
        return sum(a == b for a, b in zip(ones[one], twos[two], strict=True))

    return auc(alike, paired(first, second), random.Random(3))


def by_order_of_handles(first: Seen, second: Seen) -> float:
    """Handles that are at about the same place when all are sorted are the same service."""
    sorts = [sorted(each.handles) for each in (first, second)]
    ranks = [
        [bisect_left(some, handle) for handle in each.handles]
        for some, each in zip(sorts, (first, second), strict=True)
    ]
    return auc(
        lambda one, two: -abs(ranks[0][one] - ranks[1][two]),
        paired(first, second),
        random.Random(4),
    )


def by_cursor(first: Seen, second: Seen) -> float:
    """Services between the same cursors are the same; cursors are compared as numbers."""
    marks = [sorted(to_bytes(each, "it")[-16:] for each in one.cursors) for one in (first, second)]
    between = [
        [bisect_left(some, to_bytes(one.cursors[at // PAGE], "it")[-16:]) if at // PAGE < len(some)
         else len(some) for at in range(SERVICES)]
        for some, one in zip(marks, (first, second), strict=True)
    ]  # fmt: skip
    return auc(
        lambda one, two: -abs(between[0][one] - between[1][two]),
        paired(first, second),
        random.Random(5),
    )


ATTACKS = [by_rank, by_bytes, by_order_of_handles, by_cursor]
SIGHTS = [((1, ALICE), (2, ALICE)), ((1, ALICE), (1, BOB)), ((1, ALICE), (2, BOB))]


def worst(design: Design, attack: Attack) -> float:
    """The best that an attack does between two epochs, or two clients, or both."""
    cluster = Cluster(seed=6)
    return max(
        attack(cluster.seen(design, *one), cluster.seen(design, *two)) for one, two in SIGHTS
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
def test_nothing_links_what_was_seen_twice(attack: Attack) -> None:
    assert worst(OURS, attack) <= MOST


@pytest.mark.parametrize(
    ("design", "attack"),
    [
        (KEYS_AS_HANDLES, by_order_of_handles),
        (IN_ORDER_OF_KEYS, by_rank),
        (ONE_ORDER_FOR_ALL, by_rank),
        (OPEN_CURSORS, by_cursor),
    ],
    ids=["keys as handles", "in order of keys", "one order for all", "open cursors"],
)
def test_naive_designs_are_linked_by_the_same_attacks(design: Design, attack: Attack) -> None:
    assert worst(design, attack) > 0.9
