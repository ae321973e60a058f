"""The public bytes of a capability: reading them, public ids, and the chain of MACs.

Layout (capability.md, *Public bytes*; integers big-endian)::

    header  "ED" · version u8 = 1 · epoch u32 · serial u32 · nblocks u8 (1..16)
    block   length u16 (of what follows) · nentries u8 (1..32) · entries · caveats
    entry   block 0: rights u16 · n u8 · object     others: parent u8 · rights u16 · n u8 · narrow

Rules kept here:

* ``Chain.parse`` accepts exactly the well-formed chains whose blocks only narrow: a child whose
  rights are no subset of its parent's, or whose object leaves it, is refused, never cut.
* MACs and ids are taken over received bytes; nothing is re-encoded.
* The first 11 header bytes (``H11``) enter block 0's MAC; the block count does not, as every
  holder changes it.

Not handled here: writing and showing blocks (``blocks.py``), the delegable form
(``capability.py``), whether caveats hold (``judge.py``), who issued the chain (``verifier.py``).
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final, NamedTuple, Self

from .caveats import (
    CLIENT_BYTES,
    MAX_TIME_US,
    NO_RARE,
    CaveatType,
    RareConditions,
    check_length,
)
from .errors import MalformedError, UnknownVersionError, WidenedError
from .mac import HEADER_BYTES, ID_BYTES, SIGNED_HEADER_BYTES, USE_PUBLIC_ID, chain_state
from .rights import ALL_RIGHTS, DOTS, MAX_COMPONENT, SAFE, narrowed

MAGIC: Final = b"ED"
VERSION: Final = 1
CURRENT_EPOCH: Final = 0xFFFFFFFF
"""Header epoch that means "the issuer's current one", so that no number tells devices apart."""
MAX_BLOCKS: Final = 16
MAX_ENTRIES: Final = 32
MAX_PUBLIC_BYTES: Final = 2048

_START: Final = MAGIC + bytes((VERSION,))
_HEADER: Final = struct.Struct(">3sIIB").unpack_from
_NOT_AFTER: Final = int(CaveatType.NOT_AFTER)
_CLIENT: Final = int(CaveatType.CLIENT)
_MAX_PAYLOAD: Final = int(CaveatType.MAX_PAYLOAD)
_NEVER: Final = MAX_TIME_US.to_bytes(8, "big")
_ROOT_START: Final = struct.Struct(">HBHB").unpack_from
_CHILD_START: Final = struct.Struct(">HBBHB").unpack_from
_ROOT_ENTRY: Final = struct.Struct(">HB").unpack_from
_CHILD_ENTRY: Final = struct.Struct(">BHB").unpack_from


class Entry(NamedTuple):
    """Rights on an object, as the chain up to its block grants them."""

    rights: int
    object: str


Granted = tuple[int, bytes]
"""One entry as read: rights and full object. Plain tuples, as every request that is not remembered
makes one for each entry."""


_ISSUER: Final[list[Granted]] = [(ALL_RIGHTS, b"")]
"""What stands above block 0."""


class Chain:
    """Parsed public bytes. Equal bytes, equal chain."""

    __slots__ = (
        "_ids",
        "clients",
        "ends",
        "epoch",
        "granted",
        "max_payload",
        "not_after_us",
        "public",
        "rare",
        "serial",
    )

    public: bytes
    epoch: int
    """As in the header; ``CURRENT_EPOCH`` stands for whichever is current."""
    serial: int
    ends: list[int]
    """For each block the offset of the first byte after it."""
    granted: list[Granted]
    """What the chain grants, before caveats: the last block's entries."""
    not_after_us: int
    """Last µs at which the capability holds; ``MAX_TIME_US`` when no caveat limits it."""
    max_payload: int | None
    """Longest payload in bytes, if any caveat limits it."""
    clients: tuple[bytes, ...]
    """All of these must be the client's id, so two different ones never hold."""
    rare: RareConditions
    """What all other caveats come to; ``NO_RARE`` itself when there are none."""
    _ids: tuple[bytes, ...] | None

    @classmethod
    def parse(cls, public: bytes) -> Self:
        """The chain in ``public``.

        Raises:
            MalformedError: the bytes are no chain (leaves: ``UnknownVersionError``,
                ``WidenedError``, ``UnknownCaveatError``).
        """
        size = len(public)
        if not HEADER_BYTES < size <= MAX_PUBLIC_BYTES:
            raise MalformedError(f"{size} public bytes; a capability has 13-{MAX_PUBLIC_BYTES}")
        start, epoch, serial, count = _HEADER(public)
        if start != _START or not 0 < count <= MAX_BLOCKS:
            raise _bad_header(start, count)
        chain = cls()
        chain.public = public
        chain.epoch = epoch
        chain.serial = serial
        chain._ids = None
        try:
            _read_blocks(chain, public, count)
        except (IndexError, struct.error):
            raise MalformedError("a block is cut short, or has an unknown parent") from None
        return chain

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What the chain grants, before caveats: the last block's entries with full objects."""
        return tuple(Entry(rights, name.decode()) for rights, name in self.granted)

    @property
    def ids(self) -> tuple[bytes, ...]:
        """The 16-byte public ids of all prefixes, shortest first; the last one is the chain's."""
        if self._ids is None:
            digest = sha256(USE_PUBLIC_ID + self.public[:SIGNED_HEADER_BYTES])
            found = []
            at = HEADER_BYTES
            for end in self.ends:
                digest.update(self.public[at:end])
                found.append(digest.digest()[:ID_BYTES])
                at = end
            self._ids = tuple(found)
        return self._ids

    @property
    def id(self) -> bytes:
        """The public id of the whole chain."""
        return self.ids[-1]

    def states(self, epoch_key: bytes) -> list[bytes]:
        """The secret states s_0 … s_n under the issuer's 32-byte ``epoch_key``."""
        ends = self.ends
        return [chain_state(epoch_key, self.public, ends[: i + 1]) for i in range(len(ends))]

    def last_state(self, epoch_key: bytes) -> bytes:
        """s_n under the issuer's 32-byte ``epoch_key``."""
        return chain_state(epoch_key, self.public, self.ends)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"<Chain {self.id.hex()} of {len(self.ends)} blocks>"


def _read_blocks(chain: Chain, data: bytes, count: int) -> None:
    """Fill ``chain`` from its blocks.

    This runs for every request whose chain is not remembered, and the chain's MACs take so little
    time that this loop decides: so it is one function, with the frequent cases written out. (With
    a function a part, and a second pass over the caveats, reading took twice as long.)
    ``struct.error`` or ``IndexError`` escape when ``data`` ends inside a block, ``IndexError`` also
    for a parent that the block before does not have.
    """
    ends: list[int] = []
    above = _ISSUER
    parent = 0
    end = HEADER_BYTES
    not_after = _NEVER
    max_payload = b""
    clients: tuple[bytes, ...] = ()
    rare: list[tuple[int, int, bytes]] = []
    for index in range(count):
        if index:
            length, left, parent, rights, size = _CHILD_START(data, end)
            at = end + 7
        else:
            length, left, rights, size = _ROOT_START(data, end)
            at = end + 6
        end += 2 + length
        ends.append(end)
        if not 0 < left <= MAX_ENTRIES:
            raise MalformedError(f"{left} entries; a block has 1-{MAX_ENTRIES}")
        granted, name = above[parent]
        if rights & ~granted:
            raise _widened(rights, granted)
        if size:
            stop = at + size
            narrow = data[at:stop]
            at = stop
            if name or narrow.strip(SAFE) or size > MAX_COMPONENT or narrow in DOTS:
                name = narrowed(name, narrow)
            else:
                name = narrow
        entries = [(rights, name)]
        if left > 1:
            at = _read_further_entries(data, at, left - 1, above, entries, index == 0)
        above = entries
        last, last_value = -1, b""
        while at < end:
            kind, size = data[at], data[at + 1]
            stop = at + 2 + size
            value = data[at + 2 : stop]
            at = stop
            if kind <= last and (kind < last or value <= last_value):
                raise MalformedError("caveats are not strictly ascending")
            last, last_value = kind, value
            if kind == _NOT_AFTER and size == 8:
                if value < not_after:
                    not_after = value
            elif kind == _CLIENT and size == CLIENT_BYTES:
                if value not in clients:
                    clients = (*clients, value)
            elif kind == _MAX_PAYLOAD and size == 4:
                if not max_payload or value < max_payload:
                    max_payload = value
            else:
                check_length(kind, size)
                rare.append((index, kind, value))
        if at != end:
            raise MalformedError("a block's content does not fill it exactly")
    if end != len(data):
        raise MalformedError(f"{len(data)} public bytes, where the blocks end at {end}")
    chain.ends = ends
    chain.granted = above
    chain.not_after_us = int.from_bytes(not_after, "big")
    chain.max_payload = int.from_bytes(max_payload, "big") if max_payload else None
    chain.clients = clients
    chain.rare = RareConditions(rare, count - 1) if rare else NO_RARE


def _read_further_entries(
    data: bytes, at: int, left: int, above: list[Granted], entries: list[Granted], is_root: bool
) -> int:
    """Add ``left`` more entries of a block to ``entries``; the offset after them."""
    parent = 0
    for _ in range(left):
        if is_root:
            rights, size = _ROOT_ENTRY(data, at)
            at += 3
        else:
            parent, rights, size = _CHILD_ENTRY(data, at)
            at += 4
        granted, name = above[parent]
        if rights & ~granted:
            raise _widened(rights, granted)
        if size:
            name = narrowed(name, data[at : at + size])
            at += size
        entries.append((rights, name))
    return at


def _bad_header(start: bytes, count: int) -> MalformedError:
    if not start.startswith(MAGIC):
        return MalformedError("not a capability: it does not begin with 'ED'")
    if start != _START:
        return UnknownVersionError(f"capability version {start[2]}; this program knows {VERSION}")
    return MalformedError(f"{count} blocks; a capability has 1-{MAX_BLOCKS}")


def _widened(rights: int, granted: int) -> MalformedError:
    if rights & ~ALL_RIGHTS:
        return MalformedError(f"undefined rights in 0x{rights:04x}")
    return WidenedError(f"rights 0x{rights:04x} where the parent grants 0x{granted:04x}")
