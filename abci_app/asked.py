"""A request as it comes in, from a client or by way of another node.

Not handled here: what it may do (``request_desk``), how it is sent (``http_requests``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from edgistry.requests_api import MAX_FETCH_KEY_BYTES

NO_FETCH_KEY: Final = bytes(32)
"""Nothing hashes to it, as far as anyone knows: the node's own requests are nobody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as a client sends it."""

    service: bytes
    """The record key in its handle."""
    envelope: bytes
    idempotency_key: bytes
    fetch_hash: bytes
    priority: int = 0
    not_before_us: int = 0
    max_age_s: int = 0
    recalled: bool = False
    """It has been taken back on the way: it is to be known, and not to be given to the device."""
    alias: bytes = b""
    """What tells the alias that named the service from others; empty: it was a client's handle."""
    acknowledged: tuple[tuple[bytes, bytes], ...] = ()
    """Ids and fetch keys of requests whose outcome the client has."""


@dataclass(frozen=True, slots=True)
class FetchHash:
    """What another node shows instead of a fetch key: the hash, which came with the request."""

    digest: bytes


def digest_of(fetch_key: bytes | FetchHash) -> bytes:
    """The hash by which a request is seen; ``NO_FETCH_KEY`` for what is no key."""
    if isinstance(fetch_key, FetchHash):
        return fetch_key.digest
    if 0 < len(fetch_key) <= MAX_FETCH_KEY_BYTES:
        return hashlib.sha256(fetch_key).digest()
    return NO_FETCH_KEY
