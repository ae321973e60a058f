"""Ed25519 signatures: the registry key of a node.

Rules kept here:

* Keys and signatures are plain bytes outside this module: a seed and a public key are 32 bytes, a
  signature 64.
* Parsing a seed costs as much as a signature, so ``signer`` parses one for a caller that signs
  often.

This is the only module that imports ``cryptography``. Not handled here: verification (``sodium``),
where keys are kept, and which key may sign what.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import InvalidValueError

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


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
