"""Requests and replies as they travel: operations, statuses, and the bytes the tags cover.

A request is the MessagePack array ``[1, flags, op, target, handler, sequence_epoch, sequence,
deadline, client, [public bytes …], payload, tag]``; its reply is ``[1, status, result,
sequence_epoch, sequence_floor, payload, flat, rtag]`` (capability.md, *Envelope*; paper §3.2).

Rules kept here:

* One encoding per value; any bytes give a value or ``MalformedError``.
* Tags have 16 bytes, fixed by the version, never by a message. A reply's tag may also be empty:
  that is the one generic refusal, which proves nothing.
* The deadline is at most 7 days after the sequence (both µs): what a mailbox keeps is bounded.

Not handled here: keys and verifying (``capability.py``, ``verifier.py``), what an operation's
payload says (``operations.py``) and does.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Final

from .codec import Meta, Wire, encode, reader_of
from .errors import InvalidValueError, MalformedError, Refused
from .mac import TAG_BYTES, USE_ENVELOPE, USE_FLAT, USE_REPLY, mac
from .rights import Right, check_object

ENVELOPE_VERSION: Final = 1
MAX_CAPABILITIES: Final = 4
MAX_PAYLOAD: Final = 64 * 1024
MAX_EXCHANGE_PAYLOAD: Final = 1024 * 1024
MAX_DEADLINE_AHEAD_US: Final = 7 * 24 * 3600 * 1_000_000
"""How far a deadline may lie after its sequence."""
MAX_HANDLER_BYTES: Final = 32
MAX_FLAT_BYTES: Final = 2048 + 32
MAX_ENVELOPE_BYTES: Final = MAX_EXCHANGE_PAYLOAD + MAX_CAPABILITIES * 2051 + 256
MAX_REPLY_BYTES: Final = MAX_EXCHANGE_PAYLOAD + MAX_FLAT_BYTES + 128
MAX_U64: Final = (1 << 64) - 1


class Operation(IntEnum):
    """What a request asks for."""

    NAMESPACE_CREATE = 1
    WOOF_CREATE = 2
    PUT = 3
    GET = 4
    LATEST = 5
    DELETE = 6
    EXCHANGE = 7
    MINT = 8
    SEQUENCE_FIX = 9
    REVOKE = 10
    SCAN = 11


RIGHTS_NEEDED: Final = MappingProxyType(
    {
        Operation.NAMESPACE_CREATE: int(Right.NAMESPACE_CREATE),
        Operation.WOOF_CREATE: int(Right.WOOF_CREATE),
        Operation.PUT: int(Right.PUT),
        Operation.GET: int(Right.GET),
        Operation.LATEST: int(Right.LATEST),
        Operation.DELETE: int(Right.DELETE),
        Operation.EXCHANGE: int(Right.POLL),
        Operation.MINT: int(Right.MINT),
        Operation.SEQUENCE_FIX: int(Right.SEQUENCE_FIX),
        Operation.REVOKE: int(Right.REVOKE),
        Operation.SCAN: int(Right.GET),
    }
)
"""What each operation needs, all in one entry; a PUT that names a handler needs INVOKE as well."""


class Status(IntEnum):
    """How a request ended. ``BY_NODE`` may be added to any of them."""

    OK = 0
    REFUSED = 1
    ACCEPTED = 2
    STALE = 3
    FUTURE = 4
    EXPIRED = 5
    NO_RIGHT = 6
    CAVEAT = 7
    REVOKED = 8
    NOT_FOUND = 9
    EMPTY = 10
    EVICTED = 11
    NOT_YET = 12
    EXISTS = 13
    TOO_LARGE = 14
    NO_HANDLER = 15
    HANDLER_FAILED = 16
    BUSY = 17
    FULL = 18
    STORAGE = 19
    REJECTED = 20
    CANCELLED = 21
    DEAD = 22
    MALFORMED = 23


BY_NODE: Final = 0x8000
"""Status bit: the home node answered for the device; ``result`` is the answer's age in ms."""


class Flag(IntFlag):
    """Wishes of the client."""

    FLATTEN = 0x01
    """On success, send an equivalent capability of one block."""
    DEVICE_ONLY = 0x02
    """Only the device itself may answer."""


Bytes8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
Bytes16 = Annotated[bytes, Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
U64 = Annotated[int, Meta(ge=0)]
"""MessagePack integers have at most 64 bits, so the upper bound needs no check on decoding."""


class Envelope(Wire):
    """A request bound to its capabilities by ``tag``. Times in µs since 1970."""

    version: Annotated[int, Meta(ge=ENVELOPE_VERSION, le=ENVELOPE_VERSION)]
    flags: Annotated[int, Meta(ge=0, le=3)]
    op: Annotated[int, Meta(ge=0, le=255)]
    target: Annotated[str, Meta(max_length=65)]
    handler: Annotated[str, Meta(max_length=MAX_HANDLER_BYTES)]
    sequence_epoch: U32
    sequence: U64
    deadline: U64
    client: Bytes8
    capabilities: Annotated[
        tuple[Annotated[bytes, Meta(min_length=13, max_length=2048)], ...],
        Meta(min_length=1, max_length=MAX_CAPABILITIES),
    ]
    payload: Annotated[bytes, Meta(max_length=MAX_EXCHANGE_PAYLOAD)]
    tag: Bytes16


class Reply(Wire):
    """The answer to one envelope. ``rtag`` is empty only in the generic refusal."""

    version: Annotated[int, Meta(ge=ENVELOPE_VERSION, le=ENVELOPE_VERSION)]
    status: Annotated[int, Meta(ge=0, le=0xFFFF)]
    result: U64
    sequence_epoch: U32
    sequence_floor: U64
    payload: Annotated[bytes, Meta(max_length=MAX_EXCHANGE_PAYLOAD)]
    flat: Annotated[bytes, Meta(max_length=MAX_FLAT_BYTES)]
    rtag: Annotated[bytes, Meta(max_length=TAG_BYTES)]


GENERIC_REFUSAL: Final = encode(
    Reply(
        version=ENVELOPE_VERSION,
        status=Status.REFUSED,
        result=0,
        sequence_epoch=0,
        sequence_floor=0,
        payload=b"",
        flat=b"",
        rtag=b"",
    )
)
"""The answer to everything that does not verify: a hint, never believed as final."""

_read_envelope: Final = reader_of(Envelope)
_read_reply: Final = reader_of(Reply)
_EXCHANGE: Final = int(Operation.EXCHANGE)
_REPLY_NUMBERS: Final = struct.Struct(">HQIQ").pack


def max_payload(operation: int) -> int:
    """Bytes that a request of this operation, and its reply, may carry."""
    return MAX_EXCHANGE_PAYLOAD if operation == _EXCHANGE else MAX_PAYLOAD


def decode_envelope(data: bytes) -> Envelope:
    """The request in ``data``, well-formed but not verified.

    Raises:
        MalformedError: anything else than one canonical envelope within all limits.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedError(f"an envelope of {len(data)} bytes; the limit is {MAX_ENVELOPE_BYTES}")
    envelope = _read_envelope(data)
    check_envelope(envelope)
    return envelope


def check_envelope(envelope: Envelope) -> None:
    """Check what the field types leave open.

    Raises:
        MalformedError: a target that is no object, too long a handler or payload, a deadline more
            than 7 days after the sequence, or the same capability twice.
    """
    check_object(envelope.target)
    if envelope.handler and len(envelope.handler.encode()) > MAX_HANDLER_BYTES:
        raise MalformedError(f"a handler name has at most {MAX_HANDLER_BYTES} bytes")
    if envelope.deadline > envelope.sequence + MAX_DEADLINE_AHEAD_US:
        raise MalformedError("the deadline is more than 7 days after the sequence")
    if len(envelope.payload) > MAX_PAYLOAD and len(envelope.payload) > max_payload(envelope.op):
        raise MalformedError(f"a payload has at most {max_payload(envelope.op)} bytes")
    capabilities = envelope.capabilities
    if len(capabilities) > 1 and len(set(capabilities)) != len(capabilities):
        raise MalformedError("the same capability twice")


def envelope_message(envelope: Envelope) -> bytes:
    """T, what the envelope's tag covers: every field, each with its length where it varies."""
    target = envelope.target.encode()
    handler = envelope.handler.encode()
    publics = envelope.capabilities
    public = publics[0]
    message = _message_layout(len(target), len(handler), len(public))(
        USE_ENVELOPE, envelope.flags, envelope.op, len(target), target, len(handler), handler,
        envelope.sequence_epoch, envelope.sequence, envelope.deadline, envelope.client,
        len(publics), len(public), public,
    )  # fmt: skip
    for other in publics[1:]:
        message += len(other).to_bytes(2, "big") + other
    return message + sha256(envelope.payload).digest()


@functools.lru_cache(maxsize=512)
def _message_layout(target: int, handler: int, public: int) -> Callable[..., bytes]:
    """Packs T up to the first capability, for lengths in bytes: one call instead of a join."""
    return struct.Struct(f">cBBH{target}sB{handler}sIQQ8sBH{public}s").pack


def envelope_tag(key: bytes, envelope: Envelope) -> bytes:
    """The 16-byte tag of ``envelope`` under ``key`` (its own ``tag`` field is not covered)."""
    return mac(key, envelope_message(envelope))[:TAG_BYTES]


def with_tag(envelope: Envelope, tag: bytes) -> Envelope:
    """``envelope`` with another tag."""
    return Envelope(
        version=envelope.version,
        flags=envelope.flags,
        op=envelope.op,
        target=envelope.target,
        handler=envelope.handler,
        sequence_epoch=envelope.sequence_epoch,
        sequence=envelope.sequence,
        deadline=envelope.deadline,
        client=envelope.client,
        capabilities=envelope.capabilities,
        payload=envelope.payload,
        tag=tag,
    )


def reply_tag(key: bytes, tag: bytes, reply: Reply) -> bytes:
    """The 16-byte tag of ``reply`` to the request whose tag is ``tag``."""
    numbers = _REPLY_NUMBERS(reply.status, reply.result, reply.sequence_epoch, reply.sequence_floor)
    digests = sha256(reply.payload).digest() + sha256(reply.flat).digest()
    return mac(key, USE_REPLY + tag + numbers + digests)[:TAG_BYTES]


def mask_state(key: bytes, tag: bytes, state: bytes) -> bytes:
    """A 32-byte ``state`` masked, or unmasked, for the reply to the request with this tag."""
    mask = mac(key, USE_FLAT + tag)
    return bytes(left ^ right for left, right in zip(state, mask, strict=True))


def encode_reply(
    key: bytes,
    tag: bytes,
    *,
    status: int,
    result: int = 0,
    sequence_epoch: int = 0,
    sequence_floor: int = 0,
    payload: bytes = b"",
    flat: bytes = b"",
) -> bytes:
    """The bytes of a reply with its tag under ``key``, to the request whose tag is ``tag``.

    Raises:
        InvalidValueError: a number outside its field.
    """
    reply = Reply(
        version=ENVELOPE_VERSION,
        status=status,
        result=result,
        sequence_epoch=sequence_epoch,
        sequence_floor=sequence_floor,
        payload=payload,
        flat=flat,
        rtag=b"",
    )
    try:
        rtag = reply_tag(key, tag, reply)
    except struct.error:
        raise InvalidValueError("a number of the reply does not fit its field") from None
    # The empty tag is the last two bytes (bin 8, length 0): what is before them stays as it is.
    return encode(reply)[:-1] + bytes((len(rtag),)) + rtag


def decode_reply(data: bytes) -> Reply:
    """The reply in ``data``, well-formed but not verified.

    Raises:
        MalformedError: anything else than one canonical reply; a tag that is neither empty nor 16
            bytes; an empty tag on anything but the generic refusal.
    """
    if len(data) > MAX_REPLY_BYTES:
        raise MalformedError(f"a reply of {len(data)} bytes; the limit is {MAX_REPLY_BYTES}")
    reply = _read_reply(data)
    if len(reply.rtag) != TAG_BYTES and data != GENERIC_REFUSAL:
        raise MalformedError("a reply without a tag that is not the generic refusal")
    return reply


def reply_to(error: Refused) -> bytes:
    """What a server sends for ``error``: its own reply, or the generic refusal."""
    reply: bytes | None = getattr(error, "reply", None)
    return GENERIC_REFUSAL if reply is None else reply
