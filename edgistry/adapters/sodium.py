"""Ed25519 verification by libsodium, for whoever verifies every transaction of a chain.

Rules kept here:

* ``verify`` never raises: a key or signature of the wrong length does not verify.
* Every validator of a chain verifies with this function. Libraries agree about honest signatures,
  but not about every crafted one (keys of small order, say), and validators must agree about all.

This is the only module that imports PyNaCl. It takes half the time of OpenSSL through
``cryptography`` (61 against 121 µs), and verification is what a validator spends most time on.
Not handled here: keys and signing (``crypto``).
"""

from __future__ import annotations

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the owner of ``public_key``'s over ``message``. Never raises."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except CryptoError:
        return False
    return True
