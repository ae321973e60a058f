"""Ports that a test can be sure of, also after what listened there has ended and starts again.

A port that the kernel gave away (port 0) is safe while somebody listens on it, and not a moment
longer: it is one of those that any connection of any program may get for its own end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
from collections.abc import Iterator
from typing import Self

from abci_app.config import PEER_LINK_OFFSET, PORTS_PER_NODE

_PORT_RANGE = range(20000, 32000, 100)
"""Below the ports that the kernel hands out by itself."""


class ReservedPorts:
    """Ports that no other test process of this machine takes, until they are released."""

    def __init__(self, base: int, lock: int) -> None:
        self.base = base
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have them."""
        os.close(self._lock)


def reserve_ports(nodes: int = 1) -> ReservedPorts:
    """Free ports for a cluster of ``nodes`` (at most ten)."""
    bases = list(_PORT_RANGE)
    random.SystemRandom().shuffle(bases)
    for base in bases:
        lock = _lock(base)
        if lock is None:
            continue
        if all(_is_free(port) for port in _ports_of(base, nodes)):
            return ReservedPorts(base, lock)
        os.close(lock)
    raise AssertionError("no free ports for a cluster")


def _lock(base: int) -> int | None:
    """The lock of these ports, which ends with us; ``None`` when somebody else has it."""
    lock = -1
    try:
        lock = os.open(f"/tmp/edgistry-test-ports-{base}", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also the file of another user, which we may not open
        if lock >= 0:
            os.close(lock)
        return None
    return lock


def _ports_of(base: int, nodes: int) -> Iterator[int]:
    for number in range(nodes):
        first = base + PORTS_PER_NODE * number
        yield from range(first, first + PEER_LINK_OFFSET + 1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False
