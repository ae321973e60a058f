"""A solo node whose operator's socket is served by a thread, for tests of the command line."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from click.testing import CliRunner, Result

from abci_app.admin_requests import AdminRoute
from abci_app.admin_server import admin_server
from abci_app.cli import program
from abci_app.directory import NodeDirectory
from abci_app.handler_desk import HandlerDesk
from abci_app.initialize import init_node
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.log import close_logging, setup_logging
from edgistry.kv import KeyValue

from .solo_node import SoloNode, open_solo, running

T = TypeVar("T")

LIMIT_S = 30.0


class NodeThread:
    """The node in ``root``, which is made here. ``node`` is its inside, for its own thread only."""

    def __init__(self, root: Path) -> None:
        self.layout: NodeDirectory = init_node(
            root, name="solo", engine="solo", base_port=27000, chain_id="solo-test"
        )
        self.node: SoloNode
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._ready.wait(LIMIT_S)

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Self]:
        """One in a short directory of its own, until the end of the block."""
        # The node's log must not get into what the commands print.
        setup_logging(level="error", path=None)
        with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
            node = cls(Path(directory) / "node")
            yield node
            node.stop()
        close_logging()

    async def furnish(self, parts: AsyncExitStack, queues: KeyValue) -> HandlerDesk | None:
        """Start what else belongs to the node, and stop it with ``parts``."""
        return None

    async def furnish_more(self, parts: AsyncExitStack, queues: KeyValue) -> list[AdminRoute]:
        """As ``furnish``, for what has routes of its own."""
        return []

    async def _run(self) -> None:
        async with AsyncExitStack() as parts:
            registry = LevelKeyValue(self.layout.registry_db)
            parts.callback(registry.close)
            queues = LevelKeyValue(self.layout.queues_db)
            parts.callback(queues.close)
            self.node = await open_solo(registry, queues, real_time=True)
            await parts.enter_async_context(running(self.node))
            server = admin_server(
                self.node.service,
                await self.furnish(parts, queues),
                more=await self.furnish_more(parts, queues),
            )
            parts.push_async_callback(server.stop)
            await server.listen_unix(self.layout.admin_socket)
            self._ready.set()
            await self._stop.wait()

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """What ``question`` answers on the node's own thread."""
        return asyncio.run_coroutine_threadsafe(question, self.loop).result(LIMIT_S)

    def do(self, action: Callable[[], None]) -> None:
        """Run ``action`` on the node's own thread."""

        async def act() -> None:
            action()

        self.ask(act())

    def invoke(self, *words: str) -> Result:
        """Run ``edgistry-node NOUN VERB DIR …``; ``words`` have no DIR."""
        noun, verb, *rest = words
        arguments = [noun, verb, str(self.layout.root), *rest]
        return CliRunner().invoke(program, arguments, catch_exceptions=False)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        self.loop.close()
