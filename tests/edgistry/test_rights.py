"""Rights and objects."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.errors import InvalidValueError, MalformedError
from edgistry.rights import (
    ALL_RIGHTS,
    Right,
    check_object,
    covers,
    is_object_bytes,
    names_of,
    narrowed,
    parse_rights,
)

COMPONENT = r"(?!\.{1,2}(?:/|\Z))[a-z0-9._-]{1,32}"
OBJECT = re.compile(rf"(?:{COMPONENT}(?:/{COMPONENT})?)?")


@pytest.mark.parametrize("name", ["", "a", "a/b", "a" * 32 + "/" + "b" * 32, "...", "-._/0"])
def test_these_are_objects(name: str) -> None:
    assert check_object(name) == name


@pytest.mark.parametrize(
    "name",
    [".", "..", "a/.", "a/..", "../a", "a//b", "/a", "a/", "/", "//", "a/b/c", "A", "a b", "a\n",
     "é", "a" * 33, "a/" + "b" * 33, "a\0", "\udcff"],
)  # fmt: skip
def test_these_are_no_objects(name: str) -> None:
    with pytest.raises(MalformedError):
        check_object(name)


@given(st.text(st.sampled_from("ab./-_Aé\0\n"), max_size=70))
def test_objects_are_those_of_the_pattern(name: str) -> None:
    assert is_object_bytes(name.encode()) == (OBJECT.fullmatch(name) is not None)


@given(st.sampled_from([b"", b"ns", b"ns/w"]), st.binary(min_size=1, max_size=40))
def test_narrowing_gives_an_object_below_or_is_refused(parent: bytes, narrow: bytes) -> None:
    expected = parent + b"/" + narrow if parent else narrow
    if is_object_bytes(expected):
        assert narrowed(parent, narrow) == expected
    else:
        with pytest.raises(MalformedError):
            narrowed(parent, narrow)


@pytest.mark.parametrize(
    ("above", "target", "expected"),
    [("", "", True), ("", "a/b", True), ("a", "a", True), ("a", "a/b", True), ("a", "ab", False),
     ("a/b", "a", False), ("a/b", "a/bc", False), ("a", "", False)],
)  # fmt: skip
def test_object_covers_what_lies_below_it_at_a_slash(
    above: str, target: str, expected: bool
) -> None:
    assert covers(above, target) == expected


def test_rights_are_written_and_read_as_names() -> None:
    assert parse_rights("get, LATEST") == Right.GET | Right.LATEST
    assert parse_rights(["namespace-create", "woof_create"]) == 3
    assert parse_rights("all") == ALL_RIGHTS
    assert names_of(0x0414) == ["put", "get", "poll"]
    assert parse_rights(names_of(ALL_RIGHTS)) == ALL_RIGHTS


@pytest.mark.parametrize("text", ["", "get,", "gat", "0x10"])
def test_unknown_right_names_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidValueError, match="sequence_fix"):
        parse_rights(text)


def test_bits_are_those_of_the_specification() -> None:
    assert [right.name for right in Right] == [
        "NAMESPACE_CREATE", "WOOF_CREATE", "PUT", "INVOKE", "GET", "LATEST", "DELETE", "MINT",
        "SEQUENCE_FIX", "REVOKE", "POLL",
    ]  # fmt: skip
    assert [right.value for right in Right] == [1 << bit for bit in range(11)]
