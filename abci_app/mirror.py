"""Mirrors: copies of devices' WooFs on their home node, as decisions.

The node reads the device's WooF by ordinary requests of its own, one after the other, and appends
what it gets to a WooF of its own: ``m-PSEUDONYM/NAMESPACE.WOOF``.

Rules kept here:

* Each element is appended once, in order: how far the mirror is, is written with the elements.
* What the device has evicted before it was read is a gap, which is counted and kept; nothing is
  made up in its place.
* A WooF that has begun anew on the device (it was wiped, say) is read from its beginning.

Pure. Not handled here: sending and writing (``mirror_keeper``), reading the mirror.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

from edgistry.codec import Meta, Wire, decode, encode, replace
from edgistry.envelope import U64, Operation, Reply, Status
from edgistry.errors import CorruptDatabaseError, MalformedError, Refused
from edgistry.operations import Scan, decode_elements, decode_extent, encode_scan
from edgistry.rights import MAX_COMPONENT

BATCH: Final = 512
"""Elements asked for at once; as many come as fit into a reply, 64 KiB."""
FULL_BYTES: Final = 32 * 1024
"""A reply with fewer bytes is taken for all that there is: more would have fitted, unless the next
element is larger than this."""
MAX_GAPS: Final = 64
"""Gaps kept, the newest."""

_Stored = TypeVar("_Stored", bound=Wire)

_RECORDS: Final = b"p/m/"
_COPIES: Final = b"p/w/"
_MAX_RECORD_BYTES: Final = 4096
_NAMESPACE: Final = re.compile(r"m-[0-9a-f]{16}")

U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


class MirrorRecord(Wire):
    """How far one mirror is."""

    serial: U32
    """Of the pairing that it was last read under."""
    grant: U32
    """Serial of the capability that the node reads with: one, so that the device keeps one replay
    window for it."""
    sequence: U64
    """Of the last request."""
    next: U64
    """The number, on the device, of the first element that is not here."""
    asks: Literal["extent", "scan"]
    """What the request under way, or the next one, asks for."""
    request: Annotated[bytes, Meta(max_length=16)]
    """The request under way; empty for none."""
    begun: U32
    """How often the WooF has begun anew on the device."""
    lost: U64
    """Elements that are not here: evicted by the device before they were read, or deleted with an
    earlier copy."""
    gaps: Annotated[tuple[tuple[U64, U64], ...], Meta(max_length=MAX_GAPS)]
    """First and last number of each gap."""
    as_of_us: U64 = 0
    """When nothing was missing, µs since 1970; 0 while that is not known."""
    copied: U64 = 0
    """The number, in the copy, of the newest element."""


class CopyRecord(Wire):
    """What a WooF in a namespace of mirrors is."""

    device: Annotated[str, Meta(min_length=26, max_length=26)]
    woof: Annotated[str, Meta(max_length=65)]
    """What the device calls it."""
    is_result: bool
    """It has no counterpart on the device: handlers put into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What follows from a device's answer."""

    record: MirrorRecord
    elements: Sequence[bytes] = ()
    """To append, in order, in one write with the record."""
    trouble: str = ""
    """Why the next request should wait a while."""


def mirror_name(device: str, woof: str) -> str:
    """The name of the node's copy of a device's WooF."""
    return f"{mirror_namespace(device)}/{copy_component(woof)}"


def copy_component(woof: str) -> str:
    """The last part of the name that the WooF ``woof`` of a device has at its node."""
    name = woof.replace("/", ".")
    # With a dot in its namespace it would have the name of another one: a.b/c and a/b.c.
    if len(name) > MAX_COMPONENT or "." in woof.partition("/")[0]:
        name = f"{name[:23]}.{hashlib.sha256(woof.encode()).hexdigest()[:8]}"
    return name


def mirror_namespace(device: str) -> str:
    """The namespace of a device's mirrors. WooFs' names get into logs; device ids must not."""
    return f"m-{hashlib.sha256(b'edgistry mirror' + device.encode()).hexdigest()[:16]}"


def is_mirror_namespace(name: str) -> bool:
    """Whether namespace ``name`` belongs to the mirrors of a device, whichever."""
    return _NAMESPACE.fullmatch(name) is not None


def copy_key(name: str) -> bytes:
    """Where it is kept whose copy the WooF ``name`` of the node is."""
    return _COPIES + name.encode()


def read_copy(data: bytes) -> CopyRecord:
    """The record in ``data``.

    Raises:
        CorruptDatabaseError: it is none.
    """
    return _read(data, CopyRecord)


def write_copy(record: CopyRecord) -> bytes:
    """The bytes of ``record``."""
    return encode(record)


def record_key(device: str, woof: str) -> bytes:
    """Where the record of a mirror is kept."""
    return _RECORDS + f"{device}/{woof}".encode()


def record_prefix(device: str) -> bytes:
    """How the keys of all records of a device's mirrors begin."""
    return _RECORDS + f"{device}/".encode()


def copy_prefix(device: str) -> bytes:
    """How the keys of all records of a device's copies begin."""
    return _COPIES + f"{mirror_namespace(device)}/".encode()


def copy_name(key: bytes) -> str:
    """The name of the WooF whose copy is recorded under ``key``."""
    return key.removeprefix(_COPIES).decode()


def read_mirror(data: bytes) -> MirrorRecord:
    """The record in ``data``.

    Raises:
        CorruptDatabaseError: it is none.
    """
    return _read(data, MirrorRecord)


def write_mirror(record: MirrorRecord) -> bytes:
    """The bytes of ``record``."""
    return encode(record)


def _read(data: bytes, kind: type[_Stored]) -> _Stored:
    try:
        return decode(data, kind, limit=_MAX_RECORD_BYTES)
    except Refused as error:
        raise CorruptDatabaseError(f"queues.ldb: a mirror: {error}") from None


def begin_mirror(*, serial: int, grant: int) -> MirrorRecord:
    """A mirror that has nothing yet."""
    return MirrorRecord(
        serial=serial,
        grant=grant,
        sequence=0,
        next=1,
        asks="extent",
        request=b"",
        begun=0,
        lost=0,
        gaps=(),
    )


def paired_again(record: MirrorRecord, *, serial: int, grant: int) -> MirrorRecord:
    """The mirror under a later pairing: what was asked under the earlier one is void."""
    return replace(record, serial=serial, grant=grant, request=b"", asks="extent")


def copy_lost(record: MirrorRecord, *, fresh: int = 0) -> MirrorRecord:
    """The mirror when its copy was deleted: what had been read is a gap, and is not read again.

    But for the last ``fresh`` elements, which come into the new copy.
    """
    last = record.next - 1 - fresh
    if last == 0:
        return record
    return replace(record, lost=last, gaps=((1, last),), copied=0)


def question_of(record: MirrorRecord) -> tuple[Operation, bytes]:
    """What to ask the device next: operation and payload."""
    if record.asks == "extent":
        return Operation.LATEST, b""
    return Operation.SCAN, encode_scan(Scan(start=record.next, limit=BATCH))


def progress_of(record: MirrorRecord, reply: Reply | None, *, given_us: int = 0) -> Progress:
    """What follows from the ``reply`` to the request under way; ``None``: there will be none.

    ``given_us`` is when the device could first have that request, 0 where that is not known.
    """
    idle = replace(record, request=b"")
    if reply is None:
        return Progress(record=idle, trouble="the request ended without an answer")
    if record.asks == "scan" and reply.status in (Status.EVICTED, Status.NOT_YET):
        return Progress(record=replace(idle, asks="extent"))
    if reply.status != Status.OK:
        return Progress(record=idle, trouble=f"the device answers with status {reply.status}")
    try:
        if record.asks == "extent":
            return Progress(record=_within(idle, *decode_extent(reply.payload)))
        return _appended(idle, decode_elements(reply.payload), given_us)
    except Refused as error:
        return Progress(record=idle, trouble=error.detail)


def _within(record: MirrorRecord, earliest: int, latest: int) -> MirrorRecord:
    """``record`` at a number that the device has, or will have next."""
    if latest + 1 < record.next:
        record = replace(record, next=1, begun=record.begun + 1, as_of_us=0)
    if earliest > record.next:
        gap = (record.next, earliest - 1)
        record = replace(
            record,
            next=earliest,
            lost=record.lost + earliest - record.next,
            gaps=(*record.gaps, gap)[-MAX_GAPS:],
        )
    return replace(record, asks="scan")


def _appended(record: MirrorRecord, found: Sequence[tuple[int, bytes]], given_us: int) -> Progress:
    numbers = [number for number, _ in found]
    if numbers != list(range(record.next, record.next + len(found))):
        raise MalformedError("the device's elements are not those that were asked for")
    is_all = sum(len(element) for _, element in found) < FULL_BYTES and len(found) < BATCH
    return Progress(
        record=replace(
            record,
            next=record.next + len(found),
            as_of_us=given_us if is_all else record.as_of_us,
        ),
        elements=[element for _, element in found],
    )
