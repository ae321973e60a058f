"""The service index, its pages and its cursors, against a walk over all records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import h3.api.basic_int as h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.discovery import (
    MAX_ROWS_SCANNED,
    Page,
    Position,
    ServiceIndex,
    decode_cursor,
    encode_cursor,
)
from abci_app.profiles import Listed, Profile, listed
from abci_app.schema import StoredService
from edgistry.cover import Cover, cover_of
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError
from edgistry.region import cover_near, published_cell
from edgistry.transactions import RecordKey

Records = dict[RecordKey, StoredService]


@dataclasses.dataclass(frozen=True)
class Change:
    key: RecordKey
    old: StoredService | None
    new: StoredService | None

    @property
    def before(self) -> Listed | None:
        return None if self.old is None else listed(self.old, self.old.cell)

    @property
    def after(self) -> Listed | None:
        return None if self.new is None else listed(self.new, self.new.cell)


SHOWN, HIDDEN = b"h" * 20, b"x" * 20
"""Home nodes: one whose lease lives, one whose lease has lapsed."""


def service(
    cell: int, type_name: str = "thermometer", *, wake: int = 1, home: bytes = SHOWN
) -> StoredService:
    return StoredService(
        home=home,
        type=type_name,
        cell=cell,
        actions=("read",),
        wake=wake,
        commitment=b"c" * 32,
        owner=b"o" * 8,
        crowd=1,
    )


def key(number: int) -> RecordKey:
    return RecordKey(number.to_bytes(16, "big"))


def indexed(records: Records) -> ServiceIndex:
    index = ServiceIndex()
    shown = ((name, listed(service, service.cell)) for name, service in records.items())
    index.rebuild((name, each) for name, each in shown if each is not None)
    return index


def is_visible(home: bytes) -> bool:
    return home == SHOWN


def naive(records: Records, cover: Cover, type_name: str | None) -> list[RecordKey]:
    found = [
        (service.cell, name)
        for name, service in records.items()
        if service.cell in cover and type_name in (None, service.type) and is_visible(service.home)
    ]
    return [name for _, name in sorted(found)]


def keys(page: Page) -> list[RecordKey]:
    return [found.key for found in page.items]


def all_pages(
    index: ServiceIndex, cover: Cover, type_name: str | None, limit: int
) -> Iterable[Page]:
    after = None
    while True:
        page = index.search(cover, type_name, limit=limit, after=after, is_visible=is_visible)
        yield page
        if page.next is None:
            return
        after = decode_cursor(encode_cursor(page.next))


# A few cells of three resolutions in one family: neighbours, ancestors, and one far away.
ROOT = published_cell(64.13, -21.94, 5)
CELLS = [
    ROOT,
    *h3.cell_to_children(ROOT, 6)[:3],
    *h3.cell_to_children(ROOT, 7)[:10:3],
    *h3.grid_ring(ROOT, 1)[:2],
    published_cell(-33.9, 18.4, 7),
]
KEYS = st.integers(0, 30).map(key)
TYPES = st.sampled_from(["thermometer", "valve", "camera"])
SERVICES = st.builds(
    service,
    st.sampled_from(CELLS),
    TYPES,
    wake=st.integers(0, 3),
    home=st.sampled_from([SHOWN, SHOWN, HIDDEN]),
)
RECORDS = st.dictionaries(KEYS, SERVICES, max_size=25)
COVERS = st.lists(
    st.sampled_from([*CELLS, h3.cell_to_parent(ROOT, 3), *h3.cell_to_children(ROOT, 7)]),
    max_size=8,
).map(cover_of)


# --- search ------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(RECORDS, COVERS, st.none() | TYPES)
def test_a_search_finds_what_a_walk_over_all_records_finds(
    records: Records, cover: Cover, type_name: str | None
) -> None:
    page = indexed(records).search(cover, type_name, limit=1000, is_visible=is_visible)
    assert keys(page) == naive(records, cover, type_name)
    for found in page.items:
        assert found.cell == records[found.key].cell
        assert found.profile == Profile.of(records[found.key])
    assert page.next is None


@settings(max_examples=80, deadline=None)
@given(RECORDS, st.lists(st.dictionaries(KEYS, st.none() | SERVICES, max_size=12), max_size=5))
def test_an_index_that_followed_changes_equals_one_built_anew(
    records: Records, blocks: list[dict[RecordKey, StoredService | None]]
) -> None:
    index = indexed(records)
    for block in blocks:
        changes = [
            Change(name, records.get(name), new)
            for name, new in block.items()
            if new is not None or name in records
        ]
        index.apply(changes)
        records = {**records, **{name: new for name, new in block.items() if new is not None}}
        for name, new in block.items():
            if new is None:
                records.pop(name, None)
    everything = cover_of(CELLS)
    assert len(index) == len(records)
    assert index.types() == indexed(records).types()
    for type_name in (None, "thermometer", "valve", "camera"):
        page = index.search(everything, type_name, limit=1000, is_visible=is_visible)
        assert keys(page) == naive(records, everything, type_name)
        assert all(found.profile == Profile.of(records[found.key]) for found in page.items)


@settings(max_examples=80, deadline=None)
@given(RECORDS, COVERS, st.none() | TYPES, st.integers(1, 4))
def test_pages_joined_are_the_whole_answer_without_hidden_records(
    records: Records, cover: Cover, type_name: str | None, limit: int
) -> None:
    pages = list(all_pages(indexed(records), cover, type_name, limit))
    assert [name for page in pages for name in keys(page)] == naive(records, cover, type_name)
    # No page but the last is short, and none but an only one is empty.
    assert all(len(page.items) == limit for page in pages[:-1])
    assert len(pages) == 1 or pages[-1].items


@settings(max_examples=40, deadline=None)
@given(RECORDS, COVERS, st.integers(1, 4), RECORDS)
def test_a_cursor_goes_on_behind_its_position_while_records_come_and_go(
    records: Records, cover: Cover, limit: int, later: Records
) -> None:
    first = indexed(records).search(cover, None, limit=limit, is_visible=is_visible)
    if first.next is None:
        return
    second = indexed(later).search(cover, None, limit=1000, after=first.next, is_visible=is_visible)
    behind = [name for name in naive(later, cover, None) if (later[name].cell, name) > first.next]
    assert keys(second) == behind


@pytest.mark.parametrize("place", [(64.13, -21.94), (-17.0, 180.0), (89.99, 0.0)])
def test_a_circle_finds_the_services_published_around_it(place: tuple[float, float]) -> None:
    records = {
        key(number): service(cell)
        for number, cell in enumerate(h3.grid_disk(h3.latlng_to_cell(*place, 7), 15))
    }
    page = indexed(records).search(
        cover_near(*place, 20.0), None, limit=1000, is_visible=is_visible
    )
    expected = {
        name
        for name, found in records.items()
        if h3.great_circle_distance(place, h3.cell_to_latlng(found.cell)) <= 20.0
    }
    assert set(keys(page)) == expected
    assert 100 < len(expected) < len(records)


def test_an_update_that_moves_nothing_is_seen_by_the_next_search() -> None:
    old = service(CELLS[0])
    index = indexed({key(1): old})
    index.apply([Change(key(1), old, service(CELLS[0], wake=3))])
    assert len(index) == 1
    page = index.search(cover_of([CELLS[0]]), "thermometer", limit=1, is_visible=is_visible)
    assert page.items[0].profile.wake == 3


def test_losing_step_with_the_state_is_noticed() -> None:
    with pytest.raises(LookupError):
        indexed({}).apply([Change(key(1), service(CELLS[0]), None)])


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(InvalidValueError, match="at least 1"):
        indexed({}).search(cover_of([]), None, limit=limit, is_visible=is_visible)


def test_more_results_than_a_page_may_have_are_refused_with_the_limit() -> None:
    with pytest.raises(LimitExceededError, match="1000"):
        indexed({}).search(cover_of([]), None, limit=1001, is_visible=is_visible)


def crowd(number: int, *shown: int) -> Records:
    """So many services in one cell, of which only ``shown`` are visible."""
    return {
        key(at): service(CELLS[0], home=SHOWN if at in shown else HIDDEN) for at in range(number)
    }


def test_a_page_that_looked_at_too_many_rows_ends_early_with_a_cursor_to_go_on() -> None:
    records = crowd(MAX_ROWS_SCANNED + 10, 5, MAX_ROWS_SCANNED + 5)
    pages = list(all_pages(indexed(records), cover_of([CELLS[0]]), None, 20))
    assert [keys(page) for page in pages] == [[key(5)], [key(MAX_ROWS_SCANNED + 5)]]


def test_a_page_that_would_be_empty_for_too_many_rows_is_refused_with_a_cursor() -> None:
    index = indexed(crowd(MAX_ROWS_SCANNED + 10, MAX_ROWS_SCANNED + 5))
    cover = cover_of([CELLS[0]])
    after = cursor_of_refusal(index, cover)
    page = index.search(cover, None, limit=20, after=after, is_visible=is_visible)
    assert keys(page) == [key(MAX_ROWS_SCANNED + 5)]


def cursor_of_refusal(index: ServiceIndex, cover: Cover) -> Position:
    with pytest.raises(LimitExceededError, match="go on with the cursor") as refusal:
        index.search(cover, None, limit=20, is_visible=is_visible)
    return decode_cursor(refusal.value.detail.rpartition(" ")[2])


@pytest.mark.parametrize("cells", [CELLS[:1], sorted(CELLS[:2])], ids=["one cell", "two cells"])
def test_the_cursor_of_a_page_cut_short_names_no_hidden_service(cells: list[int]) -> None:
    # The last row looked at is in a cell of its own, or next to the one before.
    hidden = [RecordKey(bytes([at >> 8, at & 255]) * 8) for at in range(1, MAX_ROWS_SCANNED)]
    records = {name: service(cells[0], home=HIDDEN) for name in hidden}
    last = [RecordKey(b"\xfe" * 16), RecordKey(b"\xff" * 16)]
    records |= {name: service(cells[-1], home=HIDDEN) for name in last}
    after = cursor_of_refusal(indexed(records), cover_of(cells))
    assert after.key not in records
    # It goes on with that last row: nothing before it is looked at again, nothing is left out.
    records = {name: service(found.cell) for name, found in records.items()}
    page = indexed(records).search(
        cover_of(cells), None, limit=20, after=after, is_visible=is_visible
    )
    assert keys(page) == last


def test_a_page_cut_short_behind_a_visible_service_does_not_repeat_it() -> None:
    records = crowd(MAX_ROWS_SCANNED + 1, MAX_ROWS_SCANNED - 1)
    pages = list(all_pages(indexed(records), cover_of([CELLS[0]]), None, 20))
    assert [keys(page) for page in pages] == [[key(MAX_ROWS_SCANNED - 1)], []]


def test_exactly_as_many_rows_as_allowed_are_the_whole_answer() -> None:
    index = indexed(crowd(MAX_ROWS_SCANNED, 3))
    page = index.search(cover_of([CELLS[0]]), None, limit=20, is_visible=is_visible)
    assert (keys(page), page.next) == ([key(3)], None)


def test_rows_outside_the_area_are_not_looked_at() -> None:
    elsewhere = published_cell(-33.9, 18.4, 7)
    records = {key(at): service(elsewhere, home=HIDDEN) for at in range(MAX_ROWS_SCANNED + 10)}
    records[key(1 << 64)] = service(ROOT)
    looked_at: list[bytes] = []

    def watched(home: bytes) -> bool:
        looked_at.append(home)
        return is_visible(home)

    page = indexed(records).search(cover_of([ROOT]), None, limit=20, is_visible=watched)
    assert keys(page) == [key(1 << 64)]
    assert looked_at == [SHOWN]


# --- cursors -----------------------------------------------------------------------------------


@given(st.sampled_from(CELLS), st.binary(min_size=16, max_size=16))
def test_a_cursor_reads_back_and_is_safe_in_a_url(cell: int, name: bytes) -> None:
    position = Position(cell, RecordKey(name))
    text = encode_cursor(position)
    assert decode_cursor(text) == position
    assert text.replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=50) | st.from_regex(r"[A-Za-z0-9_-]{30,34}=?\n?", fullmatch=True))
def test_any_text_is_a_cursor_or_malformed(text: str) -> None:
    try:
        position = decode_cursor(text)
    except MalformedError:
        return
    assert encode_cursor(position) == text


@pytest.mark.parametrize("cell", [0, 1, (1 << 64) - 1, h3.latlng_to_cell(10, 10, 8)])
def test_a_cursor_at_a_cell_nothing_is_published_in_is_malformed(cell: int) -> None:
    with pytest.raises(MalformedError):
        decode_cursor(encode_cursor(Position(cell, key(1))))
