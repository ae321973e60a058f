"""What an answer means for the element that was sent onward.

Rules kept here:

* One table says for every status whether the element is there, can never get there, needs a new
  request, or the same one again. An unknown status is taken as "the same again": nothing is lost.
* A new request is made only where the old one is spent: its sequence is struck, or can never be.
* One element that the destination does not take never stops the next one.

Not handled here: whether the answer is genuine (``BoundRequest.open_reply``), and what is done
(``forwarding.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from .envelope import BY_NODE, Reply, Status


class Verdict(Enum):
    """What has become of a request to append one element."""

    DELIVERED = "delivered"
    """The element is there."""
    REFUSED = "refused"
    """The destination will never take this element."""
    SPENT = "spent"
    """It was carried out and has failed: its answer is remembered, and will not change."""
    OVER = "over"
    """It can no longer be carried out; earlier it may have been."""
    AGAIN = "again"
    """The same request may succeed later."""


VERDICTS: Final[Mapping[int, Verdict]] = MappingProxyType(
    {
        Status.OK: Verdict.DELIVERED,
        Status.ACCEPTED: Verdict.DELIVERED,
        Status.HANDLER_FAILED: Verdict.DELIVERED,  # appended; what it fired has failed
        Status.TOO_LARGE: Verdict.REFUSED,
        Status.REJECTED: Verdict.REFUSED,
        Status.NOT_FOUND: Verdict.SPENT,
        Status.NO_HANDLER: Verdict.SPENT,
        Status.FULL: Verdict.SPENT,
        Status.CANCELLED: Verdict.SPENT,
        Status.DEAD: Verdict.SPENT,
        Status.STALE: Verdict.OVER,
        Status.EXPIRED: Verdict.OVER,
    }
)

_WORDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        Status.REFUSED: "the destination cannot verify the capability",
        Status.STALE: "the destination takes the request for an old one",
        Status.FUTURE: "the destination's clock was set back; the request waits for its time",
        Status.EXPIRED: "the request has expired",
        Status.NO_RIGHT: "the capability does not allow to put there",
        Status.CAVEAT: "a condition of the capability does not hold",
        Status.REVOKED: "the capability was revoked",
        Status.NOT_FOUND: "the destination has no such WooF",
        Status.TOO_LARGE: "too large for the destination",
        Status.NO_HANDLER: "the destination has no such handler",
        Status.BUSY: "the destination is busy",
        Status.FULL: "the destination is full",
        Status.STORAGE: "the destination cannot write",
        Status.REJECTED: "the destination does not take such an element",
        Status.MALFORMED: "the destination does not understand the request",
    }
)


def verdict_of(reply: Reply) -> Verdict:
    """What ``reply`` says about the element."""
    return VERDICTS.get(reply.status & ~BY_NODE, Verdict.AGAIN)


def words_for(reply: Reply) -> str:
    """What ``reply`` says, for people."""
    status = reply.status & ~BY_NODE
    return _WORDS.get(status, f"the destination answers with status {status}")
