"""Timing by alternate rounds, and the one line that a figure is printed as.

Rules kept here:

* What is compared is measured in turns, many short rounds each, so that a machine that changes its
  speed changes all of them; a ratio is the median of the rounds' ratios.
* A line is a JSON object with ``bench``, ``name`` and ``ratio``; with ``target`` and ``met`` where
  there is something to reach. Absolute figures only orient.

Not handled here: what is measured.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench-results"

_ROUND_S = 0.01


class Rounds:
    """Seconds per call of every subject in every round."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self.seconds = seconds

    def microseconds(self, name: str) -> float:
        """The median time of one call, in µs."""
        return statistics.median(self.seconds[name]) * 1e6

    def ratio(self, name: str, base: str) -> float:
        """How many times ``base`` one call of ``name`` takes."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return statistics.median(one / other for one, other in pairs)


def _time(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def alternate(subjects: Mapping[str, Callable[[], object]], *, rounds: int = 25) -> Rounds:
    """Measure every subject once a round, in turns, for ``rounds`` rounds.

    A call runs as often in a round as fills about ten milliseconds, at least once.
    """
    counts = {}
    for name, call in subjects.items():
        call()
        counts[name] = max(1, int(_ROUND_S / max(_time(call, 3), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            order = list(subjects) if number % 2 == 0 else list(subjects)[::-1]
            for name in order:
                seconds[name].append(_time(subjects[name], counts[name]))
    finally:
        gc.enable()
    return Rounds(seconds)


def report(
    bench: str,
    name: str,
    ratio: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    **more: Any,
) -> None:
    """Print one figure; with ``at_most`` or ``at_least`` it says whether the target is met."""
    line: dict[str, Any] = {"bench": bench, "name": name, "ratio": round(ratio, 3)}
    if at_most is not None:
        line |= {"target": f"<= {at_most:g}", "met": ratio <= at_most}
    if at_least is not None:
        line |= {"target": f">= {at_least:g}", "met": ratio >= at_least}
    print(json.dumps(line | more))
    sys.stdout.flush()
