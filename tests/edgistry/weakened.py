"""A deliberately weakened copy of the format: the paper's prototype in miniature. For tests only.

It has what the prototype had, and lacks what the prototype lacked:

* no use byte before what is hashed, so a step of the chain and the tag of a request are the same
  function of the same key;
* tags of full length, so a tag has the size of a state;
* no check that a block narrows the one before.

The attacks in ``test_capability_attacks.py`` succeed here; that shows that they bite.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from edgistry.blocks import ChildEntry, append_block, child_block, header_bytes, root_block
from edgistry.capability_chain import Entry


class Held(NamedTuple):
    """What a holder has: public bytes and the last state."""

    public: bytes
    state: bytes


class Request(NamedTuple):
    """A request on the wire: the chain, what is asked (laid out like a block), and a tag."""

    public: bytes
    asked: bytes
    tag: bytes


def step(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


class Prototype:
    """Issuer and verifier with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mint(self, *entries: Entry) -> Held:
        header, block = header_bytes(epoch=0, serial=1), root_block(entries)
        return Held(header + block, step(self._key, header[:11] + block))

    def executes(self, request: Request) -> bool:
        blocks = _blocks(request.public)
        state = step(self._key, request.public[:11] + blocks[0])
        for block in blocks[1:]:
            state = step(state, block)
        if not hmac.compare_digest(step(state, request.asked), request.tag):
            return False
        # "The signature is right, so the last block says what is allowed."
        return bool(_rights(blocks[-1], first=len(blocks) == 1) & _rights(request.asked))


def extend(held: Held, block: bytes) -> Held:
    return Held(append_block(held.public, block), step(held.state, block))


def bind(held: Held, rights: int) -> Request:
    asked = child_block([ChildEntry(0, rights)])
    return Request(held.public, asked, step(held.state, asked))


def _blocks(public: bytes) -> list[bytes]:
    found, at = [], 12
    while at < len(public):
        end = at + 2 + int.from_bytes(public[at : at + 2], "big")
        found.append(public[at:end])
        at = end
    return found


def _rights(block: bytes, *, first: bool = False) -> int:
    at = 3 if first else 4
    return int.from_bytes(block[at : at + 2], "big")
