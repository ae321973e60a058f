"""Addresses of nodes as they stand in settings: hosts, ports, peers.

Pure. Not handled here: which of them a node listens on, or connects to (``config``).
"""

from __future__ import annotations

import ipaddress
import re

from edgistry.errors import InvalidValueError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PEER = re.compile(r"([0-9a-f]{40})@(\[[0-9a-fA-F:.]+\]|[^@:\[\]]+):([0-9]{1,5})")


def check_port(port: int) -> None:
    """Raises InvalidValueError unless ``port`` can be listened on by number."""
    if not 1 <= port <= 65535:
        raise InvalidValueError(f"a port is a number from 1 to 65535, not {port}")


def check_host(host: str) -> None:
    """Raises InvalidValueError unless ``host`` is an IP address or a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise InvalidValueError(f"{host!r} is neither an IP address nor a host name") from None


def check_peers(peers: tuple[str, ...]) -> None:
    """Raises InvalidValueError unless every peer is ``id@host:port``."""
    for peer in peers:
        match = _PEER.fullmatch(peer)
        if match is None:
            raise InvalidValueError(
                f"{peer!r} is not ID@HOST:PORT with an ID of 40 hexadecimal digits"
            )
        check_host(match[2].strip("[]"))
        check_port(int(match[3]))


def peer_id_of(peer: str) -> str:
    """The peer id in a checked ``id@host:port``."""
    return peer.partition("@")[0]


def peer_host_of(peer: str) -> str:
    """The host in a checked ``id@host:port``, without brackets."""
    return peer.partition("@")[2].rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether ``host`` means this machine and can be reached from nowhere else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_host(host: str) -> str:
    """``host`` as it stands before a colon and a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
