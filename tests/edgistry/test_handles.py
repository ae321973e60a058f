"""Handles: what opens, for whom, and what nobody can tell from them."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.adapters import crypto
from edgistry.cell import base_cell
from edgistry.errors import (
    InvalidValueError,
    MalformedError,
    SealError,
    UnknownCursorError,
    UnknownHandleError,
)
from edgistry.handles import (
    HANDLE_BYTES,
    HANDLE_CHARACTERS,
    SHORT_TEXT,
    Arithmetic,
    Handle,
    HandleKey,
    HandleKind,
    Place,
    Target,
    cursor_epoch,
    parse_handle,
    parse_handle_text,
)
from edgistry.requests_api import to_bytes, to_text
from edgistry.transactions import NodeId, RecordKey
from scripts import gen_handle_vectors

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "handles.json").read_bytes()
)
ARITHMETIC = Arithmetic(crypto.Siv, crypto.permute, crypto.permute_back)
KEY = HandleKey(7, b"k" * 32, ARITHMETIC)
ALICE, BOB = b"a" * 16, b"b" * 16
TARGET = Target(NodeId(b"n" * 20), RecordKey(b"r" * 16))
CELL = base_cell(20)

tags = st.binary(min_size=16, max_size=16)
targets = st.builds(
    Target,
    st.binary(min_size=20, max_size=20).map(NodeId),
    st.binary(min_size=16, max_size=16).map(RecordKey),
)
epochs = st.integers(0, (1 << 32) - 1)


# --- opening ------------------------------------------------------------------------------------


@given(epochs, st.binary(min_size=32, max_size=32), tags, targets)
def test_a_handle_opens_to_what_it_was_made_of(
    epoch: int, secret: bytes, tag: bytes, target: Target
) -> None:
    key = HandleKey(epoch, secret, ARITHMETIC)
    for handle in (key.own(tag, target), key.alias(tag, target)):
        assert len(handle.data) == HANDLE_BYTES
        assert len(handle.text) == HANDLE_CHARACTERS
        assert parse_handle(handle.data) == parse_handle_text(handle.text) == handle
        assert key.open(handle) == target
    assert key.open(key.own(tag, target), tag=tag) == target
    assert key.texts(tag, [target, target]) == [key.own(tag, target).text] * 2


def test_every_node_with_the_epoch_key_makes_the_same_handle() -> None:
    assert HandleKey(7, b"k" * 32, ARITHMETIC).own(ALICE, TARGET) == KEY.own(ALICE, TARGET)


@pytest.mark.parametrize(
    "handle",
    [
        KEY.own(BOB, TARGET),
        KEY.alias(ALICE, TARGET),
        HandleKey(8, b"k" * 32, ARITHMETIC).own(ALICE, TARGET),
        HandleKey(7, b"o" * 32, ARITHMETIC).own(ALICE, TARGET),
        Handle(sealed=KEY.own(BOB, TARGET).sealed, kind=HandleKind.OWN, epoch=7, tag=ALICE),
        Handle(sealed=KEY.alias(ALICE, TARGET).sealed, kind=HandleKind.OWN, epoch=7, tag=ALICE),
    ],
    ids=["client", "alias", "epoch", "cluster", "retagged", "alias made own"],
)
def test_a_handle_of_anybody_else_is_unknown_and_says_no_more(handle: Handle) -> None:
    with pytest.raises(UnknownHandleError) as refused:
        KEY.open(handle, tag=ALICE)
    assert refused.value.detail == "no such handle for this client in this epoch"


@given(st.integers(0, HANDLE_BYTES - 1), st.integers(1, 255))
def test_no_byte_of_a_handle_can_be_changed(at: int, change: int) -> None:
    data = bytearray(KEY.own(ALICE, TARGET).data)
    data[at] ^= change
    with pytest.raises((UnknownHandleError, MalformedError)):
        KEY.open(parse_handle(bytes(data)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_handle_or_malformed(data: bytes) -> None:
    try:
        handle = parse_handle(data)
    except MalformedError:
        return
    assert handle.data == data


@given(st.binary(min_size=HANDLE_BYTES, max_size=HANDLE_BYTES))
def test_made_up_bytes_never_open(data: bytes) -> None:
    with pytest.raises((UnknownHandleError, MalformedError)):
        KEY.open(parse_handle(data))


@given(st.text(max_size=120))
def test_any_text_is_a_handle_or_malformed(text: str) -> None:
    try:
        handle = parse_handle_text(text)
    except MalformedError:
        return
    assert handle.text == text


def test_a_text_has_one_spelling() -> None:
    text = KEY.own(ALICE, TARGET).text
    # The last of 98 characters has four bits that say nothing.
    others = {text[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop"} - {text}
    for other in others:
        with pytest.raises((MalformedError, UnknownHandleError)):
            KEY.open(parse_handle_text(other))


# --- what can be told from them -----------------------------------------------------------------


def test_clients_and_epochs_have_no_sealed_part_in_common() -> None:
    keys = [HandleKey(epoch, bytes([epoch]) * 32, ARITHMETIC) for epoch in range(3)]
    clients = [bytes([number]) * 16 for number in range(4)]
    services = [Target(NodeId(b"n" * 20), RecordKey(bytes([each]) * 16)) for each in range(30)]
    texts = [
        text[:SHORT_TEXT] for key in keys for tag in clients for text in key.texts(tag, services)
    ]
    assert len(set(texts)) == len(keys) * len(clients) * len(services)


def test_the_order_of_a_cell_is_another_for_each_client_and_epoch() -> None:
    records = [bytes([number]) * 16 for number in range(64)]
    later = HandleKey(8, b"k" * 32, ARITHMETIC)
    orders = [
        tuple(record for _, record in key.order(tag).sorted(records))
        for key in (KEY, later)
        for tag in (ALICE, BOB)
    ]
    assert len(set(orders)) == 4
    assert all(sorted(order) == records for order in orders)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=40), tags)
def test_a_place_leads_back_to_its_record(records: list[bytes], tag: bytes) -> None:
    order = KEY.order(tag)
    assert [order.record_at(place) for place in order.places(records)] == records


def test_a_handle_key_does_not_show_its_secret() -> None:
    assert repr(HandleKey(7, b"k" * 32, ARITHMETIC)) == "HandleKey(epoch=7)"


# --- cursors ------------------------------------------------------------------------------------


@given(tags, st.integers(0, 121), st.binary(min_size=16, max_size=16))
def test_a_cursor_leads_to_where_it_was_made(tag: bytes, number: int, place: bytes) -> None:
    text = KEY.seal_cursor(tag, Place(base_cell(number), place))
    assert cursor_epoch(text) == 7
    assert KEY.open_cursor(tag, text) == (base_cell(number), place)


@given(at=st.integers(0, 43), change=st.integers(1, 255))
def test_no_byte_of_a_cursor_can_be_changed(at: int, change: int) -> None:
    data = bytearray(to_bytes(KEY.seal_cursor(ALICE, Place(CELL, bytes(16))), "it"))
    data[at] ^= change
    with pytest.raises(UnknownCursorError):
        KEY.open_cursor(ALICE, to_text(bytes(data)))


def test_a_cursor_of_another_client_or_epoch_leads_nowhere() -> None:
    text = KEY.seal_cursor(ALICE, Place(CELL, bytes(16)))
    with pytest.raises(UnknownCursorError):
        KEY.open_cursor(BOB, text)
    with pytest.raises(UnknownCursorError):
        HandleKey(8, b"k" * 32, ARITHMETIC).open_cursor(ALICE, text)
    with pytest.raises(UnknownCursorError):
        HandleKey(7, b"o" * 32, ARITHMETIC).open_cursor(ALICE, text)


@pytest.mark.parametrize("more", ["A", "AAAA", "A" * 41, "A" * 200, "="])
def test_a_cursor_has_nothing_behind_it(more: str) -> None:
    text = KEY.seal_cursor(ALICE, Place(CELL, bytes(16)))
    with pytest.raises(MalformedError):
        KEY.open_cursor(ALICE, text + more)


@given(st.text(max_size=80))
def test_any_text_is_no_cursor(text: str) -> None:
    with pytest.raises((MalformedError, UnknownCursorError)):
        KEY.open_cursor(ALICE, text)


@given(st.binary(min_size=44, max_size=44))
def test_made_up_cursors_lead_nowhere(data: bytes) -> None:
    with pytest.raises(UnknownCursorError):
        KEY.open_cursor(ALICE, to_text(data))


# --- arithmetic ---------------------------------------------------------------------------------


def _cmac(key: bytes, message: bytes) -> bytes:
    """AES-CMAC (RFC 4493), written out over single blocks."""

    def doubled(block: bytes) -> bytes:
        number = int.from_bytes(block, "big") << 1
        if number >> 128:
            number ^= 1 << 128 | 0x87
        return number.to_bytes(16, "big")

    first = doubled(crypto.permute(key, bytes(16)))
    blocks = [message[at : at + 16] for at in range(0, max(len(message), 1), 16)]
    last = blocks.pop()
    if len(last) == 16:
        mask = first
    else:
        last, mask = (last + b"\x80").ljust(16, b"\0"), doubled(first)
    state = bytes(16)
    for block in (*blocks, _xor(last, mask)):
        state = crypto.permute(key, _xor(state, block))
    return state


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _siv(key: bytes, secret: bytes, context: bytes) -> bytes:
    """AES-256-SIV (RFC 5297) of at least 16 bytes, written out."""
    mac_key, stream_key = key[:32], key[32:]
    state = _cmac(mac_key, bytes(16))
    number = int.from_bytes(state, "big") << 1
    number ^= (1 << 128 | 0x87) if number >> 128 else 0
    state = _xor(number.to_bytes(16, "big"), _cmac(mac_key, context))
    tag = _cmac(mac_key, secret[:-16] + _xor(secret[-16:], state))
    counter = int.from_bytes(tag, "big") & ~(1 << 63 | 1 << 31)
    stream = b"".join(
        crypto.permute(stream_key, (counter + step).to_bytes(16, "big"))
        for step in range(len(secret) // 16 + 1)
    )
    return tag + _xor(secret, stream[: len(secret)])


def test_a_handle_is_what_the_rfcs_say() -> None:
    secret = b"k" * 32

    def derived(use: bytes) -> bytes:
        return hmac.digest(secret, use, "sha256")

    key = derived(b"\x33\x01") + derived(b"\x33\x02")
    context = b"\x01" + (7).to_bytes(4, "big") + ALICE
    sealed = _siv(key, TARGET.node + TARGET.record, context)
    assert KEY.own(ALICE, TARGET).data == sealed + context


def test_siv_opens_only_what_it_sealed_for_the_same_context() -> None:
    siv = crypto.Siv(bytes(64))
    sealed = siv.seal(b"secret", b"one")
    assert siv.open(sealed, b"one") == b"secret"
    for wrong in (sealed[:-1], sealed + b"\0", b"", bytes(16)):
        with pytest.raises(SealError):
            siv.open(wrong, b"one")
    with pytest.raises(SealError):
        siv.open(sealed, b"two")
    with pytest.raises(InvalidValueError):
        crypto.Siv(bytes(32))


def test_a_permutation_takes_whole_blocks() -> None:
    assert crypto.permute_back(b"k" * 32, crypto.permute(b"k" * 32, bytes(160))) == bytes(160)
    for key, blocks in ((b"k" * 16, bytes(16)), (b"k" * 32, bytes(17))):
        with pytest.raises(InvalidValueError):
            crypto.permute(key, blocks)


# --- vectors ------------------------------------------------------------------------------------


def test_regenerating_the_vectors_gives_the_same_bytes() -> None:
    assert gen_handle_vectors.document() == gen_handle_vectors.TARGET.read_bytes()


def _vector_key() -> HandleKey:
    return HandleKey(VECTORS["epoch"], bytes.fromhex(VECTORS["epoch_key"]), ARITHMETIC)


@pytest.mark.parametrize("vector", VECTORS["handles"], ids=lambda vector: str(vector["name"]))
def test_handle_vector(vector: dict[str, Any]) -> None:
    handle = parse_handle_text(vector["text"])
    assert handle.data.hex() == vector["bytes"]
    assert (handle.kind, handle.epoch, handle.tag.hex()) == (
        vector["kind"],
        vector["epoch"],
        vector["tag"],
    )
    node, record = _vector_key().open(handle)
    assert (node.hex(), record.hex()) == (vector["node"], vector["record"])


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: str(vector["name"]))
def test_refused_vector(vector: dict[str, Any]) -> None:
    with pytest.raises((UnknownHandleError, MalformedError)) as refused:
        _vector_key().open(
            parse_handle(bytes.fromhex(vector["bytes"])),
            tag=bytes.fromhex(VECTORS["order"]["tag"]),
        )
    assert refused.value.code == vector["reason"]


def test_order_and_cursor_vectors() -> None:
    key, order = _vector_key(), VECTORS["order"]
    records = [bytes.fromhex(record) for record in order["records"]]
    places = key.order(bytes.fromhex(order["tag"])).places(records)
    assert [place.hex() for place in places] == order["places"]
    for cursor in VECTORS["cursors"]:
        found = key.open_cursor(bytes.fromhex(cursor["tag"]), cursor["text"])
        assert (f"{found.cell:x}", found.place.hex()) == (cursor["cell"], cursor["place"])
