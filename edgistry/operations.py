"""What the payloads of the operations say (capability.md, table of operations).

Rules kept here:

* Numbers of a fixed layout are big-endian bytes; what varies is canonical MessagePack.
* A payload comes from an authentic request, so a wrong one is a ``BadRequestError``: the sender is
  told so in a reply with a tag.

Not handled here: payloads that are opaque (an element, a block, public bytes) or belong to the
exchange (``messages.py``); carrying the operations out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

from .codec import Meta, Wire, decode, encode
from .envelope import MAX_PAYLOAD, U64
from .errors import BadReplyError, BadRequestError, InvalidValueError, MalformedError, TooLargeError

MAX_HISTORY: Final = 1 << 32
NEWEST: Final = 0
"""The number that asks for the newest element."""

_GET: Final = struct.Struct(">Q")
_LATEST: Final = struct.Struct(">QQ")
_SCAN: Final = struct.Struct(">QI")
_SEQUENCE_FIX: Final = struct.Struct(">I8sQ")


class WoofShape(Wire):
    """Payload of a WooF creation."""

    history: Annotated[int, Meta(ge=1, le=MAX_HISTORY)]
    """Elements kept."""
    element_size: Annotated[int, Meta(ge=0, le=MAX_PAYLOAD)]
    """Bytes of every element; 0: any size."""


class SequenceFix(NamedTuple):
    """Payload of a sequence fix: whose replay window continues above which sequence."""

    serial: int
    client: bytes
    """The 8-byte id in the grant's ``client`` caveat, zeros where there is none."""
    floor: int


class Scan(NamedTuple):
    """Payload of a scan: ``limit`` elements from number ``start`` on, 0 = the newest ones."""

    start: int
    limit: int


class Extent(NamedTuple):
    """Reply to latest: the numbers of the oldest and the newest element that can be read."""

    earliest: int
    latest: int


def encode_woof_shape(*, history: int, element_size: int = 0) -> bytes:
    """Payload of a WooF creation.

    Raises:
        InvalidValueError: history outside 1 … 2^32, or an element size above 64 KiB.
    """
    if not (1 <= history <= MAX_HISTORY and 0 <= element_size <= MAX_PAYLOAD):
        raise InvalidValueError(
            f"history {history}, element size {element_size}: use 1-{MAX_HISTORY} and "
            f"0-{MAX_PAYLOAD}"
        )
    return encode(WoofShape(history=history, element_size=element_size))


def decode_woof_shape(payload: bytes) -> WoofShape:
    """The shape in a WooF creation's payload.

    Raises:
        BadRequestError: no such payload.
    """
    try:
        return decode(payload, WoofShape, limit=32)
    except (MalformedError, TooLargeError) as error:
        raise BadRequestError(f"a creation needs [history, element size]: {error}") from None


def encode_get(number: int = NEWEST) -> bytes:
    """Payload of a get: the element's number, 0 for the newest."""
    return _pack(_GET, number)


def decode_get(payload: bytes) -> int:
    """The number in a get's payload.

    Raises:
        BadRequestError: no such payload.
    """
    (number,) = _unpack(_GET, payload, "a get needs a number of 8 bytes")
    return int(number)


def encode_extent(extent: Extent) -> bytes:
    """Reply payload of latest."""
    return _pack(_LATEST, *extent)


def decode_extent(payload: bytes) -> Extent:
    """The numbers in the reply to latest.

    Raises:
        BadReplyError: no such payload.
    """
    if len(payload) != _LATEST.size:
        raise BadReplyError("the reply to latest is no pair of numbers")
    return Extent(*_LATEST.unpack(payload))


def encode_scan(scan: Scan) -> bytes:
    """Payload of a scan."""
    return _pack(_SCAN, *scan)


def decode_scan(payload: bytes) -> Scan:
    """The range in a scan's payload.

    Raises:
        BadRequestError: no such payload.
    """
    return Scan(*_unpack(_SCAN, payload, "a scan needs a number of 8 bytes and a count of 4"))


def encode_elements(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """Reply payload of a scan: (number, element) in order."""
    return encode(elements)


def decode_elements(payload: bytes) -> list[tuple[int, bytes]]:
    """The (number, element) pairs in the reply to a scan.

    Raises:
        BadReplyError: no such payload.
    """
    try:
        return decode(payload, list[tuple[U64, bytes]], limit=MAX_PAYLOAD)
    except (MalformedError, TooLargeError) as error:
        raise BadReplyError(f"the reply to a scan is no list of elements: {error}") from None


def encode_sequence_fix(fix: SequenceFix) -> bytes:
    """Payload of a sequence fix."""
    if len(fix.client) != 8:
        raise InvalidValueError("a client id has 8 bytes")
    return _pack(_SEQUENCE_FIX, *fix)


def decode_sequence_fix(payload: bytes) -> SequenceFix:
    """The fix in a sequence fix's payload.

    Raises:
        BadRequestError: no such payload.
    """
    return SequenceFix(
        *_unpack(_SEQUENCE_FIX, payload, "a sequence fix needs serial, client and floor: 20 bytes")
    )


def _pack(layout: struct.Struct, *values: int | bytes) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error:
        raise InvalidValueError("a number does not fit its unsigned field") from None


def _unpack(layout: struct.Struct, payload: bytes, need: str) -> tuple[Any, ...]:
    if len(payload) != layout.size:
        raise BadRequestError(need)
    return layout.unpack(payload)
