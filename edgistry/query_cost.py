"""What questions cost of a client's budget (privacy.md, *Flooding*).

Rules kept here:

* Pure. What can be told before a question is answered is charged before: wide circles, long bodies
  (polygons), and a base for each operation. What an answer holds is charged by its length.
* The dearest question costs less than ``MAX_COST``, so that any budget pays for it.

Not handled here: who pays (``budget``), and limits of single questions (``discover_query``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .api import MAX_RADIUS_KM

BASE: Final[Mapping[str, float]] = {
    "discover": 1.0,
    "discover_by_body": 2.0,
    "watch": 5.0,
    "watch_by_body": 6.0,
    "grant": 2.0,
    "any_grant": 4.0,
    "request_submit": 1.0,
}
"""Of the operations that cost something, by their names in ``edgistry.routes``."""

MAX_COST: Final = 1000.0
_FREE_RADIUS_KM: Final = 50.0
_BODY_BYTES: Final = 2048
"""Of a body for 1. A polygon of a million bytes takes most of a second to cover."""
_ANSWER_BYTES: Final = 16 * 1024


def cost_before(operation: str, query: Mapping[str, str], body_bytes: int) -> float:
    """What is paid before a question is answered; 0: it is free."""
    base = BASE.get(operation)
    if base is None:
        return 0.0
    cost = base + body_bytes / _BODY_BYTES
    radius_km = _radius(query.get("radius_km", ""))
    if radius_km > _FREE_RADIUS_KM:
        cost += (radius_km / _FREE_RADIUS_KM) ** 2 / 10
    return min(cost, MAX_COST)


def cost_after(operation: str, answer_bytes: int) -> float:
    """What is paid for the answer."""
    return min(answer_bytes / _ANSWER_BYTES, MAX_COST) if operation in BASE else 0.0


def _radius(text: str) -> float:
    """Kilometres; what is no number is refused later, and costs nothing more."""
    try:
        radius_km = float(text[:50])
    except ValueError:
        return 0.0
    return radius_km if 0 <= radius_km <= MAX_RADIUS_KM else 0.0
