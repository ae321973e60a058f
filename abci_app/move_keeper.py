"""Publishing devices that have moved, when a privacy epoch begins.

Rules kept here:

* At the edge of an epoch only: handles are new then, so that nobody can follow a service from one
  cell to the next (privacy.md, *Fuzzing that survives repetition*), but who looks in the block or
  two that it takes to publish them: those show the old cell under the new handle.
* Which epoch was the last one is stored when its moves are durable: after a crash they are done
  again, which changes nothing. A node that was off when an epoch began makes up for it.
* Nothing is done while the node catches up: those epochs are long over.

Not handled here: who has moved, and where it is published then (``registration``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from edgistry.adapters.log import get_logger
from edgistry.errors import CorruptDatabaseError, UnavailableError
from edgistry.kv import KeyValue

logger = get_logger("edgistry.node.moves")

LOOK_EVERY_S: Final = 5.0
_PLACED_IN: Final = b"d/e"
_NUMBER_BYTES: Final = 4


class EpochReader(Protocol):
    """What the keeper needs of the registry."""

    @property
    def epoch(self) -> int: ...
    async def next_commit(self) -> None: ...


class Mover(Protocol):
    """Who publishes. ``Registrar`` is one."""

    async def place_moved(self) -> int:
        """Publish the devices that have moved where they are now; how many."""


class MoveKeeper:
    """Has the devices in ``store`` that have moved published by ``registrar``.

    ``caught_up`` says whether ``reader`` has all blocks, as far as is known.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        registrar: Mover,
        reader: EpochReader,
        caught_up: Callable[[], bool],
    ) -> None:
        self._store = store
        self._registrar = registrar
        self._reader = reader
        self._caught_up = caught_up

    async def run(self) -> None:
        """Do it at each epoch until cancelled; raises what must stop the node."""
        while True:
            await self.follow()
            # A block may have come meanwhile, and the next one take an hour.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._reader.next_commit()

    async def follow(self) -> None:
        """Do it if an epoch has begun since it was done last."""
        epoch = self._reader.epoch
        if not self._caught_up() or epoch == self._placed_in():
            return
        try:
            count = await self._registrar.place_moved()
        except UnavailableError as error:
            logger.warning("devices that have moved have to wait", reason=error.detail)
            return
        change = (_PLACED_IN, epoch.to_bytes(_NUMBER_BYTES, "big"))
        await asyncio.to_thread(self._store.write, [change], sync=True)
        if count:
            logger.info("devices are published where they have moved to", services=count)

    def _placed_in(self) -> int | None:
        data = self._store.get(_PLACED_IN)
        if data is None:
            return None
        if len(data) != _NUMBER_BYTES:
            raise CorruptDatabaseError("queues.ldb: the epoch of the last moves is damaged")
        return int.from_bytes(data, "big")
