"""Handles: names of services that mean something to one client, in one epoch, and to nobody else.

A handle has 73 bytes: ``sealed`` (52) | kind (1) | epoch (4) | tag (16). ``sealed`` is AES-256-SIV
under a key that is derived from the cluster's epoch key; its plaintext is node id (20) | record
key (16), its associated data kind | epoch | tag. As text it is unpadded base64url, 98
characters, of which the first 16 already tell handles apart.

Rules kept here (privacy.md, *Who answers*):

* The same service is the same handle for the same client within an epoch, on every node that has
  the epoch key. Another client or epoch: no byte of ``sealed`` in common but by chance.
* An *own* handle has its client's tag in it, an *alias* (which stands for a client's choice among
  several services) 16 random bytes. A kind, epoch or tag that was changed does not open.
* Whatever is wrong with a handle that reads as one, the answer is the same: it is unknown here.
* Neither the order of an answer nor a cursor links clients or epochs: in a cell, services are
  ordered by their record keys as a keyed permutation of client and epoch sees them, and a cursor
  is sealed for both.

Pure: the arithmetic comes in (``Arithmetic``). Cost on one busy core of 2026: 6.5 µs to make a
handle with its text (3.0 of which are AES-SIV itself), 8 µs to open one, 95 µs to make a key ready
(so it is kept for its epoch), 0.2 ms to find the places of 1 000 record keys.

Not handled here: who asks (``signed_request``), which epochs are open (the node's epoch keys), and
what a request may do (capabilities).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from .cell import is_cell
from .errors import MalformedError, SealError, UnknownCursorError, UnknownHandleError
from .mac import KEY_BYTES, USE_HANDLE_CURSOR, USE_HANDLE_ORDER, USE_HANDLE_SEAL, mac
from .requests_api import to_bytes, to_text
from .transactions import NodeId, RecordKey

TAG_BYTES: Final = 16
SHORT_TEXT: Final = 16
"""Characters of a handle's text that tell handles apart: 96 bits that look random."""

_NODE_BYTES: Final = 20
_RECORD_BYTES: Final = 16
_SIV_BYTES: Final = 16
SEALED_BYTES: Final = _SIV_BYTES + _NODE_BYTES + _RECORD_BYTES
_CONTEXT_BYTES: Final = 1 + 4 + TAG_BYTES
HANDLE_BYTES: Final = SEALED_BYTES + _CONTEXT_BYTES
HANDLE_CHARACTERS: Final = 98
_CELL_BYTES: Final = 8
_PLACE_BYTES: Final = _CELL_BYTES + _RECORD_BYTES
_CURSOR_BYTES: Final = 4 + _SIV_BYTES + _PLACE_BYTES


class HandleKind(IntEnum):
    """Whom a handle is for."""

    OWN = 1
    """A client: the tag is the client's."""
    ALIAS = 2
    """Whoever was given it: the tag is random."""


class Siv(Protocol):
    """AES-256-SIV under one key."""

    def seal(self, secret: bytes, context: bytes) -> bytes:
        """``secret`` sealed for ``context``, 16 bytes longer."""

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed.

        Raises:
            SealError: not sealed under this key for ``context``.
        """


class Arithmetic(NamedTuple):
    """What handles are computed with."""

    siv: Callable[[bytes], Siv]
    """Makes a 64-byte key ready."""
    permute: Callable[[bytes, bytes], bytes]
    """(32-byte key, blocks of 16 bytes) to those blocks through AES-256."""
    permute_back: Callable[[bytes, bytes], bytes]
    """The inverse."""


class Target(NamedTuple):
    """What a handle stands for."""

    node: NodeId
    """The home node."""
    record: RecordKey


class Place(NamedTuple):
    """Where a page ended in the order of one client and epoch."""

    cell: int
    place: bytes
    """16 bytes: the record key as ``CellOrder`` sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """A handle that has been read, and may still be anybody's."""

    sealed: bytes
    kind: HandleKind
    epoch: int
    tag: bytes

    @property
    def context(self) -> bytes:
        """What ``sealed`` is bound to; also the handle's end."""
        return _context(self.kind, self.epoch, self.tag)

    @property
    def data(self) -> bytes:
        """The 73 bytes."""
        return self.sealed + self.context

    @property
    def text(self) -> str:
        """The 98 characters."""
        return to_text(self.data)


def parse_handle(data: bytes) -> Handle:
    """The handle in ``data``.

    Raises:
        MalformedError: not 73 bytes, or of a kind that there is not.
    """
    if len(data) != HANDLE_BYTES:
        raise MalformedError(f"a handle has {HANDLE_BYTES} bytes, this one {len(data)}")
    kind = data[SEALED_BYTES]
    if kind not in (HandleKind.OWN, HandleKind.ALIAS):
        raise MalformedError(f"a handle of kind {kind}; there are 1 and 2")
    return Handle(
        sealed=data[:SEALED_BYTES],
        kind=HandleKind(kind),
        epoch=int.from_bytes(data[SEALED_BYTES + 1 : -TAG_BYTES], "big"),
        tag=data[-TAG_BYTES:],
    )


def parse_handle_text(text: str) -> Handle:
    """The handle whose text is ``text``.

    Raises:
        MalformedError: any text that ``Handle.text`` does not give.
    """
    if len(text) != HANDLE_CHARACTERS:
        raise MalformedError(
            f"{text[:SHORT_TEXT]!r} is not a handle: {HANDLE_CHARACTERS} characters of base64url"
        )
    return parse_handle(to_bytes(text, "this handle"))


class HandleKey:
    """Makes and opens the handles of one ``epoch`` with its 32-byte ``key``.

    A ``key`` of another length is a bug: ``ValueError``.
    """

    __slots__ = ("_cursors", "_key", "_seal", "_with", "epoch")

    def __init__(self, epoch: int, key: bytes, arithmetic: Arithmetic) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("an epoch key has 32 bytes")
        self.epoch = epoch
        self._key = key
        self._with = arithmetic
        self._seal = arithmetic.siv(_siv_key(key, USE_HANDLE_SEAL))
        self._cursors = arithmetic.siv(_siv_key(key, USE_HANDLE_CURSOR))

    def __repr__(self) -> str:
        return f"HandleKey(epoch={self.epoch})"

    def own(self, tag: bytes, target: Target) -> Handle:
        """The handle of ``target`` for the client with that ``tag``."""
        return self._made(HandleKind.OWN, tag, target)

    def alias(self, nonce: bytes, target: Target) -> Handle:
        """A handle of ``target`` for one use; ``nonce`` is 16 random bytes."""
        return self._made(HandleKind.ALIAS, nonce, target)

    def texts(self, tag: bytes, targets: Sequence[Target]) -> list[str]:
        """The texts of the own handles of ``targets``: what a page of an answer needs."""
        context, seal = _context(HandleKind.OWN, self.epoch, tag), self._seal.seal
        return [to_text(seal(node + record, context) + context) for node, record in targets]

    def open(self, handle: Handle, *, tag: bytes | None = None) -> Target:
        """What ``handle`` stands for.

        With ``tag``, only an own handle of the client with that tag opens.

        Raises:
            UnknownHandleError: another client's, epoch's or cluster's, or made up.
        """
        is_whose = tag is None or (handle.kind is HandleKind.OWN and handle.tag == tag)
        if handle.epoch != self.epoch or not is_whose:
            raise _unknown()
        try:
            plain = self._seal.open(handle.sealed, handle.context)
        except SealError:
            raise _unknown() from None
        return Target(NodeId(plain[:_NODE_BYTES]), RecordKey(plain[_NODE_BYTES:]))

    def order(self, tag: bytes) -> CellOrder:
        """The order in which the client with ``tag`` sees the services of a cell."""
        key = mac(self._key, USE_HANDLE_ORDER + self.epoch.to_bytes(4, "big") + tag)
        return CellOrder(key, self._with)

    def seal_cursor(self, tag: bytes, place: Place) -> str:
        """A cursor that leads the client with ``tag`` on behind ``place``; 59 characters."""
        context = self.epoch.to_bytes(4, "big") + tag
        secret = place.cell.to_bytes(_CELL_BYTES, "big") + place.place
        return to_text(context[:4] + self._cursors.seal(secret, context))

    def open_cursor(self, tag: bytes, text: str) -> Place:
        """Where the cursor ``text`` of the client with ``tag`` leads.

        Raises:
            MalformedError: no cursor at all.
            UnknownCursorError: another client's, epoch's or cluster's, or made up.
        """
        data = _cursor_bytes(text)
        context = self.epoch.to_bytes(4, "big") + tag
        try:
            plain = self._cursors.open(data[4:], context) if data[:4] == context[:4] else b""
        except SealError:
            plain = b""
        cell = int.from_bytes(plain[:_CELL_BYTES], "big")
        if not is_cell(cell):
            raise UnknownCursorError("this cursor leads nowhere for this client in this epoch")
        return Place(cell, plain[_CELL_BYTES:])

    def _made(self, kind: HandleKind, tag: bytes, target: Target) -> Handle:
        sealed = self._seal.seal(target.node + target.record, _context(kind, self.epoch, tag))
        return Handle(sealed=sealed, kind=kind, epoch=self.epoch, tag=tag)


class CellOrder:
    """The order of the services of a cell, for one client and epoch."""

    __slots__ = ("_key", "_with")

    def __init__(self, key: bytes, arithmetic: Arithmetic) -> None:
        self._key = key
        self._with = arithmetic

    def places(self, records: Sequence[bytes]) -> list[bytes]:
        """The place (16 bytes, to sort by) of each record key in ``records``, in their order."""
        return _blocks(self.joined(b"".join(records)))

    def joined(self, records: bytes) -> bytes:
        """The places of record keys, one behind the other, for the keys one behind the other."""
        return self._with.permute(self._key, records)

    def sorted(self, records: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """(place, record key) of each of ``records``, in the order of their places."""
        return sorted(zip(self.places(records), records, strict=True))

    def record_at(self, place: bytes) -> RecordKey:
        """The record key whose place is ``place``."""
        return RecordKey(self._with.permute_back(self._key, place))


def cursor_epoch(text: str) -> int:
    """The epoch in which the cursor ``text`` was given out, if it is one.

    Raises:
        MalformedError: no cursor at all.
    """
    return int.from_bytes(_cursor_bytes(text)[:4], "big")


def _cursor_bytes(text: str) -> bytes:
    data = to_bytes(text[:100], "this cursor")
    if len(data) != _CURSOR_BYTES:
        raise MalformedError("this cursor is not one that a node gave out (the value of 'next')")
    return data


def _context(kind: HandleKind, epoch: int, tag: bytes) -> bytes:
    if len(tag) != TAG_BYTES:
        raise ValueError(f"a tag of {len(tag)} bytes in a handle")
    return bytes((kind,)) + epoch.to_bytes(4, "big") + tag


def _siv_key(key: bytes, use: bytes) -> bytes:
    return mac(key, use + b"\x01") + mac(key, use + b"\x02")


def _blocks(data: bytes) -> list[bytes]:
    return [data[at : at + _RECORD_BYTES] for at in range(0, len(data), _RECORD_BYTES)]


def _unknown() -> UnknownHandleError:
    return UnknownHandleError("no such handle for this client in this epoch")
