"""When a device is due to wake, so that its rhythm cannot be followed from one epoch to the next.

Rules kept here (privacy.md, *Side channels*):

* Within a privacy epoch wakes are a period apart, in the time that nodes prove. Their *phase*, how
  far into the period they are, is drawn from all of it, anew for each epoch.
* From the announced end of an epoch until the next one is told, the waits between wakes are drawn
  from the distribution that has no memory (the exponential one): half a period on the average.
  When exactly an epoch begins, nobody knows beforehand. So when the first wake under new handles
  comes does not depend on how long ago the last one under old handles was, nor on their phase.
* All is drawn by a key that only the device holds, from the time and from what tells one epoch from
  another. So a restart changes no phase, nobody else can compute one, and devices that hear of an
  epoch together do not wake together.
* Until an epoch is told, wakes are whole periods after the first one.

Around the end of an epoch there may be more than a period between two wakes: more than two for 6 in
100 devices, more than three for 8 in 1000. Any bound would tell something of the wake before. It
takes half a wake more in each epoch, and as many as there are periods until the next has begun.

Pure: time is an argument; seconds are those of the device's clock that only rises. Not handled
here: wakes that a node brings forward, or a budget puts off (``runtime.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

from edgistry.mac import USE_WAKES, mac

EARLY_US: Final = 10_000_000
"""An epoch may begin so much sooner by the time that a device knows than was announced."""
PATIENCE: Final = 4
"""Periods after the announced end for which waits are short; then whole periods on the average, so
that a cluster that has come to a stop costs its devices no energy."""
_CLOCK_ERROR: Final = 500
"""A device's clock may be wrong by one part in so many while it sleeps."""
_LATENCY_S: Final = 10.0
"""What a device proves of the time is ahead by as long as its request took to reach the node: after
a slow one it comes too soon by up to so much, or a quarter of its period if that is less."""

_PHASE: Final = b"\x01"
_WAIT: Final = b"\x02"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What a node has proven of the privacy epoch."""

    ends_us: int
    """As announced, µs since 1970. Tells this epoch from all others."""
    ahead_us: int
    """The node's time less that of the clock that only rises."""


def wake_key(secret: bytes) -> bytes:
    """What the wakes of the device with this secret (32 bytes) are drawn by: 32 bytes, secret."""
    return mac(secret, USE_WAKES + b"key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The regular wakes of one device."""

    key: bytes = field(repr=False)
    """See ``wake_key``."""
    period_s: float
    """From one to the next; 0: always awake."""
    first_wake_s: float
    """Means something until an epoch is told."""
    epoch: Epoch | None = None
    """The last one that was told."""

    def told(self, epoch: Epoch) -> Rhythm:
        """The same device, when a node has told it ``epoch``."""
        return replace(self, epoch=epoch)

    def due_s(self, *, now_s: float, shortest_sleep_s: float) -> float:
        """When it is due next, at least ``shortest_sleep_s`` from now."""
        earliest_s = now_s + shortest_sleep_s
        if not self.period_s:
            return earliest_s
        if self.epoch is None:
            periods = math.ceil((earliest_s - self.first_wake_s) / self.period_s)
            return max(self.first_wake_s + periods * self.period_s, earliest_s)
        # One that has come too soon is not to come once more for that.
        earliest_s = max(earliest_s, now_s + self.period_s / _CLOCK_ERROR)
        regular_s = max(earliest_s, now_s + min(_LATENCY_S, self.period_s / 4))
        due_us = self._due_us(
            self.epoch,
            earliest_us=math.ceil(earliest_s * 1e6) + self.epoch.ahead_us,
            regular_us=math.ceil(regular_s * 1e6) + self.epoch.ahead_us,
        )
        return max((due_us - self.epoch.ahead_us) / 1e6, earliest_s)

    def back_s(self, *, now_s: float, shortest_sleep_s: float) -> float:
        """When to expect it again, while it may yet be told another epoch now.

        It does not come later but by what keeps it from coming twice, unless an epoch ends
        meanwhile.
        """
        due_s = self.due_s(now_s=now_s, shortest_sleep_s=shortest_sleep_s)
        return max(due_s, now_s + self.period_s)

    def _due_us(self, epoch: Epoch, *, earliest_us: int, regular_us: int) -> int:
        """The first moment of the node's time from ``earliest_us`` on at which it is due.

        In its rhythm it is from ``regular_us`` on.
        """
        period_us = round(self.period_s * 1e6)
        phase_us = self._drawn(_PHASE, epoch.ends_us) * period_us >> 64
        due_us = regular_us + (phase_us - regular_us) % period_us
        over_us = epoch.ends_us - EARLY_US
        if due_us < over_us:
            return due_us
        from_us = max(earliest_us, over_us)
        is_soon = from_us < over_us + PATIENCE * period_us
        mean_us = period_us / 2 if is_soon else period_us
        share = (self._drawn(_WAIT, from_us) + 1) / 2**64
        return from_us + round(-math.log(share) * mean_us)

    def _drawn(self, what: bytes, number: int) -> int:
        """64 bits."""
        drawn = mac(self.key, USE_WAKES + what + number.to_bytes(9, "big", signed=True))
        return int.from_bytes(drawn[:8], "big")
