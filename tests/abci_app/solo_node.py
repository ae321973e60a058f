"""A whole node without processes and ports: real application, real solo engine, real use cases."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from abci_app.admin_api import DeviceRow, RowOutcome
from abci_app.application import RegistryApplication
from abci_app.consensus import ConsensusView
from abci_app.devices import parse_handle
from abci_app.epoch_keys import EpochKeys
from abci_app.schema import GenesisMember, GenesisState
from abci_app.service import NodeService
from abci_app.solo import SoloEngine
from edgistry.adapters.crypto import public_key_of, signer
from edgistry.api import DiscoverAnswer, DiscoverQuery, NearArea
from edgistry.codec import replace
from edgistry.handles import Target
from edgistry.kv import KeyValue
from edgistry.transactions import node_id_of, owner_tag
from tests.handle_world import begin_epoch, client, key_of

SEED = b"s" * 32
NODE_ID = node_id_of(public_key_of(SEED))
CHAIN_ID = "solo-test"
START_US = 1_772_366_400_000_000


class HandClock:
    """Wall clock and steady clock, wound by hand."""

    def __init__(self) -> None:
        self.now_us = START_US

    def wall_us(self) -> int:
        return self.now_us

    def steady_s(self) -> float:
        return self.now_us / 1_000_000

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


@dataclass
class SoloNode:
    service: NodeService
    engine: SoloEngine
    app: RegistryApplication
    clock: HandClock
    view: ConsensusView

    async def block(self) -> None:
        """One block with whatever the outbox may send, and word of it back to the outbox."""
        await self.service.outbox.step()
        self.clock.advance(1.0)
        await self.engine.make_block()
        await self.service.outbox.step()

    async def settle(self) -> None:
        while self.service.outbox.pending:
            await self.block()

    async def near(self, lat: float, lon: float, radius_km: float = 20.0) -> DiscoverAnswer:
        area = NearArea(latitude=lat, longitude=lon, radius_km=radius_km)
        return await self.discover(DiscoverQuery(area=area, limit=1000))

    async def discover(self, query: DiscoverQuery, number: int = 1) -> DiscoverAnswer:
        """What the client of that number is answered."""
        return await self.service.discover(query, client(number))

    def handle(self, record_text: str, number: int = 1) -> str:
        """The handle that a client has for the record that the operator calls so."""
        target = Target(NODE_ID, parse_handle(record_text))
        return self.service.epochs.keys.handles().own(client(number).tag, target).text


async def open_solo(
    registry: KeyValue,
    queues: KeyValue,
    *,
    clock: HandClock | None = None,
    lease_s: int = 600,
    epoch_s: int = 86_400,
    beat_s: float = 10.0,
    real_time: bool = False,
) -> SoloNode:
    """The node over these two databases; nothing runs by itself yet.

    Its clocks are wound by hand, or those of the machine in ``real_time``.
    """
    hand = clock or HandClock()
    wall_us: Callable[[], int] = (lambda: time.time_ns() // 1000) if real_time else hand.wall_us
    steady_s: Callable[[], float] = time.monotonic if real_time else hand.steady_s
    app = RegistryApplication(registry, allowed_peer_ids=lambda peer: False)
    member = GenesisMember(name="solo", public_key=public_key_of(SEED).hex())
    engine = SoloEngine(
        app,
        chain_id=CHAIN_ID,
        genesis=GenesisState(members=(member,), lease_s=lease_s, epoch_s=epoch_s),
        genesis_time_us=START_US,
        clock_us=wall_us,
        beat_s=beat_s,
    )
    await engine.start()
    node: SoloNode
    service = NodeService(
        name="solo",
        engine="solo",
        chain_id=CHAIN_ID,
        node_id=NODE_ID,
        owner=owner_tag(public_key_of(SEED)),
        sign=signer(SEED),
        store=queues,
        reader=app.reader,
        sink=engine,
        view=lambda: node.view,
        clock_us=wall_us,
        steady_s=steady_s,
    )
    view = ConsensusView(peers=0, catching_up=False)
    begin_epoch(service.epochs.keys, 1, since_us=START_US)
    node = SoloNode(service=service, engine=engine, app=app, clock=hand, view=view)
    return node


@contextlib.asynccontextmanager
async def running(*nodes: SoloNode) -> AsyncIterator[None]:
    """Engine, outbox and lease renewal of ``nodes`` run beside the block."""
    tasks = [
        asyncio.create_task(part)
        for node in nodes
        for part in (node.engine.run(), node.service.run())
    ]
    try:
        for node in nodes:
            await _has_own_key(node.service.epochs.keys)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or RuntimeError


async def _has_own_key(keys: EpochKeys) -> None:
    """Return when the node has a key that it has made."""
    while keys.of(keys.number) in (None, key_of(1)):
        await keys.next_change()


def row(number: int, **changes: object) -> DeviceRow:
    """A thermometer; each number is 1.1 km farther north."""
    plain = DeviceRow(
        line=number + 2,
        id=None,
        name=f"hut {number}",
        lat=46.0 + number / 100,
        lon=8.0,
        type="thermometer",
        actions=("read",),
    )
    return replace(plain, **changes)


def kinds(outcomes: tuple[RowOutcome, ...]) -> list[str]:
    return [outcome.outcome for outcome in outcomes]
