"""Registry transactions: bytes, signatures, limits."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters import crypto, sodium
from edgistry.codec import replace
from edgistry.errors import InvalidValueError, MalformedError, Refused, TooLargeError
from edgistry.transactions import (
    LAST_EPOCH,
    MAX_ACTIONS,
    MAX_BATCH_RECORDS,
    MAX_REGION_CELLS,
    MAX_TRANSACTION_BYTES,
    SEALED_KEY_BYTES,
    Body,
    EpochKey,
    EpochShare,
    Kind,
    MemberKey,
    NodeLease,
    RegionPut,
    ServiceRecord,
    ServicesPut,
    ServicesWithdraw,
    check_chain_id,
    check_region_name,
    check_service_names,
    node_id_of,
    pack_cells,
    parse_body,
    parse_transaction,
    sign_transaction,
    signing_bytes,
    unpack_cells,
)

SEED = bytes(range(32))
PUBLIC_KEY = crypto.public_key_of(SEED)
NODE_ID = node_id_of(PUBLIC_KEY)
SIGN = crypto.signer(SEED)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,31}", fullmatch=True)
KEYS = st.binary(min_size=16, max_size=16)
RECORDS = st.builds(
    ServiceRecord,
    key=KEYS,
    type=NAMES,
    cell=st.integers(0, (1 << 63) - 1),
    actions=st.sets(NAMES, max_size=4).map(lambda names: tuple(sorted(names))),
    wake=st.integers(0, 3),
    commitment=st.binary(min_size=32, max_size=32),
    owner=st.binary(min_size=8, max_size=8),
    crowd=st.integers(1, (1 << 16) - 1),
)
EPOCHS = st.integers(1, LAST_EPOCH)
SEALS = st.dictionaries(
    st.binary(min_size=20, max_size=20),
    st.binary(min_size=SEALED_KEY_BYTES, max_size=SEALED_KEY_BYTES),
    min_size=1,
    max_size=4,
).map(lambda seals: tuple(sorted(seals.items())))
CELLS = st.sets(st.integers(0, (1 << 63) - 1), min_size=1, max_size=20)
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.just(NodeLease()),
    st.builds(ServicesPut, records=st.lists(RECORDS, min_size=1, max_size=4).map(tuple)),
    st.builds(ServicesWithdraw, keys=st.lists(KEYS, min_size=1, max_size=4).map(tuple)),
    st.builds(
        RegionPut,
        name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
        version=st.integers(1, (1 << 31) - 1),
        cells=CELLS.map(lambda cells: pack_cells(list(cells))),
    ),
    st.builds(MemberKey, epoch=EPOCHS, public=st.binary(min_size=32, max_size=32)),
    st.builds(EpochKey, epoch=EPOCHS, check=st.binary(min_size=16, max_size=16), sealed=SEALS),
    st.builds(EpochShare, epoch=EPOCHS, sealed=SEALS),
)
RECORD = ServiceRecord(
    key=b"k" * 16,
    type="valve",
    cell=1,
    actions=("open",),
    wake=0,
    commitment=b"c" * 32,
    owner=b"o" * 8,
    crowd=1,
)


def signed(body: Body, *, chain_id: str = "test-chain", sequence: int = 7) -> bytes:
    return sign_transaction(
        chain_id=chain_id, node_id=NODE_ID, sequence=sequence, body=body, sign=SIGN
    )


def packed(**changes: Any) -> bytes:
    """A lease transaction written by the independent library, with elements replaced."""
    elements: dict[str, Any] = {
        "version": 1,
        "kind": 1,
        "chain_id": "test-chain",
        "node_id": bytes(NODE_ID),
        "sequence": 7,
        "body": [],
        "signature": bytes(64),
    }
    result: bytes = msgpack.packb(list({**elements, **changes}.values()))
    return result


# --- round trip --------------------------------------------------------------------------------


@given(BODIES, st.integers(1, (1 << 63) - 1), st.sampled_from(["a", "test-chain", "9" * 50]))
def test_a_signed_transaction_reads_back_and_its_signature_verifies(
    body: Body, sequence: int, chain_id: str
) -> None:
    transaction = parse_transaction(signed(body, chain_id=chain_id, sequence=sequence))
    assert (transaction.chain_id, transaction.sequence) == (chain_id, sequence)
    assert transaction.node_id == NODE_ID
    assert parse_body(transaction) == body
    assert sodium.verify(PUBLIC_KEY, signing_bytes(transaction), transaction.signature)


@given(BODIES)
def test_the_bytes_are_those_the_layout_gives(body: Body) -> None:
    data = signed(body)
    *elements, signature = msgpack.unpackb(data)
    assert msgpack.packb([*elements, signature]) == data
    assert elements[:5] == [1, elements[1], "test-chain", NODE_ID, 7]
    assert Kind(elements[1]).name.replace("_", "") == type(body).__name__.upper()
    message = b"edgistry tx 1\0" + msgpack.packb(elements)
    assert signing_bytes(parse_transaction(data)) == message
    assert signature == SIGN(message)


def test_a_lease_has_exactly_these_bytes() -> None:
    data = signed(NodeLease(), chain_id="c", sequence=1)
    head = "970101a163c414" + bytes(NODE_ID).hex() + "0190c440"
    assert data.hex()[: len(head)] == head
    assert len(data) == len(head) // 2 + 64


def test_a_node_id_is_the_start_of_the_hash_of_its_key() -> None:
    assert node_id_of(PUBLIC_KEY) == hashlib.sha256(PUBLIC_KEY).digest()[:20]


# --- tampering ---------------------------------------------------------------------------------


@settings(max_examples=70, deadline=None)
@given(BODIES, st.data())
def test_no_byte_can_be_changed_without_breaking_form_or_signature(
    body: Body, data: st.DataObject
) -> None:
    original = signed(body)
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        transaction = parse_transaction(bytes(changed))
    except MalformedError:
        return
    assert not sodium.verify(PUBLIC_KEY, signing_bytes(transaction), transaction.signature)


@pytest.mark.parametrize(
    "change", [{"chain_id": "other"}, {"sequence": 8}, {"kind": 3}, {"node_id": b"n" * 20}]
)
def test_every_element_is_signed(change: dict[str, Any]) -> None:
    transaction = parse_transaction(signed(NodeLease()))
    moved = replace(transaction, **change)
    assert not sodium.verify(PUBLIC_KEY, signing_bytes(moved), transaction.signature)


# --- hostile bytes -----------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_transaction_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(data))


@settings(max_examples=100, deadline=None)
@given(BODIES, st.data())
def test_damaged_transactions_are_malformed_or_not_signed(body: Body, data: st.DataObject) -> None:
    original = signed(body)
    bent = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bent)))
        bent[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        transaction = parse_transaction(bytes(bent))
        parse_body(transaction)
    except MalformedError:
        return
    verified = sodium.verify(PUBLIC_KEY, signing_bytes(transaction), transaction.signature)
    assert verified == (bent == original)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=3) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=10,
)


@settings(max_examples=100)
@given(st.integers(0, 256), VALUES)
def test_any_value_is_a_body_or_malformed(kind: int, value: Any) -> None:
    try:
        transaction = parse_transaction(packed(kind=kind, body=value))
        body = parse_body(transaction)
    except MalformedError:
        return
    assert signing_bytes(transaction).endswith(msgpack.packb(value))
    assert Kind(kind).name.replace("_", "") == type(body).__name__.upper()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 2},
        {"version": True},
        {"kind": 0},
        {"kind": 256},
        {"chain_id": ""},
        {"chain_id": "c" * 51},
        {"chain_id": b"chain"},
        {"node_id": b"n" * 19},
        {"node_id": b"n" * 21},
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": 1 << 63},
        {"sequence": 1.0},
        {"signature": bytes(63)},
        {"signature": bytes(65)},
        {"more": None},
    ],
    ids=str,
)
def test_elements_outside_the_layout_are_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_transaction(packed(**change))


@pytest.mark.parametrize("kind", [11, 99, 255])
def test_an_unknown_kind_is_malformed(kind: int) -> None:
    with pytest.raises(MalformedError, match=f"kind {kind}"):
        parse_body(parse_transaction(packed(kind=kind)))


def test_a_body_in_a_longer_spelling_is_malformed() -> None:
    data = packed(body=None).replace(b"\x07\xc0", b"\x07\xdc\0\0", 1)
    assert msgpack.unpackb(data)[5] == []
    with pytest.raises(MalformedError, match="canonical"):
        parse_body(parse_transaction(data))


# --- limits ------------------------------------------------------------------------------------


def record(number: int) -> ServiceRecord:
    return replace(RECORD, key=number.to_bytes(16, "big"))


def test_the_largest_batch_of_usual_records_fits_and_one_more_record_does_not() -> None:
    records = tuple(record(number) for number in range(MAX_BATCH_RECORDS))
    body = parse_body(parse_transaction(signed(ServicesPut(records=records))))
    assert body == ServicesPut(records=records)
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(signed(ServicesPut(records=(*records, record(9999))))))


def test_the_largest_withdrawal_fits_and_one_more_key_does_not() -> None:
    keys = tuple(number.to_bytes(16, "big") for number in range(MAX_BATCH_RECORDS + 1))
    assert parse_body(parse_transaction(signed(ServicesWithdraw(keys=keys[:-1]))))
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(signed(ServicesWithdraw(keys=keys))))


def test_the_largest_region_fits_and_one_more_cell_does_not() -> None:
    cells = list(range(MAX_REGION_CELLS + 1))
    region = RegionPut(name="r", version=1, cells=pack_cells(cells[:-1]))
    assert parse_body(parse_transaction(signed(region))) == region
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(signed(replace(region, cells=pack_cells(cells)))))


@pytest.mark.parametrize("body", [ServicesPut(records=()), ServicesWithdraw(keys=())])
def test_empty_batches_are_malformed(body: Body) -> None:
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(signed(body)))


def test_a_transaction_over_the_engines_limit_is_not_signed() -> None:
    wide = replace(RECORD, actions=tuple(f"{number:032}" for number in range(MAX_ACTIONS)))
    body = ServicesPut(records=(wide,) * MAX_BATCH_RECORDS)
    with pytest.raises(InvalidValueError, match=str(MAX_TRANSACTION_BYTES)):
        signed(body)


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    with pytest.raises(TooLargeError):
        parse_transaction(b"\x97" * (MAX_TRANSACTION_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"k" * 15},
        {"type": ""},
        {"type": "t" * 33},
        {"type": "Thermometer"},
        {"type": "-valve"},
        {"type": "valve\n"},
        {"cell": -1},
        {"cell": 1 << 63},
        {"actions": ("open", "close")},
        {"actions": ("open", "open")},
        {"actions": ("",)},
        {"actions": ("Open",)},
        {"actions": tuple(f"a{number:02}" for number in range(MAX_ACTIONS + 1))},
        {"wake": 4},
        {"wake": -1},
        {"commitment": b"c" * 31},
    ],
    ids=str,
)
def test_one_bad_record_makes_the_batch_malformed(change: dict[str, Any]) -> None:
    body = ServicesPut(records=(RECORD, replace(RECORD, **change)))
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(signed(body)))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "r" * 65},
        {"name": "California"},
        {"name": "a/b"},
        {"version": 0},
        {"version": 1 << 31},
        {"cells": b""},
        {"cells": bytes(9)},
        {"cells": bytes(16)},
        {"cells": (2).to_bytes(8, "big") + (1).to_bytes(8, "big")},
    ],
    ids=str,
)
def test_a_region_outside_its_form_is_malformed(change: dict[str, Any]) -> None:
    body = replace(RegionPut(name="r", version=1, cells=bytes(8)), **change)
    with pytest.raises(MalformedError):
        parse_body(parse_transaction(signed(body)))


# --- cells and names ---------------------------------------------------------------------------


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_packed_cells_unpack_sorted_and_without_repeats(cells: list[int]) -> None:
    assert unpack_cells(pack_cells(cells)) == sorted(set(cells))


@given(st.binary(max_size=40))
def test_any_bytes_are_packed_cells_or_malformed(data: bytes) -> None:
    try:
        cells = unpack_cells(data)
    except MalformedError:
        return
    assert pack_cells(cells) == data


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("se\u0430ttle", r"'se\u0430ttle'"),  # Cyrillic a
        ("seatt\uff4ce", r"'seatt\uff4ce'"),  # fullwidth l
        ("seattle\u200b", r"'seattle\u200b'"),  # zero width space
        ("\u202eelttaes", r"'\u202eelttaes'"),  # right-to-left override
        ("seattl\u0435\u0301", r"'seattl\u0435\u0301'"),
        ("seattle\u00a0", r"'seattle\xa0'"),
        ("\u217beattle", r"'\u217beattle'"),  # a Roman numeral
    ],
)
def test_a_name_that_imitates_another_is_refused_and_shown_for_what_it_is(
    name: str, shown: str
) -> None:
    with pytest.raises(MalformedError, match="other alphabets") as refusal:
        check_region_name(name)
    assert shown in str(refusal.value)
    assert str(refusal.value).isascii()


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    plain = set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") and text.isascii()
    good = plain and text != "" and text[0] not in "._-"
    for check, limit, extra in (
        (check_region_name, 64, True),
        (lambda name: check_service_names(name, ()), 32, True),
        (check_chain_id, 50, "_" not in text),
    ):
        try:
            check(text)
            accepted = True
        except Refused:
            accepted = False
        assert accepted == (good and extra and len(text) <= limit)
