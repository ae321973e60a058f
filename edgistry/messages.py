"""What a device and its node say to each other: the payloads of an exchange (operation 7).

The device wakes, sends one ``ExchangeUp`` in an envelope and gets one ``ExchangeDown`` in the
reply (woofs_and_queues.md, *Duty cycle*). Both are MessagePack arrays with a version in front.

Rules kept here:

* The protocol has levels, not edges. Every exchange carries the newest result of *each* request
  whose result the node has not confirmed, so nothing is lost with a message: what the device does
  not mention, it does not have.
* ``ACKNOWLEDGED`` means that the request is durable on the device, nothing less. A request that
  was handed down by an exchange which is ``settled``, and that is not mentioned, is handed down
  again, under the same id; the device executes an id once.
* ``confirmed`` means that the result is durable at the node, or of no use to anybody any more:
  in both cases the device may forget it.
* One encoding per value; any bytes give a value or ``MalformedError``; everything is bounded, and
  what is within the bounds fits into an exchange.

Not handled here: envelopes and their tags (``envelope.py``), what becomes of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, Final, NewType

from .codec import Meta, Wire, decode, encode
from .envelope import (
    MAX_CAPABILITIES,
    MAX_EXCHANGE_PAYLOAD,
    MAX_FLAT_BYTES,
    MAX_PAYLOAD,
    U32,
    U64,
    Bytes8,
)
from .errors import InvalidValueError, MalformedError, TooLargeError

MESSAGES_VERSION: Final = 1
MAX_PRIORITY: Final = 9
"""Priorities are 0 to 9; a higher one goes first."""
MAX_ITEMS: Final = 256
"""Results in one exchange up, and requests in one down."""
ITEM_OVERHEAD_BYTES: Final = 32
"""What a result or a request takes beside its reply or envelope, at most."""
HEAD_BYTES: Final = 16 * 1024
"""What an exchange takes beside its results or requests, at most: mostly ids."""
MAX_EXCHANGE_ITEMS_BYTES: Final = MAX_EXCHANGE_PAYLOAD - HEAD_BYTES
"""Bytes of all results, or all requests, of an exchange, each with its overhead."""
MAX_QUEUED_ENVELOPE_BYTES: Final = MAX_PAYLOAD + MAX_CAPABILITIES * 2051 + 256
"""An envelope that is not an exchange itself."""
MAX_QUEUED_REPLY_BYTES: Final = MAX_PAYLOAD + MAX_FLAT_BYTES + 128
MAX_IDEMPOTENCY_KEY_BYTES: Final = 64

RequestId = NewType("RequestId", bytes)
"""16 bytes that name one request to a device, the same however often it is sent."""

_REQUEST_TAG: Final = b"edgistry request\0"

_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Version = Annotated[int, Meta(ge=MESSAGES_VERSION, le=MESSAGES_VERSION)]


class ResultKind(IntEnum):
    """How far the device is with a request."""

    ACKNOWLEDGED = 0
    """It is durable on the device; a later result will say how it ended."""
    RESPONDED = 1
    """It was executed; ``reply`` is the final reply, with its tag (a failed handler's, too)."""
    REJECTED = 2
    """It was not executed and will not be; ``reply`` says why, with a tag where that can be."""


class RequestResult(Wire):
    """What the device has to say about one request."""

    request_id: _Id
    kind: Annotated[int, Meta(ge=0, le=int(max(ResultKind)))]
    reply: Annotated[bytes, Meta(max_length=MAX_QUEUED_REPLY_BYTES)] = b""
    """The encoded reply; empty when merely acknowledged."""


class Account(Wire):
    """What the device has spent since its account was last taken."""

    awake_ms: U32 = 0
    sent: U32 = 0
    """Bytes to the node."""
    received: U32 = 0
    """Bytes from the node."""


class ExchangeUp(Wire):
    """What the device sends when it wakes."""

    version: _Version
    instance: Bytes8
    """Drawn at random whenever the agent starts: two agents with one identity are noticed."""
    counter: U64
    """1, 2, 3 …: rises by one with every exchange of an instance."""
    want_count: Annotated[int, Meta(ge=0, le=MAX_ITEMS)]
    """How many requests the device takes now, at most."""
    want_bytes: U32
    """How many bytes of requests it takes now, each with ``ITEM_OVERHEAD_BYTES``."""
    back_in_s: U32 = 0
    """When it will wake next, in seconds; 0 when it does not know."""
    results: Annotated[tuple[RequestResult, ...], Meta(max_length=MAX_ITEMS)] = ()
    account: Account = Account()
    settled: U64 = 0
    """Every exchange of this instance with a counter up to this one has ended: its answer is
    durable on the device, or will never be. What those handed down and this does not mention is
    handed down again. 0: it cannot say."""
    is_home_away: bool = False
    """The device asks this node because nodes that come before it do not answer."""


class RequestDown(Wire):
    """A request for the device."""

    request_id: _Id
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)]
    envelope: Annotated[bytes, Meta(min_length=1, max_length=MAX_QUEUED_ENVELOPE_BYTES)]
    """As the client bound it: the device checks it with its own secret."""


class ExchangeDown(Wire):
    """What the node answers."""

    version: _Version
    now_us: U64
    """The node's time, µs since 1970. The reply's tag makes it trustworthy."""
    next_wake_s: U32 = 0
    """When waking would be worth it, in seconds; 0 for no opinion. The device decides."""
    more: bool = False
    """Requests are waiting that did not fit into what was asked for."""
    requests: Annotated[tuple[RequestDown, ...], Meta(max_length=MAX_ITEMS)] = ()
    confirmed: Annotated[tuple[_Id, ...], Meta(max_length=MAX_ITEMS)] = ()
    """Requests whose results the device need not send again."""
    cancelled: Annotated[tuple[_Id, ...], Meta(max_length=MAX_ITEMS)] = ()
    """Requests that the client has taken back: if executing has not begun it never does, and they
    are ``REJECTED`` (status CANCELLED). Mentioned until the device says how they ended."""
    epoch_ends_us: U64 = 0
    """When the privacy epoch of the chain is over, µs since 1970: not before, by block time, and
    mostly soon after. The same at all nodes of a cluster, and another for each epoch. 0: the node
    knows of none."""


def encode_up(up: ExchangeUp) -> bytes:
    """Payload of an exchange.

    Raises:
        InvalidValueError: what ``decode_up`` would refuse.
    """
    data = encode(up)
    try:
        decode_up(data)
    except (MalformedError, TooLargeError) as error:
        raise InvalidValueError(error.detail) from None
    return data


def decode_up(payload: bytes) -> ExchangeUp:
    """What the device says.

    Raises:
        MalformedError: anything but one canonical message within its bounds; a request mentioned
            twice; a mere acknowledgement with a reply, or an end without one; an exchange that
            has ended already.
        TooLargeError: more than fits into an exchange.
    """
    up = decode(payload, ExchangeUp, limit=MAX_EXCHANGE_PAYLOAD)
    ids = {result.request_id for result in up.results}
    if len(ids) < len(up.results):
        raise MalformedError("two results for one request")
    for result in up.results:
        if bool(result.reply) == (result.kind == ResultKind.ACKNOWLEDGED):
            raise MalformedError("a result has a reply exactly when it ends its request")
    if up.settled and up.settled >= up.counter:
        raise MalformedError("an exchange cannot have ended before it begins")
    return up


def encode_down(down: ExchangeDown) -> bytes:
    """Payload of the reply to an exchange.

    Raises:
        InvalidValueError: what ``decode_down`` would refuse.
    """
    data = encode(down)
    try:
        decode_down(data)
    except (MalformedError, TooLargeError) as error:
        raise InvalidValueError(error.detail) from None
    return data


def decode_down(payload: bytes) -> ExchangeDown:
    """What the node says.

    Raises:
        MalformedError: anything but one canonical message within its bounds, or a request handed
            down twice.
        TooLargeError: more than fits into an exchange.
    """
    down = decode(payload, ExchangeDown, limit=MAX_EXCHANGE_PAYLOAD)
    if len({request.request_id for request in down.requests}) < len(down.requests):
        raise MalformedError("the same request twice")
    return down


def request_id(*, record_key: bytes, client: bytes, idempotency_key: bytes) -> RequestId:
    """The id of a client's request to a service: whoever sends it again means the same one.

    Raises:
        InvalidValueError: a record key that has not 16 bytes, a client id that has not 8, or an
            idempotency key of 0 or more than 64.
    """
    if len(record_key) != 16 or len(client) != 8:
        raise InvalidValueError("a record key has 16 bytes, a client id 8")
    if not 1 <= len(idempotency_key) <= MAX_IDEMPOTENCY_KEY_BYTES:
        raise InvalidValueError(
            f"an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes,"
            f" not {len(idempotency_key)}"
        )
    return RequestId(sha256(_REQUEST_TAG + record_key + client + idempotency_key).digest()[:16])


def fitting(sizes: Sequence[int], *, count: int, limit: int) -> list[int]:
    """Which of the items of these sizes (bytes) fit into an exchange, by position.

    They are taken in order; one that is too large is left out and holds up none behind it.
    """
    left = min(limit, MAX_EXCHANGE_ITEMS_BYTES)
    taken: list[int] = []
    for position, size in enumerate(sizes):
        if len(taken) >= min(count, MAX_ITEMS):
            break
        if size + ITEM_OVERHEAD_BYTES <= left:
            left -= size + ITEM_OVERHEAD_BYTES
            taken.append(position)
    return taken
