"""The device table: identities, handles, what the chain is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.devices import (
    Device,
    DeviceTable,
    KeptSeed,
    handle_of,
    identity_of,
    parse_handle,
    record_of,
)
from edgistry.codec import encode, replace
from edgistry.errors import CorruptDatabaseError, MalformedError
from edgistry.kv import MemoryKeyValue
from edgistry.placing import place
from edgistry.policy import PrivacyPolicy

OWNER = b"o" * 8
PLACEMENT = place(PrivacyPolicy(), (46.5, 8.25), seed=bytes(32))


def device(number: int = 0, **changes: object) -> Device:
    plain = Device(
        key=number.to_bytes(16, "big"),
        salt=bytes(32),
        id=None,
        name=f"hut {number}",
        lat=46.5,
        lon=8.25,
        told_cell=0,
        told_moves=0,
        policy=PrivacyPolicy(),
        seed=bytes(32),
        placement=PLACEMENT,
        owner=b"",
        type="thermometer",
        actions=("read",),
        wake=3,
        sequence=0,
    )
    return replace(plain, **changes)


def test_identity_without_id_is_name_position_and_type() -> None:
    same = device(
        1, name="a", actions=("read", "write"), policy=PrivacyPolicy(resolution=5), sequence=9
    )
    assert identity_of(same) == identity_of(device(2, name="a"))
    for change in ({"name": "b"}, {"lat": 46.6}, {"lon": 8.3}, {"type": "valve"}):
        assert identity_of(device(1, **change)) != identity_of(device(1))


def test_identity_with_id_is_the_id_alone() -> None:
    one = device(1, id="x")
    assert identity_of(one) == identity_of(device(2, id="x", lat=1.0, type="valve"))
    assert identity_of(one) != identity_of(device(1, id="y"))


def test_id_is_never_mistaken_for_a_name() -> None:
    assert identity_of(device(1, id="hut 1")) != identity_of(device(1))


def test_chain_is_told_neither_name_nor_position() -> None:
    private = device(1, id="SERIAL-77", name="Upper hut", lat=46.512345, lon=8.254321)
    record = encode(record_of(private, owner=OWNER))
    for secret in (b"SERIAL", b"Upper", encode(46.512345), encode(8.254321), private.salt):
        assert secret not in record


def test_commitment_changes_with_the_salt_and_with_nothing_else() -> None:
    one = device(1, id="x")
    moved = replace(one, lat=1.0, name="elsewhere", sequence=3)
    assert record_of(one, owner=OWNER).commitment == record_of(moved, owner=OWNER).commitment
    assert (
        record_of(one, owner=OWNER).commitment
        != record_of(replace(one, salt=b"s" * 32), owner=OWNER).commitment
    )


def test_table_finds_by_identity_and_by_key_and_forgets() -> None:
    store = MemoryKeyValue()
    table = DeviceTable(store)
    kept = device(7, placement=replace(PLACEMENT, noise_m=500))
    store.write(table.put(kept), sync=True)
    assert table.get(identity_of(kept)) == kept
    assert table.by_key(kept.key) == kept
    store.write(table.delete(kept), sync=True)
    assert table.get(identity_of(kept)) is None
    assert table.by_key(kept.key) is None
    [(_, left)] = store.scan(b"", None)
    assert left == encode(KeptSeed(seed=kept.seed, moves=0)), "and not where it was"
    for gone in (replace(kept, forget=True), replace(kept, placement=PLACEMENT)):
        store.write(table.put(kept), sync=True)
        store.write(table.delete(gone), sync=True)
        assert list(store.scan(b"", None)) == []


def test_scan_is_in_key_order_and_continues_after_a_key() -> None:
    store = MemoryKeyValue()
    table = DeviceTable(store)
    for number in (5, 1, 3):
        store.write(table.put(device(number)), sync=True)
    assert [d.name for d in table.scan()] == ["hut 1", "hut 3", "hut 5"]
    assert [d.name for d in table.scan(device(3).key)] == ["hut 5"]


def test_damaged_row_is_reported_as_a_damaged_database() -> None:
    store = MemoryKeyValue()
    table = DeviceTable(store)
    [(key, value), _] = table.put(device(1))
    assert value is not None
    store.write([(key, value[:-1])], sync=True)
    with pytest.raises(CorruptDatabaseError):
        table.get(identity_of(device(1)))


@given(key=st.binary(min_size=16, max_size=16))
def test_handle_names_its_key(key: bytes) -> None:
    handle = handle_of(key)
    assert len(handle) == 22
    assert parse_handle(handle) == key


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=30) | st.from_regex(r"[A-Za-z0-9_-]{20,24}", fullmatch=True))
def test_any_text_is_a_handle_or_malformed(text: str) -> None:
    try:
        key = parse_handle(text)
    except MalformedError:
        return
    assert handle_of(key) == text
