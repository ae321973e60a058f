"""Sequence numbers on the client's side: rising, near the time, and self-correcting.

Rules kept here:

* A sequence is the client's time in µs, or one more than the last one if that is higher; none is
  used twice.
* STALE and FUTURE replies (proven ones: ``BoundRequest.open_reply``) say where to continue; the
  client follows them without anybody's help (paper §3.2).
* A probe asks for the issuer's time and does nothing: it can never be executed, since its deadline
  lies before its sequence.

Keep ``last`` durable, or start after a pause longer than the clock may have been set back: reusing
a sequence is refused, never harmful. Not handled here: clocks, sending.
"""

from __future__ import annotations

from typing import Final

from .envelope import Reply, Status

PROBE_SEQUENCE: Final = 1 << 62
PROBE_DEADLINE: Final = PROBE_SEQUENCE - 3_600_000_000
"""Whatever the issuer's time, the probe is too far ahead of it or has expired: an hour lies
between, and 5 minutes are allowed."""


class Sequencer:
    """The sequence numbers of one client towards one grant."""

    __slots__ = ("epoch", "last", "offset_us")

    def __init__(self, *, epoch: int = 0, last: int = 0) -> None:
        self.epoch = epoch
        """The sequence epoch to put into envelopes."""
        self.last = last
        """The last sequence given out."""
        self.offset_us = 0
        """What to add to the client's time: the issuer's clock may differ."""

    def time_us(self, now_us: int) -> int:
        """The issuer's time as far as it is known, for sequences and deadlines."""
        return max(now_us + self.offset_us, 0)

    def next(self, now_us: int) -> int:
        """A sequence that was not used before."""
        self.last = max(self.time_us(now_us), self.last + 1)
        return self.last

    def follow(self, reply: Reply, *, now_us: int) -> bool:
        """Continue where a proven STALE or FUTURE ``reply`` says; whether it was one.

        The request that it answers was not executed now. After STALE it may have been executed
        before, more than 64 requests ago. After FUTURE a recorded copy of it can still be executed,
        once its sequence is near enough and until its deadline: so keep deadlines short, and bind
        again only what may happen twice, or wait for the old deadline.
        """
        status = reply.status & 0x7FFF
        if status == Status.FUTURE:
            self.offset_us = reply.sequence_floor - now_us
            self.last = 0
        elif status == Status.STALE:
            self.last = max(self.last, reply.sequence_floor)
            if reply.sequence_epoch != self.epoch:
                self.last = reply.sequence_floor
        else:
            return False
        self.epoch = reply.sequence_epoch
        return True
