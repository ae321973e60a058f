"""The periods that devices have in common.

Rules kept here (privacy.md, *Side channels*):

* A period that few devices have tells them from others, and ties what is seen of one in a privacy
  epoch to what is seen in the next. So there are few to choose from, and neither is one that is
  not among them taken as the nearest: its owner would believe in what is not so.
* Whoever says that it does not matter may choose any: devices that no stranger calls have nothing
  to hide.

Pure. Not handled here: when in its period a device wakes (``rhythm.py``).
"""

from __future__ import annotations

from typing import Final

from edgistry.errors import InvalidValueError

PERIODS_S: Final = (0, 10, 30, 60, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600)
"""Seconds, ascending; 0: always awake. Two or three for each wake bucket that clients see."""

LISTED: Final = "0 (always awake), 10, 30, 60, 300, 600, 1800, 3600, 21600 or 86400"
"""The same for people; a test compares."""


def check_period(period_s: int) -> None:
    """Return if devices have ``period_s`` in common.

    Raises:
        InvalidValueError: they have not; the nearest ones that they have are named.
    """
    if period_s in PERIODS_S:
        return
    below = [each for each in PERIODS_S if each < period_s][-1:]
    above = [each for each in PERIODS_S if each > period_s][:1]
    nearest = " or ".join(map(_text, below + above))
    raise InvalidValueError(
        f"{period_s} s is no period that devices have in common, and would tell this one from"
        f" others; take {nearest}, or say any_period where no stranger calls the device"
    )


def _text(period_s: int) -> str:
    return f"{period_s} s" if period_s else "0 (always awake)"
