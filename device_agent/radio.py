"""The radio budget: how many seconds an hour a device may be awake.

Rules kept here:

* What was not used is saved up, for at most an hour; the budget is spent while awake and comes back
  evenly. So no hour has more than twice the budget, and none after a quiet one is short of it.
* A device does not wake for less than a useful moment (``USEFUL_S``, or all of a budget smaller
  than that): it sleeps until it has saved that much.
* 0 means that there is no limit.

Pure: time is an argument, in seconds of a clock that only rises. Not handled here: what the time
is used for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

HOUR_S: Final = 3600.0
USEFUL_S: Final = 1.0
"""An exchange over a slow network fits into this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioBudget:
    """What is left to be awake for."""

    per_hour_s: float
    """0: no limit."""
    saved_s: float
    """As of ``at_s``."""
    at_s: float

    @classmethod
    def full(cls, per_hour_s: float, *, now_s: float) -> RadioBudget:
        """A budget of which nothing was spent yet."""
        return cls(per_hour_s=per_hour_s, saved_s=per_hour_s, at_s=now_s)

    def left_s(self, now_s: float) -> float:
        """Seconds for which the device may be awake from now on."""
        if not self.per_hour_s:
            return math.inf
        earned_s = max(now_s - self.at_s, 0.0) * self.per_hour_s / HOUR_S
        return min(self.saved_s + earned_s, self.per_hour_s)

    def spent(self, seconds: float, *, now_s: float) -> RadioBudget:
        """The budget after being awake for ``seconds`` that end now."""
        if not self.per_hour_s:
            return replace(self, at_s=now_s)
        return replace(self, saved_s=max(self.left_s(now_s) - seconds, 0.0), at_s=now_s)

    def enough_at_s(self, now_s: float) -> float:
        """When there is enough for a useful wake: now, or later."""
        missing_s = min(USEFUL_S, self.per_hour_s) - self.left_s(now_s)
        if missing_s <= 0:
            return now_s
        return now_s + missing_s * HOUR_S / self.per_hour_s
