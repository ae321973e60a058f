"""Keeping the node's lease alive: its records are visible only while it lives.

Rules kept here:

* Renewed every third of the lease period: two renewals may fail before anything is hidden.
* One who is no member renews nothing: it is given a lease with its membership.
* At most one renewal waits. While no block is made, renewals do not pile up in the outbox.

Not handled here: what a lease means (``registry``), and outages of the whole chain, which do not
age leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from edgistry.adapters.log import get_logger
from edgistry.errors import UnavailableError
from edgistry.transactions import Kind, NodeLease

from .outbox import Outbox
from .schema import ChainParameters, Head

RENEWALS_PER_LEASE = 3
LEAST_PAUSE_S = 0.1

logger = get_logger("edgistry.node.lease")


class LeaseReader(Protocol):
    """What lease renewal needs of the registry."""

    @property
    def head(self) -> Head: ...
    @property
    def parameters(self) -> ChainParameters: ...
    async def next_commit(self) -> None: ...


class LeaseKeeper:
    """Renews the lease of the node that sends through ``outbox``."""

    def __init__(
        self,
        *,
        reader: LeaseReader,
        outbox: Outbox,
        is_member: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reader = reader
        self._outbox = outbox
        self._is_member = is_member
        self._sleep = sleep

    async def renew(self) -> bool:
        """Whether a renewal was put on its way; not by who is no member, or when one is waiting."""
        if not self._is_member():
            return False
        if self._outbox.has_pending(Kind.NODE_LEASE):
            return False
        try:
            await self._outbox.append([NodeLease()])
        except UnavailableError as error:
            # Whatever fills the outbox renews a lapsed lease as well, once it gets through.
            logger.warning("the lease is not renewed", reason=str(error))
            return False
        return True

    async def run(self) -> None:
        """Renew until cancelled, from the first block on."""
        while self._reader.head.height == 0:
            await self._reader.next_commit()
        while True:
            await self.renew()
            await self._sleep(self.pause_s())

    def pause_s(self) -> float:
        """Seconds between two renewals."""
        lease_s = self._reader.parameters.lease_us / 1_000_000
        return max(LEAST_PAUSE_S, lease_s / RENEWALS_PER_LEASE)
