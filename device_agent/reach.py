"""Which node to talk to, and how long to leave one alone that did not answer.

Rules kept here:

* A device may be paired with two nodes: the primary and a fallback. The primary comes first; the
  fallback is asked when the primary does not answer, and besides whenever it may hold something for
  the device or the device something for it; so it is when the primary answers again, to be told,
  and until it has stopped to take requests in the primary's place (``LISTED_FOR_S``).
* A node that does not answer is left alone for a while that doubles each time, with a spread, so
  that a thousand devices do not come back in the same second. There is a longest while, and no end
  to trying: at that pace it costs next to nothing.

Pure: time and the spread are arguments. Not handled here: what counts as an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How long to wait after failures, in seconds."""

    first_wait_s: float = 5.0
    """After the first failure; doubles each time."""
    longest_wait_s: float = 3600.0

    def wait_s(self, failures: int, spread: float) -> float:
        """Seconds to wait after ``failures`` in a row; ``spread`` from 0 to 1 takes off up to half.

        With 0 failures there is nothing to wait for.
        """
        if failures == 0:
            return 0.0
        # Limited before it is too large for a float.
        whole_s = min(self.first_wait_s * 2.0 ** min(failures - 1, 60), self.longest_wait_s)
        return whole_s * (1.0 - spread / 2.0)


LISTED_FOR_S: Final = 180.0
"""For how long a fallback node may go on to take requests when it has been told that the primary
answers again: two minutes, and some for the clocks. Nobody else would fetch them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What is known about reaching one node."""

    failures: int = 0
    """Exchanges in a row that brought no answer."""
    retry_at_s: float = 0.0
    """Not before this."""
    is_owed: bool = False
    """Whether the node may have something for the device, or the device has something for it."""
    listed_until_s: float = 0.0
    """Until when it may take requests in the place of those before it; 0 when it does not."""

    def failed(self, back_off: BackOff, *, now_s: float, spread: float) -> Reach:
        """It did not answer."""
        failures = self.failures + 1
        return replace(
            self, failures=failures, retry_at_s=now_s + back_off.wait_s(failures, spread)
        )

    def answered(self, *, is_owed: bool, stands_in: bool, now_s: float) -> Reach:
        """It did answer; ``stands_in``: and was told that those before it do not."""
        if stands_in:
            return Reach(is_owed=True, listed_until_s=math.inf)
        until_s = min(self.listed_until_s, now_s + LISTED_FOR_S)
        if now_s < until_s:
            return Reach(is_owed=True, listed_until_s=until_s)
        return Reach(is_owed=is_owed)


def to_ask(reaches: Sequence[Reach], *, asked: Sequence[int], now_s: float) -> int | None:
    """The node to ask next in this wake, by position; ``None`` when there is none.

    ``asked`` are those that were asked in this wake already.
    """
    answered = any(reaches[number].failures == 0 for number in asked)
    for number, reach in enumerate(reaches):
        if number in asked or reach.retry_at_s > now_s:
            continue
        if not answered or reach.is_owed:
            return number
    return None


def is_stand_in(reaches: Sequence[Reach], number: int) -> bool:
    """Whether that node is asked because none of those before it answers."""
    return number > 0 and all(reach.failures > 0 for reach in reaches[:number])


def next_retry_s(reaches: Sequence[Reach]) -> float:
    """When the first of the nodes may be asked again."""
    return min(reach.retry_at_s for reach in reaches)
