"""What device and node say to each other: round trips, bounds, and any bytes."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.envelope import MAX_EXCHANGE_PAYLOAD
from edgistry.errors import InvalidValueError, MalformedError, TooLargeError
from edgistry.messages import (
    HEAD_BYTES,
    ITEM_OVERHEAD_BYTES,
    MAX_EXCHANGE_ITEMS_BYTES,
    MAX_ITEMS,
    MAX_QUEUED_ENVELOPE_BYTES,
    MAX_QUEUED_REPLY_BYTES,
    Account,
    ExchangeDown,
    ExchangeUp,
    RequestDown,
    RequestResult,
    ResultKind,
    decode_down,
    decode_up,
    encode_down,
    encode_up,
    fitting,
    request_id,
)

IDS = st.binary(min_size=16, max_size=16)
U32 = st.integers(0, 0xFFFFFFFF)
RESULTS = st.one_of(
    st.builds(RequestResult, request_id=IDS, kind=st.just(0)),
    st.builds(
        RequestResult,
        request_id=IDS,
        kind=st.sampled_from([1, 2]),
        reply=st.binary(min_size=1, max_size=64),
    ),
)
UPS = st.builds(
    ExchangeUp,
    version=st.just(1),
    instance=st.binary(min_size=8, max_size=8),
    counter=st.integers(1 << 32, (1 << 64) - 1),
    want_count=st.integers(0, MAX_ITEMS),
    want_bytes=U32,
    back_in_s=U32,
    results=st.lists(RESULTS, max_size=4, unique_by=lambda each: each.request_id).map(tuple),
    account=st.builds(Account, awake_ms=U32, sent=U32, received=U32),
    settled=U32,
)
DOWNS = st.builds(
    ExchangeDown,
    version=st.just(1),
    now_us=st.integers(0, (1 << 64) - 1),
    next_wake_s=U32,
    more=st.booleans(),
    requests=st.lists(
        st.builds(
            RequestDown,
            request_id=IDS,
            priority=st.integers(0, 9),
            envelope=st.binary(min_size=1, max_size=64),
        ),
        max_size=4,
        unique_by=lambda each: each.request_id,
    ).map(tuple),
    confirmed=st.lists(IDS, max_size=4).map(tuple),
    cancelled=st.lists(IDS, max_size=4).map(tuple),
    epoch_ends_us=st.integers(0, (1 << 64) - 1),
)
UP = ExchangeUp(version=1, instance=b"instance", counter=7, want_count=20, want_bytes=65536)
DOWN = ExchangeDown(version=1, now_us=1_700_000_000_000_000, epoch_ends_us=1_700_000_086_400_000)


def result(number: int, reply: bytes = b"reply") -> RequestResult:
    return RequestResult(
        request_id=number.to_bytes(16, "big"), kind=ResultKind.RESPONDED, reply=reply
    )


@settings(max_examples=60)
@given(UPS)
def test_what_the_device_says_is_understood(up: ExchangeUp) -> None:
    assert decode_up(encode_up(up)) == up


@settings(max_examples=60)
@given(DOWNS)
def test_what_the_node_says_is_understood(down: ExchangeDown) -> None:
    assert decode_down(encode_down(down)) == down


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode, encode in ((decode_up, encode_up), (decode_down, encode_down)):
        try:
            message: Any = decode(data)
        except MalformedError:
            continue
        assert encode(message) == data


@given(UPS, st.data())
def test_changed_message_is_another_one_or_malformed(up: ExchangeUp, data: st.DataObject) -> None:
    encoded = bytearray(encode_up(up))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedError):
        assert decode_up(bytes(encoded)) != up


def test_an_independent_reader_sees_the_fields_in_order() -> None:
    up = ExchangeUp(
        version=1,
        instance=b"instance",
        counter=7,
        want_count=20,
        want_bytes=65536,
        back_in_s=600,
        results=(result(1), RequestResult(request_id=bytes(16), kind=0)),
        account=Account(awake_ms=120, sent=300, received=200),
        settled=6,
    )
    assert msgpack.unpackb(encode_up(up)) == [
        1, b"instance", 7, 20, 65536, 600,
        [[bytes(15) + b"\1", 1, b"reply"], [bytes(16), 0, b""]], [120, 300, 200], 6, False,
    ]  # fmt: skip
    down = ExchangeDown(
        version=1,
        now_us=5,
        next_wake_s=60,
        more=True,
        requests=(RequestDown(request_id=bytes(16), priority=9, envelope=b"e"),),
        confirmed=(bytes(16),),
        cancelled=(b"c" * 16,),
        epoch_ends_us=6,
    )
    assert msgpack.unpackb(encode_down(down)) == [
        1, 5, 60, True, [[bytes(16), 9, b"e"]], [bytes(16)], [b"c" * 16], 6,
    ]  # fmt: skip


def test_idle_exchange_takes_few_bytes() -> None:
    assert len(encode_up(UP)) + len(encode_down(DOWN)) < 60


@pytest.mark.parametrize("cut", range(len(encode_up(UP))))
def test_cut_message_is_malformed(cut: int) -> None:
    with pytest.raises(MalformedError):
        decode_up(encode_up(UP)[:cut])
    with pytest.raises(MalformedError):
        decode_down(encode_down(DOWN)[: min(cut, len(encode_down(DOWN)) - 1)])


@pytest.mark.parametrize(
    "fields",
    [
        {"results": (result(1), result(1))},
        {"results": (RequestResult(request_id=bytes(16), kind=0, reply=b"reply"),)},
        {"results": (RequestResult(request_id=bytes(16), kind=1),)},
        {"results": (RequestResult(request_id=bytes(16), kind=3, reply=b"reply"),)},
        {"results": (RequestResult(request_id=bytes(15), kind=0),)},
        {"results": tuple(result(number) for number in range(MAX_ITEMS + 1))},
        {"results": (result(1, bytes(MAX_QUEUED_REPLY_BYTES + 1)),)},
        {"results": tuple(result(number, bytes(65536)) for number in range(16))},
        {"instance": b"short"},
        {"counter": -1},
        {"want_count": MAX_ITEMS + 1},
        {"want_bytes": 1 << 32},
        {"version": 2},
        {"counter": 7, "settled": 7},
    ],
)
def test_message_out_of_bounds_is_not_sent(fields: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "version": 1,
        "instance": b"instance",
        "counter": 0,
        "want_count": 1,
        "want_bytes": 1,
        **fields,
    }
    with pytest.raises(InvalidValueError):
        encode_up(ExchangeUp(**values))


def test_request_handed_down_twice_is_malformed() -> None:
    request = RequestDown(request_id=bytes(16), priority=0, envelope=b"e")
    with pytest.raises(InvalidValueError):
        encode_down(ExchangeDown(version=1, now_us=0, requests=(request, request)))


def test_message_larger_than_an_exchange_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLargeError):
        decode_up(bytes(MAX_EXCHANGE_PAYLOAD + 1))
    with pytest.raises(TooLargeError):
        decode_down(bytes(MAX_EXCHANGE_PAYLOAD + 1))


def test_as_much_as_fits_is_sent() -> None:
    sizes = [MAX_QUEUED_REPLY_BYTES] * 20
    taken = fitting(sizes, count=MAX_ITEMS, limit=1 << 30)
    ids = tuple(number.to_bytes(16, "big") for number in range(MAX_ITEMS))
    up = ExchangeUp(
        version=1,
        instance=bytes(8),
        counter=(1 << 64) - 1,
        want_count=MAX_ITEMS,
        want_bytes=0xFFFFFFFF,
        results=tuple(result(position, bytes(sizes[position])) for position in taken),
    )
    down = ExchangeDown(
        version=1,
        now_us=(1 << 64) - 1,
        requests=tuple(
            RequestDown(
                request_id=ids[position],
                priority=9,
                envelope=bytes(MAX_QUEUED_ENVELOPE_BYTES),
            )
            for position in fitting([MAX_QUEUED_ENVELOPE_BYTES] * 20, count=20, limit=1 << 30)
        ),
        confirmed=ids,
        cancelled=ids,
    )
    assert len(taken) == 15
    assert len(encode_up(up)) <= MAX_EXCHANGE_PAYLOAD
    assert len(encode_down(down)) <= MAX_EXCHANGE_PAYLOAD
    assert MAX_EXCHANGE_ITEMS_BYTES + HEAD_BYTES == MAX_EXCHANGE_PAYLOAD


def test_full_count_of_small_items_fits_its_overhead() -> None:
    up = encode_up(
        ExchangeUp(
            version=1,
            instance=bytes(8),
            counter=0,
            want_count=0,
            want_bytes=0,
            results=tuple(result(number, b"r" * 40) for number in range(MAX_ITEMS)),
        )
    )
    assert len(up) <= MAX_ITEMS * (40 + ITEM_OVERHEAD_BYTES) + HEAD_BYTES


def test_item_that_does_not_fit_holds_up_none_behind_it() -> None:
    overhead = ITEM_OVERHEAD_BYTES
    assert fitting([10, 5000, 10], count=9, limit=2 * (10 + overhead)) == [0, 2]
    assert fitting([10, 10, 10], count=2, limit=1000) == [0, 1]
    assert fitting([10], count=1, limit=0) == []


def test_request_id_names_service_client_and_key() -> None:
    record, client = bytes(16), bytes(8)
    same = request_id(record_key=record, client=client, idempotency_key=b"k")
    others = {
        request_id(record_key=b"r" * 16, client=client, idempotency_key=b"k"),
        request_id(record_key=record, client=b"c" * 8, idempotency_key=b"k"),
        request_id(record_key=record, client=client, idempotency_key=b"K"),
    }
    assert same == request_id(record_key=record, client=client, idempotency_key=b"k")
    hashed = hashlib.sha256(b"edgistry request\0" + record + client + b"k").digest()
    assert same == hashed[:16]
    assert len({same, *others}) == 4


@pytest.mark.parametrize(
    ("record_key", "client", "key"),
    [(bytes(15), bytes(8), b"k"), (bytes(16), bytes(9), b"k"), (bytes(16), bytes(8), b""),
     (bytes(16), bytes(8), bytes(65))],
)  # fmt: skip
def test_request_id_of_other_lengths_is_refused(
    record_key: bytes, client: bytes, key: bytes
) -> None:
    with pytest.raises(InvalidValueError):
        request_id(record_key=record_key, client=client, idempotency_key=key)
