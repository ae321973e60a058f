"""A chain in memory that misbehaves on command: what the outbox has to survive."""

from __future__ import annotations

import asyncio

from abci_app.schema import MAX_REFUSED, SequenceState
from edgistry.errors import UnavailableError
from edgistry.transactions import MAX_TRANSACTION_BYTES, NodeId, Transaction, parse_transaction

REFUSAL = 14
"""The code this chain refuses with (``NotOwnerError``)."""


class SimulatedChain:
    """Sink and reader in one: strict next sequence at the door, blocks on demand."""

    def __init__(self) -> None:
        self.state = SequenceState(last=0)
        self.mempool: list[bytes] = []
        self.known: set[bytes] = set()
        self.committed: list[bytes] = []
        self.submitted: list[int] = []
        self.refuse: set[int] = set()
        self.away = False
        self.full = False
        self.away_after: int | None = None
        self.greatest_flight = (0, 0)
        self.arrived = asyncio.Event()

    def sequence(self, node_id: NodeId) -> SequenceState:
        return self.state

    async def submit(self, transaction: bytes) -> None:
        if self.away_after is not None:
            if self.away_after == 0:
                self.away = True
            self.away_after = max(0, self.away_after - 1)
        if self.away:
            raise UnavailableError("the engine restarts")
        assert len(transaction) <= MAX_TRANSACTION_BYTES
        self.submitted.append(parse_transaction(transaction).sequence)
        if self.full or transaction in self.known:
            return
        expected = self.state.last + len(self.mempool) + 1
        if self.submitted[-1] == expected:
            self.mempool.append(transaction)
            self.known.add(transaction)
            self.arrived.set()
        flight = (len(self.mempool), sum(map(len, self.mempool)))
        self.greatest_flight = max(self.greatest_flight, flight)

    def commit(self, count: int | None = None) -> None:
        """A block with the first ``count`` waiting transactions (all when ``None``)."""
        taken = self.mempool[:count]
        self.mempool = self.mempool[len(taken) :]
        refused = list(self.state.refused)
        last = self.state.last
        for data in taken:
            last = parse_transaction(data).sequence
            if last in self.refuse:
                refused.append((last, REFUSAL))
            self.committed.append(data)
        self.state = SequenceState(last=last, refused=tuple(refused[-MAX_REFUSED:]))

    def forget_mempool(self) -> None:
        """The engine restarted: what was waiting is gone, and so is its cache."""
        self.mempool.clear()
        self.known.clear()

    def history(self) -> list[Transaction]:
        return [parse_transaction(data) for data in self.committed]
