"""What clients were told in the end of calls, and what must be true of it, whoever was killed.

Each call ends for its client in exactly one way, and soon after its deadline at the latest. What
was carried out is on a device once; what the client was told had not been carried out is not.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from .linked_world import FollowerProcess

SLACK_S = 60.0
"""How long after its deadline a call may be without an outcome: somebody was dead all the time."""
NOBODY_KNOWS = "nobody knows"
"""Clients are told so in the reason."""
NEVER_RAN = {"EXPIRED", "CANCELLED", "REJECTED", "DEAD"}

Lines = list[dict[str, object]]


def wait_for_ends(
    clients: Sequence[FollowerProcess],
    calls: Collection[int],
    *,
    within_s: float,
    look: Callable[[], None],
    last_words: Callable[[], str],
) -> dict[int, Lines]:
    """What clients recorded of each of ``calls``, when all have ended: ``within_s`` at the latest.

    ``look`` is called again and again meanwhile.
    """
    until_s = time.monotonic() + within_s
    while True:
        look()
        found: dict[int, Lines] = defaultdict(list)
        for client in clients:
            for line in client.outcomes():
                found[int(str(line["number"]))].append(line)
        left = [client for client in clients if client.tickets()]
        if found.keys() >= set(calls) and not left:
            return dict(found)
        assert time.monotonic() < until_s, (
            f"stuck: {sorted(set(calls) - found.keys())}; tickets of"
            f" {[(each.folder, each.tickets()) for each in left]}\n{last_words()}"
        )
        time.sleep(0.1)


@contextlib.contextmanager
def telling(what: str, lines: Lines, last_words: Callable[[], str]) -> Iterator[None]:
    """Around checks of one call: what is known of it goes with their failure."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}\n{lines}\n{last_words()}") from None


def kind_of(line: dict[str, object]) -> str:
    """How a call ended, in short."""
    if line["kind"] == "ended":
        if NOBODY_KNOWS in str(line["reason"]):
            return "nobody knows"
        return str(line["state"]).lower()
    return str(line["kind"])


def the_end(lines: Lines, *, within_s: float = SLACK_S) -> dict[str, object]:
    """The one end of a call, the same whenever it was looked at; ``within_s`` of its deadline."""
    ends = {
        tuple((name, value) for name, value in line.items() if name != "at_s") for line in lines
    }
    assert len(ends) == 1, "it ended in several ways"
    (line, *others) = lines
    assert others or line["kind"] == "turned away", "it was not looked at again"
    late_s = float(str(line["at_s"])) - float(str(line["deadline_s"]))
    assert late_s <= within_s, f"known {late_s:.1f} s after its deadline"
    return line


def check_effects(line: dict[str, object], *, changes: bool, times: int) -> None:
    """What the client was told goes with how often the call's effect is there."""
    kind = kind_of(line)
    if kind == "done":
        assert times == changes, f"answered, and done {times} times"
    elif kind == "nobody knows":
        assert times <= 1, f"done {times} times"
    else:
        is_known = kind == "turned away" or line["state"] in NEVER_RAN
        assert is_known, "no way in which a call may end here"
        assert times == 0, f"it was not carried out, they said, and it was done {times} times"
