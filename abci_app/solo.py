"""The solo engine: blocks made in process, for a single node without CometBFT.

Rules kept here:

* The same application is driven through the same methods, in the same order, as by the real
  engine: InitChain until the first Commit, CheckTx, PrepareProposal, FinalizeBlock, Commit, and
  CheckTx again of what did not fit.
* A block is made as soon as a transaction waits, and every ``beat_s`` seconds without one, so
  that block time goes on (leases depend on it). Block times strictly ascend.
* Nothing is durable but what is committed. The outbox sends again what a crash took.

Not handled here: agreement; a solo node agrees with itself. The clock is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from edgistry.errors import ChainMismatchError, UnavailableError

from . import abci_pb2 as pb
from .application import RegistryApplication
from .schema import BEAT_S, GenesisState, genesis_bytes

MAX_BLOCK_BYTES = 2_000_000
"""What the genesis of a cluster says, so that both kinds of node work in the same portions."""
MAX_WAITING = 2000
MAX_WAITING_BYTES = 16 << 20
"""The mempool's limits in our configuration of CometBFT."""


class SoloEngine:
    """Makes blocks for ``app``; a ``TransactionSink``. Call ``start``, then keep ``run`` running.

    ``clock_us`` gives microseconds since 1970. ``genesis_time_us`` is the first state's time.
    """

    def __init__(
        self,
        app: RegistryApplication,
        *,
        chain_id: str,
        genesis: GenesisState,
        genesis_time_us: int,
        clock_us: Callable[[], int],
        beat_s: float = BEAT_S,
    ) -> None:
        self._app = app
        self._chain_id = chain_id
        self._genesis = genesis
        self._genesis_time_us = genesis_time_us
        self._clock_us = clock_us
        self._beat_s = beat_s
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        """Begin the chain with its first block, or go on with the one that is there.

        Raises:
            ChainMismatchError: the registry belongs to another chain.
            ConfigError: a genesis that cannot be used.
        """
        if self._app.reader.head.height:
            found = self._app.reader.parameters.chain_id
            if found != self._chain_id:
                raise ChainMismatchError(
                    f"registry.ldb belongs to chain {found!r}, this node to {self._chain_id!r}"
                )
            return
        self._app.init_chain(
            pb.RequestInitChain(
                time=_timestamp(self._genesis_time_us),
                chain_id=self._chain_id,
                app_state_bytes=genesis_bytes(self._genesis),
                initial_height=1,
            )
        )
        await self.make_block()

    async def submit(self, transaction: bytes) -> None:
        """Put ``transaction`` into the next block, if it may come in.

        What CheckTx refuses is dropped, as by an engine: senders watch the state.

        Raises:
            UnavailableError: too much is waiting.
        """
        if (
            len(self._waiting) >= MAX_WAITING
            or self._waiting_bytes + len(transaction) > MAX_WAITING_BYTES
        ):
            raise UnavailableError(f"{len(self._waiting)} transactions are waiting already")
        if self._admit(transaction, pb.NEW):
            self._arrived.set()

    async def run(self) -> NoReturn:
        """Make blocks until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._beat_s):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            await self.make_block()
            # A block may have been made without once waiting; others have work, too.
            await asyncio.sleep(0)

    async def make_block(self) -> None:
        """Make one block of what is waiting, empty if nothing is."""
        self._arrived.clear()
        head = self._app.reader.head
        time = _timestamp(max(self._clock_us(), head.block_time_us + 1))
        height = head.height + 1
        proposal = await self._app.prepare_proposal(
            pb.RequestPrepareProposal(
                max_tx_bytes=MAX_BLOCK_BYTES, txs=self._waiting, height=height, time=time
            )
        )
        transactions = list(proposal.txs)
        await self._app.finalize_block(
            pb.RequestFinalizeBlock(txs=transactions, height=height, time=time)
        )
        self._app.commit(pb.RequestCommit())
        self._recheck(set(transactions))

    def _recheck(self, committed: set[bytes]) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for transaction in waiting:
            if transaction not in committed:
                self._admit(transaction, pb.RECHECK)
        if self._waiting:
            self._arrived.set()

    def _admit(self, transaction: bytes, kind: int) -> bool:
        answer = self._app.check_tx(pb.RequestCheckTx(tx=transaction, type=kind))
        if answer.code:
            return False
        self._waiting.append(transaction)
        self._waiting_bytes += len(transaction)
        return True


def _timestamp(time_us: int) -> pb.Timestamp:
    return pb.Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)
