"""Who asks over the public API: the signature of a request, checked.

Rules kept here: the signature covers method, path with query, and body, as they were sent. A
request with some of the headers and not all is refused, not taken for one that is not signed.

Not handled here: what is signed (``edgistry.signed_request``), what a client may ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgistry.adapters import sodium
from edgistry.adapters.http import Request
from edgistry.signed_request import (
    MAX_BODY_BYTES,
    SIGNED_HEADERS,
    Client,
    SignedRequest,
    check_signed,
    read_signed,
)
from edgistry.transactions import Verify


class Signers:
    """Finds out who signed requests; ``clock_us`` is the wall clock."""

    def __init__(
        self,
        *,
        verify: Verify = sodium.verify,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._verify = verify
        self._clock_us = clock_us

    def needed(self, request: Request, *, limit: int = MAX_BODY_BYTES) -> Client:
        """Who signed ``request``, whose body has up to ``limit`` bytes.

        Raises:
            ClientSignatureError: nobody, or not this, or not lately.
            MalformedError: a header is not what it should be, or the body is too long.
        """
        signed = signed_request(request, limit=limit)
        return check_signed(signed, now_us=self._clock_us(), verify=self._verify)

    def found(self, request: Request, *, limit: int = MAX_BODY_BYTES) -> Client | None:
        """Who signed ``request``, ``None`` if it is not signed at all; raises as ``needed``."""
        if not any(name in request.headers for name in SIGNED_HEADERS):
            return None
        return self.needed(request, limit=limit)


def signed_request(request: Request, *, limit: int = MAX_BODY_BYTES) -> SignedRequest:
    """``request`` as what was signed; raises as ``read_signed``."""
    return read_signed(request.method, request.target, request.body, request.headers, limit=limit)
