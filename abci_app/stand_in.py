"""When a fallback node stands in for a device's primary one, as decisions.

Rules kept here:

* A service is listed at the node that the device polls, and there alone, but for a short while. A
  fallback node cannot see the primary one's records of a device, nor should it; so it goes by what
  the device says in each exchange: whether the nodes before this one answer.
* Not at once: a device must have said so for a while, in two exchanges at least, so that one lost
  packet does not list anything. What is listed stays for as long after the primary is back, so that
  one that comes and goes does not make a transaction each time.
* A device that is not heard of any more, for three of its rounds, has gone back, or is off.

Pure. Not handled here: listing and withdrawing (``stand_in_keeper``, ``device_setup``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AFTER_US: Final = 120_000_000
"""For how long the primary must have been away, or back."""
SHORTEST_SILENCE_US: Final = 600_000_000
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a device has said to its fallback node lately; µs since 1970, 0 for never."""

    since_us: int = 0
    """The first exchange from which on it has said that its primary node is away."""
    away_us: int = 0
    """The last one in which it did."""
    back_us: int = 0
    """The first one after that in which it did not."""


def heard(standing: Standing, *, is_home_away: bool, period_s: int, now_us: int) -> Standing:
    """What is known after an exchange of a device with that period."""
    if not is_home_away:
        return Standing(away_us=standing.away_us, back_us=standing.back_us or now_us)
    goes_on = standing.since_us > 0 and not is_silent(standing, period_s=period_s, now_us=now_us)
    return Standing(since_us=standing.since_us if goes_on else now_us, away_us=now_us)


def begins(standing: Standing) -> bool:
    """Whether the node should stand in, if it does not."""
    return standing.since_us > 0 and standing.away_us - standing.since_us >= AFTER_US


def ends(standing: Standing, *, period_s: int, now_us: int) -> bool:
    """Whether the node should stand in no longer, if it does."""
    if standing.back_us and now_us - standing.back_us >= AFTER_US:
        return True
    return is_silent(standing, period_s=period_s, now_us=now_us)


def is_silent(standing: Standing, *, period_s: int, now_us: int) -> bool:
    """Whether the device has not been heard of for too long."""
    longest_us = max(SHORTEST_SILENCE_US, ROUNDS * period_s * 1_000_000)
    return now_us - max(standing.away_us, standing.back_us) > longest_us
