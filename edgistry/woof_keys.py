"""Where WooFs rest in a key-value store: keys, and the values that are not elements.

``n`` below is a u64, big-endian, so that numbers sort; every key begins with "W".

| key | value |
|---|---|
| ``Wn`` namespace | empty: the namespace exists |
| ``Ww`` namespace/woof | ``WoofRecord`` |
| ``Wc`` | n: the last WooF id that was given |
| ``We`` id number | the element as it was put |
| ``We`` id 2^64-1 | the WooF's name; also ends its elements |
| ``Wk`` id key | n: the number that a put with this idempotency key got |
| ``Wi`` id number | the idempotency key of that put |
| ``Wt`` handler arrival | ``TriggerRecord``: a handler that is still to run |
| ``Wa`` handler arrival | ``AttemptRecord`` of the same trigger |
| ``Wx`` id number key | id n, number n: a put that the handler of that element has made |
| ``Wg`` id | ``GarbageRecord``: what is left of a deleted WooF |

No number of the newest element is kept: it is the last one before the end of the elements. The
key there always exists, so that looking backwards from it never walks over what was evicted from
the next WooF.

Not handled here: when what is written (``woof_staging.py``).
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

from .codec import Meta, Wire, decode
from .errors import CorruptDatabaseError, Refused
from .woof import MAX_ELEMENT_BYTES, WoofId

NAMESPACES: Final = b"Wn"
WOOFS: Final = b"Ww"
LAST_ID: Final = b"Wc"
ELEMENTS: Final = b"We"
KEYS: Final = b"Wk"
KEYS_BY_NUMBER: Final = b"Wi"
TRIGGERS: Final = b"Wt"
ATTEMPTS: Final = b"Wa"
EFFECTS: Final = b"Wx"
GARBAGE: Final = b"Wg"

NUMBER_BYTES: Final = 8
END: Final = b"\xff" * NUMBER_BYTES
"""Sorts after every number that is given."""

_Number = Annotated[int, Meta(ge=0)]


class WoofRecord(Wire):
    """A WooF as it was created."""

    id: _Number
    history: Annotated[int, Meta(ge=1)]
    element_size: _Number


class TriggerRecord(Wire):
    """An invocation that is due. It has a copy of the element: histories move on meanwhile."""

    woof: str
    woof_id: _Number
    number: Annotated[int, Meta(ge=1)]
    element: bytes


class AttemptRecord(Wire):
    """How it has fared: failures, tries that ended with the program, and what is to come."""

    attempts: _Number
    interruptions: _Number
    not_before_us: _Number
    reason: str


class GarbageRecord(Wire):
    """Numbers of a deleted WooF whose entries may still be there."""

    first: Annotated[int, Meta(ge=1)]
    last: _Number
    elements_from: Annotated[int, Meta(ge=1)]
    """Below it there are only idempotency keys."""


RecordT = TypeVar("RecordT", bound=Wire)

RECORD_LIMIT: Final = MAX_ELEMENT_BYTES + 1024


def number_bytes(number: int) -> bytes:
    """``number`` as it stands in keys."""
    return number.to_bytes(NUMBER_BYTES, "big")


def read_number(value: bytes) -> int:
    """The inverse of ``number_bytes``."""
    return int.from_bytes(value, "big")


def elements_of(woof_id: WoofId) -> bytes:
    """What the keys of its elements begin with."""
    return ELEMENTS + number_bytes(woof_id)


def handler_key(table: bytes, handler: bytes, arrival: int) -> bytes:
    """The key of a trigger (or its attempts): in order of arrival, each handler for itself."""
    return table + bytes((len(handler),)) + handler + number_bytes(arrival)


def effects_of(woof_id: WoofId, number: int) -> bytes:
    """What the keys begin with that the handler of that element has put with."""
    return EFFECTS + number_bytes(woof_id) + number_bytes(number)


def read_record(key: bytes, value: bytes, kind: type[RecordT]) -> RecordT:
    """The record in ``value``.

    Raises:
        CorruptDatabaseError: the bytes are not one ``kind``.
    """
    try:
        return decode(value, kind, limit=RECORD_LIMIT)
    except Refused as error:
        raise CorruptDatabaseError(f"a stored {kind.__name__} at {key!r}: {error}") from None
