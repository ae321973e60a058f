"""How much a client may ask: token buckets, so many of them and no more (privacy.md, *Flooding*).

Rules kept here:

* Pure; time is an argument, in microseconds of a clock that does not run backwards.
* A bucket holds ``burst`` and is refilled with ``rate_per_s``. What costs more than a bucket holds
  can never be paid for, and is refused as such.
* Buckets are bounded. Full ones, whose owners have not asked lately, make room first; if none is
  full, whoever is new shares one bucket with all others who are: an attacker with many names gets
  no more than one, and nobody who is known loses what is left to them.

Not handled here: who a client is, and what a request costs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Final

from .errors import BudgetError, InvalidValueError, LimitExceededError

_CROWD: Final = b""
"""The bucket that newcomers share when there is no room for one of their own."""
_LOOKED_AT: Final = 8


@dataclass(slots=True)
class _Bucket:
    left: float
    at_us: int


class Budgets:
    """Buckets by name. At most ``most`` names at a time.

    Raises (when made):
        InvalidValueError: a rate, burst or number of buckets that is not above 0.
    """

    def __init__(self, *, rate_per_s: float, burst: float, most: int = 10_000) -> None:
        if not (rate_per_s > 0 and burst > 0 and most > 0):
            raise InvalidValueError("a budget has a rate, a burst and room above 0")
        self._rate_per_us = rate_per_s / 1_000_000
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, name: bytes, cost: float, *, now_us: int) -> None:
        """Take ``cost`` from the bucket of ``name`` (not empty).

        Raises:
            BudgetError: there is less in it; nothing was taken, ``retry_after_s`` says when there
                is enough.
            LimitExceededError: no bucket can ever hold as much.
        """
        self._checked(name, cost, now_us).left -= cost

    def give_back(self, name: bytes, cost: float, *, now_us: int) -> None:
        """Undo ``spend``: what was paid for did not come about."""
        bucket = self._bucket(name, now_us)
        self._refill(bucket, now_us)
        bucket.left = min(self._burst, bucket.left + cost)

    def check(self, name: bytes, cost: float, *, now_us: int) -> None:
        """Raises as ``spend``, and takes nothing."""
        self._checked(name, cost, now_us)

    def take(self, name: bytes, cost: float, *, now_us: int) -> None:
        """Take ``cost``, or what there is: for what is known only when it has been spent."""
        bucket = self._bucket(name, now_us)
        self._refill(bucket, now_us)
        bucket.left = max(0.0, bucket.left - cost)

    def _checked(self, name: bytes, cost: float, now_us: int) -> _Bucket:
        if cost > self._burst:
            raise LimitExceededError(
                f"this costs {cost:g}, more than the {self._burst:g} that anybody may spend at once"
            )
        bucket = self._bucket(name, now_us)
        self._refill(bucket, now_us)
        if bucket.left < cost:
            wait_s = math.ceil((cost - bucket.left) / self._rate_per_us / 1_000_000)
            raise BudgetError(
                f"this costs {cost:g} and {bucket.left:.1f} are left", retry_after_s=wait_s
            )
        return bucket

    def _bucket(self, name: bytes, now_us: int) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None and not self._has_room(now_us):
            name = _CROWD
            bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(self._burst, now_us)
        self._buckets.move_to_end(name)
        return bucket

    def _has_room(self, now_us: int) -> bool:
        if len(self._buckets) < self._most:
            return True
        # The first ones have not been used for longest: if any is full again, one of these is.
        for name in list(islice(self._buckets, _LOOKED_AT)):
            bucket = self._buckets[name]
            self._refill(bucket, now_us)
            if bucket.left >= self._burst:
                del self._buckets[name]
                return True
        return False

    def _refill(self, bucket: _Bucket, now_us: int) -> None:
        passed_us = max(0, now_us - bucket.at_us)
        bucket.left = min(self._burst, bucket.left + passed_us * self._rate_per_us)
        bucket.at_us = max(bucket.at_us, now_us)
