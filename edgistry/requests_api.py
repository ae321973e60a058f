"""Requests to services over HTTP: what clients send and get (woofs_and_queues.md, *Mailbox*).

Rules kept here:

* Pure. Bytes travel as unpadded base64url, times as µs since 1970.
* A client sees how its request is doing and the wake bucket of the service: no device, no home
  node, no queue of others (privacy.md).
* What is asked for is in the envelope, and so is the deadline: they are signed. Beside it is only
  what the queue has to know.

Not handled here: the routes (``edgistry.routes``), and what becomes of a request.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

from .api import WakeBucket
from .codec import Answer, Document, Meta
from .errors import MalformedError
from .messages import MAX_PRIORITY, MAX_QUEUED_ENVELOPE_BYTES

FETCH_KEY_HEADER: Final = "Edgistry-Fetch-Key"
"""Carries the key whose hash was given when the request was made; without it nobody sees it."""
MAX_FETCH_KEY_BYTES: Final = 64
MAX_WAIT_S: Final = 30
"""How long a node holds an answer back, waiting for news."""
MAX_ACKNOWLEDGED: Final = 32
"""Outcomes that one submission acknowledges."""
MAX_SUBMIT_BYTES: Final = MAX_QUEUED_ENVELOPE_BYTES * 4 // 3 + 12 * 1024

StateName = Literal[
    "QUEUED", "LEASED", "ACKED", "RESPONDED", "REJECTED", "FAILED", "EXPIRED", "CANCELLED",
    "DEAD", "DELIVERED",
]  # fmt: skip
"""QUEUED: waits for the device. LEASED: handed to it. ACKED: durable there. The others are ends."""


class KnownOutcome(Document):
    """The outcome of a request that its client has: the node need not keep it."""

    id: Annotated[str, Meta(description="The request's id, base64url.", max_length=64)]
    fetch_key: Annotated[
        str, Meta(description="The key whose hash came with it, base64url.", max_length=128)
    ]


class SubmitBody(Document):
    """A request to a service."""

    handle: Annotated[str, Meta(description="The service, as discovery names it.")]
    envelope: Annotated[
        str,
        Meta(
            description="The request bound to its capabilities, base64url.",
            max_length=MAX_QUEUED_ENVELOPE_BYTES * 4 // 3 + 4,
        ),
    ]
    idempotency_key: Annotated[
        str, Meta(description="1 to 64 bytes, base64url: who sends it again means this request.")
    ]
    fetch_hash: Annotated[
        str, Meta(description=f"SHA-256 of the key for {FETCH_KEY_HEADER}, base64url.")
    ]
    priority: Annotated[
        int, Meta(ge=0, le=MAX_PRIORITY, description="Among your own; a higher one goes first.")
    ] = 0
    not_before_us: Annotated[
        int, Meta(ge=0, le=(1 << 63) - 1, description="Not handed to the device before this time.")
    ] = 0
    max_age_s: Annotated[
        int,
        Meta(ge=0, le=7 * 24 * 3600, description="An answer of this age is good enough; 0: none."),
    ] = 0
    acknowledged: Annotated[
        tuple[KnownOutcome, ...],
        Meta(
            max_length=MAX_ACKNOWLEDGED,
            description="Outcomes of earlier requests that you have; what is not there is skipped.",
        ),
    ] = ()


class RequestAnswer(Answer):
    """How a request is doing."""

    id: Annotated[str, Meta(description="Its id, base64url.")]
    state: StateName
    final: Annotated[
        bool,
        Meta(
            description="Whether it has ended. That is for good; but one that is DEAD may be tried"
            " again by the node's operator until you acknowledge."
        ),
    ]
    wake: Annotated[WakeBucket, Meta(description="The service usually answers within this time.")]
    attempts: Annotated[int, Meta(ge=0, description="How often it was handed to the device.")]
    submitted_us: int
    deadline_us: Annotated[int, Meta(description="When it expires; the envelope says so.")]
    recalled: Annotated[bool, Meta(description="You took it back; the device has the last word.")]
    reply: Annotated[
        str | None,
        Meta(description="The reply with its tag, base64url, from its end until you acknowledge."),
    ]
    reason: Annotated[str, Meta(description="Why it ended so, where the reply does not say it.")]


def to_text(data: bytes) -> str:
    """``data`` as unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def to_bytes(text: str, what: str) -> bytes:
    """The bytes in ``text``, whose only spelling it is; ``what`` names it in the error.

    Raises:
        MalformedError: it is not what ``to_text`` writes.
    """
    try:
        padding = b"=" * (-len(text) % 4)
        data = base64.b64decode(text.encode("ascii") + padding, altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MalformedError(f"{what} is not base64url without padding") from None
    if to_text(data) != text:
        raise MalformedError(f"{what} is not base64url without padding")
    return data
