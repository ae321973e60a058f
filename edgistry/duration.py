"""Durations as people write them: ``90``, ``90s``, ``5m``, ``2h``, ``7d``, ``250ms``.

Rules kept here: pure; one unit a text; without a unit it is seconds.
"""

from __future__ import annotations

import re

from .errors import MalformedError

_UNITS_MS = {"ms": 1, "s": 1000, "": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s?(ms|s|m|h|d|)")


def parse_duration(text: str) -> float:
    """``text`` in seconds, to the millisecond.

    Raises:
        MalformedError: not a number with one of the units ms, s, m, h, d.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise MalformedError(f"duration {text[:50]!r}: write a number and ms, s, m, h or d: 90s")
    number, unit = match.groups()
    return round(float(number) * _UNITS_MS[unit]) / 1000
