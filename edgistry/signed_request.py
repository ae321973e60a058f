"""Requests that clients sign: who asks, over what exactly, and when (privacy.md).

A client is an Ed25519 key. Its tag is SHA-256("edgistry client" | key)[0:16], its id the first
8 bytes of that. The signature covers method, path with query, body, time and a nonce, and travels
in headers.

Rules kept here:

* Pure: time, randomness and the arithmetic of signatures are arguments.
* A request is good for ``MAX_SKEW_US`` around its time. Within that a copy of it means the same:
  what is signed must be safe to repeat.

Not handled here: what a client may ask, and where keys are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from .codec import Meta, Wire, encode
from .errors import ClientSignatureError, MalformedError
from .requests_api import to_bytes, to_text
from .transactions import Bytes16, Bytes32, Bytes64, Sign, Verify

CLIENT_HEADER: Final = "Edgistry-Client"
TIME_HEADER: Final = "Edgistry-Time"
NONCE_HEADER: Final = "Edgistry-Nonce"
SIGNATURE_HEADER: Final = "Edgistry-Signature"
SIGNED_HEADERS: Final = (CLIENT_HEADER, TIME_HEADER, NONCE_HEADER, SIGNATURE_HEADER)
SIGNING_TAG: Final = b"edgistry signed request 1\0"
MAX_SKEW_US: Final = 5 * 60 * 1_000_000
MAX_BODY_BYTES: Final = 16 * 1024
NONCE_BYTES: Final = 16


class SignedRequest(Wire):
    """A request with its signature, as it can be passed on to the node that answers it."""

    method: Annotated[str, Meta(max_length=8)]
    path: Annotated[str, Meta(max_length=256)]
    body: Annotated[bytes, Meta(max_length=MAX_BODY_BYTES)]
    client: Bytes32
    """The client's public key."""
    time_us: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    nonce: Bytes16
    signature: Bytes64

    @property
    def message(self) -> bytes:
        """What the signature covers."""
        return _message(self.method, self.path, self.body, self.time_us, self.nonce)

    def headers(self) -> dict[str, str]:
        """The headers it travels with."""
        return {
            CLIENT_HEADER: to_text(self.client),
            TIME_HEADER: str(self.time_us),
            NONCE_HEADER: to_text(self.nonce),
            SIGNATURE_HEADER: to_text(self.signature),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who signed a request."""

    public_key: bytes

    @property
    def tag(self) -> bytes:
        """16 bytes that name the client to nodes."""
        return client_tag(self.public_key)

    @property
    def id(self) -> bytes:
        """8 bytes that name it to devices."""
        return self.tag[:8]


def client_tag(public_key: bytes) -> bytes:
    """The tag of the client with that Ed25519 key."""
    return hashlib.sha256(b"edgistry client" + public_key).digest()[:16]


def sign_request(
    method: str,
    path: str,
    body: bytes,
    *,
    client: bytes,
    sign: Sign,
    time_us: int,
    nonce: bytes,
) -> SignedRequest:
    """The request, signed by the client with the public key ``client``."""
    return SignedRequest(
        method=method,
        path=path,
        body=body,
        client=client,
        time_us=time_us,
        nonce=nonce,
        signature=sign(_message(method, path, body, time_us, nonce)),
    )


def read_signed(
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    limit: int = MAX_BODY_BYTES,
) -> SignedRequest:
    """The signed request that came with these ``headers``; its signature is still to be checked.

    ``path`` is as it was sent, with its query.

    Raises:
        ClientSignatureError: a header is missing.
        MalformedError: a header is not what it should be, or the body is too long.
    """
    missing = [name for name in SIGNED_HEADERS if name not in headers]
    if missing:
        raise ClientSignatureError(f"this request must be signed; {missing[0]} is missing")
    time = headers[TIME_HEADER]
    if not (time.isascii() and time.isdigit() and len(time) <= 18):
        raise MalformedError(f"{TIME_HEADER} is no number of microseconds")
    if len(body) > limit:
        raise MalformedError(f"a signed body has at most {limit} bytes")
    return SignedRequest(
        method=method,
        path=path,
        body=body,
        client=_field(headers, CLIENT_HEADER, 32),
        time_us=int(time),
        nonce=_field(headers, NONCE_HEADER, NONCE_BYTES),
        signature=_field(headers, SIGNATURE_HEADER, 64),
    )


def check_signed(request: SignedRequest, *, now_us: int, verify: Verify) -> Client:
    """Who signed ``request``.

    Raises:
        ClientSignatureError: the signature does not verify, or it was made too long before or
            after ``now_us``.
    """
    if abs(request.time_us - now_us) > MAX_SKEW_US:
        raise ClientSignatureError("signed too long ago, or ahead: compare the clocks")
    if not verify(request.client, request.message, request.signature):
        raise ClientSignatureError("the signature does not verify")
    return Client(public_key=request.client)


def _field(headers: Mapping[str, str], name: str, length: int) -> bytes:
    data = to_bytes(headers[name], name)
    if len(data) != length:
        raise MalformedError(f"{name} has {len(data)} bytes; it needs {length}")
    return data


def _message(method: str, path: str, body: bytes, time_us: int, nonce: bytes) -> bytes:
    return SIGNING_TAG + encode((method, path, hashlib.sha256(body).digest(), time_us, nonce))
