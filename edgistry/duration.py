"""Times as people write them: ``90s``, ``5m``, ``2h``, ``7d``, ``250ms``, ``2030-01-01T00:00Z``.

Rules kept here: pure; one unit a text; a duration without a unit is seconds; a time has its zone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

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


def parse_moment(text: str, *, now_us: int) -> int:
    """A moment in µs since 1970: ``2h`` from now (to the second), or ``2030-01-01T00:00:00Z``.

    Raises:
        MalformedError: neither a duration nor a time with its zone.
    """
    try:
        seconds = now_us // 1_000_000 + round(parse_duration(text))
    except MalformedError:
        pass
    else:
        return seconds * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise MalformedError(f"{text[:50]!r}: write a duration (2h), or a time (2030-01-01T00:00Z)")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    if since.days < 0:
        raise MalformedError(f"{text[:50]!r} is before 1970")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
