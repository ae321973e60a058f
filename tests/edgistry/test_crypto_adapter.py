"""Ed25519 through the adapter, against RFC 8032's own numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters import crypto, sodium
from edgistry.errors import InvalidValueError

# RFC 8032, section 7.1, TEST 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
MESSAGE = b"\x72"


def test_keys_and_signatures_are_those_of_the_rfc() -> None:
    assert crypto.public_key_of(SEED) == PUBLIC
    assert crypto.sign(SEED, MESSAGE) == SIGNATURE
    assert crypto.signer(SEED)(MESSAGE) == SIGNATURE
    assert sodium.verify(PUBLIC, MESSAGE, SIGNATURE)


def test_a_generated_key_signs_what_it_can_verify_and_is_new_each_time() -> None:
    seed = crypto.generate_signing_key()
    assert len(seed) == crypto.SEED_BYTES
    assert sodium.verify(crypto.public_key_of(seed), b"hello", crypto.sign(seed, b"hello"))
    assert seed != crypto.generate_signing_key()


@pytest.mark.parametrize("place", range(0, 512, 37))
def test_a_flipped_bit_of_a_signature_does_not_verify(place: int) -> None:
    flipped = bytearray(SIGNATURE)
    flipped[place // 8] ^= 1 << place % 8
    assert not sodium.verify(PUBLIC, MESSAGE, bytes(flipped))


def test_another_message_or_key_does_not_verify() -> None:
    assert not sodium.verify(PUBLIC, MESSAGE + b"\0", SIGNATURE)
    assert not sodium.verify(crypto.public_key_of(bytes(32)), MESSAGE, SIGNATURE)


@settings(deadline=None, max_examples=100)
@given(public_key=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verification_never_raises(public_key: bytes, signature: bytes) -> None:
    # Not "is False": some keys of small order accept a signature of anything.
    assert isinstance(sodium.verify(public_key, b"message", signature), bool)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed: bytes) -> None:
    for use in (crypto.public_key_of, crypto.signer):
        with pytest.raises(InvalidValueError):
            use(seed)
