"""Where a WooF is, as people write it: ``woof://HOST:PORT/namespace/woof``.

Rules kept here:

* ``woof://`` means HTTP on the port of nodes unless another is given; ``http://`` and ``https://``
  work too, for a node behind a proxy, with any path before the WooF's name.
* No user, password, query or fragment: what grants access is a capability, never an address.

Pure. Not handled here: reaching it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from .errors import InvalidValueError, MalformedError
from .woof import split_name

NODE_PORT: Final = 27000
"""Of a node's HTTP API, unless its operator chose another."""

_EXAMPLE: Final = "write woof://HOST:PORT/namespace/woof"


@dataclass(frozen=True, slots=True, kw_only=True)
class WoofPlace:
    """A WooF at a node."""

    node: str
    """The node's address, ``http://host:port``."""
    name: str
    """``namespace/woof``."""


def parse_woof_uri(text: str) -> WoofPlace:
    """The place that ``text`` names.

    Raises:
        MalformedError: it is no such URI.
        InvalidValueError: what it names can be no WooF.
    """
    shown = text[:100]
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise MalformedError(f"{shown!r} is no address; {_EXAMPLE}") from None
    if parts.scheme not in ("woof", "http", "https") or not host or port == 0:
        raise MalformedError(f"{shown!r} is no WooF's address; {_EXAMPLE}")
    if parts.username is not None or parts.query or parts.fragment or not text.isascii():
        raise MalformedError(f"{shown!r}: an address has no user, query or fragment; {_EXAMPLE}")
    before, slash, woof = parts.path.rpartition("/")
    before, _, namespace = before.rpartition("/")
    name = f"{namespace}/{woof}"
    if not slash or (before and parts.scheme == "woof"):
        raise MalformedError(f"{shown!r} names no WooF; {_EXAMPLE}")
    try:
        split_name(name)
    except InvalidValueError as error:
        raise InvalidValueError(f"{shown!r}: {error}; {_EXAMPLE}") from None
    bracketed = f"[{host}]" if ":" in host else host
    if parts.scheme == "woof":
        return WoofPlace(node=f"http://{bracketed}:{port or NODE_PORT}", name=name)
    at = bracketed if port is None else f"{bracketed}:{port}"
    return WoofPlace(node=f"{parts.scheme}://{at}{before}", name=name)
