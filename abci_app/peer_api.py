"""What nodes say to each other over the link about requests to services, and its bounds.

What a client asked at one node, its entry node, goes to the home node of the service. Requests are
canonical MessagePack; answers are the documents that the client would get.

Rules kept here:

* Pure. A node asks about a request with its id and the hash of its fetch key: it has both from
  the request, and nobody else knows the hash. It never needs the fetch key itself.
* What a client signed or bound travels unchanged. Beside it is what the client said in clear.

Not handled here: connections and who may ask (``peer_link``, ``peer_routes``).
"""

from __future__ import annotations

from typing import Annotated, Final

from edgistry.codec import Answer, Meta, Wire
from edgistry.handles import HANDLE_BYTES
from edgistry.messages import MAX_PRIORITY, MAX_QUEUED_ENVELOPE_BYTES
from edgistry.requests_api import MAX_WAIT_S, RequestAnswer
from edgistry.signed_request import MAX_BODY_BYTES, SignedRequest
from edgistry.transactions import Bytes16, Bytes32

PASS_PATH: Final = "/peer/v1/requests"
LOOK_PATH: Final = "/peer/v1/requests/look"
ACKNOWLEDGE_PATH: Final = "/peer/v1/requests/acknowledge"
CANCEL_PATH: Final = "/peer/v1/requests/cancel"
OUTCOMES_PATH: Final = "/peer/v1/requests/outcomes"
GRANT_PATH: Final = "/peer/v1/grants"
ANY_GRANT_PATH: Final = "/peer/v1/any/grants"

MAX_REFERENCES: Final = 256
MAX_OUTCOME_BYTES: Final = 1 << 20
"""Of replies in one answer about outcomes; what does not fit is told next time."""
MAX_PEER_BODY_BYTES: Final = max(MAX_QUEUED_ENVELOPE_BYTES, MAX_BODY_BYTES) + 4096


class PassedRequest(Wire):
    """A request as its client sent it to the entry node."""

    service: Bytes16
    """The record key of the service."""
    envelope: Annotated[bytes, Meta(min_length=1, max_length=MAX_QUEUED_ENVELOPE_BYTES)]
    idempotency_key: Annotated[bytes, Meta(min_length=1, max_length=64)]
    fetch_hash: Bytes32
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)]
    not_before_us: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    max_age_s: Annotated[int, Meta(ge=0, le=7 * 24 * 3600)]
    recalled: bool
    """The client has taken it back since: it is to be known, and cancelled at once."""


class Reference(Wire):
    """Which request is meant, and that the asker may know of it."""

    id: Bytes16
    fetch_hash: Bytes32


class PassedAnyGrant(Wire):
    """A wish for any service, and the service that the entry node chose."""

    request: SignedRequest
    """As the client signed it."""
    service: Bytes16
    """The record key of the service."""
    handle: Annotated[bytes, Meta(min_length=HANDLE_BYTES, max_length=HANDLE_BYTES)]
    """The alias that the client gets for it."""


class Look(Wire):
    """How is it doing? The answer waits for news, as a client's fetch does."""

    request: Reference
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_S * 1000)]
    known: Annotated[str, Meta(max_length=16)]
    """The state that is no news; empty for none."""


class WhichEnded(Wire):
    """Which of these have ended?"""

    requests: Annotated[tuple[Reference, ...], Meta(max_length=MAX_REFERENCES)]


class PassedAnswer(Answer):
    """How a request that was passed on is doing."""

    request: RequestAnswer
    is_new: bool


class EndedAnswer(Answer):
    """Those that have ended."""

    ended: tuple[RequestAnswer, ...]
    unknown: tuple[str, ...]
    """Ids of which there is nothing to know with that hash."""
    more: bool
    """There are others, which did not fit."""
