"""Standing in for devices' primary nodes: hears what they say, and has them listed or withdrawn.

Rules kept here:

* That the node stands in is stored before anything is listed, and that it does no longer before
  anything is withdrawn: what is listed too much after a crash is withdrawn at the next start.
* Set-up goes as for a primary node: the WooFs are asked for, and services listed when they are
  there.
* What was said is in memory. After a restart a node that stands in goes on, and hears anew.
* What cannot be stored is tried again: a disk that is full does not stop the node.

Not handled here: when to (``stand_in``), how (``device_setup``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from edgistry.adapters.clock import wall_us
from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.codec import replace
from edgistry.errors import StorageError, UnavailableError
from edgistry.kv import KeyValue
from edgistry.messages import ExchangeUp

from .pairing import Paired, PairingTable
from .stand_in import Standing, begins, ends, heard, is_silent

logger = get_logger("edgistry.node.standin")

LOOK_EVERY_S: Final = 2.0


class Followers(Protocol):
    """Who lists and withdraws. ``DeviceSetup`` is one."""

    def admitted(self, device: str) -> None:
        """The device is to be set up."""

    async def changed(self, known: Paired, paired: Paired) -> None:
        """The device, which was ``known``, is to be found as ``paired`` says."""


class StandInKeeper:
    """Stands in for devices paired in ``store``; whoever writes pairings holds ``writing``."""

    def __init__(
        self,
        store: KeyValue,
        *,
        followers: Followers,
        writing: asyncio.Lock,
        clock_us: Callable[[], int] = wall_us,
    ) -> None:
        self._store = store
        self._table = PairingTable(store)
        self._followers = followers
        self._writing = writing
        self._clock_us = clock_us
        self._standings: dict[str, Standing] = {}
        self._refusal = ""
        """Why something could not be stored the last time; "" if all could."""

    def heard(self, paired: Paired, up: ExchangeUp) -> None:
        """The device has made an exchange with this node."""
        if paired.offer.role == "primary":
            return
        self._standings[paired.device] = heard(
            self._standings.get(paired.device, Standing()),
            is_home_away=up.is_home_away,
            period_s=paired.period_s,
            now_us=self._clock_us(),
        )

    async def run(self) -> None:
        """Stand in for whom it is due until cancelled; raises what must stop the node."""
        await self.load()
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Begin and end standing in wherever that is due."""
        refusal = ""
        for device in sorted(self._standings):
            try:
                await self.step(device)
            except (StorageError, UnavailableError) as error:
                refusal = error.detail
            # When a large primary node is away there are thousands: requests go on meanwhile.
            await asyncio.sleep(0)
        if refusal and not self._refusal:
            logger.warning("standing in for other nodes has to wait", reason=refusal)
        self._refusal = refusal

    async def load(self) -> None:
        """Go on for those that the node stood in for."""
        now_us = self._clock_us()
        for device in await in_thread(self._stood_in_for):
            self._standings.setdefault(device, Standing(away_us=now_us))

    def _stood_in_for(self) -> list[str]:
        return [paired.device for paired in self._table.scan() if paired.stored.stands_in]

    async def step(self, device: str) -> None:
        """Begin or end standing in for ``device``, if that is due.

        Raises:
            StorageError, UnavailableError: it is due, and cannot be stored.
        """
        standing, paired = self._standings[device], self._table.by_device(device)
        if paired is None or paired.offer.role == "primary":
            del self._standings[device]
            return
        now_us, period_s = self._clock_us(), paired.period_s
        if paired.stored.stands_in:
            if ends(standing, period_s=period_s, now_us=now_us):
                await self._end(paired)
        elif begins(standing):
            await self._begin(paired)
        elif is_silent(standing, period_s=period_s, now_us=now_us):
            del self._standings[device]

    async def _begin(self, paired: Paired) -> None:
        if await self._store_changes(paired, stands_in=True, stage="new", requests=()):
            logger.info("this node stands in for the primary one of a device")
            self._followers.admitted(paired.device)

    async def _end(self, paired: Paired) -> None:
        changed = await self._store_changes(paired, stands_in=False, stage="ready", requests=())
        if changed is not None:
            logger.info("this node stands in for the primary one of a device no longer")
            self._standings.pop(paired.device, None)
            await self._followers.changed(paired, changed)

    async def _store_changes(self, paired: Paired, **changes: object) -> Paired | None:
        """The pairing with ``changes``, durably; ``None`` if it was another one meanwhile."""
        async with self._writing:
            latest = self._table.by_device(paired.device)
            if latest is None or latest.stored != paired.stored:
                return None
            stored = replace(paired.stored, **changes)
            await in_thread(self._store.write, self._table.put(stored), sync=True)
        return self._table.by_device(paired.device)
