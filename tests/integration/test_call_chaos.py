"""Calls while nodes, engines, agents and clients are killed, and links cut, at random.

Each call ends for its client in exactly one way, and soon after its deadline at the latest. What
was carried out is on the device once; what the client was told had not been carried out is not.

``EDGISTRY_CHAOS_SEED`` sets another seed; a failure shows the one that it was.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from edgistry.errors import ExpiredError

from .call_chaos import Chaos
from .call_world import EFFECTS, HOMES, World, world
from .calling_client import Order

pytestmark = pytest.mark.engine

SEED = int(os.environ.get("EDGISTRY_CHAOS_SEED", "20260302"))
SLACK_S = 60.0
"""How long after its deadline a call may be without an outcome: somebody was dead all the time."""
NOBODY_KNOWS = "nobody knows"
"""Clients are told so in the reason."""
NEVER_RAN = {"EXPIRED", "CANCELLED", "REJECTED", "DEAD"}

Lines = list[dict[str, object]]


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
        found = wait_for_ends(chaos)
        took_s = time.monotonic() - began_s
        check_nothing_waits(place)
        effects = Counter(
            element.decode() for agent in place.agents for element in agent.elements(EFFECTS)
        )
        for number, order in chaos.orders.items():
            with telling(place, number, found[number]):
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


def wait_for_ends(chaos: Chaos) -> dict[int, Lines]:
    """What clients recorded of each call, when all have ended."""
    calls = chaos.orders.keys()
    started_s = time.time()
    while True:
        chaos.check_alive()
        found: dict[int, Lines] = {}
        for client in chaos.world.clients:
            for line in client.outcomes():
                found.setdefault(int(str(line["number"])), []).append(line)
        left = [client for client in chaos.world.clients if client.tickets()]
        if found.keys() >= calls and not left:
            return found
        longest_s = max(order.ttl_s for order in chaos.orders.values())
        assert time.time() < started_s + longest_s + SLACK_S, (
            f"stuck: {sorted(calls - found.keys())}; tickets of"
            f" {[(each.folder, each.tickets()) for each in left]}\n{chaos.world.last_words()}"
        )
        time.sleep(0.1)


def check_nothing_waits(place: World) -> None:
    """No home node has a request that has not ended."""
    for home in HOMES:
        place.cluster.wait_until(
            f"nothing waits at node {home}",
            lambda: place.outstanding(home) == 0,  # noqa: B023
        )


@contextlib.contextmanager
def telling(place: World, number: int, lines: Lines) -> Iterator[None]:
    """Around checks of one call: what is known of it goes with their failure."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(
            f"seed {SEED}, call {number}: {error}\n{lines}\n{place.last_words()}"
        ) from None


def kind_of(line: dict[str, object]) -> str:
    """How a call ended, in short."""
    if line["kind"] == "ended":
        if NOBODY_KNOWS in str(line["reason"]):
            return "nobody knows"
        return str(line["state"]).lower()
    return str(line["kind"])


def check_call(order: Order, lines: Lines, times: int) -> None:
    """One end, the same whenever it is looked at, in time, and the effect that goes with it."""
    ends = {
        tuple((name, value) for name, value in line.items() if name != "at_s") for line in lines
    }
    assert len(ends) == 1, "it ended in several ways"
    (line, *others) = lines
    kind = kind_of(line)
    assert others or kind == "turned away", "it was not looked at again"
    late_s = float(str(line["at_s"])) - float(str(line["deadline_s"]))
    assert late_s <= SLACK_S, f"known {late_s:.1f} s after its deadline"
    if kind == "done":
        assert line["payload"] == (f"did {order.data}" if order.data else "read")
        assert times == bool(order.data), f"answered, and done {times} times"
    elif kind == "nobody knows":
        assert times <= 1, f"done {times} times"
    elif kind == "turned away":
        assert line["code"] == ExpiredError.code
        assert times == 0, f"not taken, and done {times} times"
    else:
        assert line["state"] in NEVER_RAN, "no way in which a call may end here"
        assert times == 0, f"it was not carried out, they said, and it was done {times} times"
