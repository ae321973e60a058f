"""Ed25519 signatures, X25519 sealing, AES-SIV, and certificates made from a node's registry key.

Rules kept here:

* Keys and signatures are plain bytes outside this module: a seed and a public key are 32 bytes, a
  signature 64.
* Parsing a seed costs as much as a signature, so ``signer`` parses one for a caller that signs
  often.
* A seal is anonymous and one-way: a fresh X25519 key, HKDF-SHA256 over the shared secret and both
  public keys, AES-256-GCM. The purpose is part of the key and the context is authenticated, so
  that nothing sealed for one use opens in another.
* What is sealed under a shared key again and again (``siv``) needs no nonce: AES-256-SIV (RFC 5297)
  gives equal outputs for equal inputs, and tells nothing else.
* A certificate vouches for a TLS key in the name of a registry key. What trusts it needs nothing
  but that registry key: ``anchor_certificate`` makes the anchor from the public half alone.

This is the only module that imports ``cryptography``. Not handled here: verification (``sodium``),
where keys are kept, which key may sign what, and TLS itself (``tls``).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from ..errors import InvalidValueError, SealError
from ..transactions import node_id_of

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEAL_OVERHEAD_BYTES = 32 + 16
"""What a seal adds: the fresh public key and the tag."""

# A device may believe in any year before it has heard of the right one, and a certificate here
# stands for a key that does not expire either.
_VALID_FROM = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_VALID_UNTIL = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)

SIV_KEY_BYTES: Final = 64
SIV_OVERHEAD_BYTES: Final = 16
"""What AES-SIV adds: its tag, which comes first."""
BLOCK_BYTES: Final = 16


def generate_signing_key() -> bytes:
    """A new random 32-byte Ed25519 seed from the operating system's generator."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(seed: bytes) -> bytes:
    """The 32-byte public key of a 32-byte seed.

    Raises:
        InvalidValueError: ``seed`` is not 32 bytes.
    """
    return _private_key(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte signature of ``message``; for many messages take ``signer`` once.

    Raises:
        InvalidValueError: ``seed`` is not 32 bytes.
    """
    return _private_key(seed).sign(message)


def signer(seed: bytes) -> Callable[[bytes], bytes]:
    """A function that signs with ``seed``, which is parsed once.

    Raises:
        InvalidValueError: ``seed`` is not 32 bytes.
    """
    return _private_key(seed).sign


def _private_key(seed: bytes) -> Ed25519PrivateKey:
    if len(seed) != SEED_BYTES:
        raise InvalidValueError(f"a signing seed has {SEED_BYTES} bytes, this one {len(seed)}")
    return Ed25519PrivateKey.from_private_bytes(seed)


# --- sealing ------------------------------------------------------------------------------------


def generate_sealing_key() -> bytes:
    """A new random 32-byte X25519 private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def sealing_public_key_of(private: bytes) -> bytes:
    """The 32-byte X25519 public key of a private one.

    Raises:
        InvalidValueError: ``private`` is not 32 bytes.
    """
    return _sealing_key(private).public_key().public_bytes_raw()


def seal(recipient: bytes, secret: bytes, *, purpose: bytes, context: bytes = b"") -> bytes:
    """``secret`` so that only the holder of the key behind ``recipient`` can read it.

    It opens only with the same ``purpose`` and ``context``, which do not travel in it. It tells
    nobody, not even the recipient, who sealed it.

    Raises:
        InvalidValueError: ``recipient`` is no X25519 public key.
    """
    fresh = X25519PrivateKey.generate()
    public = fresh.public_key().public_bytes_raw()
    key = _shared_key(fresh, recipient, public + recipient, purpose)
    # The key is used once, so that one nonce is as good as another.
    return public + AESGCM(key).encrypt(bytes(12), secret, context)


def open_sealed(private: bytes, sealed: bytes, *, purpose: bytes, context: bytes = b"") -> bytes:
    """What was sealed for the holder of ``private``.

    Raises:
        SealError: sealed for another key, purpose or context, or changed on the way.
    """
    own = _sealing_key(private)
    public, data = sealed[:PUBLIC_KEY_BYTES], sealed[PUBLIC_KEY_BYTES:]
    both = public + own.public_key().public_bytes_raw()
    try:
        return AESGCM(_shared_key(own, public, both, purpose)).decrypt(bytes(12), data, context)
    except (InvalidTag, InvalidValueError):
        raise SealError("sealed for somebody or something else, or damaged") from None


def _sealing_key(private: bytes) -> X25519PrivateKey:
    if len(private) != SEED_BYTES:
        raise InvalidValueError(f"a sealing key has {SEED_BYTES} bytes, this one {len(private)}")
    return X25519PrivateKey.from_private_bytes(private)


def _shared_key(own: X25519PrivateKey, other: bytes, both: bytes, purpose: bytes) -> bytes:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:  # of another length, or of small order
        raise InvalidValueError("not an X25519 public key") from None
    info = b"edgistry sealed 1\0" + purpose + b"\0" + both
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared)


# --- under a key that several hold --------------------------------------------------------------


class Siv:
    """AES-256-SIV under one 64-byte key, which is made ready once.

    Raises (when made):
        InvalidValueError: ``key`` is not 64 bytes.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != SIV_KEY_BYTES:
            raise InvalidValueError(f"an AES-256-SIV key has {SIV_KEY_BYTES} bytes")
        self._cipher = AESSIV(key)

    def seal(self, secret: bytes, context: bytes) -> bytes:
        """``secret`` (not empty) sealed: the same for the same context, 16 bytes longer."""
        return self._cipher.encrypt(secret, [context])

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed under this key for ``context``.

        Raises:
            SealError: sealed under another key or context, or changed on the way.
        """
        try:
            return self._cipher.decrypt(sealed, [context])
        except (InvalidTag, ValueError):  # ValueError: too short to hold anything
            raise SealError("sealed under another key or for something else, or damaged") from None


def permute(key: bytes, blocks: bytes) -> bytes:
    """Each 16-byte block of ``blocks`` through AES-256 under ``key`` (32 bytes), in place.

    A permutation of all blocks that looks random without the key. Equal blocks stay equal, so that
    this is no encryption of anything that repeats.

    Raises:
        InvalidValueError: a key of another size, or a part of a block.
    """
    return _through_aes(key, blocks, inverse=False)


def permute_back(key: bytes, blocks: bytes) -> bytes:
    """The inverse of ``permute``; raises as it does."""
    return _through_aes(key, blocks, inverse=True)


def _through_aes(key: bytes, blocks: bytes, *, inverse: bool) -> bytes:
    if len(key) != SEED_BYTES or len(blocks) % BLOCK_BYTES:
        raise InvalidValueError("a permutation takes a 32-byte key and blocks of 16 bytes")
    cipher = Cipher(AES(key), ECB())  # noqa: S305 -- a permutation is what is wanted
    turn = cipher.decryptor() if inverse else cipher.encryptor()
    return turn.update(blocks) + turn.finalize()


# --- certificates -------------------------------------------------------------------------------


def anchor_certificate(public_key: bytes) -> str:
    """A certificate (PEM) that makes TLS trust what the registry key ``public_key`` has signed.

    Raises:
        InvalidValueError: ``public_key`` is no Ed25519 public key.
    """
    try:
        trusted = Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError:
        raise InvalidValueError("not an Ed25519 public key") from None
    # An anchor is trusted because it is in the store: nobody looks at who has signed it.
    signature_key = Ed25519PrivateKey.from_private_bytes(bytes(SEED_BYTES))
    builder = _certificate(_name_of(public_key), _name("edgistry anchor"), is_authority=True)
    certificate = builder.public_key(trusted).sign(signature_key, None)
    return certificate.public_bytes(Encoding.PEM).decode()


def link_certificate(seed: bytes) -> tuple[str, str]:
    """A new TLS key that the registry key of ``seed`` vouches for: certificate and key (PEM).

    Raises:
        InvalidValueError: ``seed`` is not 32 bytes.
    """
    registry_key = _private_key(seed)
    fresh = Ed25519PrivateKey.generate()
    issuer = _name_of(public_key_of(seed))
    builder = _certificate(_name("edgistry link"), issuer, is_authority=False)
    certificate = builder.public_key(fresh.public_key()).sign(registry_key, None)
    key = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), key.decode()


def _certificate(
    subject: x509.Name, issuer: x509.Name, *, is_authority: bool
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1 | 1)
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None),
            critical=True,
        )
    )


def _name_of(public_key: bytes) -> x509.Name:
    return _name(node_id_of(public_key).hex())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
