"""ABCI frames, and sizes as protobuf counts them: bytes in, messages out, no I/O.

A frame is an unsigned varint (seven bits a byte, least significant first) that gives the length
of the message which follows it (ABCI specification, *Client and Server*; the varint is that of
protobuf).

Rules kept here:

* Any split or merge of reads gives the same messages.
* A length over the cap, or a varint longer than 64 bits, is refused as soon as it is seen,
  before anything of that size is kept.
* Work and copies are linear in the bytes received, however they are cut.
* A refusal is final: after it the stream has no boundaries any more.

Not handled here: what is in a message.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgistry.errors import MalformedError, TooLargeError

FRAME_LIMIT = 32 * 1024 * 1024
"""Longest message we read, in bytes. The engine's largest are a snapshot chunk (16 MB) and
FinalizeBlock (a block of 2 MB); it would send up to 100 MB, but nothing we configure does."""

_VARINT_LIMIT = 10
"""Bytes of the longest varint of 64 bits."""


def encode_uvarint(value: int) -> bytes:
    """The shortest unsigned varint of ``value`` (0 … 2^64 - 1)."""
    if value < 0x80:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


def encode_frame(message: bytes) -> bytes:
    """``message`` with its length before it."""
    return encode_uvarint(len(message)) + message


class FrameDecoder:
    """Cuts a byte stream back into messages.

    ``feed`` takes what a read gave; ``next_message`` gives the messages one at a time, so that a
    caller who is busy leaves the rest here, unread.
    """

    __slots__ = ("_buffer", "_limit", "_needed", "_position")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._position = 0  # where the next frame starts in the buffer
        self._needed = 1  # no frame can be complete before the buffer is this long

    @property
    def pending(self) -> int:
        """Bytes fed but not yet returned as messages."""
        return len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._position:
            # Dropping a prefix of a bytearray moves a pointer, not the rest.
            del self._buffer[: self._position]
            self._needed -= self._position
            self._position = 0
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next complete message, or ``None`` until more is fed.

        Raises:
            MalformedError: the length is not a varint of 64 bits.
            TooLargeError: the length is over the cap.
        """
        buffer = self._buffer
        available = len(buffer)
        if available < self._needed:
            return None
        start = self._position
        length = buffer[start]
        body = start + 1
        if length >= 0x80:
            length, body = self._long_length(start)
            if body == 0:
                return None
        if length > self._limit:
            raise TooLargeError(f"a message of {length} bytes, over the cap of {self._limit}")
        stop = body + length
        if available < stop:
            self._needed = stop
            return None
        self._position = stop
        self._needed = stop + 1
        return bytes(memoryview(buffer)[body:stop])

    def _long_length(self, start: int) -> tuple[int, int]:
        """A length of two bytes or more, and where the body starts (0: not all of it is here)."""
        head = self._buffer[start : start + _VARINT_LIMIT]
        length = 0
        for index, byte in enumerate(head):
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if length >> 64:
                    break
                return length, start + index + 1
        else:
            if len(head) < _VARINT_LIMIT:
                return 0, 0
        raise MalformedError("a frame length longer than 64 bits")


def proposal_size(transaction: bytes) -> int:
    """Bytes that ``transaction`` takes in a proposal: tag, length, content.

    This, not its bare length, is what the engine counts against ``max_tx_bytes``.
    """
    length = len(transaction)
    return 1 + max(1, (length.bit_length() + 6) // 7) + length


def proposal_prefix(transactions: Iterable[bytes], max_tx_bytes: int) -> list[bytes]:
    """The longest prefix of ``transactions`` that fits into ``max_tx_bytes``.

    A prefix and not the best fit: to leave out one and keep a later one would break the order
    that a sender's sequences rely on.
    """
    chosen: list[bytes] = []
    left = max_tx_bytes
    for transaction in transactions:
        left -= proposal_size(transaction)
        if left < 0:
            break
        chosen.append(transaction)
    return chosen
