"""Requests and replies as bytes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from edgistry.blocks import ChildEntry, append_block, child_block
from edgistry.capability_chain import Chain, Entry
from edgistry.caveats import Caveat
from edgistry.envelope import (
    GENERIC_REFUSAL,
    MAX_ENVELOPE_BYTES,
    MAX_REPLY_BYTES,
    RIGHTS_NEEDED,
    Operation,
    Status,
    decode_envelope,
    decode_reply,
    mask_state,
    reply_to,
)
from edgistry.errors import (
    AuthorityError,
    InvalidValueError,
    MalformedError,
    NotFoundError,
    Refused,
    StaleError,
    every_refusal,
)
from edgistry.rights import ALL_RIGHTS, Right

from .grants import DAY, ISSUER, NOW, ROOT, bind, check

FIELDS = msgpack.unpackb(bind(ROOT).encoded)
REPLY = msgpack.unpackb(check(bind(ROOT)).reply(0))


def with_element(fields: list[Any], index: int, value: Any) -> bytes:
    packed: bytes = msgpack.packb([*fields[:index], value, *fields[index + 1 :]])
    return packed


def test_an_independent_reader_sees_the_elements_of_the_specification() -> None:
    envelope = bind(ROOT, handler="h", flags=2).envelope
    assert msgpack.unpackb(bind(ROOT, handler="h", flags=2).encoded) == [
        1, 2, 4, "ns/w", "h", 0, NOW, NOW + 60_000_000, b"client-1", [ROOT.public], bytes(8),
        envelope.tag,
    ]  # fmt: skip
    assert [type(element) for element in REPLY] == [int, int, int, int, int, bytes, bytes, bytes]


def test_generic_refusal_is_status_one_and_zeros() -> None:
    assert msgpack.unpackb(GENERIC_REFUSAL) == [1, 1, 0, 0, 0, b"", b"", b""]


def test_every_operation_says_what_it_needs() -> None:
    assert set(RIGHTS_NEEDED) == set(Operation)
    union = Right(0)
    for rights in RIGHTS_NEEDED.values():
        union |= rights
    assert union | Right.INVOKE == ALL_RIGHTS


def test_status_numbers_are_those_of_the_specification() -> None:
    assert [status.name for status in Status] == [
        "OK", "REFUSED", "ACCEPTED", "STALE", "FUTURE", "EXPIRED", "NO_RIGHT", "CAVEAT", "REVOKED",
        "NOT_FOUND", "EMPTY", "EVICTED", "NOT_YET", "EXISTS", "TOO_LARGE", "NO_HANDLER",
        "HANDLER_FAILED", "BUSY", "FULL", "STORAGE", "REJECTED", "CANCELLED", "DEAD", "MALFORMED",
    ]  # fmt: skip
    assert [int(status) for status in Status] == list(range(24))


def test_every_refusal_has_a_status_that_exists() -> None:
    for kind in every_refusal():
        assert kind.wire_status in list(Status)
        assert kind.wire_status not in (Status.OK, Status.ACCEPTED)


@pytest.mark.parametrize("index", range(12))
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "x" * 70, b"x" * 17, [], {}, "é"])
def test_element_of_another_kind_is_malformed(index: int, value: Any) -> None:
    if (index, value) in ((10, b"x" * 17), (4, "é")):
        assert decode_envelope(with_element(FIELDS, index, value))  # fits its field
        return
    with pytest.raises(MalformedError):
        decode_envelope(with_element(FIELDS, index, value))


@pytest.mark.parametrize("cut", range(1, len(bind(ROOT).encoded)))
def test_cut_envelope_is_malformed(cut: int) -> None:
    with pytest.raises(MalformedError):
        decode_envelope(bind(ROOT).encoded[:cut])


@pytest.mark.parametrize("extra", [b"\x00", b"\xc0", b"\x9c", bind(ROOT).encoded])
def test_padded_envelope_is_malformed(extra: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_envelope(bind(ROOT).encoded + extra)


def test_every_longer_spelling_of_an_envelope_is_malformed() -> None:
    """Each number, string, byte string and array of it, spelled one size too large."""
    found = 0
    for index, element in enumerate(FIELDS):
        for spelling in longer_spellings(element):
            before = b"".join(msgpack.packb(other) for other in FIELDS[:index])
            after = b"".join(msgpack.packb(other) for other in FIELDS[index + 1 :])
            data = b"\x9c" + before + spelling + after
            assert msgpack.unpackb(data) == FIELDS
            with pytest.raises(MalformedError):
                decode_envelope(data)
            found += 1
    assert found > 30


def longer_spellings(element: Any) -> list[bytes]:
    packed = msgpack.packb(element)
    if isinstance(element, int):
        spellings = [
            bytes([code]) + element.to_bytes(size, "big")
            for codes in ((0xCC, 0xCD, 0xCE, 0xCF), (0xD0, 0xD1, 0xD2, 0xD3))
            for code, size in zip(codes, (1, 2, 4, 8), strict=True)
            if element < 1 << 8 * size - (code >= 0xD0)
        ]
        return [spelling for spelling in spellings if spelling != packed]
    if isinstance(element, list):
        inner = packed[1:]
        return [b"\xdc\x00\x01" + inner, b"\xdd\x00\x00\x00\x01" + inner]
    data = element.encode() if isinstance(element, str) else element
    codes = (0xD9, 0xDA, 0xDB) if isinstance(element, str) else (0xC4, 0xC5, 0xC6)
    spellings = [
        bytes([code]) + len(data).to_bytes(size, "big") + data
        for code, size in zip(codes, (1, 2, 4), strict=True)
    ]
    return [spelling for spelling in spellings if spelling != packed]


def test_reply_with_a_short_or_missing_tag_is_malformed() -> None:
    for size in (*range(16), 17, 32):
        with pytest.raises(MalformedError):
            decode_reply(with_element(REPLY, 7, bytes(size)))


def test_only_the_generic_refusal_has_no_tag() -> None:
    assert decode_reply(GENERIC_REFUSAL).rtag == b""
    for index, value in ((1, 0), (1, 6), (2, 1), (3, 1), (4, 1), (5, b"x"), (6, b"x")):
        with pytest.raises(MalformedError):
            decode_reply(with_element(msgpack.unpackb(GENERIC_REFUSAL), index, value))


def test_oversized_input_is_malformed_before_it_is_read() -> None:
    with pytest.raises(MalformedError, match="limit"):
        decode_envelope(bytes(MAX_ENVELOPE_BYTES + 1))
    with pytest.raises(MalformedError, match="limit"):
        decode_reply(bytes(MAX_REPLY_BYTES + 1))


def test_the_largest_envelope_fits_its_limit() -> None:
    large = [
        ISSUER.mint(
            serial=serial,
            entries=[Entry(0x7FF, "")],
            caveats=[Caveat(1, bytes([n]) * 250) for n in range(8)],
        )
        for serial in range(4)
    ]
    assert min(len(capability.public) for capability in large) > 2020
    request = bind(
        large[0], Operation.EXCHANGE, "d" * 32 + "/" + "d" * 32, payload=bytes(1 << 20),
        beside=large[1:], sequence=1 << 63, deadline=(1 << 63) + 1, handler="h" * 32,
    )  # fmt: skip
    assert len(request.encoded) <= MAX_ENVELOPE_BYTES
    assert decode_envelope(request.encoded) == request.envelope


def test_deadline_may_be_seven_days_after_the_sequence() -> None:
    furthest = bind(ROOT, deadline=NOW + 7 * DAY)
    assert decode_envelope(furthest.encoded) == furthest.envelope
    with pytest.raises(MalformedError, match="7 days"):
        decode_envelope(with_element(msgpack.unpackb(furthest.encoded), 7, NOW + 7 * DAY + 1))


def test_the_same_capability_twice_is_malformed() -> None:
    with pytest.raises(MalformedError, match="twice"):
        decode_envelope(with_element(FIELDS, 9, [ROOT.public, ROOT.public]))


def test_masking_twice_gives_the_state_back() -> None:
    key, tag, state = bytes(32), bytes(16), bytes(range(32))
    masked = mask_state(key, tag, state)
    assert masked != state
    assert mask_state(key, tag, masked) == state


def test_reply_to_an_error_without_its_own_is_the_generic_refusal() -> None:
    assert reply_to(NotFoundError("x")) == GENERIC_REFUSAL
    assert reply_to(AuthorityError("x")) == GENERIC_REFUSAL
    error = StaleError("x", sequence_epoch=1, sequence_floor=2)
    error.reply = b"its own"
    assert reply_to(error) == b"its own"


def test_refusals_of_replies_carry_the_resynchronisation() -> None:
    request = bind(ROOT)
    error = StaleError("x", sequence_epoch=3, sequence_floor=NOW)
    reply = request.open_reply(check(request).refusal(error))
    assert (reply.status, reply.sequence_epoch, reply.sequence_floor) == (3, 3, NOW)
    with pytest.raises(InvalidValueError):
        check(request).refusal(StaleError("x", sequence_epoch=1 << 40, sequence_floor=0))


def test_blocks_too_large_for_an_envelope_do_not_exist() -> None:
    block = child_block([ChildEntry(0, 1)])
    with pytest.raises(Refused):
        Chain.parse(append_block(ROOT.public, block) + bytes(2048))
