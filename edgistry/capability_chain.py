"""The public bytes of a capability: reading, extending, public ids, and the chain of MACs.

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

Not handled here: secrets at rest and the delegable form (``capability.py``), whether caveats hold
(``judge.py``), who issued the chain (``verifier.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from .caveats import Caveat, Conditions, encode_caveats, list_caveats
from .errors import InvalidValueError, MalformedError, UnknownVersionError, WidenedError
from .mac import ID_BYTES, USE_BLOCK, USE_EPOCH_KEY, USE_PUBLIC_ID, USE_ROOT_BLOCK, mac
from .rights import ALL_RIGHTS, MAX_OBJECT_BYTES, narrowed

MAGIC: Final = b"ED"
VERSION: Final = 1
CURRENT_EPOCH: Final = 0xFFFFFFFF
"""Header epoch that means "the issuer's current one", so that no number tells devices apart."""
HEADER_BYTES: Final = 12
SIGNED_HEADER_BYTES: Final = 11
MAX_BLOCKS: Final = 16
MAX_ENTRIES: Final = 32
MAX_PUBLIC_BYTES: Final = 2048

_ROOT_LABEL: Final = USE_EPOCH_KEY + b"edgistry capability root"
_HEADER: Final = struct.Struct(">2sBIIB")
_BLOCK_START: Final = struct.Struct(">HB").unpack_from
_ROOT_ENTRY: Final = struct.Struct(">HB").unpack_from
_CHILD_ENTRY: Final = struct.Struct(">BHB").unpack_from


class Entry(NamedTuple):
    """Rights on an object, as the chain up to its block grants them."""

    rights: int
    object: str


class ChildEntry(NamedTuple):
    """One entry of a block that is added to a chain."""

    parent: int
    """Index into the entries of the block before."""
    rights: int
    narrow: str = ""
    """What to add below the parent's object; "": the same object."""


class Granted(NamedTuple):
    """One entry of a block as read; see ``Block``."""

    rights: int
    object: bytes
    parent: int
    """Index into the entries of the block before; -1 in block 0."""


# Verifying a request reads every block anew unless it is remembered, so what is read stays plain
# tuples (making named ones costs a quarter of an HMAC each); `blocks` names them for people.
_Granted = tuple[int, bytes, int]
_Block = tuple[list[_Granted], int, int]
"""Entries, and the offsets where the caveats begin and where the block ends."""


class Block(NamedTuple):
    """One block of a chain, with what it grants in full."""

    entries: tuple[Granted, ...]
    caveats: tuple[Caveat, ...]
    end: int
    """Offset of the first byte after the block in the public bytes."""


class Chain:
    """Parsed public bytes. Equal bytes, equal chain."""

    __slots__ = ("_blocks", "_ids", "conditions", "epoch", "granted", "public", "serial")

    def __init__(
        self,
        public: bytes,
        epoch: int,
        serial: int,
        blocks: list[_Block],
        conditions: Conditions,
    ) -> None:
        self.public = public
        self.epoch = epoch
        """As in the header; ``CURRENT_EPOCH`` stands for whichever is current."""
        self.serial = serial
        self.granted = blocks[-1][0]
        """(rights, object as bytes, parent) of the last block's entries: what the chain grants,
        before caveats."""
        self._blocks = blocks
        self.conditions = conditions
        """What all caveats of all blocks come to."""
        self._ids: tuple[bytes, ...] | None = None

    @classmethod
    def parse(cls, public: bytes) -> Chain:
        """The chain in ``public``.

        Raises:
            MalformedError: the bytes are no chain (leaves: ``UnknownVersionError``,
                ``WidenedError``, ``UnknownCaveatError``).
        """
        size = len(public)
        if not HEADER_BYTES < size <= MAX_PUBLIC_BYTES:
            raise MalformedError(f"{size} public bytes; a capability has 13-{MAX_PUBLIC_BYTES}")
        magic, version, epoch, serial, count = _HEADER.unpack_from(public)
        if magic != MAGIC:
            raise MalformedError("not a capability: it does not begin with 'ED'")
        if version != VERSION:
            raise UnknownVersionError(f"capability version {version}; this program knows {VERSION}")
        if not 1 <= count <= MAX_BLOCKS:
            raise MalformedError(f"{count} blocks; a capability has 1-{MAX_BLOCKS}")
        conditions = Conditions()
        try:
            blocks = _read_blocks(public, count, conditions)
        except (IndexError, struct.error):
            raise MalformedError("a block is cut short") from None
        return cls(public, epoch, serial, blocks, conditions)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What the chain grants, before caveats: the last block's entries with full objects."""
        return tuple(Entry(rights, name.decode()) for rights, name, _ in self.granted)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, root first."""
        return tuple(
            Block(
                tuple(Granted(*entry) for entry in entries),
                list_caveats(self.public, at, end),
                end,
            )
            for entries, at, end in self._blocks
        )

    @property
    def ids(self) -> tuple[bytes, ...]:
        """The 16-byte public ids of all prefixes, shortest first; the last one is the chain's."""
        if self._ids is None:
            digest = sha256(USE_PUBLIC_ID + self.public[:SIGNED_HEADER_BYTES])
            found = []
            at = HEADER_BYTES
            for _, _, end in self._blocks:
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
        found = []
        state = epoch_key
        for message in self._messages():
            state = mac(state, message)
            found.append(state)
        return found

    def last_state(self, epoch_key: bytes) -> bytes:
        """s_n under the issuer's 32-byte ``epoch_key``."""
        state = epoch_key
        for message in self._messages():
            state = mac(state, message)
        return state

    def _messages(self) -> list[bytes]:
        """What each step of the chain takes the MAC of."""
        public = self.public
        at = self._blocks[0][2]
        found = [USE_ROOT_BLOCK + public[:SIGNED_HEADER_BYTES] + public[HEADER_BYTES:at]]
        for _, _, end in self._blocks[1:]:
            found.append(USE_BLOCK + public[at:end])
            at = end
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"<Chain {self.id.hex()} of {len(self._blocks)} blocks>"


def _read_blocks(data: bytes, count: int, conditions: Conditions) -> list[_Block]:
    """All blocks; ``struct.error`` or ``IndexError`` when ``data`` ends inside one.

    One loop instead of a function a block: calls were a third of the time of reading a request.
    """
    blocks: list[_Block] = []
    above: list[_Granted] | None = None
    end = HEADER_BYTES
    for _ in range(count):
        if conditions.sealed:
            conditions.sealed_early = True
        length, left = _BLOCK_START(data, end)
        at = end + 3
        end += 2 + length
        if not 1 <= left <= MAX_ENTRIES:
            raise MalformedError(f"{left} entries; a block has 1-{MAX_ENTRIES}")
        entries: list[_Granted] = []
        while left:
            left -= 1
            if above is None:
                rights, size = _ROOT_ENTRY(data, at)
                at += 3
                parent, granted, name = -1, ALL_RIGHTS, b""
            else:
                parent, rights, size = _CHILD_ENTRY(data, at)
                at += 4
                if parent >= len(above):
                    raise MalformedError(f"parent {parent} of a block with {len(above)} entries")
                granted, name, _ = above[parent]
            if rights & ~granted:
                raise _widened(rights, granted)
            if size:
                stop = at + size
                name = narrowed(name, data[at:stop])
                at = stop
            entries.append((rights, name, parent))
        blocks.append((entries, at, end))
        above = entries
        if at != end:
            conditions.read_block(data, at, end)
    if end != len(data):
        raise MalformedError(f"{len(data)} public bytes, where the blocks end at {end}")
    return blocks


def _widened(rights: int, granted: int) -> MalformedError:
    if rights & ~ALL_RIGHTS:
        return MalformedError(f"undefined rights in 0x{rights:04x}")
    return WidenedError(f"rights 0x{rights:04x} where the parent grants 0x{granted:04x}")


def header_bytes(*, epoch: int, serial: int, nblocks: int = 1) -> bytes:
    """The 12 header bytes.

    Raises:
        InvalidValueError: a number outside its field.
    """
    if not (0 <= epoch <= 0xFFFFFFFF and 0 <= serial <= 0xFFFFFFFF):
        raise InvalidValueError(f"epoch {epoch}, serial {serial}: 32 unsigned bits each")
    return _HEADER.pack(MAGIC, VERSION, epoch, serial, nblocks)


def root_block(entries: Sequence[Entry], caveats: Sequence[Caveat] = ()) -> bytes:
    """Block 0 with its length field. ``Chain.parse`` of the result is what checks it."""
    return _block([_body(entry.rights, entry.object) for entry in entries], caveats)


def child_block(entries: Sequence[ChildEntry], caveats: Sequence[Caveat] = ()) -> bytes:
    """A later block with its length field. ``Chain.parse`` of the result is what checks it."""
    for entry in entries:
        if not 0 <= entry.parent < MAX_ENTRIES:
            raise InvalidValueError(f"parent {entry.parent}: use 0-{MAX_ENTRIES - 1}")
    return _block(
        [bytes((entry.parent,)) + _body(entry.rights, entry.narrow) for entry in entries], caveats
    )


def _body(rights: int, name: str) -> bytes:
    encoded = name.encode()
    if len(encoded) > MAX_OBJECT_BYTES:
        raise MalformedError(f"{name[:80]!r} is longer than {MAX_OBJECT_BYTES} bytes")
    if not 0 <= rights <= ALL_RIGHTS:
        raise InvalidValueError(f"rights 0x{rights:x}: undefined bits")
    return int(rights).to_bytes(2, "big") + bytes((len(encoded),)) + encoded


def _block(entries: list[bytes], caveats: Sequence[Caveat]) -> bytes:
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise InvalidValueError(f"{len(entries)} entries; a block has 1-{MAX_ENTRIES}")
    body = bytes((len(entries),)) + b"".join(entries) + encode_caveats(caveats)
    if len(body) > MAX_PUBLIC_BYTES:
        raise InvalidValueError(f"a block of {len(body)} bytes; all of them have at most 2048")
    return len(body).to_bytes(2, "big") + body


def append_block(public: bytes, block: bytes) -> bytes:
    """``public`` with one more ``block`` (not checked here) and its count raised.

    Raises:
        InvalidValueError: there are 16 blocks already.
    """
    count = public[SIGNED_HEADER_BYTES] + 1
    if count > MAX_BLOCKS:
        raise InvalidValueError(f"a capability has at most {MAX_BLOCKS} blocks")
    return public[:SIGNED_HEADER_BYTES] + bytes((count,)) + public[HEADER_BYTES:] + block


def next_state(state: bytes, block: bytes) -> bytes:
    """s_(i+1) from s_i and the next block's bytes: what any holder can compute."""
    return mac(state, USE_BLOCK + block)


def epoch_key(secret: bytes, epoch: int) -> bytes:
    """K, the issuer's key for ``epoch``, from its 32-byte secret.

    Whoever has K can mint every capability of that epoch, and none of another one.

    Raises:
        InvalidValueError: not 32 bytes, or an epoch outside 0 … 0xFFFFFFFE.
    """
    if len(secret) != 32:
        raise InvalidValueError("an issuer's secret has 32 bytes")
    if not 0 <= epoch < CURRENT_EPOCH:
        raise InvalidValueError(f"epoch {epoch}: use 0 to {CURRENT_EPOCH - 1}")
    return mac(secret, _ROOT_LABEL + epoch.to_bytes(4, "big"))
