"""Capabilities and envelopes written byte by byte from the public format, for the micro tests.

The standard library's ``hmac`` and the independent ``msgpack`` do the work here, so that neither
implementation under test takes part in making what it is tested with.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

import msgpack

SECRET = bytes(range(32))
EPOCH = 7
NOW = 1_700_000_000_000_000
MINUTE = 60_000_000
CLIENT = b"client-1"

PUT, INVOKE, GET, LATEST, DELETE, POLL = 0x04, 0x08, 0x10, 0x20, 0x40, 0x400


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def key_of(secret: bytes = SECRET, epoch: int = EPOCH) -> bytes:
    return mac(secret, b"\x10", b"edgistry capability root", struct.pack(">I", epoch))


def caveat(kind: int, value: bytes = b"") -> bytes:
    return bytes([kind, len(value)]) + value


def not_after(at: int) -> bytes:
    return caveat(0x81, struct.pack(">Q", at))


def root_entry(rights: int, name: bytes = b"") -> bytes:
    return struct.pack(">HB", rights, len(name)) + name


def child_entry(parent: int, rights: int, narrow: bytes = b"") -> bytes:
    return struct.pack(">BHB", parent, rights, len(narrow)) + narrow


def block(entries: list[bytes], *caveats: bytes) -> bytes:
    body = bytes([len(entries)]) + b"".join(entries) + b"".join(caveats)
    return struct.pack(">H", len(body)) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Public bytes with the state that signs for them."""

    public: bytes
    state: bytes

    def derive(self, child: bytes) -> Token:
        count = bytes([self.public[11] + 1])
        public = self.public[:11] + count + self.public[12:] + child
        return Token(public=public, state=mac(self.state, b"\x01", child))

    @property
    def id(self) -> bytes:
        return hashlib.sha256(b"\x02" + self.public[:11] + self.public[12:]).digest()[:16]


def mint(
    first: bytes, *, serial: int = 1, header_epoch: int = EPOCH, key: bytes | None = None
) -> Token:
    head = b"ED\x01" + struct.pack(">II", header_epoch, serial)
    return Token(public=head + b"\x01" + first, state=mac(key or key_of(), b"\x00", head, first))


def request_key(tokens: list[Token]) -> bytes:
    if len(tokens) == 1:
        return tokens[0].state
    return hashlib.sha256(b"\x07" + b"".join(token.state for token in tokens)).digest()


def envelope(
    tokens: list[Token],
    *,
    flags: int = 0,
    op: int = 4,
    target: str = "ns/woof",
    handler: str = "",
    sequence_epoch: int = 0,
    sequence: int = NOW,
    deadline: int = NOW + MINUTE,
    client: bytes = CLIENT,
    payload: bytes = bytes(8),
    tag: bytes | None = None,
) -> bytes:
    """A request of ``tokens``; ``tag`` replaces the right one."""
    signed = struct.pack(">BBBH", 3, flags, op, len(target.encode())) + target.encode()
    signed += bytes([len(handler.encode())]) + handler.encode()
    signed += struct.pack(">IQQ", sequence_epoch, sequence, deadline) + client
    signed += bytes([len(tokens)])
    for token in tokens:
        signed += struct.pack(">H", len(token.public)) + token.public
    signed += hashlib.sha256(payload).digest()
    if tag is None:
        tag = mac(request_key(tokens), signed)[:16]
    publics = [token.public for token in tokens]
    fields = [1, flags, op, target, handler, sequence_epoch, sequence, deadline, client]
    packed = msgpack.packb([*fields, publics, payload, tag], use_bin_type=True)
    return bytes(packed)


def deep_token(levels: int, entries: int = 2) -> Token:
    """A chain of ``levels`` blocks with ``entries`` entries and one caveat in each."""
    token = mint(block([root_entry(0x7FF, b"ns")] * entries, not_after(NOW + 10 * MINUTE)))
    for level in range(1, levels):
        narrow = b"woof" if level == 1 else b""
        children = [child_entry(index, 0x7FF >> level, narrow) for index in range(entries)]
        token = token.derive(block(children, not_after(NOW + 9 * MINUTE)))
    return token
