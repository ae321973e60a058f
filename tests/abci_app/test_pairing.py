"""The table of paired devices."""

from __future__ import annotations

import pytest

from abci_app.devices import Device, DeviceTable
from abci_app.pairing import (
    PairingTable,
    StoredCode,
    StoredPairing,
    node_capability,
    row_id,
)
from edgistry.codec import replace
from edgistry.errors import CorruptDatabaseError
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.pairing import ActionOffer, PairingOffer, ServiceOffer, encode_device_id
from edgistry.placing import place
from edgistry.policy import PrivacyPolicy
from edgistry.rights import Right

DEVICE = encode_device_id(b"d" * 16)
OTHER = encode_device_id(b"e" * 16)
SERVICE = ServiceOffer(type="valve", actions=(ActionOffer(name="open"),))
OFFER = PairingOffer(
    version=2,
    device=DEVICE,
    epoch=3,
    key=b"K" * 32,
    name="hut",
    lat=46.0,
    lon=8.0,
    cell=0,
    moves=0,
    policy=PrivacyPolicy(),
    seed=bytes(32),
    owner=b"",
    period_s=600,
    services=(SERVICE,),
)
PAIRING = StoredPairing(offer=OFFER, serial=77, paired_us=5)


def stored(*pairings: StoredPairing) -> tuple[MemoryKeyValue, PairingTable]:
    store = MemoryKeyValue()
    table = PairingTable(store)
    for pairing in pairings:
        store.write(table.put(pairing), sync=True)
    return store, table


def row(key: bytes, id: str | None, **changes: object) -> Device:
    plain = Device(
        key=key,
        salt=bytes(32),
        id=id,
        name="",
        lat=0.0,
        lon=0.0,
        told_cell=0,
        told_moves=0,
        policy=PrivacyPolicy(),
        seed=bytes(32),
        placement=place(PrivacyPolicy(), (0.0, 0.0), seed=bytes(32)),
        owner=b"",
        type="valve",
        actions=("open",),
        wake=1,
        sequence=0,
    )
    return replace(plain, **changes)


def test_a_paired_device_is_found_by_its_id_with_its_key_and_wake_bucket() -> None:
    _, table = stored(PAIRING)
    paired = table.by_device(DEVICE)
    assert paired is not None
    assert paired.issuer == Issuer(3, b"K" * 32)
    assert (paired.epoch, paired.serial, paired.wake, paired.period_s) == (3, 77, 1, 600)
    assert table.by_device(OTHER) is None


def test_a_later_pairing_of_a_device_replaces_the_earlier_one() -> None:
    later = replace(PAIRING, offer=replace(OFFER, epoch=4), serial=78)
    _, table = stored(PAIRING, later)
    assert [(paired.epoch, paired.serial) for paired in table.scan()] == [(4, 78)]


def test_a_record_leads_to_its_device_and_service_while_its_row_is_there() -> None:
    store, table = stored(PAIRING)
    rows, key = DeviceTable(store), b"r" * 16
    assert table.by_record(key) is None
    store.write(rows.put(row(key, row_id(DEVICE, "valve"))), sync=True)
    assert table.by_record(key) == (table.by_device(DEVICE), SERVICE)
    store.write(rows.put(row(key, row_id(DEVICE, "valve"), withdrawing=True)), sync=True)
    assert table.by_record(key) is None


@pytest.mark.parametrize(
    "id", [None, "valve 7", row_id(DEVICE, "lamp"), row_id(OTHER, "valve"), "paired:", "paired:x"]
)
def test_a_record_of_anything_else_leads_nowhere(id: str | None) -> None:
    store, table = stored(PAIRING)
    store.write(DeviceTable(store).put(row(b"r" * 16, id)), sync=True)
    assert table.by_record(b"r" * 16) is None


def test_a_serial_stays_taken_after_its_device_is_forgotten() -> None:
    store, table = stored(PAIRING)
    paired = table.by_device(DEVICE)
    assert paired is not None
    store.write(table.delete(paired), sync=True)
    assert table.by_device(DEVICE) is None
    assert table.serial_is_taken(77)
    assert not table.serial_is_taken(78)


def test_the_key_of_a_device_is_gone_from_the_store_once_it_is_forgotten() -> None:
    store, table = stored(PAIRING)
    paired = table.by_device(DEVICE)
    assert paired is not None
    store.write(table.delete(paired), sync=True)
    assert not any(b"KKKK" in value for _, value in store.scan(b"", None))


def test_the_capability_of_a_device_is_for_its_own_object_and_the_same_each_time() -> None:
    _, table = stored(PAIRING)
    paired = table.by_device(DEVICE)
    assert paired is not None
    issuer = Issuer.from_secret(b"n" * 32, epoch=1)
    capability = node_capability(issuer, paired)
    (entry,) = capability.entries
    assert entry.object == f"devices/{DEVICE}"
    assert entry.rights == Right.PUT | Right.GET | Right.LATEST | Right.POLL
    assert capability.serial == 77
    assert capability == node_capability(issuer, paired)


def test_codes_are_kept_until_they_are_deleted() -> None:
    store, table = stored()
    code = StoredCode(expires_us=9, replace=False)
    store.write(table.put_code(b"c" * 32, code), sync=True)
    assert table.code(b"c" * 32) == code
    assert list(table.codes()) == [(b"c" * 32, code)]
    store.write(table.delete_code(b"c" * 32), sync=True)
    assert table.code(b"c" * 32) is None


def test_the_key_of_a_paired_device_is_in_no_text() -> None:
    _, table = stored(PAIRING)
    paired = table.by_device(DEVICE)
    assert "KKKK" not in f"{paired!r} {PAIRING!r}"


def test_a_damaged_pairing_is_named_as_damage() -> None:
    store, table = stored()
    store.write([(b"p/d/" + DEVICE.encode(), b"?")], sync=True)
    with pytest.raises(CorruptDatabaseError):
        table.by_device(DEVICE)
