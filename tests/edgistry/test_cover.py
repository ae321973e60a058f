"""Covers: which published cells a set of cells stands for."""

from __future__ import annotations

import itertools

import h3.api.basic_int as h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.area import compacted
from edgistry.cell import base_cell, span_of
from edgistry.cover import Cover, CoverCache, cover_of, cover_of_walk
from edgistry.errors import LimitExceededError, MalformedError

from .cells import cell_sets, cells


def holds_centre_of(chosen: list[int], published: int) -> bool:
    """The definition: some ancestor of the finest cell with the same centre is in the set."""
    finest = h3.cell_to_center_child(published, 7)
    return any(h3.cell_to_parent(finest, level) in chosen for level in range(8))


def published_near(chosen: list[int]) -> set[int]:
    """Published cells that are likely to be judged wrongly: the family of those in the set."""
    near: set[int] = set()
    for cell in chosen:
        level = h3.get_resolution(cell)
        for resolution in (5, 6, 7):
            if resolution > level:
                inside = h3.cell_to_center_child(cell, resolution)
                low, high = min(inside, inside), h3.cell_to_children(cell, level + 1)[-1]
                ends = (
                    low,
                    h3.cell_to_center_child(high, resolution) if resolution > level else low,
                )
            else:
                ends = (h3.cell_to_parent(cell, resolution),) * 2
            for end in ends:
                near |= set(h3.grid_disk(end, 1))
    return near


@settings(max_examples=40, deadline=None)
@given(cell_sets())
def test_a_cover_holds_exactly_the_cells_whose_centre_the_set_holds(chosen: list[int]) -> None:
    cover = cover_of(chosen)
    for published in published_near(chosen):
        assert (published in cover) == holds_centre_of(chosen, published)


@settings(max_examples=30, deadline=None)
@given(cell_sets(), cells(coarsest=5, finest=7))
def test_a_cover_does_not_hold_strangers(chosen: list[int], stranger: int) -> None:
    assert (stranger in cover_of(chosen)) == holds_centre_of(chosen, stranger)


@settings(max_examples=50, deadline=None)
@given(cell_sets())
def test_ranges_ascend_and_have_a_published_cell_between_them(chosen: list[int]) -> None:
    ranges = list(cover_of(chosen))
    for (_, high), (low, _) in itertools.pairwise(ranges):
        assert high < low
        resolution = low >> 52 & 15
        if high >> 52 & 15 == resolution:
            # Merged as far as numbers go: at least one index that H3 could use lies between.
            assert low - high > 1 << 3 * (15 - resolution)


@settings(max_examples=30, deadline=None)
@given(cell_sets(), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_of_cells_matters(chosen: list[int], random: object) -> None:
    shuffled = chosen + chosen[::2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cover_of(shuffled) == cover_of(chosen)


@settings(max_examples=50, deadline=None)
@given(cell_sets())
def test_compacting_changes_no_cover(chosen: list[int]) -> None:
    disjoint = [
        cell
        for cell in sorted(set(chosen), key=span_of)
        if not any(
            h3.cell_to_parent(cell, level) in chosen for level in range(h3.get_resolution(cell))
        )
    ]
    compact = compacted(disjoint)
    assert cover_of_walk(compact) == cover_of(chosen)
    assert len(compact) <= len(disjoint)


@settings(max_examples=20, deadline=None)
@given(cells(coarsest=3, finest=6))
def test_all_descendants_compact_to_their_ancestor(cell: int) -> None:
    assert compacted(h3.cell_to_children(cell, 7)) == [cell]


def test_the_whole_earth_is_one_range_a_resolution() -> None:
    assert len(cover_of([base_cell(number) for number in range(122)])) == 3


def test_an_empty_set_covers_nothing() -> None:
    cover = cover_of([])
    assert len(cover) == 0
    assert h3.latlng_to_cell(0, 0, 7) not in cover


@given(st.lists(st.integers(-(1 << 66), 1 << 66), min_size=1, max_size=3))
def test_integers_that_are_no_cells_are_refused(numbers: list[int]) -> None:
    with pytest.raises(MalformedError):
        cover_of(numbers)


def test_a_cell_finer_than_published_is_refused() -> None:
    with pytest.raises(MalformedError, match="resolution 7 or coarser"):
        cover_of([h3.latlng_to_cell(10, 10, 8)])


def test_more_ranges_than_a_query_may_have_are_refused_with_both_numbers() -> None:
    scattered = [
        h3.cell_to_children(cell, 7)[3] for cell in h3.grid_disk(h3.latlng_to_cell(10, 10, 5), 2)
    ]
    assert len(cover_of(scattered, max_ranges=19)) == 19
    with pytest.raises(LimitExceededError, match=r"19 .*18"):
        cover_of(scattered, max_ranges=18)


def make(number_of_ranges: int) -> Cover:
    scattered = h3.grid_disk(h3.latlng_to_cell(10, 10, 5), 30)[:number_of_ranges]
    return cover_of([h3.cell_to_children(cell, 7)[3] for cell in scattered])


def test_a_kept_cover_is_given_again() -> None:
    cache = CoverCache()
    cover = make(5)
    cache.put("here", cover)
    assert cache.get("here") is cover
    assert cache.get("there") is None


def test_covers_unused_longest_make_room() -> None:
    cache = CoverCache(max_ranges=100)
    cache.put("first", make(40))
    cache.put("second", make(40))
    assert cache.get("first") is not None
    cache.put("third", make(40))
    kept = [name for name in ("first", "second", "third") if cache.get(name) is not None]
    assert kept == ["first", "third"]


def test_a_cover_put_twice_takes_room_once() -> None:
    cache = CoverCache(max_ranges=100)
    cache.put("first", make(40))
    cache.put("first", make(40))
    cache.put("second", make(40))
    assert cache.get("first") is not None


def test_a_cover_larger_than_the_cache_is_still_given() -> None:
    cache = CoverCache(max_ranges=10)
    cache.put("large", make(50))
    assert cache.get("large") is not None
