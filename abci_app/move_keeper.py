"""Publishing devices that have moved, shortly before a privacy epoch ends.

Rules kept here:

* Once an epoch, in the last ten minutes of the time that it lasts at least: what the registry gets
  in an epoch it shows in the next one (``moves``). So each epoch tells other nodes one place of a
  device at most, and not when it came there; who watches sees it there under its new handle only.
* What is reported later, or cannot be sent in time, waits for the epoch after. So does what a node
  has missed that was off: in the middle of an epoch nothing moves. An epoch that ends early shows
  no moves, or those that were there by then.
* In which epoch it was done last is stored when its moves are durable: after a crash they are done
  again, which changes nothing.
* Nothing is done while the node catches up: those epochs are long over.

Not handled here: who has moved, and where it is published then (``registration``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.errors import CorruptDatabaseError, UnavailableError
from edgistry.kv import KeyValue

from .schema import ChainParameters, EpochStates, Head
from .told import MoveEpochs

logger = get_logger("edgistry.node.moves")

LOOK_EVERY_S: Final = 5.0
AHEAD_US: Final = 600_000_000
"""How long before the end of an epoch moves are published, enough for 100 000; of a short epoch,
the last quarter."""
_PLACED_IN: Final = b"d/e"
_NUMBER_BYTES: Final = 4


class EpochReader(Protocol):
    """What the keeper needs of the registry."""

    @property
    def head(self) -> Head: ...
    @property
    def parameters(self) -> ChainParameters: ...
    def epochs(self) -> EpochStates: ...
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
        """Do it in each epoch until cancelled; raises what must stop the node."""
        while True:
            await self.follow()
            # A block may have come meanwhile, and the next one take an hour.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._reader.next_commit()

    async def follow(self) -> None:
        """Do it if it is time, and was not done in this epoch."""
        epoch = self._reader.epochs().number
        if not self._caught_up() or not self._is_time() or epoch == self._placed_in():
            return
        try:
            count = await self._registrar.place_moved()
        except UnavailableError as error:
            logger.warning("devices that have moved have to wait", reason=error.detail)
            return
        change = (_PLACED_IN, epoch.to_bytes(_NUMBER_BYTES, "big"))
        await in_thread(self._store.write, [change], sync=True)
        if count:
            logger.info("devices that have moved are published for the next epoch", services=count)

    def epochs(self) -> MoveEpochs:
        """When a move shows that a device tells now."""
        now = self._reader.epochs().number
        return MoveEpochs(current=now, shows=now + 2 if now == self._placed_in() else now + 1)

    def _is_time(self) -> bool:
        """Whether the current epoch, if there is one, ends soon."""
        current = self._reader.epochs().current
        if current is None:
            return False
        lasts_us = self._reader.parameters.epoch_us
        ends_us = current.since_us + lasts_us
        return self._reader.head.block_time_us >= ends_us - min(AHEAD_US, lasts_us // 4)

    def _placed_in(self) -> int | None:
        data = self._store.get(_PLACED_IN)
        if data is None:
            return None
        if len(data) != _NUMBER_BYTES:
            raise CorruptDatabaseError("queues.ldb: the epoch of the last moves is damaged")
        return int.from_bytes(data, "big")
