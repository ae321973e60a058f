"""The clocks of the machine, and waiting: the agent's only source of time.

The rising clock runs on while the machine is suspended, where the system has such a clock: a device
that slept for an hour must know that an hour has passed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

_RISING: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What an agent needs of time."""

    def now_s(self) -> float:
        """Seconds of a clock that only rises."""

    def wall_us(self) -> int:
        """What the wall clock says, µs since 1970. It may be wrong by years."""

    async def sleep_until(self, until_s: float) -> None:
        """Return when the rising clock shows ``until_s``."""


class SystemClock:
    """The ``Clock`` of this machine."""

    def now_s(self) -> float:
        """See ``Clock``."""
        return time.clock_gettime(_RISING)

    def wall_us(self) -> int:
        """See ``Clock``."""
        return time.time_ns() // 1000

    async def sleep_until(self, until_s: float) -> None:
        """See ``Clock``."""
        while (left_s := until_s - self.now_s()) > 0:  # noqa: ASYNC110 - nobody can wake it early
            # In steps: the loop's own clock may stand still while the machine is suspended.
            await asyncio.sleep(min(left_s, 60.0))
