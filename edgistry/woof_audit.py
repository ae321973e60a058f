"""Looking through WooFs for what damage has taken.

Rules kept here: every number inside a WooF's window must be there; what is missing is named, range
by range. Each WooF is read once, in order, and not kept in memory.

Not handled here: elements that were the newest when they were lost. Nothing remembers them, and
their numbers are given again (``docs/operations.md``, "Repair").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .kv import KeyValue, prefix_end
from .woof import WoofId, window_of
from .woof_keys import (
    END,
    WOOFS,
    WoofRecord,
    elements_of,
    number_bytes,
    read_number,
    read_record,
)
from .woof_state import newest_number


@dataclass(frozen=True, slots=True, kw_only=True)
class LostElements:
    """Elements of one WooF that should be readable and are not."""

    woof: str
    first: int
    last: int


def lost_elements(store: KeyValue) -> Iterator[LostElements]:
    """All of them, by name of the WooF and then by number.

    Raises:
        CorruptDatabaseError: what the store holds cannot be read.
    """
    for key, value in store.scan(WOOFS, prefix_end(WOOFS)):
        name = key[len(WOOFS) :].decode("utf-8", "replace")
        yield from _lost_from(store, name, read_record(key, value, WoofRecord))


def _lost_from(store: KeyValue, name: str, record: WoofRecord) -> Iterator[LostElements]:
    prefix = elements_of(WoofId(record.id))
    window = window_of(newest_number(store, WoofId(record.id)), record.history)
    expected = window.earliest
    for key, _ in store.scan(prefix + number_bytes(window.earliest), prefix + END):
        number = read_number(key[len(prefix) :])
        if number != expected:
            yield LostElements(woof=name, first=expected, last=number - 1)
        expected = number + 1
