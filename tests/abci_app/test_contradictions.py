"""One device described twice in one file."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator

from abci_app.admin_api import DeviceRow
from abci_app.contradictions import without_contradictions
from abci_app.fleet import BadRow, LineNumber
from edgistry.codec import replace

from .solo_node import row


def test_second_different_row_of_one_id_is_bad_and_names_the_first_line() -> None:
    first = row(1, id="a")
    rows = [first, row(2, id="b"), row(3, id="a"), row(4, id="a", type="valve")]
    kept = list(without_contradictions(rows))
    assert kept[:2] == rows[:2]
    assert [bad.line for bad in kept[2:] if isinstance(bad, BadRow)] == [5, 6]
    for bad in kept[2:]:
        assert isinstance(bad, BadRow)
        assert "id as line 3" in bad.reason


def test_exact_repeats_pass() -> None:
    rows = [row(1, id="a"), row(1, id="a", line=9), row(1), row(1, line=10)]
    assert list(without_contradictions(rows)) == rows


def test_rows_without_an_id_contradict_each_other_in_what_is_not_their_identity() -> None:
    [_, moved, bad] = without_contradictions([row(1), row(1, lat=9.0), row(1, actions=("write",))])
    assert moved == row(1, lat=9.0)
    assert isinstance(bad, BadRow)
    assert "name, position and type as line 3" in bad.reason


def test_bad_rows_pass_and_describe_nothing() -> None:
    bad = BadRow(line=LineNumber(2), reason="x")
    assert list(without_contradictions([bad, row(1)])) == [bad, row(1)]


def test_every_contradiction_of_a_long_file_is_found_in_little_memory() -> None:
    count = 10_000

    def rows() -> Iterator[DeviceRow]:
        plain = row(0)
        for kind in ("valve", "valve", "camera"):
            for number in range(count):
                yield replace(plain, id=str(number), type=kind, line=number + 2)

    tracemalloc.start()
    try:
        kept = Counter(type(each) for each in without_contradictions(rows()))
        assert tracemalloc.get_traced_memory()[1] < 80 * count
    finally:
        tracemalloc.stop()
    assert kept == {DeviceRow: 2 * count, BadRow: count}
