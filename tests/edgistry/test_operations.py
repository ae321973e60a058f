"""Payloads of the operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.envelope import MAX_U64
from edgistry.errors import BadReplyError, BadRequestError, InvalidValueError
from edgistry.operations import (
    Extent,
    Scan,
    SequenceFix,
    decode_elements,
    decode_extent,
    decode_get,
    decode_scan,
    decode_sequence_fix,
    decode_woof_shape,
    encode_elements,
    encode_extent,
    encode_get,
    encode_scan,
    encode_sequence_fix,
    encode_woof_shape,
)

U64 = st.integers(0, MAX_U64)
U32 = st.integers(0, 0xFFFFFFFF)


@given(U64, U32, st.binary(min_size=8, max_size=8))
def test_payloads_are_read_back(number: int, small: int, client: bytes) -> None:
    assert decode_get(encode_get(number)) == number
    assert decode_scan(encode_scan(Scan(number, small))) == (number, small)
    fix = SequenceFix(small, client, number)
    assert decode_sequence_fix(encode_sequence_fix(fix)) == fix
    assert decode_extent(encode_extent(Extent(small, number))) == (small, number)
    elements = [(number, client), (small, b"")]
    assert decode_elements(encode_elements(elements)) == elements


def test_layouts_are_those_of_the_specification() -> None:
    assert encode_get() == bytes(8)
    assert encode_scan(Scan(1, 2)) == bytes(7) + b"\x01" + bytes(3) + b"\x02"
    assert encode_sequence_fix(SequenceFix(1, b"12345678", 2)) == (
        b"\0\0\0\x01" + b"12345678" + bytes(7) + b"\x02"
    )
    assert encode_woof_shape(history=5) == b"\x92\x05\x00"
    assert encode_elements([(1, b"a")]) == b"\x91\x92\x01\xc4\x01a"


@pytest.mark.parametrize(
    "decode", [decode_get, decode_scan, decode_sequence_fix, decode_woof_shape]
)
@given(st.binary(max_size=30))
def test_any_request_payload_is_a_value_or_a_bad_request(
    decode: Callable[[bytes], object], payload: bytes
) -> None:
    try:
        decode(payload)
    except BadRequestError:
        return


@pytest.mark.parametrize("decode", [decode_extent, decode_elements])
@given(st.binary(max_size=30))
def test_any_reply_payload_is_a_value_or_a_bad_reply(
    decode: Callable[[bytes], object], payload: bytes
) -> None:
    try:
        decode(payload)
    except BadReplyError:
        return


@pytest.mark.parametrize(
    "encode",
    [
        lambda: encode_get(-1),
        lambda: encode_get(1 << 64),
        lambda: encode_scan(Scan(0, 1 << 32)),
        lambda: encode_sequence_fix(SequenceFix(1, b"short", 1)),
        lambda: encode_sequence_fix(SequenceFix(1 << 32, bytes(8), 1)),
        lambda: encode_woof_shape(history=0),
        lambda: encode_woof_shape(history=(1 << 32) + 1),
        lambda: encode_woof_shape(history=1, element_size=65_537),
    ],
)
def test_values_outside_their_fields_are_refused(encode: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidValueError):
        encode()


def test_the_largest_woof_is_accepted() -> None:
    shape = decode_woof_shape(encode_woof_shape(history=1 << 32, element_size=65_536))
    assert (shape.history, shape.element_size) == (1 << 32, 65_536)
    with pytest.raises(BadRequestError):
        decode_woof_shape(b"\x92\x00\x00")
