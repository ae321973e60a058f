"""Writing and showing the blocks of a capability.

Rules kept here:

* What these functions write is checked where everything is: by ``Chain.parse`` of the result.
  They check only what would not fit its field.
* ``blocks_of`` shows the blocks of a chain that was read before; it decides nothing.

Not handled here: reading and judging (``capability_chain.py``, ``judge.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from .capability_chain import (
    CURRENT_EPOCH,
    MAGIC,
    MAX_BLOCKS,
    MAX_ENTRIES,
    MAX_PUBLIC_BYTES,
    VERSION,
    Chain,
    Entry,
)
from .caveats import Caveat, encode_caveats, list_caveats
from .errors import InvalidValueError, MalformedError
from .mac import HEADER_BYTES, SIGNED_HEADER_BYTES, USE_BLOCK, USE_EPOCH_KEY, mac
from .rights import ALL_RIGHTS, MAX_OBJECT_BYTES, narrowed

_ROOT_LABEL: Final = USE_EPOCH_KEY + b"edgistry capability root"
_HEADER: Final = struct.Struct(">2sBIIB")


class ChildEntry(NamedTuple):
    """One entry of a block that is added to a chain."""

    parent: int
    """Index into the entries of the block before."""
    rights: int
    narrow: str = ""
    """What to add below the parent's object; "": the same object."""


class Block(NamedTuple):
    """One block of a chain."""

    entries: tuple[Entry, ...]
    """What the chain grants up to this block, with full objects."""
    parents: tuple[int, ...]
    """For each entry its parent's index in the block before; empty in block 0."""
    caveats: tuple[Caveat, ...]
    data: bytes
    """The block's bytes with the length field."""


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
    return _encoded([_body(entry.rights, entry.object) for entry in entries], caveats)


def child_block(entries: Sequence[ChildEntry], caveats: Sequence[Caveat] = ()) -> bytes:
    """A later block with its length field. ``Chain.parse`` of the result is what checks it."""
    for entry in entries:
        if not 0 <= entry.parent < MAX_ENTRIES:
            raise InvalidValueError(f"parent {entry.parent}: use 0-{MAX_ENTRIES - 1}")
    return _encoded(
        [bytes((entry.parent,)) + _body(entry.rights, entry.narrow) for entry in entries], caveats
    )


def _body(rights: int, name: str) -> bytes:
    encoded = name.encode()
    if len(encoded) > MAX_OBJECT_BYTES:
        raise MalformedError(f"{name[:80]!r} is longer than {MAX_OBJECT_BYTES} bytes")
    if not 0 <= rights <= ALL_RIGHTS:
        raise InvalidValueError(f"rights 0x{rights:x}: undefined bits")
    return int(rights).to_bytes(2, "big") + bytes((len(encoded),)) + encoded


def _encoded(entries: list[bytes], caveats: Sequence[Caveat]) -> bytes:
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


def blocks_of(chain: Chain) -> tuple[Block, ...]:
    """The blocks of ``chain``, root first."""
    found: list[Block] = []
    start = HEADER_BYTES
    for end in chain.ends:
        found.append(_read_block(chain.public[start:end], found[-1] if found else None))
        start = end
    return tuple(found)


def _read_block(data: bytes, above: Block | None) -> Block:
    entries, parents = [], []
    at = 3
    for _ in range(data[2]):
        granted = Entry(0, "")
        if above is not None:
            parents.append(data[at])
            granted = above.entries[data[at]]
            at += 1
        rights = data[at] << 8 | data[at + 1]
        narrow = data[at + 3 : at + 3 + data[at + 2]]
        at += 3 + len(narrow)
        name = narrowed(granted.object.encode(), narrow).decode() if narrow else granted.object
        entries.append(Entry(rights, name))
    return Block(tuple(entries), tuple(parents), list_caveats(data, at, len(data)), data)
