"""Cell arithmetic on bare integers, against the H3 library as the independent reader."""

from __future__ import annotations

import itertools

import h3.api.basic_int as h3
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgistry.cell import (
    PENTAGONS,
    base_cell,
    cell_at,
    cell_text,
    check_cell,
    children_of,
    completes_siblings,
    is_cell,
    parent_of,
    parse_cell,
    range_of,
    resolution_of,
    span_of,
)
from edgistry.errors import InvalidValueError, MalformedError, Refused

from .cells import cells

INTEGERS = st.integers(-(1 << 70), 1 << 70) | st.integers(0, (1 << 64) - 1)


@given(INTEGERS)
@example(0)
@example(-1)
@example(1 << 64)
def test_any_integer_is_judged_as_h3_judges_it(number: int) -> None:
    expected = 0 <= number < 1 << 64 and h3.is_valid_cell(number)
    assert is_cell(number) == expected


@given(cells(), st.integers(0, 63))
def test_a_cell_with_one_bit_turned_is_judged_as_h3_judges_it(cell: int, bit: int) -> None:
    assert is_cell(cell)
    assert is_cell(cell ^ 1 << bit) == h3.is_valid_cell(cell ^ 1 << bit)


@given(st.sampled_from(sorted(PENTAGONS)), st.lists(st.integers(0, 6), max_size=15))
def test_deleted_subtrees_of_pentagons_are_no_cells(base: int, digits: list[int]) -> None:
    cell = base_cell(base)
    number = int(cell) + (len(digits) << 52)
    for place, digit in enumerate(digits, start=1):
        number -= (7 - digit) << 3 * (15 - place)
    assert is_cell(number) == h3.is_valid_cell(number)


def test_base_cells_and_pentagons_are_those_of_h3() -> None:
    assert {base_cell(number) for number in range(122)} == set(h3.get_res0_cells())
    assert {base_cell(number) for number in PENTAGONS} == set(h3.get_pentagons(0))


@given(cells(), st.data())
def test_family_relations_are_those_of_h3(cell: int, data: st.DataObject) -> None:
    resolution = resolution_of(cell)
    assert resolution == h3.get_resolution(cell)
    coarser = data.draw(st.integers(0, resolution))
    assert parent_of(cell, coarser) == h3.cell_to_parent(cell, coarser)
    if resolution < 15:
        assert children_of(cell) == h3.cell_to_children(cell, resolution + 1)


@given(cells(coarsest=1))
def test_the_last_child_is_known_as_such(cell: int) -> None:
    siblings = children_of(parent_of(cell, resolution_of(cell) - 1))
    assert completes_siblings(cell) == (cell == siblings[-1])


@given(cells(finest=5), st.data())
def test_the_range_of_a_span_holds_exactly_the_descendants(cell: int, data: st.DataObject) -> None:
    resolution = data.draw(st.integers(resolution_of(cell), resolution_of(cell) + 2))
    low, high = range_of(*span_of(cell), resolution)
    descendants = h3.cell_to_children(cell, resolution)
    assert low == descendants[0]
    assert descendants[-1] <= high
    stranger = data.draw(cells(coarsest=resolution, finest=resolution))
    assert (low <= stranger <= high) == (stranger in descendants)


@given(cells(finest=12))
def test_spans_of_siblings_touch_and_fill_their_parent(cell: int) -> None:
    spans = [span_of(child) for child in children_of(cell)]
    assert spans[0][0] == span_of(cell)[0]
    assert spans[-1][1] == span_of(cell)[1]
    assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))


@given(cells(), st.integers(0, 15))
def test_a_span_starts_at_the_cells_with_the_same_centre(cell: int, resolution: int) -> None:
    other = cell_at(span_of(cell)[0], resolution)
    if resolution >= resolution_of(cell):
        assert other == h3.cell_to_center_child(cell, resolution)
    else:
        parent = h3.cell_to_parent(cell, resolution)
        same_center = h3.cell_to_center_child(parent, resolution_of(cell)) == cell
        assert other == (parent if same_center else None)


@given(cells())
def test_text_of_a_cell_reads_back_and_is_what_h3_writes(cell: int) -> None:
    text = cell_text(cell)
    assert text == h3.int_to_str(cell)
    assert parse_cell(text) == cell
    assert parse_cell(text.upper()) == cell


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-f]{14,17}", fullmatch=True))
def test_any_text_is_a_cell_or_malformed(text: str) -> None:
    try:
        cell = parse_cell(text)
    except MalformedError:
        return
    assert is_cell(cell)
    assert cell_text(cell) == text.lower().lstrip("0")


@settings(max_examples=50)
@given(cells())
def test_only_resolutions_five_to_seven_may_be_published(cell: int) -> None:
    if 5 <= resolution_of(cell) <= 7:
        assert check_cell(cell) == cell
    else:
        with pytest.raises(InvalidValueError, match="resolution"):
            check_cell(cell)


@given(INTEGERS)
def test_any_integer_may_be_published_or_is_refused(number: int) -> None:
    try:
        check_cell(number)
    except Refused:
        return
    assert h3.is_valid_cell(number)
