"""The rules of one WooF: names, parameters, the window, and the refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.errors import (
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    MissingWoofError,
    TooLargeError,
)
from edgistry.woof import (
    MAX_ELEMENT_BYTES,
    MAX_HISTORY,
    MAX_NUMBER,
    Window,
    check_element,
    check_handler,
    check_key,
    check_namespace,
    check_parameters,
    check_readable,
    split_name,
    window_of,
)


@given(st.integers(0, MAX_NUMBER), st.integers(1, MAX_HISTORY))
def test_window_is_the_formula(latest: int, history: int) -> None:
    window = window_of(latest, history)
    assert (window.earliest, window.latest) == (max(1, latest - history + 1), latest)
    assert len(window) == min(latest, history)


@given(st.integers(0, 300), st.integers(1, 64), st.integers(1, 310))
def test_a_number_is_readable_exactly_inside_the_window(
    latest: int, history: int, number: int
) -> None:
    refused = None
    try:
        check_readable("a/b", number, window_of(latest, history))
    except Exception as error:
        refused = type(error)
    if max(1, latest - history + 1) <= number <= latest:
        assert refused is None
    elif latest == 0:
        assert refused is EmptyWoofError
    else:
        assert refused is (ElementNotYetError if number > latest else ElementEvictedError)


@pytest.mark.parametrize("number", [0, -1, MAX_NUMBER + 1])
def test_what_is_no_number_is_refused_as_such(number: int) -> None:
    with pytest.raises(InvalidValueError, match="numbered from 1"):
        check_readable("a/b", number, window_of(9, 3))


def test_refusals_carry_where_reading_may_go_on() -> None:
    with pytest.raises(ElementEvictedError, match="begins at 7") as evicted:
        check_readable("a/b", 2, Window(earliest=7, latest=9))
    with pytest.raises(ElementNotYetError, match="ends at 9") as not_yet:
        check_readable("a/b", 12, Window(earliest=7, latest=9))
    assert (evicted.value.earliest, not_yet.value.latest) == (7, 9)


def test_the_four_refusals_differ_for_programs_and_on_the_wire() -> None:
    kinds = [MissingWoofError, EmptyWoofError, ElementEvictedError, ElementNotYetError]
    assert len({kind.code for kind in kinds}) == 4
    assert [kind.wire_status for kind in kinds] == [9, 10, 11, 12]


@pytest.mark.parametrize("history", [0, -1, 2**32 + 1, 2**33])
def test_history_outside_its_range_is_refused(history: int) -> None:
    with pytest.raises(InvalidValueError, match="history"):
        check_parameters(history, 0)


@pytest.mark.parametrize("element_size", [-1, MAX_ELEMENT_BYTES + 1])
def test_element_size_outside_its_range_is_refused(element_size: int) -> None:
    with pytest.raises(InvalidValueError, match="element_size"):
        check_parameters(1, element_size)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    check_parameters(1, 0)
    check_parameters(2**32, MAX_ELEMENT_BYTES)


def test_an_element_of_64_kib_is_the_largest() -> None:
    check_element("a/b", bytes(MAX_ELEMENT_BYTES), 0)
    with pytest.raises(TooLargeError, match="65537"):
        check_element("a/b", bytes(MAX_ELEMENT_BYTES + 1), 0)


def test_an_element_size_takes_just_that_size() -> None:
    check_element("a/b", bytes(8), 8)
    with pytest.raises(InvalidValueError, match="just 8"):
        check_element("a/b", bytes(7), 8)
    with pytest.raises(TooLargeError, match="takes 8"):
        check_element("a/b", bytes(9), 8)


@pytest.mark.parametrize(
    "name",
    ["", "a", "a/", "/b", "a/b/c", "A/b", "a/B", "a b/c", "../b", "a/..", "a/.", "a\0/b", "é/b",
     "a/" + "x" * 33, "x" * 33 + "/b", "\ud800/b", "a//b"],
)  # fmt: skip
def test_bad_woof_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="WooF"):
        split_name(name)


@given(st.text(max_size=70))
def test_any_text_is_a_name_or_refused(name: str) -> None:
    try:
        namespace, woof = split_name(name)
    except InvalidValueError:
        return
    assert (namespace + b"/" + woof).decode() == name


@pytest.mark.parametrize("name", ["", "a/b", "A", "..", "x" * 33])
def test_bad_namespace_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="namespace"):
        check_namespace(name)


@pytest.mark.parametrize(
    ("check", "value"),
    [(check_key, b""), (check_key, bytes(65)), (check_handler, ""), (check_handler, "h" * 33)],
)
def test_empty_or_too_long_key_or_handler_is_refused(check: Any, value: object) -> None:
    with pytest.raises(InvalidValueError):
        check(value)
