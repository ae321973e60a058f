"""Caveats: conditions that a block adds to a capability.

Rules kept here:

* A caveat is a type byte, a length byte and a value. Caveats of one block are strictly ascending
  by (type, value); all caveats of all blocks must hold.
* Bit 7 of the type means critical: an unknown critical type is refused, an unknown other one is
  kept and holds always.
* All caveats of a chain come to one condition each: smallest ``not_after``, largest ``not_before``,
  smallest ``max_payload``, intersected handlers, everything else collected. The frequent ones are
  folded where the chain is read (``Chain``), the others here (``RareConditions``).

Not handled here: whether conditions hold for a request (``judge.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from .errors import InvalidValueError, MalformedError, UnknownCaveatError

MAX_TIME_US: Final = (1 << 64) - 1
CRITICAL: Final = 0x80
MAX_HANDLER_BYTES: Final = 32
CLIENT_BYTES: Final = 8


class CaveatType(IntEnum):
    """The caveats of version 1."""

    NOT_AFTER = 0x81
    NOT_BEFORE = 0x82
    CLIENT = 0x83
    HANDLER = 0x84
    MAX_PAYLOAD = 0x85
    REQUIRE = 0x86
    SEALED = 0x87
    LINEAGE = 0x88
    VEIL = 0x89


_NOT_AFTER: Final = 0x81
_NOT_BEFORE: Final = 0x82
_CLIENT: Final = 0x83
_HANDLER: Final = 0x84
_MAX_PAYLOAD: Final = 0x85
_REQUIRE: Final = 0x86
_SEALED: Final = 0x87
_LINEAGE: Final = 0x88
_VEIL: Final = 0x89

FIXED_LENGTHS: Final = {
    _NOT_AFTER: 8,
    _NOT_BEFORE: 8,
    _CLIENT: CLIENT_BYTES,
    _MAX_PAYLOAD: 4,
    _REQUIRE: 16,
    _SEALED: 0,
    _LINEAGE: 16,
    _VEIL: 0,
}


class Caveat(NamedTuple):
    """One caveat; tuples order as the format orders them. Make them with the functions below."""

    type: int
    value: bytes

    @property
    def name(self) -> str:
        """``not_after`` and so on; ``caveat_0x05`` for a type that this version does not know."""
        try:
            return CaveatType(self.type).name.lower()
        except ValueError:
            return f"caveat_0x{self.type:02x}"


def not_after(time_us: int) -> Caveat:
    """Holds while the issuer's now ≤ ``time_us`` (µs since 1970)."""
    return Caveat(_NOT_AFTER, _unsigned(time_us, 8, "not_after"))


def not_before(time_us: int) -> Caveat:
    """Holds once the issuer's now ≥ ``time_us`` (µs since 1970)."""
    return Caveat(_NOT_BEFORE, _unsigned(time_us, 8, "not_before"))


def client(client_id: bytes) -> Caveat:
    """Holds for requests of the client with this 8-byte id."""
    return Caveat(_CLIENT, _exactly(client_id, CLIENT_BYTES, "client"))


def handler(name: str) -> Caveat:
    """Holds when the request names this handler, or another handler caveat of the same block."""
    value = name.encode()
    if not 1 <= len(value) <= MAX_HANDLER_BYTES:
        raise InvalidValueError(f"handler {name[:80]!r}: use 1-{MAX_HANDLER_BYTES} bytes")
    return Caveat(_HANDLER, value)


def max_payload(length: int) -> Caveat:
    """Holds for payloads of at most ``length`` bytes."""
    return Caveat(_MAX_PAYLOAD, _unsigned(length, 4, "max_payload"))


def require(public_id: bytes) -> Caveat:
    """Holds when another capability of the envelope has a prefix with this 16-byte id."""
    return Caveat(_REQUIRE, _exactly(public_id, 16, "require"))


def lineage(public_id: bytes) -> Caveat:
    """Holds always; revoking ``public_id`` revokes this capability too."""
    return Caveat(_LINEAGE, _exactly(public_id, 16, "lineage"))


SEALED: Final = Caveat(_SEALED, b"")
"""Nothing may be derived any more: holds only in the last block."""

VEIL: Final = Caveat(_VEIL, b"")
"""Only a Put with a handler, or a Get of the newest element; replies carry result 0."""


def _unsigned(value: int, length: int, name: str) -> bytes:
    if not 0 <= value < 1 << (8 * length):
        raise InvalidValueError(f"{name} {value}: does not fit in {length} unsigned bytes")
    return value.to_bytes(length, "big")


def _exactly(value: bytes, length: int, name: str) -> bytes:
    if len(value) != length:
        raise InvalidValueError(f"{name} takes {length} bytes, not {len(value)}")
    return bytes(value)


def encode_caveats(caveats: Iterable[Caveat]) -> bytes:
    """The caveats of one block: put in order, repeats dropped.

    Raises:
        UnknownCaveatError, MalformedError: a caveat that no verifier of this version accepts.
    """
    ordered = sorted(set(caveats))
    for kind, value in ordered:
        check_length(kind, len(value))
    return b"".join(bytes((kind, len(value))) + value for kind, value in ordered)


def check_length(kind: int, length: int) -> None:
    """Check a value's length, and that the type may be used.

    Raises:
        MalformedError: a length that the type does not have.
        UnknownCaveatError: a critical type that this version does not know.
    """
    fixed = FIXED_LENGTHS.get(kind)
    if fixed is not None:
        fits = length == fixed
    elif kind == _HANDLER:
        fits = 1 <= length <= MAX_HANDLER_BYTES
    elif kind & CRITICAL:
        raise UnknownCaveatError(f"unknown critical caveat 0x{kind:02x}")
    else:
        fits = length <= 255
    if not fits:
        raise MalformedError(f"caveat 0x{kind:02x} with a value of {length} bytes")


def list_caveats(data: bytes, at: int, end: int) -> tuple[Caveat, ...]:
    """The caveats in ``data[at:end]``, which the reader of the chain has checked before."""
    found = []
    while at < end:
        value = at + 2
        following = value + data[at + 1]
        found.append(Caveat(data[at], data[value:following]))
        at = following
    return tuple(found)


def joined(values: tuple[bytes, ...], value: bytes) -> tuple[bytes, ...]:
    """``values`` and ``value``, without repeats."""
    return values if value in values else (*values, value)


class RareConditions:
    """What the caveats that few chains carry come to."""

    __slots__ = (
        "handlers",
        "lineages",
        "not_before_us",
        "other",
        "required",
        "sealed",
        "sealed_early",
        "veil",
    )

    def __init__(self, caveats: Sequence[tuple[int, int, bytes]], last_block: int) -> None:
        """``caveats`` are (block index, type, value), in the order of the chain."""
        self.not_before_us = 0
        self.handlers: frozenset[bytes] | None = None
        """Handler names that every block allows; ``None``: no block asks for a handler."""
        self.required: tuple[bytes, ...] = ()
        self.lineages: tuple[bytes, ...] = ()
        self.other: tuple[Caveat, ...] = ()
        """Unknown caveats without the critical bit: they hold."""
        self.sealed = False
        self.sealed_early = False
        """A block follows a sealed one: the seal does not hold, whatever is asked."""
        self.veil = False
        handlers: dict[int, list[bytes]] = {}
        for index, kind, value in caveats:
            if kind == _HANDLER:
                handlers.setdefault(index, []).append(value)
            elif kind == _NOT_BEFORE:
                self.not_before_us = max(self.not_before_us, int.from_bytes(value, "big"))
            elif kind == _REQUIRE:
                self.required = joined(self.required, value)
            elif kind == _LINEAGE:
                self.lineages = joined(self.lineages, value)
            elif kind == _SEALED:
                self.sealed = True
                self.sealed_early = self.sealed_early or index < last_block
            elif kind == _VEIL:
                self.veil = True
            else:
                self.other = (*self.other, Caveat(kind, value))
        if handlers:
            self.handlers = frozenset.intersection(*map(frozenset, handlers.values()))


NO_RARE: Final = RareConditions((), 0)
"""Shared by all chains without rare caveats: they cost nothing then."""
