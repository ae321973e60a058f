"""The log of visible changes: in order, bounded, and honest about what it has lost."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from abci_app.change_log import MAX_CHANGES, MAX_OF_A_BLOCK, ChangeLog
from abci_app.profiles import listed
from abci_app.reader import RecordChange
from abci_app.schema import Head, StoredService
from edgistry.codec import replace
from edgistry.transactions import RecordKey

HOME, OTHER = b"h" * 20, b"o" * 20
SERVICE = StoredService(
    home=HOME,
    type="thermometer",
    cell=1,
    actions=("read",),
    wake=1,
    commitment=bytes(32),
    owner=bytes(8),
    crowd=1,
)


def head(height: int) -> Head:
    return Head(
        height=height, block_time_us=height, app_hash=bytes(32), previous_app_hash=bytes(32)
    )


def change(
    number: int, old: StoredService | None = None, new: StoredService | None = SERVICE
) -> RecordChange:
    return RecordChange(
        key=RecordKey(number.to_bytes(16, "big")),
        before=None if old is None else listed(old, old.cell),
        after=None if new is None else listed(new, new.cell),
        is_stored=new is not None,
    )


def told(log: ChangeLog, height: int) -> list[int]:
    """The heights of all blocks behind ``height``."""
    heights = []
    while (block := log.after(height)) is not None:
        height = block.height
        heights.append(height)
    return heights


def test_changes_come_in_order_of_height() -> None:
    log = ChangeLog(3, {HOME})
    for height in (4, 6, 7):
        log.committed(head(height), [change(height)], {HOME})
    assert (told(log, 3), told(log, 4), told(log, 5), told(log, 7)) == (
        [4, 6, 7],
        [6, 7],
        [6, 7],
        [],
    )


def test_change_that_nobody_could_see_is_none() -> None:
    log = ChangeLog(3, {HOME})
    hidden = replace(SERVICE, home=OTHER)
    secret = replace(SERVICE, commitment=b"c" * 32)
    log.committed(head(4), [change(1, new=hidden), change(2, SERVICE, secret)], {HOME})
    assert (len(log), told(log, 3), log.floor) == (0, [], 3)


def test_record_taken_over_by_a_hidden_node_has_left() -> None:
    log = ChangeLog(3, {HOME})
    log.committed(head(4), [change(1, SERVICE, replace(SERVICE, home=OTHER))], {HOME})
    block = log.after(3)
    assert block is not None
    assert [(seen.old is None, seen.new is None) for seen in block.changes] == [(False, True)]


def test_block_in_which_a_lease_lapsed_is_not_told_but_forgotten() -> None:
    log = ChangeLog(3, {HOME, OTHER})
    log.committed(head(4), [change(1)], {HOME, OTHER})
    log.committed(head(5), [change(2)], {HOME})
    log.committed(head(6), [change(3)], {HOME})
    assert (log.floor, told(log, 5), len(log)) == (5, [6], 1)


@given(st.lists(st.integers(0, 4), max_size=20), st.integers(1, 6))
def test_log_keeps_the_newest_blocks_whole_within_its_bound(sizes: list[int], most: int) -> None:
    log = ChangeLog(0, {HOME}, most=most)
    for height, size in enumerate(sizes, start=1):
        log.committed(head(height), [change(number) for number in range(size)], {HOME})
    kept = told(log, log.floor)
    assert len(log) == sum(sizes[height - 1] for height in kept) <= most
    assert kept == [
        height for height, size in enumerate(sizes, start=1) if size and height > log.floor
    ]
    # What was dropped did not fit beside the rest.
    assert not log.floor or sum(sizes[log.floor - 1 :]) > most


class Unread(list[RecordChange]):
    """Changes that nobody may look at."""

    def __iter__(self) -> Iterator[RecordChange]:
        raise AssertionError("looked at one by one")


def test_a_block_that_changes_very_many_services_is_not_looked_at() -> None:
    assert MAX_OF_A_BLOCK < MAX_CHANGES
    log = ChangeLog(0, {HOME})
    log.committed(head(1), [change(1)] * MAX_OF_A_BLOCK, {HOME})
    assert (len(log), log.floor) == (MAX_OF_A_BLOCK, 0)
    log.committed(head(2), Unread([change(1)] * (MAX_OF_A_BLOCK + 1)), {HOME})
    assert (len(log), log.floor) == (0, 2)
