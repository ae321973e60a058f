"""TLS with pinned keys: between nodes, and from a device that pairs to its node.

Rules kept here:

* TLS 1.3 only. Who is at the other end is decided by registry keys alone: no authorities, no host
  names, no dates. A certificate is trusted if, and only if, one of the given registry keys has
  signed it.
* A node makes a new TLS key each time it starts. It is never on a disk.
* Sessions are not resumed: each connection proves its keys.

This is the only module that imports ``ssl``. It loads ``crypto`` when it makes a context: whoever
speaks HTTP loads this module, and few of them speak TLS. Not handled here: certificates
(``crypto``), which keys to trust, what is said over the connection.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from ..transactions import NodeId

TLSContext = ssl.SSLContext


def server_context(seed: bytes, *, members: Iterable[bytes] = ()) -> TLSContext:
    """For the node with registry key ``seed``; a caller may prove to be one of ``members``.

    ``members`` are registry keys (public). A caller without a certificate is let in, as nobody;
    one with a certificate that no member has signed is not.

    Raises:
        InvalidValueError: a key of the wrong length.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _only_current_tls(context)
    context.num_tickets = 0
    _show(context, seed)
    members = tuple(members)
    if members:
        _trust(context, members)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def follow(context: TLSContext, current: Callable[[], TLSContext]) -> None:
    """Have each new connection to the server of ``context`` judged as ``current()`` says then.

    Both are of one node, and know members; connections that are open stay so.
    """

    def choose(connection: ssl.SSLObject, _name: str | None, _context: TLSContext) -> None:
        connection.context = current()

    # Called for each hello, whether it names a server or not.
    context.sni_callback = choose


def client_context(node_key: bytes, *, seed: bytes | None = None) -> TLSContext:
    """For a caller of the node with the registry key ``node_key`` (public), and of no other.

    With ``seed`` the caller proves to be the node with that registry key.

    Raises:
        InvalidValueError: a key of the wrong length.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _only_current_tls(context)
    context.check_hostname = False
    _trust(context, [node_key])
    context.verify_mode = ssl.CERT_REQUIRED
    if seed is not None:
        _show(context, seed)
    return context


def peer_node(transport: asyncio.BaseTransport) -> NodeId | None:
    """The node at the other end of ``transport``, if it has proved to be one."""
    certificate: dict[str, Any] | None = transport.get_extra_info("peercert")
    # Empty without a certificate; one that is there was verified.
    for attribute in (certificate or {}).get("issuer", ()):
        for name, value in attribute:
            if name == "commonName":
                return NodeId(bytes.fromhex(value))
    return None


def _only_current_tls(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3


def _trust(context: ssl.SSLContext, keys: Iterable[bytes]) -> None:
    from .crypto import anchor_certificate

    context.load_verify_locations(cadata="".join(map(anchor_certificate, keys)))
    # An anchor need not be signed by itself: only its key counts.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _show(context: ssl.SSLContext, seed: bytes) -> None:
    from .crypto import link_certificate

    certificate, key = link_certificate(seed)
    # The library loads keys from files only; this one is in memory and has no name.
    handle = os.memfd_create("edgistry-link", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write((certificate + key).encode())
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
