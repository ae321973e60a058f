"""The machine's clocks, in the unit that everything here uses."""

from __future__ import annotations

import time


def wall_us() -> int:
    """Now, µs since 1970."""
    return time.time_ns() // 1000


def steady_us() -> int:
    """Now, µs since whenever, by a clock that never jumps."""
    return time.monotonic_ns() // 1000
