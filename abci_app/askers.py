"""Who asks: what a request says of its client, and what stands for where it came from.

Not handled here: whether a client is who it says (``http_signed``).
"""

from __future__ import annotations

import ipaddress
from typing import Final

from edgistry.adapters.http import Request
from edgistry.errors import MalformedError
from edgistry.requests_api import to_bytes
from edgistry.signed_request import CLIENT_HEADER, client_tag

SIGNED: Final = frozenset(
    {"discover", "discover_by_body", "watch", "watch_by_body", "grant", "any_grant"}
)
"""Operations that answer nobody who names a client without having signed for it."""
_KEY_BYTES: Final = 32


def claimed_tag(name: str, request: Request) -> bytes | None:
    """The tag of the client that ``request`` for the operation ``name`` says it is from.

    ``None``: nobody has signed it, or nobody looks whether somebody has: what is then said of a
    client is anybody's word.
    """
    text = request.headers.get(CLIENT_HEADER)
    # Some operations answer HEAD before they look at a signature.
    if text is None or name not in SIGNED or request.method == "HEAD":
        return None
    try:
        key = to_bytes(text, CLIENT_HEADER)
    except MalformedError:
        return None
    return client_tag(key) if len(key) == _KEY_BYTES else None


def address_of(request: Request) -> bytes:
    """What stands for where ``request`` came from; of IPv6 addresses, the network."""
    address = request.address or "local"
    if ":" in address:
        try:
            found = ipaddress.IPv6Address(address.partition("%")[0])
        except ValueError:
            return address.encode()
        if found.ipv4_mapped is not None:  # what a socket for both kinds says of the older one
            return str(found.ipv4_mapped).encode()
        # Whoever has one address of a /64 has all of them.
        return b"6" + found.packed[:8]
    return address.encode()
