"""A registry in memory under the simulated chain: what blocks do, without their rules' details."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from abci_app.moves import put_over
from abci_app.schema import (
    ChainParameters,
    Head,
    Member,
    SequenceState,
    StoredRegion,
    StoredService,
    stored_service,
)
from edgistry.transactions import (
    NodeId,
    NodeLease,
    RecordKey,
    RegionPut,
    ServicesPut,
    ServicesWithdraw,
    parse_body,
    parse_transaction,
)

from .simulated_chain import SimulatedChain

NODE = NodeId(b"n" * 20)
OTHER = NodeId(b"o" * 20)


class SimulatedRegistry(SimulatedChain):
    """Sink and reader for services: ``commit`` applies what was not told to be refused."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[bytes, StoredService] = {}
        self.named: dict[str, StoredRegion] = {}
        self.lease_renewals = 0
        self.epoch = 0
        self.asked_for_commit = asyncio.Event()
        self.next_block = asyncio.Event()
        self.alive = {NODE, OTHER}
        self.head = Head(height=1, block_time_us=0, app_hash=bytes(32), previous_app_hash=bytes(32))
        self.parameters = ChainParameters(
            chain_id="test",
            lease_us=600_000_000,
            delete_after_us=7 * 86_400_000_000,
            outage_gap_us=60_000_000,
            epoch_us=86_400_000_000,
        )

    def members(self) -> dict[NodeId, Member]:
        return {NODE: Member(public_key=bytes(32), name="n")}

    def service(self, key: bytes) -> StoredService | None:
        return self.records.get(key)

    def keys_of(self, node_id: bytes) -> Iterator[RecordKey]:
        found = (key for key, record in self.records.items() if record.home == node_id)
        return map(RecordKey, sorted(found))

    def region(self, name: str) -> StoredRegion | None:
        return self.named.get(name)

    def regions(self) -> Iterator[tuple[str, StoredRegion]]:
        return iter(sorted(self.named.items()))

    def is_visible(self, node_id: bytes) -> bool:
        return node_id in self.alive

    def sequence(self, node_id: NodeId) -> SequenceState:
        return self.state

    async def next_commit(self) -> None:
        self.asked_for_commit.set()
        await self.next_block.wait()

    def commit(self, count: int | None = None) -> None:
        before = len(self.committed)
        super().commit(count)
        for data in self.committed[before:]:
            transaction = parse_transaction(data)
            if transaction.sequence not in self.refuse:
                self._apply(NodeId(transaction.node_id), parse_body(transaction))
        self.head = Head(
            height=self.head.height + 1,
            block_time_us=self.head.block_time_us + 1_000_000,
            app_hash=bytes(32),
            previous_app_hash=bytes(32),
        )

    def _apply(self, node_id: NodeId, body: object) -> None:
        match body:
            case ServicesPut():
                for record in body.records:
                    old, new = self.records.get(record.key), stored_service(node_id, record)
                    self.records[record.key] = put_over(old, new, epoch=self.epoch)
            case ServicesWithdraw():
                for key in body.keys:
                    self.records.pop(key, None)
            case RegionPut():
                self.named[body.name] = StoredRegion(
                    owner=node_id, version=body.version, cells=body.cells
                )
            case NodeLease():
                self.lease_renewals += 1
