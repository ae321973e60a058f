"""Under k: services that are too few for the crowd they want look as if there were none.

The attacker knows everything but whether they are there. It asks for any area, also for any service
in it, and looks at the status, at the length, and at how long the answer took. Time is counted in
steps of the interpreter, so every run is the same; two samples of it are told apart by their
Kolmogorov-Smirnov distance (privacy.md, *Attack tests*, 6).
"""

from __future__ import annotations

import gc
import random
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from abci_app.anycast import Member, Members
from abci_app.crowd import CrowdCount
from abci_app.discovery import ServiceIndex
from abci_app.epoch_keys import ARITHMETIC
from abci_app.memberships import Memberships
from abci_app.profiles import listed
from abci_app.schema import StoredService, stored_service
from edgistry.cell import children_of, parse_cell
from edgistry.codec import encode_json, replace
from edgistry.cover import Cover
from edgistry.errors import Refused
from edgistry.handles import HandleKey
from edgistry.region import cell_center, cover_near
from edgistry.transactions import ServiceRecord

HOME = bytes(20)
FIVE = parse_cell("85283473fffffff")
SEVENS = [cell for six in children_of(FIVE) for cell in children_of(six)]
K = 4
ORDER = HandleKey(1, bytes(32), ARITHMETIC).order(bytes(16))
QUERIES = 200
DISTANCE_BY_CHANCE = 0.17
"""Of two samples of 200 of one distribution: more than that in one of 200 cases."""


def service(number: int, *, cell: int, owner: int, crowd: int) -> tuple[bytes, StoredService]:
    record = ServiceRecord(
        key=number.to_bytes(16, "big"), type="thermometer", cell=cell, actions=("read",), wake=0,
        commitment=bytes(32), owner=owner.to_bytes(8, "big"), crowd=crowd,
    )  # fmt: skip
    return record.key, stored_service(HOME, record)


NEIGHBOURS = [
    service(number, cell=SEVENS[number % len(SEVENS)], owner=number, crowd=1)
    for number in range(60)
]
"""Other services, which are shown to everybody; of another type, since they would be a crowd."""
HIDDEN = [
    service(1000 + number, cell=SEVENS[number % 9], owner=1 + number % (K - 1), crowd=K)
    for number in range(90)
]
"""Many services of too few owners."""


def others(services: Iterable[tuple[bytes, StoredService]]) -> dict[bytes, StoredService]:
    return {key: replace(each, type="camera") for key, each in services}


WITHOUT = others(NEIGHBOURS)
WITH = {**WITHOUT, **dict(HIDDEN)}


@dataclass(frozen=True)
class Seen:
    """All that an attacker sees of one answer."""

    status: int
    length: int
    steps: int


class Node:
    """A node with these services, as ours is."""

    def __init__(self, services: dict[bytes, StoredService]) -> None:
        count = CrowdCount()
        for key, each in services.items():
            count.add(key, each)
        for _ in count.settle():
            pass
        self.index = ServiceIndex()
        self.index.rebuild(
            (key, found)
            for key, each in services.items()
            if (found := listed(each, each.cell if each.crowd == 1 else count.places.get(key)))
        )
        self.services = services

    def search(self, cover: Cover, limit: int) -> list[Any]:
        page = self.index.search(cover, None, limit=limit, order=ORDER, is_visible=lambda _: True)
        return [each.key.hex() for each in page.items]

    def members(self, cover: Cover) -> Members:
        memberships = Memberships(
            self,  # type: ignore[arg-type]
            is_visible=lambda _: True,
            seed=bytes(32),
        )
        found = memberships._listed(cover, "thermometer")
        return Members([Member(key, profile.wake) for key, profile in found.items()], seed=b"s")


class NaiveNode(Node):
    """Finds all services, and leaves out what is not to be shown."""

    def __init__(self, services: dict[bytes, StoredService]) -> None:
        super().__init__(services)
        self.shown = {key for key, each in services.items() if each.crowd == 1}
        self.index = ServiceIndex()
        every = ((key, listed(each, each.cell)) for key, each in services.items())
        self.index.rebuild((key, found) for key, found in every if found is not None)

    def search(self, cover: Cover, limit: int) -> list[Any]:
        page = self.index.search(cover, None, limit=limit, order=ORDER, is_visible=lambda _: True)
        return [each.key.hex() for each in page.items if each.key in self.shown]

    def members(self, cover: Cover) -> Members:
        found = [
            each
            for run in self.index.listed_in(cover, "thermometer", is_visible=lambda _: True)
            for each in run
        ]
        return Members([Member(each.key, 0) for each in found if each.key in self.shown], seed=b"s")


def counted(work: Callable[[], Any]) -> tuple[Any, int]:
    """What ``work`` returns, and the interpreter's steps it took."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.disable()  # what others left behind is not to be cleared away in between
    sys.settrace(trace)
    try:
        found = work()
    finally:
        sys.settrace(before)
        gc.enable()
    return found, steps


def attacked(node: Node) -> list[Seen]:
    """What is seen of many answers about discovery, and about any service."""
    chance = random.Random(11)
    seen = []
    for _ in range(QUERIES):
        latitude, longitude = cell_center(chance.choice(SEVENS))
        cover = cover_near(latitude, longitude, chance.choice([1.0, 3.0, 10.0]))
        limit = chance.choice([1, 5, 20, 1000])
        try:
            found, steps = counted(lambda: node.search(cover, limit))  # noqa: B023
            status = 200
        except Refused as error:
            found, steps, status = [], 0, error.http_status
        seen.append(Seen(status, len(encode_json(found)), steps))
        chosen, more = counted(lambda: node.members(cover).choose(is_fit=lambda _: True))  # noqa: B023
        seen.append(Seen(404 if chosen is None else 200, 0, more))
    return seen


def distance(one: list[int], other: list[int]) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    one, other = sorted(one), sorted(other)
    return max(
        abs(bisect_right(one, at) / len(one) - bisect_right(other, at) / len(other))
        for at in {*one, *other}
    )


def told_apart(node: type[Node]) -> tuple[bool, bool, float]:
    """Whether statuses and lengths differ, and the distance of the times."""
    attacked(node(WITH))  # what is only done the first time tells nothing of services
    one, other = attacked(node(WITH)), attacked(node(WITHOUT))
    return (
        [each.status for each in one] != [each.status for each in other],
        [each.length for each in one] != [each.length for each in other],
        distance([each.steps for each in one], [each.steps for each in other]),
    )


def test_the_services_would_be_shown_if_they_were_a_crowd() -> None:
    one_more = dict([service(9999, cell=SEVENS[0], owner=99, crowd=1)])
    node = Node({**WITH, **one_more})
    latitude, longitude = cell_center(SEVENS[0])
    found = node.search(cover_near(latitude, longitude, 10.0), 1000)
    assert len(found) > len(Node(WITH).search(cover_near(latitude, longitude, 10.0), 1000)) + 1


def test_services_under_k_are_not_told_from_none_by_status_length_or_time() -> None:
    statuses_differ, lengths_differ, times = told_apart(Node)
    assert not statuses_differ
    assert not lengths_differ
    assert times < 0.01


def test_the_attack_bites_where_results_are_filtered_after_the_search() -> None:
    _, lengths_differ, times = told_apart(NaiveNode)
    assert lengths_differ  # pages come out shorter
    assert times > DISTANCE_BY_CHANCE
