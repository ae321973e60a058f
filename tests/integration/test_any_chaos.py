"""Any service while nodes, engines, agents and clients are killed, and devices vanish for good.

Each call is answered once, or refused within the time that its client waits; and it ends for good
in exactly one way. What it changes is changed at one device of all at most, and once.

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

from abci_app.mailbox_records import MailboxLimits

from ..spread import gini
from .any_chaos import AnyChaos
from .any_client import AnyCall
from .any_service_world import any_service_world
from .call_ends import SLACK_S, Lines, check_effects, kind_of, telling, the_end, wait_for_ends

pytestmark = pytest.mark.engine

SEED = int(os.environ.get("EDGISTRY_CHAOS_SEED", "20260302"))
TOLD_SLACK_S = 30.0
"""How long after the time that it waits at most a client may be without a word."""
KNOWN_S = MailboxLimits().lease_s + SLACK_S
"""How long after its deadline a call may be without an end: a device that has it may be late."""
EVEN = 0.2
"""The most that the Gini coefficient of choices may be over services that wake equally soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much happens."""

    devices: int
    """At each of four nodes."""
    quiet_calls: int
    """Before anything is broken."""
    calls: int
    kills: int
    calm_calls: int
    """Afterwards."""
    vanish: int
    """Devices that vanish for good."""
    pause_s: float
    """The longest between two kills."""
    ttl_s: float
    """Of most calls."""
    long_dead_s: float
    """The longest that some nodes are dead."""
    at_work: bool
    """Whether devices vanish with calls that they have taken: those end a lease later."""


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(
            Size(
                devices=5,
                quiet_calls=100,
                calls=60,
                kills=8,
                calm_calls=0,
                vanish=3,
                pause_s=0.5,
                ttl_s=8.0,
                long_dead_s=0.0,
                at_work=False,
            ),
            id="60-calls-8-kills",
        ),
        pytest.param(
            Size(
                devices=6,
                quiet_calls=200,
                calls=600,
                kills=64,
                calm_calls=100,
                vanish=9,
                pause_s=4.0,
                ttl_s=60.0,
                long_dead_s=20.0,
                at_work=True,
            ),
            id="600-calls-64-kills",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_any_call_is_answered_once_or_refused_in_time_whoever_is_killed_or_vanishes(
    size: Size, record_property: Callable[[str, object], None]
) -> None:
    print(f"seed {SEED}")
    with any_service_world(devices=size.devices) as place:
        started_s = time.monotonic()
        place.begin()
        draw = random.Random(SEED)
        chaos = AnyChaos(
            place,
            draw,
            longest_ttl_s=size.ttl_s,
            long_dead_s=size.long_dead_s,
            vanish_at_work=size.at_work,
        )
        everybody = [device.name for device in place.devices]
        chaos.order(size.quiet_calls, patience_s=SLACK_S)
        quiet = ends_of(chaos)
        began_s = time.monotonic()
        chaos.rage(
            calls=size.calls, kills=size.kills, vanish=size.vanish, longest_pause_s=size.pause_s
        )
        raged_s = time.monotonic() - began_s
        raging = without(ends_of(chaos), quiet)
        chaos.order(size.calm_calls)
        found = ends_of(chaos)
        calm = without(found, {**quiet, **raging})
        survivors = [device.name for device in place.devices]
        place.wait_until_nothing_waits(size.ttl_s + KNOWN_S)
        ended_s = time.monotonic()
        told = place.told()
        effects = place.effects()
        for number, order in chaos.orders.items():
            with telling(f"seed {SEED}, call {number}", found[number], place.last_words):
                check_call(order, found[number], effects.pop(order.data, []))
        assert not effects, f"effects that nobody ordered: {effects}"
        check_told(told, found)
    ends = Counter(kind_of(lines[0]) for lines in raging.values())
    facts: dict[str, object] = {
        "seed": SEED,
        "calls": len(chaos.orders),
        "kills": dict(chaos.kills),
        "cuts": chaos.cuts,
        "vanished": dict(chaos.vanished),
        "ends": dict(ends),
        "told": dict(Counter(str(line["code"]) or "answered" for line in told)),
        "latest_word_s": round(max(overtime_s(line) for line in told), 1),
        "gini_quiet": spread(quiet, everybody),
        "gini_churn": spread(raging, survivors),
        "gini_calm": spread(calm, survivors),
        "before_s": round(began_s - started_s, 1),
        "raged_s": round(raged_s, 1),
        "took_s": round(ended_s - began_s, 1),
    }
    print(facts)
    for name, value in facts.items():
        record_property(name, value)
    assert {kind_of(lines[0]) for lines in quiet.values()} == {"done"}
    assert spread(quiet, everybody) <= EVEN
    assert spread(calm, survivors) <= EVEN
    assert len(raging) == size.calls
    assert chaos.kills.total() >= size.kills
    assert min(chaos.kills.values()) >= size.kills // 5
    assert chaos.vanished.total() == size.vanish
    assert ends["done"] > size.calls // 3, "many calls were carried out all the same"
    at_most = 2 * size.vanish + size.calls // 50
    assert ends["nobody knows"] <= at_most, "who has not vanished came back to say how it ended"


def ends_of(chaos: AnyChaos) -> dict[int, Lines]:
    """What clients recorded of each call, when all have ended."""
    return wait_for_ends(
        chaos.world.clients,
        chaos.orders,
        within_s=chaos.longest_ttl_s + KNOWN_S,
        look=chaos.check_alive,
        last_words=chaos.world.last_words,
    )


def without(found: dict[int, Lines], others: dict[int, Lines]) -> dict[int, Lines]:
    """What was ordered since."""
    return {number: lines for number, lines in found.items() if number not in others}


def spread(found: dict[int, Lines], names: list[str]) -> float:
    """How unevenly these devices were chosen for what was answered, as a Gini coefficient."""
    counts = Counter(str(lines[0]["payload"]).split(" ")[0] for lines in found.values())
    there = [counts[name] for name in names]
    return round(gini(there), 3) if any(there) else 0.0


def check_call(order: AnyCall, lines: Lines, at: list[str]) -> None:
    """One end, the same whenever it is looked at, and the effect that goes with it, ``at`` one."""
    line = the_end(lines, within_s=KNOWN_S)
    check_effects(line, changes=bool(order.data), times=len(at))
    if line["kind"] == "done":
        who, what = str(line["payload"]).split(" ", 1)
        assert what == (f"did {order.data}" if order.data else "read")
        assert at in ([], [who]), f"{who} has answered what {at} did"


def check_told(told: Lines, found: dict[int, Lines]) -> None:
    """Who lived on was told in time, what is the end of the call if it was an answer."""
    for line in told:
        (end, *_) = found[int(str(line["number"]))]
        assert overtime_s(line) <= TOLD_SLACK_S, f"told too late: {line}"
        if not line["code"]:
            assert (end["kind"], end["payload"]) == ("done", line["payload"]), f"{line}, {end}"


def overtime_s(line: dict[str, object]) -> float:
    """How long after the time that it waits at most a client was told."""
    return float(str(line["took_s"])) - float(str(line["wait_s"]))
