"""Requests that clients sign."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.adapters import sodium
from edgistry.adapters.crypto import public_key_of, signer
from edgistry.codec import decode, encode, replace
from edgistry.errors import ClientSignatureError, MalformedError
from edgistry.signed_request import (
    CLIENT_HEADER,
    MAX_SKEW_US,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    SignedRequest,
    check_signed,
    client_tag,
    read_signed,
    sign_request,
)

SEED = b"c" * 32
PUBLIC = public_key_of(SEED)
NOW = 1_800_000_000_000_000
SIGNED = sign_request(
    "POST", "/v1/grants", b"{}", client=PUBLIC, sign=signer(SEED), time_us=NOW, nonce=b"n" * 16
)


def check(request: SignedRequest, now_us: int = NOW) -> bytes:
    return check_signed(request, now_us=now_us, verify=sodium.verify).id


def test_a_signed_request_comes_back_from_its_headers_with_its_client() -> None:
    request = read_signed("POST", "/v1/grants", b"{}", SIGNED.headers())
    assert request == SIGNED
    assert check(request) == hashlib.sha256(b"edgistry client" + PUBLIC).digest()[:8]
    assert client_tag(PUBLIC)[:8] == check(request)


def test_a_signed_request_can_be_passed_on() -> None:
    assert decode(encode(SIGNED), SignedRequest, limit=1000) == SIGNED


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"path": "/v1/grant"},
        {"body": b"{ }"},
        {"time_us": NOW + 1},
        {"nonce": b"m" * 16},
        {"client": public_key_of(b"d" * 32)},
        {"signature": bytes(64)},
    ],
)
def test_every_part_of_a_request_is_signed(changes: dict[str, object]) -> None:
    with pytest.raises(ClientSignatureError):
        check(replace(SIGNED, **changes))


@pytest.mark.parametrize("skew_us", [MAX_SKEW_US + 1, -MAX_SKEW_US - 1])
def test_a_request_of_another_time_is_refused(skew_us: int) -> None:
    check(SIGNED, NOW + (skew_us - 1 if skew_us > 0 else skew_us + 1))
    with pytest.raises(ClientSignatureError):
        check(SIGNED, NOW + skew_us)


@pytest.mark.parametrize("name", [CLIENT_HEADER, TIME_HEADER, NONCE_HEADER, SIGNATURE_HEADER])
def test_a_request_without_one_of_the_headers_is_not_signed(name: str) -> None:
    headers = {key: value for key, value in SIGNED.headers().items() if key != name}
    with pytest.raises(ClientSignatureError, match=name):
        read_signed("POST", "/v1/grants", b"{}", headers)


@given(name=st.sampled_from(list(SIGNED.headers())), value=st.text(max_size=100))
def test_any_header_is_read_or_malformed(name: str, value: str) -> None:
    with contextlib.suppress(MalformedError):
        read = read_signed("POST", "/v1/grants", b"{}", {**SIGNED.headers(), name: value})
        assert read.headers()[name].lstrip("0") == value.lstrip("0")


def test_a_body_that_is_too_long_is_refused() -> None:
    with pytest.raises(MalformedError):
        read_signed("POST", "/v1/grants", bytes(20_000), SIGNED.headers())
