"""Where a WooF or a namespace is, as people write it: ``woof://HOST:PORT/namespace/woof``.

Rules kept here:

* ``woof://`` means HTTP on the port of nodes unless another is given; ``http://`` and ``https://``
  work too, for a node behind a proxy, with any path before the name.
* No user, password, query or fragment: what grants access is a capability, never an address.

Pure. Not handled here: reaching it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from .errors import InvalidValueError, MalformedError
from .woof import check_namespace, split_name

NODE_PORT: Final = 27000
"""Of a node's HTTP API, unless its operator chose another."""

_WOOF_FORM: Final = "write woof://HOST:PORT/namespace/woof"
_NAMESPACE_FORM: Final = "write woof://HOST:PORT/namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class WoofPlace:
    """A WooF, or a namespace, at a node."""

    node: str
    """The node's address, ``http://host:port``."""
    name: str
    """``namespace/woof``, or ``namespace``."""


def parse_woof_uri(text: str) -> WoofPlace:
    """The WooF that ``text`` names.

    Raises:
        MalformedError: it is no such URI.
        InvalidValueError: what it names can be no WooF.
    """
    place = _parse(text, components=2, form=_WOOF_FORM)
    try:
        split_name(place.name)
    except InvalidValueError as error:
        raise InvalidValueError(f"{text[:100]!r}: {error}; {_WOOF_FORM}") from None
    return place


def parse_namespace_uri(text: str) -> WoofPlace:
    """The namespace that ``text`` names.

    Raises:
        MalformedError: it is no such URI.
        InvalidValueError: what it names can be no namespace.
    """
    place = _parse(text, components=1, form=_NAMESPACE_FORM)
    try:
        check_namespace(place.name)
    except InvalidValueError as error:
        raise InvalidValueError(f"{text[:100]!r}: {error}; {_NAMESPACE_FORM}") from None
    return place


def _parse(text: str, *, components: int, form: str) -> WoofPlace:
    """The node, and the last ``components`` of the path."""
    shown = text[:100]
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise MalformedError(f"{shown!r} is no address; {form}") from None
    if parts.scheme not in ("woof", "http", "https") or not host or port == 0:
        raise MalformedError(f"{shown!r} is no address of that kind; {form}")
    if parts.username is not None or parts.query or parts.fragment or not text.isascii():
        # Not quoted: a password may be in it.
        raise MalformedError(f"an address has no user, query or fragment; {form}")
    path = parts.path.split("/")
    before, names = path[:-components], path[-components:]
    # An absolute path begins with an empty component, which belongs to the address.
    if not before or (len(before) > 1 and parts.scheme == "woof"):
        raise MalformedError(f"{shown!r} names something else; {form}")
    bracketed = f"[{host}]" if ":" in host else host
    name = "/".join(names)
    if parts.scheme == "woof":
        return WoofPlace(node=f"http://{bracketed}:{port or NODE_PORT}", name=name)
    at = bracketed if port is None else f"{bracketed}:{port}"
    return WoofPlace(node=f"{parts.scheme}://{at}{'/'.join(before)}", name=name)
