"""How evenly something is spread."""

from __future__ import annotations

from collections.abc import Sequence


def gini(counts: Sequence[int]) -> float:
    """The Gini coefficient of ``counts``: 0 if all are the same, near 1 if one has all.

    Raises:
        ZeroDivisionError: nothing is there to be spread.
    """
    ordered = sorted(counts)
    weighted = sum(rank * count for rank, count in enumerate(ordered, 1))
    return 2 * weighted / (len(ordered) * sum(ordered)) - (len(ordered) + 1) / len(ordered)
