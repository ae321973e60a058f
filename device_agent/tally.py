"""What a wake costs, while it lasts and when it is over.

Not handled here: what that means in energy (``energy.py``), and where it rests (``account.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgistry.messages import Account

from .energy import Spending

MAX_U32 = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """What one wake came to."""

    spending: Spending
    exchanges: int
    """That brought an answer."""
    failures: int
    """Exchanges that brought none."""
    requests: int
    """That came down."""
    next_wake_s: float
    """Seconds from the end of this wake to the next one."""


class Tally:
    """What a wake that is not over has come to so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.exchanges = 0
        self.failures = 0
        self.requests = 0
        self._since_s: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the wake has begun."""
        return self._since_s is not None

    def begin(self, now_s: float) -> None:
        """It begins now, unless it has begun."""
        if self._since_s is None:
            self._since_s = now_s

    def lasts_s(self, now_s: float) -> float:
        """For how long it has lasted."""
        return 0.0 if self._since_s is None else now_s - self._since_s

    def ended(self, now_s: float, *, rested_at_s: float, next_wake_s: float) -> Wake:
        """The wake, which ends now; the one before ended at ``rested_at_s``."""
        awake_s = self.lasts_s(now_s)
        spending = Spending(
            wakes=1,
            awake_s=awake_s,
            asleep_s=max(now_s - awake_s - rested_at_s, 0.0),
            sent=self.sent,
            received=self.received,
        )
        return Wake(
            spending=spending,
            exchanges=self.exchanges,
            failures=self.failures,
            requests=self.requests,
            next_wake_s=next_wake_s,
        )


def added(one: Account, other: Account) -> Account:
    """Both accounts in one, as far as its numbers go."""
    return Account(
        awake_ms=min(one.awake_ms + other.awake_ms, MAX_U32),
        sent=min(one.sent + other.sent, MAX_U32),
        received=min(one.received + other.received, MAX_U32),
    )
