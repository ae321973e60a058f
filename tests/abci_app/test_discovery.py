"""The service index, its pages and its cursors, against a walk over all records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from unittest.mock import patch

import h3.api.basic_int as h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import abci_app.cell_rows as cell_rows
from abci_app.cell_rows import LARGE_CELL, MAX_ROWS_SCANNED, Order
from abci_app.discovery import (
    Page,
    Position,
    ServiceIndex,
    Tally,
    decode_cursor,
    encode_cursor,
)
from abci_app.epoch_keys import ARITHMETIC
from abci_app.profiles import Listed, Profile, listed
from abci_app.schema import StoredService
from edgistry.cover import Cover, cover_of
from edgistry.errors import InvalidValueError, LimitExceededError, MalformedError
from edgistry.handles import HandleKey
from edgistry.region import cover_near, published_cell
from edgistry.transactions import RecordKey

Records = dict[RecordKey, StoredService]


@dataclasses.dataclass(frozen=True)
class Turned:
    """An order in which a cell's services are seen that is not that of their keys."""

    by: int = 0

    def joined(self, records: bytes) -> bytes:
        whole, half = 1 << 128, (self.by * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128)
        each = [records[at : at + 16] for at in range(0, len(records), 16)]
        return b"".join(
            ((int.from_bytes(one, "big") + half) % whole).to_bytes(16, "big") for one in each
        )


PLAIN = Turned()
"""That of their keys, which the client can be given in tests alone."""


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


OWNERS = st.sampled_from([b"o" * 8, b"p" * 8])
SHOWN, HIDDEN = b"h" * 20, b"x" * 20
"""Home nodes: one whose lease lives, one whose lease has lapsed."""


def service(
    cell: int,
    type_name: str = "thermometer",
    *,
    wake: int = 1,
    home: bytes = SHOWN,
    owner: bytes = b"o" * 8,
) -> StoredService:
    return StoredService(
        home=home,
        type=type_name,
        cell=cell,
        actions=("read",),
        wake=wake,
        commitment=b"c" * 32,
        owner=owner,
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


def naive(
    records: Records, cover: Cover, type_name: str | None, order: Order = PLAIN
) -> list[RecordKey]:
    found = [
        (service.cell, order.joined(name), name)
        for name, service in records.items()
        if service.cell in cover and type_name in (None, service.type) and is_visible(service.home)
    ]
    return [name for _, _, name in sorted(found)]


def keys(page: Page) -> list[RecordKey]:
    return [found.key for found in page.items]


def all_pages(
    index: ServiceIndex, cover: Cover, type_name: str | None, limit: int, order: Order = PLAIN
) -> Iterable[Page]:
    after = None
    while True:
        page = index.search(
            cover, type_name, limit=limit, order=order, after=after, is_visible=is_visible
        )
        yield page
        if page.next is None:
            return
        after = page.next


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
    owner=OWNERS,
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
    page = indexed(records).search(cover, type_name, limit=1000, order=PLAIN, is_visible=is_visible)
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
    for at, block in enumerate(blocks):
        changes = [
            Change(name, records.get(name), new)
            for name, new in block.items()
            if new is not None or name in records
        ]
        before = index, len(index), index.types()
        if at % 2:
            index = ServiceIndex()
            for _ in before[0].copy_into(index):
                pass
        index.apply(changes)
        if at % 2:
            assert (len(before[0]), before[0].types()) == before[1:], "a copy is apart"
        records = {**records, **{name: new for name, new in block.items() if new is not None}}
        for name, new in block.items():
            if new is None:
                records.pop(name, None)
    everything = cover_of(CELLS)
    assert len(index) == len(records)
    assert index.types() == indexed(records).types()
    for type_name in (None, "thermometer", "valve", "camera"):
        page = index.search(everything, type_name, limit=1000, order=PLAIN, is_visible=is_visible)
        assert keys(page) == naive(records, everything, type_name)
        assert all(found.profile == Profile.of(records[found.key]) for found in page.items)


@settings(max_examples=120, deadline=None)
@given(
    RECORDS,
    COVERS,
    st.none() | TYPES,
    st.integers(1, 4),
    st.integers(0, 3).map(Turned),
    st.sampled_from([0, 3, LARGE_CELL]),
)
def test_pages_joined_are_the_whole_answer_in_the_asker_s_order_without_hidden_records(
    records: Records,
    cover: Cover,
    type_name: str | None,
    limit: int,
    order: Turned,
    large: int,
) -> None:
    with patch.object(cell_rows, "LARGE_CELL", large):
        pages = list(all_pages(indexed(records), cover, type_name, limit, order))
    assert [name for page in pages for name in keys(page)] == naive(
        records, cover, type_name, order
    )
    # No page but the last is short, and none but an only one is empty.
    assert all(len(page.items) == limit for page in pages[:-1])
    assert len(pages) == 1 or pages[-1].items


@pytest.mark.parametrize("order", [PLAIN, HandleKey(1, bytes(32), ARITHMETIC).order(bytes(16))])
@pytest.mark.parametrize("limit", [3, 30, 1000])
def test_pages_of_a_large_cell_are_those_of_all_its_services_in_order(
    order: Order, limit: int
) -> None:
    """Few of them are shown, and a plain order leaves all at one end. A small cell is before it."""
    records = {
        key(number): service(max(CELLS), home=HIDDEN if number % 20 else SHOWN)
        for number in range(3 * LARGE_CELL)
    }
    records |= {key(10_000 + number): service(min(CELLS)) for number in range(5)}
    cover = cover_of([min(CELLS), max(CELLS)])
    pages = list(all_pages(indexed(records), cover, None, limit, order))
    assert [name for page in pages for name in keys(page)] == naive(records, cover, None, order)
    assert all(len(page.items) == limit for page in pages[:-1])


@pytest.mark.parametrize("limit", [100, 1000])
@pytest.mark.parametrize("sizes", [(100, LARGE_CELL), (900, 900, 900)])
def test_pages_of_cells_that_are_large_together_leave_nobody_out(
    sizes: tuple[int, ...], limit: int
) -> None:
    """Each is in an order of its own, which says nothing of where the others begin."""
    places = [(cell, at) for cell, size in zip(CELLS, sizes, strict=False) for at in range(size)]
    records = {key(number): service(cell) for number, (cell, _) in enumerate(places)}
    order = HandleKey(1, bytes(32), ARITHMETIC).order(bytes(16))
    cover = cover_of(CELLS)
    pages = list(all_pages(indexed(records), cover, None, limit, order))
    assert [name for page in pages for name in keys(page)] == naive(records, cover, None, order)


@settings(max_examples=40, deadline=None)
@given(RECORDS, COVERS, st.integers(1, 4), RECORDS)
def test_a_cursor_goes_on_behind_its_position_while_records_come_and_go(
    records: Records, cover: Cover, limit: int, later: Records
) -> None:
    first = indexed(records).search(cover, None, limit=limit, order=PLAIN, is_visible=is_visible)
    if first.next is None:
        return
    second = indexed(later).search(
        cover, None, limit=1000, after=first.next, order=PLAIN, is_visible=is_visible
    )
    behind = [name for name in naive(later, cover, None) if (later[name].cell, name) > first.next]
    assert keys(second) == behind


@pytest.mark.parametrize("place", [(64.13, -21.94), (-17.0, 180.0), (89.99, 0.0)])
def test_a_circle_finds_the_services_published_around_it(place: tuple[float, float]) -> None:
    records = {
        key(number): service(cell)
        for number, cell in enumerate(h3.grid_disk(h3.latlng_to_cell(*place, 7), 15))
    }
    page = indexed(records).search(
        cover_near(*place, 20.0), None, limit=1000, order=PLAIN, is_visible=is_visible
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
    page = index.search(
        cover_of([CELLS[0]]), "thermometer", limit=1, order=PLAIN, is_visible=is_visible
    )
    assert page.items[0].profile.wake == 3


def test_losing_step_with_the_state_is_noticed() -> None:
    with pytest.raises(LookupError):
        indexed({}).apply([Change(key(1), service(CELLS[0]), None)])


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(InvalidValueError, match="at least 1"):
        indexed({}).search(cover_of([]), None, limit=limit, order=PLAIN, is_visible=is_visible)


def test_more_results_than_a_page_may_have_are_refused_with_the_limit() -> None:
    with pytest.raises(LimitExceededError, match="1000"):
        indexed({}).search(cover_of([]), None, limit=1001, order=PLAIN, is_visible=is_visible)


def crowd(number: int, *shown: int) -> Records:
    """So many services in one cell, of which only ``shown`` are visible."""
    return {
        key(at): service(CELLS[0], home=SHOWN if at in shown else HIDDEN) for at in range(number)
    }


def test_a_page_that_looked_at_too_many_rows_ends_behind_a_whole_cell_and_can_be_gone_on_from() -> (
    None
):
    first, second, third = sorted(CELLS[:3])
    records = {key(at): service(first, home=HIDDEN) for at in range(MAX_ROWS_SCANNED)}
    records |= {key(1 << 32): service(second), key(1 << 33): service(third)}
    pages = list(all_pages(indexed(records), cover_of(CELLS[:3]), None, 20))
    # Nothing is shown of the first cell; that there is more is told by where to go on.
    assert [keys(page) for page in pages] == [[], [key(1 << 32), key(1 << 33)]]
    assert pages[0].next is not None
    assert pages[0].next.cell == first


def test_a_cell_with_more_rows_than_a_page_looks_at_is_shown_whole() -> None:
    records = crowd(MAX_ROWS_SCANNED + 10, 5, MAX_ROWS_SCANNED + 5)
    pages = list(all_pages(indexed(records), cover_of([CELLS[0]]), None, 1))
    assert [keys(page) for page in pages] == [[key(5)], [key(MAX_ROWS_SCANNED + 5)]]


def test_exactly_as_many_rows_as_allowed_are_the_whole_answer() -> None:
    index = indexed(crowd(MAX_ROWS_SCANNED, 3))
    page = index.search(cover_of([CELLS[0]]), None, limit=20, order=PLAIN, is_visible=is_visible)
    assert (keys(page), page.next) == ([key(3)], None)


def test_rows_outside_the_area_are_not_looked_at() -> None:
    elsewhere = published_cell(-33.9, 18.4, 7)
    records = {key(at): service(elsewhere, home=HIDDEN) for at in range(MAX_ROWS_SCANNED + 10)}
    records[key(1 << 64)] = service(ROOT)
    looked_at: list[bytes] = []

    def watched(home: bytes) -> bool:
        looked_at.append(home)
        return is_visible(home)

    page = indexed(records).search(
        cover_of([ROOT]), None, limit=20, order=PLAIN, is_visible=watched
    )
    assert keys(page) == [key(1 << 64)]
    assert looked_at == [SHOWN]


# --- counts ------------------------------------------------------------------------------------


def tallied(records: Records, cover: Cover, type_name: str | None) -> list[Tally]:
    groups: dict[tuple[int, str], list[StoredService]] = {}
    for name in naive(records, cover, type_name):
        each = records[name]
        groups.setdefault((each.cell, each.type), []).append(each)
    return [
        Tally(cell, name, len(some), len({each.owner for each in some}))
        for (cell, name), some in sorted(groups.items())
    ]


@settings(max_examples=80, deadline=None)
@given(RECORDS, COVERS, st.none() | TYPES, st.integers(1, 4))
def test_counts_joined_are_those_of_a_walk_over_all_records(
    records: Records, cover: Cover, type_name: str | None, limit: int
) -> None:
    index, after = indexed(records), None
    found: list[Tally] = []
    while True:
        page = index.count(cover, type_name, limit=limit, after=after, is_visible=is_visible)
        found += page.items
        if page.next is None:
            break
        assert len(page.items) == limit
        after = decode_cursor(encode_cursor(page.next))
    assert found == tallied(records, cover, type_name)


def test_counts_that_looked_at_too_many_rows_end_behind_a_whole_cell() -> None:
    first, second = sorted(CELLS[:2])
    records = {key(at): service(first, home=HIDDEN) for at in range(MAX_ROWS_SCANNED)}
    records[key(1 << 32)] = service(second)
    index, cover = indexed(records), cover_of(CELLS[:2])
    page = index.count(cover, None, limit=20, is_visible=is_visible)
    assert page.items == ()
    assert page.next is not None
    after = decode_cursor(encode_cursor(page.next))
    rest = index.count(cover, None, limit=20, after=after, is_visible=is_visible)
    assert (rest.items, rest.next) == ((Tally(second, "thermometer", 1, 1),), None)


# --- cursors -----------------------------------------------------------------------------------


@given(st.sampled_from(CELLS), TYPES)
def test_a_cursor_reads_back_and_is_safe_in_a_url(cell: int, name: str) -> None:
    position = Position(cell, name)
    text = encode_cursor(position)
    assert decode_cursor(text) == position
    assert text.replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=50) | st.from_regex(r"[A-Za-z0-9_-]{10,40}=?\n?", fullmatch=True))
def test_any_text_is_a_cursor_or_malformed(text: str) -> None:
    try:
        position = decode_cursor(text)
    except MalformedError:
        return
    assert encode_cursor(position) == text


@pytest.mark.parametrize("cell", [0, 1, (1 << 64) - 1, h3.latlng_to_cell(10, 10, 8)])
def test_a_cursor_at_a_cell_nothing_is_published_in_is_malformed(cell: int) -> None:
    with pytest.raises(MalformedError):
        decode_cursor(encode_cursor(Position(cell, "valve")))
