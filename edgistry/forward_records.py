"""Where forwarding rests: how far a WooF was forwarded, and the requests that are under way.

Rules kept here:

* A request is stored as the very bytes that are sent. Whatever happens, an element is asked for
  with these bytes until an answer tells what became of it.
* Progress, the requests that begin and those that have ended change in one batch.

| key | value |
|---|---|
| ``forward/R`` name | ``ForwardRecord`` |
| ``forward/E`` name 0 number | the envelope that carries that element onward |

Not handled here: what is decided (``forwarding.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from .codec import Meta, Wire, decode, encode
from .envelope import Bytes8
from .errors import CorruptDatabaseError, Refused
from .kv import Change, KeyValue, prefix_end
from .woof_keys import number_bytes, read_number

_RECORDS: Final = b"forward/R"
_ENVELOPES: Final = b"forward/E"
_RECORD_LIMIT: Final = 256

_Number = Annotated[int, Meta(ge=0)]


class ForwardRecord(Wire):
    """How far one WooF was forwarded."""

    client: Bytes8
    """Who the forwarder is at the destination: drawn once, so that nobody shares its window."""
    woof_id: _Number = 0
    """The WooF that the numbers are about; 0: none was read yet."""
    through: _Number = 0
    """The last element that needs no more forwarding."""
    delivered: _Number = 0
    """Elements that are at the destination."""
    refused: _Number = 0
    """Elements that the destination does not take."""
    gone: _Number = 0
    """Elements that were evicted, or lost, before they were forwarded."""
    landed: _Number = 0
    """The number that the newest delivered element got at the destination; 0: not known."""
    sequence_epoch: _Number = 0
    sequence: _Number = 0
    """The last one used in an envelope, µs."""


def read_record(store: KeyValue, name: str) -> ForwardRecord | None:
    """The record of WooF ``name``; ``None`` when it was never forwarded.

    Raises:
        CorruptDatabaseError: what is stored is none.
    """
    key = _RECORDS + name.encode()
    value = store.get(key)
    if value is None:
        return None
    try:
        return decode(value, ForwardRecord, limit=_RECORD_LIMIT)
    except Refused as error:
        raise CorruptDatabaseError(f"a stored ForwardRecord at {key!r}: {error}") from None


def read_envelopes(store: KeyValue, name: str) -> list[tuple[int, bytes]]:
    """Numbers and envelopes of the elements of WooF ``name`` that are under way, in order."""
    prefix = _envelopes_of(name)
    entries = store.scan(prefix, prefix_end(prefix))
    return [(read_number(key[len(prefix) :]), value) for key, value in entries]


def progress(name: str, record: ForwardRecord) -> Change:
    """The change that stores ``record``."""
    return _RECORDS + name.encode(), encode(record)


def begin(name: str, envelopes: Iterable[tuple[int, bytes]]) -> list[Change]:
    """The changes that store these envelopes, in place of earlier ones of the same numbers."""
    prefix = _envelopes_of(name)
    return [(prefix + number_bytes(number), encoded) for number, encoded in envelopes]


def end(name: str, numbers: Iterable[int]) -> list[Change]:
    """The changes that forget the envelopes of these elements."""
    prefix = _envelopes_of(name)
    return [(prefix + number_bytes(number), None) for number in numbers]


def _envelopes_of(name: str) -> bytes:
    # No component of a name has a zero byte, so no name's keys begin with those of another.
    return _ENVELOPES + name.encode() + b"\0"
