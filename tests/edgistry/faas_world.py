"""A runtime of handlers over real WooFs, for tests; and a clock wound by hand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgistry.adapters.clock import wall_us
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_runtime import HandlerRuntime, HandlerStatus, OnEnd
from edgistry.faas_scope import ScopeOf, everywhere
from edgistry.handlers import Context, HandlerTable, handler
from edgistry.kv import KeyValue, MemoryKeyValue

DEADLINE_S = 30.0
"""For what must happen: two cores are shared."""
START_US = 1_772_366_400_000_000


@dataclass
class Faas:
    woofs: DurableWoofs
    runtime: HandlerRuntime
    running: asyncio.Task[None]

    async def put(self, element: bytes, *, handler: str, woof: str = "a/in") -> int:
        return await self.woofs.put(woof, element, handler=handler)

    async def handle(self, *elements: bytes, handler: str) -> None:
        """Put these, and wait until each is done or dead."""
        for element in elements:
            await self.put(element, handler=handler)
        await self.idle()

    async def idle(self) -> None:
        """Wait until nothing is due; raises what the runtime raised."""
        idle = asyncio.ensure_future(self.runtime.idle())
        await asyncio.wait(
            {idle, self.running}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED
        )
        if self.running.done():
            idle.cancel()
            await self.running
        assert idle.done(), "handlers did not end in time"
        await idle

    def elements(self, woof: str = "a/out") -> list[bytes]:
        return [element for _, element in self.woofs.woofs.scan(woof)]

    def reasons(self) -> list[str]:
        """Of the dead letters, oldest first."""
        return [each.record.reason for each in self.runtime.letters.newest(100)][::-1]

    def status(self, name: str) -> HandlerStatus:
        return next(each for each in self.runtime.status() if each.name == name)


@contextlib.asynccontextmanager
async def faas(
    *handlers: Callable[..., object],
    store: KeyValue | None = None,
    on_end: OnEnd | None = None,
    scope_of: ScopeOf = everywhere,
    clock_us: Callable[[], int] = wall_us,
) -> AsyncIterator[Faas]:
    """Run these handlers over ``store`` (in memory by default), with WooFs ``a/in``, ``a/out``."""
    table = HandlerTable.from_names({str(number): each for number, each in enumerate(handlers)})
    kept = MemoryKeyValue() if store is None else store
    woofs = DurableWoofs(kept)
    runtime = HandlerRuntime(
        kept, woofs, table, on_end=on_end, scope_of=scope_of, clock_us=clock_us
    )
    await woofs.create_namespace("a")
    await woofs.create("a/in", 1000)
    await woofs.create("a/out", 1000)
    running = asyncio.create_task(runtime.run())
    try:
        yield Faas(woofs=woofs, runtime=runtime, running=running)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await woofs.close()


async def until(condition: Callable[[], object]) -> None:
    """Return when ``condition`` holds; fails when it does not in time."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - threads have no events of ours
            await asyncio.sleep(0.005)


class Gate:
    """Holds up handlers, in threads and in loops, until it is opened."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.entered = 0

    def wait(self) -> None:
        self.entered += 1
        if not self._event.wait(DEADLINE_S):
            raise TimeoutError("nobody opened the gate")

    async def wait_async(self) -> None:
        self.entered += 1
        while not self._event.is_set():  # noqa: ASYNC110 - opened by another thread
            await asyncio.sleep(0.002)

    def open(self) -> None:
        self._event.set()


Function = TypeVar("Function", bound=Callable[..., Any])


def quick(*, attempts: int) -> Callable[[Function], Function]:
    """A handler that is tried again almost at once."""
    return handler(attempts=attempts, first_wait_s=0.001, longest_wait_s=0.01)


@handler
async def copy(context: Context, woof: str, seq: int, element: bytes) -> None:
    await context.put("a/out", b"%d:%b" % (seq, element))
