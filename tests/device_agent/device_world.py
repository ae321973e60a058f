"""A device's inner half over a store in memory, and the requests that are made to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from device_agent.executor import DeviceService, Executor
from device_agent.queues import DeviceQueues
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.authority import Authority
from edgistry.capability import BoundRequest, Capability
from edgistry.envelope import Operation, Reply
from edgistry.handlers import HandlerTable
from edgistry.issuer import Issuer
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.messages import RequestDown, RequestResult

NOW_US = 1_772_366_400_000_000
MINUTE_US = 60_000_000
SECRET = hashlib.sha256(b"the secret of a device").digest()
ISSUER = Issuer.from_secret(SECRET, epoch=1)
ROOT = ISSUER.mint(serial=7)
ME = b"client-1"
HOME = hashlib.sha256(b"a node").digest()[:20]
OTHER_HOME = hashlib.sha256(b"another node").digest()[:20]
DEADLINE_S = 30.0


def request_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


@dataclass
class Requests:
    """What a client binds, one sequence after the other."""

    sequence: int = NOW_US
    bound: dict[bytes, BoundRequest] = field(default_factory=dict)

    def bind(
        self,
        op: Operation = Operation.PUT,
        target: str = "meter/read",
        payload: bytes = b"",
        *,
        handler: str = "",
        deadline: int = NOW_US + 60 * MINUTE_US,
        flags: int = 0,
        capability: Capability = ROOT,
    ) -> BoundRequest:
        self.sequence += 1
        request = capability.bind(
            op,
            target,
            payload,
            handler=handler,
            client=ME,
            sequence=self.sequence,
            deadline=deadline,
            flags=flags,
        )
        self.bound[request.encoded] = request
        return request


def down(request: BoundRequest, number: int) -> RequestDown:
    """``request`` as a node hands it down under id ``number``."""
    return RequestDown(request_id=request_id(number), priority=0, envelope=request.encoded)


@dataclass
class Inside:
    """The inner half of a running device."""

    store: KeyValue
    woofs: DurableWoofs
    authority: Authority
    executor: Executor
    runtime: HandlerRuntime
    running: asyncio.Task[None]

    async def execute(
        self, *requests: RequestDown, home: bytes = HOME, now_us: int = NOW_US
    ) -> None:
        await self.executor.execute(home, requests, now_us=now_us)

    async def settled(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.executor.settled()

    def report(self, home: bytes = HOME) -> dict[int, RequestResult]:
        """By number of the request: what the node would be told now."""
        told = self.executor.report(home, limit=1 << 20)
        return {int.from_bytes(each.request_id, "big"): each for each in told}

    def reply(self, request: BoundRequest, number: int, home: bytes = HOME) -> Reply:
        """The proven reply to ``request`` that the node would be told now."""
        return request.open_reply(self.report(home)[number].reply)

    def elements(self, woof: str = "meter/read") -> list[bytes]:
        return [element for _, element in self.woofs.woofs.scan(woof)]


@contextlib.asynccontextmanager
async def inside(
    *handlers: Callable[..., object],
    store: KeyValue | None = None,
    issuer: Issuer = ISSUER,
    functions: Mapping[tuple[str, str], str] | None = None,
) -> AsyncIterator[Inside]:
    """A device with these handlers and the WooF ``meter/read``."""
    kept = MemoryKeyValue() if store is None else store
    table = HandlerTable.from_names({str(number): each for number, each in enumerate(handlers)})
    woofs = DurableWoofs(kept)
    authority = Authority(kept, issuer)
    service = DeviceService(
        woofs.woofs, authority, require_handler=table.require, functions=functions or {}
    )
    executor = Executor(woofs, service, DeviceQueues(kept))
    executor.set_aside(table)
    runtime = HandlerRuntime(kept, woofs, table, on_end=executor.handler_ended)
    executor.withdraw = runtime.withdraw
    await woofs.create_namespace("meter")
    await woofs.create("meter/read", 100)
    running = asyncio.create_task(runtime.run())
    try:
        yield Inside(kept, woofs, authority, executor, runtime, running)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await executor.clear()
        await woofs.close()
