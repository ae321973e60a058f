"""The chunked sorted list, against a plain one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.sorted_entries import SortedEntries

ENTRIES = st.binary(min_size=1, max_size=2)


def drain(
    entries: SortedEntries, start: bytes, stop: bytes, most: int = 100
) -> tuple[list[bytes], bytes | None]:
    """All entries from ``start`` to before ``stop``, and the one that follows them."""
    found: list[bytes] = []
    while True:
        run, following = entries.between(start, stop, most=most)
        assert len(run) <= most
        found += run
        if following is None or following >= stop:
            return found, following
        assert run
        start = following


@settings(max_examples=200)
@given(st.sets(ENTRIES), ENTRIES, ENTRIES, st.integers(1, 5))
def test_between_gives_the_entries_of_a_half_open_interval_and_the_next(
    chosen: set[bytes], start: bytes, stop: bytes, most: int
) -> None:
    start, stop = sorted((start, stop))
    beyond = sorted(entry for entry in chosen if entry >= stop)
    expected = sorted(entry for entry in chosen if start <= entry < stop)
    found = drain(SortedEntries(chosen), start, stop, most)
    assert found == (expected, beyond[0] if beyond else None)


def test_thousands_of_changes_keep_order_across_chunks() -> None:
    randomness = random.Random(4)
    held = {randomness.randbytes(3) for _ in range(3000)}
    entries = SortedEntries(held)
    for step in range(20_000):
        # First it grows, so that chunks split; then it shrinks, so that they empty.
        if randomness.random() < (0.8 if step < 10_000 else 0.1):
            new = randomness.randbytes(3)
            if new not in held:
                held.add(new)
                entries.add(new)
        else:
            gone = held.pop()
            entries.remove(gone)
        if step % 500 == 0:
            start = randomness.randbytes(2)
            expected = sorted(entry for entry in held if entry >= start)
            assert drain(entries, start, b"\xff" * 4) == (expected, None)
    assert len(entries) == len(held)
    assert drain(entries, b"", b"\xff" * 4)[0] == sorted(held)


def test_a_list_can_be_emptied_and_filled_again() -> None:
    entries = SortedEntries([b"a"])
    entries.remove(b"a")
    assert drain(entries, b"", b"z") == ([], None)
    for number in range(2000):
        entries.add(number.to_bytes(2, "big"))
    assert len(drain(entries, b"\0\0", b"\xff\xff")[0]) == 2000


@pytest.mark.parametrize("entry", [b"", b"b", b"d"])
def test_removing_what_is_not_there_is_a_bug_and_changes_nothing(entry: bytes) -> None:
    entries = SortedEntries([b"a", b"c"])
    with pytest.raises(LookupError):
        entries.remove(entry)
    assert len(entries) == 2


@given(st.sets(ENTRIES), st.sets(ENTRIES), st.sets(ENTRIES))
def test_a_copy_has_the_same_and_is_changed_apart(
    held: set[bytes], more: set[bytes], less: set[bytes]
) -> None:
    entries, other = SortedEntries(held), SortedEntries()
    for _ in entries.copy_into(other):
        pass
    for entry in sorted(more - held):
        other.add(entry)
    for entry in sorted(less & held):
        other.remove(entry)
    everything = (b"", b"\xff" * 3)
    assert drain(entries, *everything) == (sorted(held), None)
    changed = (held | more) - (less & held)
    assert drain(other, *everything) == (sorted(changed), None)
    assert (len(entries), len(other)) == (len(held), len(changed))


def test_a_long_list_is_copied_whole_and_with_pauses() -> None:
    held = [number.to_bytes(3, "big") for number in range(40_000)]
    entries, other = SortedEntries(held), SortedEntries()
    assert sum(1 for _ in entries.copy_into(other)) > 1
    assert drain(other, b"", b"\xff" * 4, most=1000) == (held, None)
