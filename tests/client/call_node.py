"""A node with one sleeping device for tests that block: served from a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.abci_app.desk_world import CLIENT, SERVICE_KEY, Desks, desks, server_of
from tests.handle_world import handle_for

T = TypeVar("T")

PATIENCE_S = 30.0
HANDLE = handle_for(SERVICE_KEY, client_id=CLIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallNode:
    """What runs in the thread; ``at`` is its address."""

    world: Desks
    loop: asyncio.AbstractEventLoop
    at: str

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What ``coroutine`` answers, run in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    @contextlib.contextmanager
    def device_awake(self) -> Iterator[None]:
        """The device polls for as long as the block runs."""

        async def poll() -> None:
            while True:
                await self.world.device.wake()
                await asyncio.sleep(0.01)

        polling = asyncio.run_coroutine_threadsafe(poll(), self.loop)
        try:
            yield
        finally:
            polling.cancel()


@contextlib.contextmanager
def call_node() -> Iterator[CallNode]:
    """A node whose clock stands at the start of the test, with a device that sleeps."""
    started = threading.Event()
    found: list[CallNode] = []
    stops: list[asyncio.Event] = []

    async def main() -> None:
        async with desks() as world:
            world.now_us = time.time_ns() // 1000
            server = server_of(world.requests, world.exchanges)
            port = await server.listen_tcp("127.0.0.1", 0)
            stop = asyncio.Event()
            stops.append(stop)
            found.append(
                CallNode(
                    world=world, loop=asyncio.get_running_loop(), at=f"http://127.0.0.1:{port}"
                )
            )
            started.set()
            await stop.wait()
            await server.stop(grace_s=0)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        if not started.wait(PATIENCE_S):
            raise RuntimeError("the node did not start")
        yield found[0]
    finally:
        for node, stop in zip(found, stops, strict=True):
            node.loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
