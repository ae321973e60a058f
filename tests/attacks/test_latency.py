"""The latency attack: what is answered to a handle takes as long whatever happens behind it.

The attacker asks again and again and looks at nothing but when the answer came. Behind the handle
the node has the answer or not, the device is busy or not, the request is refused or not. What the
node has to do is counted, not timed: each step winds a clock, so every run is the same.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from abci_app.slot_gate import SlotGate
from edgistry.adapters.http import Handler, Request, Response
from edgistry.errors import MailboxFullError

SLOT_US = 250_000
ASKED = 2000
MOST_AUC = 0.55


class Clock:
    def __init__(self) -> None:
        self.now_us = 0

    async def sleep(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


Work = Callable[[random.Random], int]
"""Microseconds that a node works on an answer."""

CACHED: Work = lambda chance: 300 + chance.randrange(200)  # noqa: E731
DURABLE: Work = lambda chance: 2_000 + chance.randrange(6_000)  # noqa: E731
BUSY: Work = lambda chance: 4_000 + chance.randrange(12_000)  # noqa: E731
REFUSED: Work = lambda chance: 100 + chance.randrange(100)  # noqa: E731


async def latencies(
    work: Work, around: Callable[[Clock, Handler], Handler], *, refused: bool = False
) -> list[tuple[int, int]]:
    """When the answers came: microseconds after they were asked for, and after the next edge.

    The attacker knows the grid, and looks at whichever tells more.
    """
    clock, chance = Clock(), random.Random(7)

    async def handler(request: Request) -> Response:
        clock.now_us += work(chance)
        if refused:
            raise MailboxFullError("full")
        return Response()

    guarded = around(clock, handler)
    found = []
    for _ in range(ASKED):
        clock.now_us += chance.randrange(1_000_000)
        asked_us = clock.now_us
        try:
            await guarded(Request(method="POST", path="/v1/requests"))
        except MailboxFullError:
            assert refused
        found.append((clock.now_us - asked_us, clock.now_us - (asked_us + -asked_us % SLOT_US)))
    return found


def slotted(clock: Clock, handler: Handler) -> Handler:
    gate = SlotGate(slot_us=SLOT_US, clock_us=lambda: clock.now_us, sleep=clock.sleep)
    return gate.around("request_submit", handler)


def naive(clock: Clock, handler: Handler) -> Handler:
    """Answers when it can."""
    return handler


def late(clock: Clock, handler: Handler) -> Handler:
    """Adds a delay of its own to each answer, as long as a slot at most."""
    chance = random.Random(3)

    async def delayed(request: Request) -> Response:
        try:
            return await handler(request)
        finally:
            clock.now_us += chance.randrange(5_000)

    return delayed


def auc(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> float:
    """How well the two are told apart by a threshold: 0.5 not at all, 1 always."""
    best = 0.5
    for a_times, b_times in zip(zip(*one, strict=True), zip(*other, strict=True), strict=True):
        ordered = sorted(b_times)
        wins = sum(
            2 * len(ordered) - bisect_right(ordered, a) - bisect_left(ordered, a) for a in a_times
        )
        found = wins / (2 * len(one) * len(other))
        best = max(best, found, 1 - found)
    return best


async def worst(around: Callable[[Clock, Handler], Handler]) -> float:
    """The best that an attacker does on any two of what may happen."""
    found = [
        await latencies(CACHED, around),
        await latencies(DURABLE, around),
        await latencies(BUSY, around),
        await latencies(REFUSED, around, refused=True),
    ]
    return max(auc(one, other) for at, one in enumerate(found) for other in found[at + 1 :])


async def test_cached_busy_and_refused_are_not_told_apart_by_latency() -> None:
    # An answer that is worked on across an edge leaves at the next one. So what is left to see is
    # the share of a slot that the work takes: 10 ms of 250 for a node that is busy.
    assert await worst(slotted) <= MOST_AUC


async def test_the_attack_bites_where_answers_leave_when_they_can() -> None:
    assert await worst(naive) > 0.9


async def test_the_attack_bites_where_each_answer_is_late_by_chance() -> None:
    assert await worst(late) > 0.9
