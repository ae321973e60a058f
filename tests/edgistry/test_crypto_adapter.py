"""Ed25519 through the adapter, against RFC 8032's own numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters import crypto, sodium
from edgistry.errors import InvalidValueError, SealError

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


# RFC 7748, section 6.1, Bob.
PRIVATE = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
RECIPIENT = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")


def opened(
    sealed: bytes, *, private: bytes = PRIVATE, purpose: bytes = b"grant", context: bytes = b"me"
) -> bytes:
    return crypto.open_sealed(private, sealed, purpose=purpose, context=context)


def sealed_secret() -> bytes:
    return crypto.seal(RECIPIENT, b"the secret", purpose=b"grant", context=b"me")


def test_sealing_keys_are_those_of_the_rfc() -> None:
    assert crypto.sealing_public_key_of(PRIVATE) == RECIPIENT


def test_the_recipient_opens_what_was_sealed_and_it_is_never_the_same_twice() -> None:
    sealed = sealed_secret()
    assert opened(sealed) == b"the secret"
    assert len(sealed) == len(b"the secret") + crypto.SEAL_OVERHEAD_BYTES
    assert sealed != sealed_secret()
    assert b"the secret" not in sealed


def test_what_is_sealed_opens_for_nobody_and_nothing_else() -> None:
    sealed = sealed_secret()
    with pytest.raises(SealError):
        opened(sealed, private=crypto.generate_sealing_key())
    with pytest.raises(SealError):
        opened(sealed, purpose=b"epoch key")
    with pytest.raises(SealError):
        opened(sealed, context=b"you")


@pytest.mark.parametrize("place", range(0, 58 * 8, 29))
def test_a_seal_with_a_flipped_bit_does_not_open(place: int) -> None:
    flipped = bytearray(sealed_secret())
    flipped[place // 8] ^= 1 << place % 8
    # The top bit of an X25519 key is ignored by its rules; here it is authenticated.
    with pytest.raises(SealError):
        opened(bytes(flipped))


@settings(deadline=None, max_examples=50)
@given(sealed=st.binary(max_size=100))
def test_any_bytes_open_or_are_refused(sealed: bytes) -> None:
    with pytest.raises(SealError):
        opened(sealed)


def test_nothing_is_sealed_for_a_key_of_small_order_or_wrong_length() -> None:
    for recipient in (bytes(32), bytes(31)):
        with pytest.raises(InvalidValueError):
            crypto.seal(recipient, b"x", purpose=b"grant")
    with pytest.raises(InvalidValueError):
        crypto.sealing_public_key_of(bytes(31))


def test_an_anchor_is_made_from_public_keys_of_the_right_length_only() -> None:
    assert "BEGIN CERTIFICATE" in crypto.anchor_certificate(PUBLIC)
    with pytest.raises(InvalidValueError):
        crypto.anchor_certificate(PUBLIC[:-1])
