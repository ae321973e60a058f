"""Calls while nodes, engines, agents and clients are killed, and links cut, at random.

Each call ends for its client in exactly one way, and soon after its deadline at the latest. What
was carried out is on the device once; what the client was told had not been carried out is not.

``EDGISTRY_CHAOS_SEED`` sets another seed; a failure shows the one that it was.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from edgistry.errors import ExpiredError

from .agents import EFFECTS
from .call_chaos import Chaos
from .call_ends import SLACK_S, Lines, check_effects, kind_of, telling, the_end, wait_for_ends
from .call_world import world
from .calling_client import Order

pytestmark = pytest.mark.engine

SEED = int(os.environ.get("EDGISTRY_CHAOS_SEED", "20260302"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much happens."""

    calls: int
    kills: int
    pause_s: float
    """The longest between two kills."""


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(calls=80, kills=12, pause_s=1.5), id="80-calls-12-kills"),
        pytest.param(
            Size(calls=1000, kills=120, pause_s=6.0),
            id="1000-calls-120-kills",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_each_call_has_one_end_and_one_effect_at_most_whoever_is_killed(
    size: Size, record_property: Callable[[str, object], None]
) -> None:
    print(f"seed {SEED}")
    with world() as place:
        place.begin()
        chaos = Chaos(place, random.Random(SEED))
        began_s = time.monotonic()
        chaos.rage(calls=size.calls, kills=size.kills, longest_pause_s=size.pause_s)
        raged_s = time.monotonic() - began_s
        found = wait_for_ends(
            place.clients,
            chaos.orders,
            within_s=max(order.ttl_s for order in chaos.orders.values()) + SLACK_S,
            look=chaos.check_alive,
            last_words=place.last_words,
        )
        took_s = time.monotonic() - began_s
        place.wait_until_nothing_waits()
        effects = Counter(
            element.decode() for agent in place.agents for element in agent.elements(EFFECTS)
        )
        for number, order in chaos.orders.items():
            with telling(f"seed {SEED}, call {number}", found[number], place.last_words):
                check_call(order, found[number], effects.pop(order.data, 0))
        assert not effects, f"effects that nobody ordered: {effects}"
    ends = Counter(kind_of(found[number][0]) for number in chaos.orders)
    facts: dict[str, object] = {
        "seed": SEED,
        "calls": len(chaos.orders),
        "kills": dict(chaos.kills),
        "cuts": chaos.cuts,
        "ends": dict(ends),
        "raged_s": round(raged_s, 1),
        "took_s": round(took_s, 1),
    }
    print(facts)
    for name, value in facts.items():
        record_property(name, value)
    assert len(chaos.orders) == size.calls
    assert chaos.kills.total() >= size.kills
    assert min(chaos.kills.values()) >= size.kills // 5
    assert ends["done"] > size.calls // 2, "most calls were carried out all the same"
    assert ends["nobody knows"] <= size.calls // 50, "everybody came back to say how it ended"


def check_call(order: Order, lines: Lines, times: int) -> None:
    """One end, the same whenever it is looked at, in time, and the effect that goes with it."""
    line = the_end(lines)
    check_effects(line, changes=bool(order.data), times=times)
    if line["kind"] == "done":
        assert line["payload"] == (f"did {order.data}" if order.data else "read")
    elif line["kind"] == "turned away":
        assert line["code"] == ExpiredError.code
