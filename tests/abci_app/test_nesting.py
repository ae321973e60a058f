"""Depth of MessagePack, measured without recursion."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.nesting import MAX_NESTING, check_nesting, is_surely_shallow
from edgistry.errors import MalformedError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=30,
)


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\x00"


@settings(deadline=None, max_examples=80)
@given(value=VALUES)
def test_shallow_messagepack_of_any_kind_passes(value: object) -> None:
    check_nesting(msgpack.packb(value))


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=60))
def test_any_bytes_pass_or_are_malformed(data: bytes) -> None:
    try:
        check_nesting(data)
    except MalformedError:
        return
    assert data


def test_the_limit_itself_passes() -> None:
    check_nesting(nested(MAX_NESTING))
    check_nesting(b"\x81\x01" * MAX_NESTING + b"\x00")


@pytest.mark.parametrize("levels", [MAX_NESTING + 1, 200_000])
def test_deeper_than_the_limit_is_malformed(levels: int) -> None:
    with pytest.raises(MalformedError, match="nested deeper"):
        check_nesting(nested(levels))


@pytest.mark.parametrize("data", [b"", b"\x92\x01", b"\xc4\x05abc", b"\xc1", b"\x01\x01"])
def test_what_is_not_one_whole_value_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        check_nesting(data)


def test_a_huge_announced_count_is_found_out_at_once() -> None:
    with pytest.raises(MalformedError, match="ends too early"):
        check_nesting(b"\xdd\xff\xff\xff\xff")


@given(st.lists(st.sampled_from([b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xde\x00\x01\x01"]),
                min_size=MAX_NESTING - 3, max_size=MAX_NESTING + 3))  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_what_is_surely_shallow_passes_the_exact_check(opening: list[bytes]) -> None:
    data = b"".join(opening) + b"\x00"
    assert is_surely_shallow(data) == (len(opening) <= MAX_NESTING)
    if is_surely_shallow(data):
        check_nesting(data)


def test_a_plain_record_is_surely_shallow_and_a_deep_value_is_not() -> None:
    assert is_surely_shallow(msgpack.packb([[b"key", "thermometer", 1 << 60, ["read"], 3]]))
    assert not is_surely_shallow(b"\x91" * 40 + b"\x00")
