"""A node's WooFs for tests that block: served from a thread, with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from edgistry.adapters.node_client import NodeClient
from tests.edgistry.woof_world import WoofWorld, woof_world

T = TypeVar("T")

PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WoofNode:
    """What runs in the thread; ``at`` is its address."""

    world: WoofWorld
    loop: asyncio.AbstractEventLoop

    @property
    def at(self) -> str:
        return self.world.at

    @property
    def client(self) -> NodeClient:
        """With all rights; its methods are for ``do``."""
        return self.world.client()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What ``coroutine`` answers, run in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)


@contextlib.contextmanager
def woof_node() -> Iterator[WoofNode]:
    """WooFs in memory with a namespace ``ns``, by the clock of this machine."""
    started = threading.Event()
    found: list[WoofNode] = []
    stops: list[asyncio.Event] = []

    async def main() -> None:
        async with woof_world() as world:
            world.clock.now_us = time.time_ns() // 1000
            stop = asyncio.Event()
            stops.append(stop)
            found.append(WoofNode(world=world, loop=asyncio.get_running_loop()))
            started.set()
            await stop.wait()

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
