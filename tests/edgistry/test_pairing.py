"""Offers, answers and codes of pairing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.codec import encode, replace
from edgistry.errors import InvalidValueError, MalformedError, TooLargeError
from edgistry.pairing import (
    ActionOffer,
    Moved,
    PairingAnswer,
    PairingCode,
    PairingOffer,
    PairingRequest,
    ResultOffer,
    ServiceOffer,
    WoofOffer,
    check_device_id,
    code_digest,
    decode_answer,
    decode_moved,
    decode_offer,
    decode_request,
    encode_device_id,
    encode_offer,
    parse_code,
    position_of,
    wake_bucket,
    woofs_of,
)
from edgistry.policy import PrivacyPolicy

DEVICE = encode_device_id(bytes(range(16)))
KEY = b"K" * 32
READ = ActionOffer(name="read", read=True)
OFFER = PairingOffer(
    version=2,
    device=DEVICE,
    epoch=1,
    key=KEY,
    name="hut",
    lat=46.0,
    lon=8.0,
    cell=0,
    moves=0,
    policy=PrivacyPolicy(),
    seed=bytes(32),
    owner=b"",
    period_s=60,
    services=(ServiceOffer(type="thermometer", actions=(READ,)),),
    woofs=(WoofOffer(name="sensors/air", history=100, mirror=True, handler="smooth"),),
    results=(ResultOffer(name="sensors/smooth", history=10),),
)
ANSWER = PairingAnswer(
    version=1,
    device=DEVICE,
    epoch=1,
    node_name="node0",
    node_key=b"N" * 32,
    link_port=27003,
    capability=b"c" * 80,
    now_us=5,
)
CODE = PairingCode(node_key=bytes(range(32)), port=27003, secret=b"s" * 16)


def test_an_offer_comes_back_as_it_was_sent() -> None:
    assert decode_offer(encode_offer(OFFER)) == OFFER


def test_an_answer_and_a_request_come_back_as_they_were_sent() -> None:
    request = PairingRequest(secret=b"s" * 16, offer=OFFER)
    assert decode_answer(encode(ANSWER)) == ANSWER
    assert decode_request(encode(request)) == request


def test_a_code_comes_back_from_its_text_also_with_blanks_around_it() -> None:
    assert parse_code(CODE.text()) == CODE
    assert parse_code(f"  {CODE.text()}\n") == CODE


@pytest.mark.parametrize(
    "text",
    ["", "edgpair1:", CODE.text()[:-1], CODE.text() + "A", CODE.text()[9:], "x" + CODE.text()],
)
def test_what_is_no_code_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(MalformedError) as refused:
        parse_code(text)
    assert CODE.text()[12:60] not in str(refused.value)


def test_a_code_for_port_zero_is_refused() -> None:
    with pytest.raises(MalformedError):
        parse_code(PairingCode(node_key=bytes(32), port=0, secret=bytes(16)).text())


@given(text=st.text(max_size=90))
def test_any_text_is_a_code_or_malformed(text: str) -> None:
    with contextlib.suppress(MalformedError):
        assert parse_code(text).text() == text.strip()


@given(data=st.binary(max_size=300))
def test_any_bytes_are_an_offer_or_malformed(data: bytes) -> None:
    for decoder in (decode_offer, decode_answer, decode_request):
        with contextlib.suppress(MalformedError):
            decoder(data)


@given(place=st.integers(0, len(encode_offer(OFFER)) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gives_another_offer_or_none(place: int, value: int) -> None:
    data = bytearray(encode_offer(OFFER))
    data[place] = value
    with contextlib.suppress(MalformedError):
        assert encode_offer(decode_offer(bytes(data))) == bytes(data)


@given(data=st.binary(max_size=300))
def test_any_bytes_say_where_a_device_is_or_are_refused(data: bytes) -> None:
    try:
        moved = decode_moved(data)
    except (MalformedError, TooLargeError):
        return
    assert encode(moved) == data


@given(
    lat=st.none() | st.floats(-90, 90),
    lon=st.none() | st.floats(-180, 180),
    cell=st.just(0) | st.integers(1, (1 << 63) - 1),
    moves=st.integers(0, (1 << 32) - 1),
)
def test_where_a_device_is_reads_back_and_is_a_position_or_a_cell(
    lat: float | None, lon: float | None, cell: int, moves: int
) -> None:
    moved = Moved(what="edgistry move 1", lat=lat, lon=lon, cell=cell, moves=moves)
    is_place = (lat is not None and lon is not None, cell != 0) == (True, False)
    is_cell = (lat, lon) == (None, None) and cell != 0
    if is_place or is_cell:
        assert decode_moved(encode(moved)) == moved
        assert position_of(moved) == (cell or (lat, lon))
    else:
        with pytest.raises(MalformedError, match="either"):
            decode_moved(encode(moved))


def test_what_an_offer_says_of_the_device_is_in_no_text() -> None:
    shown = f"{OFFER!r} {OFFER}"
    assert "46" not in shown
    assert repr(OFFER.seed) not in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"lat": None},
        {"lat": None, "lon": None},
        {"cell": 0x872830828FFFFFF},
        {"owner": b"short"},
        {"device": "A" * 26},
        {"services": (ServiceOffer(type="Thermo", actions=(READ,)),)},
        {"services": (ServiceOffer(type="a", actions=(replace(READ, name="r/w"),)),)},
        {"services": (ServiceOffer(type="a", actions=(READ, READ)),)},
        {"services": OFFER.services * 2},
        {"services": (ServiceOffer(type="a", actions=(replace(READ, place="node"),)),)},
        {"woofs": (WoofOffer(name="alone", history=1),)},
        {"woofs": (WoofOffer(name="a/b/c", history=1),)},
        {"woofs": (WoofOffer(name="thermometer/read", history=1),)},
        {"woofs": (WoofOffer(name="a/b", history=1, handler="smooth"),)},
        {"woofs": (WoofOffer(name="a/b", history=1, mirror=True, handler="ä" * 17),)},
        {"results": (ResultOffer(name="alone", history=1),)},
        {"results": (ResultOffer(name="sensors/air", history=1),)},
    ],
)
def test_names_that_cannot_be_registered_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        encode_offer(replace(OFFER, **changes))


def test_an_offer_over_its_limit_is_refused() -> None:
    woofs = tuple(WoofOffer(name=f"n/w{i}", history=1, forward="x" * 512) for i in range(200))
    with pytest.raises(TooLargeError):
        encode_offer(replace(OFFER, woofs=woofs))


def test_the_secrets_of_pairing_are_in_no_text() -> None:
    request = PairingRequest(secret=b"s" * 16, offer=OFFER)
    for value in (OFFER, ANSWER, request, CODE):
        shown = f"{value} {value!r}"
        assert "KKKK" not in shown
        assert "cccc" not in shown
        assert "ssss" not in shown


def test_the_digest_of_a_code_depends_on_its_secret() -> None:
    assert code_digest(b"a" * 16) != code_digest(b"b" * 16)


def test_a_device_id_is_made_of_sixteen_bytes_only() -> None:
    assert check_device_id(DEVICE) == DEVICE
    with pytest.raises(InvalidValueError):
        encode_device_id(bytes(15))
    for wrong in ("", DEVICE[:-1], DEVICE.upper(), DEVICE[:-1] + "1"):
        with pytest.raises(MalformedError):
            check_device_id(wrong)


@pytest.mark.parametrize(
    ("period_s", "bucket"), [(0, 0), (60, 0), (61, 1), (900, 1), (3600, 2), (3601, 3), (1e6, 3)]
)
def test_the_wake_bucket_follows_from_the_period(period_s: float, bucket: int) -> None:
    assert wake_bucket(period_s) == bucket


def test_the_woofs_of_a_device_are_those_of_its_actions_and_the_others() -> None:
    assert woofs_of(OFFER) == [("thermometer/read", 64, 0), ("sensors/air", 100, 0)]
