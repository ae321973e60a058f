"""Slotted release: what is answered to a handle leaves at the edges of slots (privacy.md).

When an answer was ready tells how busy a device is, whether a node had it in a cache, and which
two handles are one device. So it leaves at the next edge of a grid that is the same for all, later
by a jitter where the policy asks for one.

Pure; time and randomness are arguments. Not handled here: waiting, and which answers are slotted.
"""

from __future__ import annotations

from typing import Final

DEFAULT_SLOT_US: Final = 250_000
MAX_SLOT_US: Final = 60_000_000


def until_release_us(now_us: int, *, slot_us: int, jitter_us: int = 0, drawn: int = 0) -> int:
    """Microseconds from ``now_us`` until an answer that is ready now may leave.

    0 slots: at once. ``drawn`` is a random number of 64 bits, of which the jitter is made.
    """
    wait_us = -now_us % slot_us if slot_us > 0 else 0
    return wait_us + (drawn * (jitter_us + 1) >> 64 if jitter_us > 0 else 0)
