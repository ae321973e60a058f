"""Canonical MessagePack and strict JSON: one encoding, strict types, no surprise in any bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgistry.codec import (
    Answer,
    Document,
    Meta,
    Wire,
    decode,
    decode_json,
    encode,
    encode_json,
    json_schemas,
    reader_of,
    replace,
    to_builtins,
)
from edgistry.errors import MalformedError, TooLargeError

LIMIT = 10_000


class Inner(Wire):
    number: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    names: tuple[Annotated[str, Meta(max_length=8)], ...]


class Outer(Wire):
    key: Annotated[bytes, Meta(min_length=4, max_length=4)]
    inner: Inner
    maybe: int | None = None


class Page(Document):
    title: str
    size: int = 0


class News(Answer):
    title: str


INNERS = st.builds(
    Inner,
    number=st.integers(0, (1 << 63) - 1) | st.sampled_from([127, 128, 255, 256, 65535, 65536]),
    names=st.lists(st.text(max_size=8), max_size=20).map(tuple),
)
OUTERS = st.builds(
    Outer,
    key=st.binary(min_size=4, max_size=4),
    inner=INNERS,
    maybe=st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
)
BUILTINS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20),
    max_leaves=20,
)


def plain(value: Outer) -> list[Any]:
    return [value.key, [value.inner.number, list(value.inner.names)], value.maybe]


# --- MessagePack -------------------------------------------------------------------------------


@given(OUTERS)
def test_what_is_encoded_decodes_to_the_same_value(value: Outer) -> None:
    assert decode(encode(value), Outer, limit=LIMIT) == value
    assert reader_of(Outer)(encode(value)) == value


@given(OUTERS)
def test_an_independent_library_reads_and_writes_the_same_bytes(value: Outer) -> None:
    assert msgpack.unpackb(encode(value)) == plain(value)
    assert msgpack.packb(plain(value)) == encode(value)


@given(BUILTINS)
def test_plain_values_are_written_in_the_shortest_form(value: Any) -> None:
    assert encode(value) == msgpack.packb(value)


@settings(max_examples=160)
@given(st.binary(max_size=60))
def test_any_bytes_are_the_encoding_of_their_value_or_malformed(data: bytes) -> None:
    try:
        value = decode(data, Outer, limit=LIMIT)
    except MalformedError:
        return
    assert encode(value) == data


@settings(max_examples=160)
@given(OUTERS, st.data())
def test_damaged_bytes_are_the_encoding_of_their_value_or_malformed(
    value: Outer, data: st.DataObject
) -> None:
    bent = bytearray(encode(value))
    at = data.draw(st.integers(0, len(bent) - 1))
    bent[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        read = decode(bytes(bent), Outer, limit=LIMIT)
    except MalformedError:
        return
    assert encode(read) == bent


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x92\xcc\x05\x90", id="number in a longer form"),
        pytest.param(b"\x92\xcf\0\0\0\0\0\0\0\x05\x90", id="number in the longest form"),
        pytest.param(b"\x92\xd0\x05\x90", id="number in a signed form"),
        pytest.param(b"\x92\x05\xdc\0\0", id="array in a longer form"),
        pytest.param(b"\x92\x05\x91\xd9\x01a", id="text in a longer form"),
        pytest.param(b"\xdc\0\x02\x05\x90", id="outer array in a longer form"),
    ],
)
def test_the_same_value_spelled_otherwise_is_malformed(data: bytes) -> None:
    assert msgpack.unpackb(data) in ([5, []], [5, ["a"]])
    with pytest.raises(MalformedError, match="canonical"):
        decode(data, Inner, limit=LIMIT)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([5], id="an element missing"),
        pytest.param([5, [], 0], id="an element too many"),
        pytest.param({"number": 5, "names": []}, id="a map"),
        pytest.param([5.0, []], id="a float for a number"),
        pytest.param([True, []], id="a boolean for a number"),
        pytest.param(["5", []], id="text for a number"),
        pytest.param([-1, []], id="below the range"),
        pytest.param([1 << 63, []], id="above the range"),
        pytest.param([5, [b"a"]], id="bytes for text"),
        pytest.param([5, ["a" * 9]], id="text too long"),
        pytest.param([5, None], id="nothing for a list"),
        pytest.param(None, id="nothing at all"),
    ],
)
def test_types_are_not_converted_and_ranges_hold(value: Any) -> None:
    with pytest.raises(MalformedError):
        decode(msgpack.packb(value), Inner, limit=LIMIT)


@given(INNERS, st.binary(min_size=1, max_size=5))
def test_bytes_behind_a_value_are_malformed(value: Inner, more: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(encode(value) + more, Inner, limit=LIMIT)


@given(INNERS)
def test_a_value_cut_short_is_malformed(value: Inner) -> None:
    data = encode(value)
    for length in range(len(data)):
        with pytest.raises(MalformedError):
            decode(data[:length], Inner, limit=LIMIT)


def test_text_that_is_no_utf8_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode(b"\x92\x05\x91\xa1\xff", Inner, limit=LIMIT)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81", b"\xdc\0\x01"])
def test_nesting_without_end_is_malformed(opening: bytes) -> None:
    for kind in (Inner, list, object):
        with pytest.raises(MalformedError):
            decode(opening * 200_000, kind, limit=1_000_000)


def test_a_length_that_is_only_claimed_is_malformed() -> None:
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        with pytest.raises(MalformedError):
            decode(claim, list, limit=LIMIT)


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    value = Inner(number=1, names=())
    assert decode(encode(value), Inner, limit=3) == value
    with pytest.raises(TooLargeError, match=r"3 bytes.*2"):
        decode(encode(value), Inner, limit=2)
    with pytest.raises(TooLargeError):
        decode(b"\xff" * 3, Inner, limit=2)


# --- JSON --------------------------------------------------------------------------------------


@given(st.builds(Page, title=st.text(), size=st.integers(-(1 << 63), (1 << 63) - 1)))
def test_a_document_reads_back_also_when_spread_over_lines(page: Page) -> None:
    assert decode_json(encode_json(page), Page, limit=LIMIT) == page
    assert decode_json(encode_json(page, indent=2), Page, limit=LIMIT) == page
    assert b"\n" in encode_json(page, indent=2)
    assert to_builtins(page) == {"title": page.title, "size": page.size}


@settings(max_examples=120)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b'{"title": "a", "size": 1e999}')
@example(b'{"title": "\xed\xa0\x80"}')
@example(b'{"title": "\\ud800"}')
def test_any_bytes_are_a_document_or_malformed(data: bytes) -> None:
    try:
        page = decode_json(data, Page, limit=LIMIT)
    except MalformedError:
        return
    assert isinstance(page.title, str)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"title": "a", "colour": 1}', id="unknown field"),
        pytest.param(b'{"size": 1}', id="missing field"),
        pytest.param(b'{"title": 1}', id="number for text"),
        pytest.param(b'{"title": "a", "size": "1"}', id="text for a number"),
        pytest.param(b'{"title": "a", "size": true}', id="boolean for a number"),
        pytest.param(b'{"title": "a"} {}', id="two values"),
        pytest.param(b'{"title": "a",}', id="trailing comma"),
        pytest.param(b'{"title": NaN}', id="NaN"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"title":' * 100_000, id="nesting without end"),
    ],
)
def test_documents_are_read_strictly(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_json(data, Page, limit=10_000_000)


def test_an_answer_from_a_newer_node_may_hold_more() -> None:
    assert decode_json(b'{"title": "a", "colour": 1}', News, limit=LIMIT) == News(title="a")


def test_a_document_over_its_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(TooLargeError, match=r"14 bytes.*13"):
        decode_json(b'{"title": "a"}', Page, limit=13)


def test_schemas_refer_to_components_by_the_given_template() -> None:
    (reference,), components = json_schemas([Page], ref_template="#/here/{name}")
    assert reference == {"$ref": "#/here/Page"}
    assert components["Page"]["required"] == ["title"]


# --- values ------------------------------------------------------------------------------------


def test_values_are_frozen_and_copied_with_changes() -> None:
    value = Inner(number=1, names=("a",))
    with pytest.raises(AttributeError):
        value.number = 2  # type: ignore[misc]
    assert replace(value, number=2) == Inner(number=2, names=("a",))
    assert value.number == 1


def test_a_type_may_be_read_for_the_first_time_by_many_threads_at_once() -> None:
    # In a process of its own: without care, msgspec ends it with a segmentation fault.
    program = Path(__file__).with_name("first_use.py")
    done = subprocess.run(
        [sys.executable, str(program)], cwd=program.parents[2], timeout=60, check=False
    )
    assert done.returncode == 0
