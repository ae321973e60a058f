"""A node's real desks and the agent, over sockets; with somebody in between who records, withholds
and cuts. Time is wound by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from device_agent.link import Answer, HttpLink
from tests.abci_app.desk_world import Desks, desks, server_of

from .agent_world import HandClock, Running
from .test_agent_and_node import CutLink, agent_at, calls, read


@dataclass
class Listener(CutLink):
    """Stands between the device and its node; keeps what the node answers for ``withhold_s``."""

    http: HttpLink = field(default_factory=lambda: HttpLink("http://127.0.0.1:1"))
    knife: Knife = field(default_factory=lambda: Knife(1))
    withhold_s: float = 0.0
    recorded: list[Answer] = field(default_factory=list)
    replay: Answer | None = None
    """Given to the device instead of the node's answer."""
    behind_us: int = 0
    """How far the node's clock is behind the device's."""

    async def post(self, body: bytes, *, wait_s: int, timeout_s: float) -> Answer:
        self.world.now_us = self.clock.wall_us() - self.behind_us
        answer = await self.http.post(body, wait_s=wait_s, timeout_s=timeout_s)
        self.recorded.append(answer)
        self.clock.s += self.withhold_s
        return self.replay or answer

    async def close(self) -> None:
        await self.http.close()


class Knife:
    """Passes connections on to ``port``, and cuts one off where a test says so."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._left: dict[bool, int] = {}
        self.passed = {False: 0, True: 0}
        """Bytes of the last connection: of requests, of answers."""

    def cut(self, after: int, *, is_answer: bool) -> None:
        """Cut the next connection after so many bytes of its requests, or of its answers."""
        self._left = {is_answer: after}

    async def serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection."""
        left, self._left = self._left, {}
        self.passed = {False: 0, True: 0}
        far, forth = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(
            self._pass_on(near, forth, left, False), self._pass_on(far, back, left, True)
        )

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        limits: dict[bool, int],
        is_answer: bool,
    ) -> None:
        left = limits.get(is_answer, 1 << 30)
        with contextlib.suppress(ConnectionError):
            while left and (data := await source.read(65536)):
                sink.write(data[:left])
                self.passed[is_answer] += len(data)
                left = max(left - len(data), 0)
                await sink.drain()
        # Ends both directions: who reads from the other end of the sink's socket stops, too.
        sink.close()


@contextlib.asynccontextmanager
async def connected(
    *handlers: Callable[..., object], off_us: int = 0, **limits: Any
) -> AsyncIterator[tuple[Desks, Listener, Running]]:
    """A node, and a device that polls it over a socket; the device's clock is ``off_us`` ahead."""
    async with desks(**limits) as world:
        server = server_of(world.requests, world.exchanges)
        port = await server.listen_tcp("127.0.0.1", 0)
        knife = Knife(port)
        between = await asyncio.start_server(knife.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{between.sockets[0].getsockname()[1]}"
        clock = HandClock(wall_us=world.now_us + off_us)
        link = Listener(world, clock, http=HttpLink(url), knife=knife, behind_us=off_us)
        try:
            async with agent_at(world, link, handlers=handlers or (read,)) as running:
                calls.clear()
                yield world, link, running
        finally:
            await link.close()
            between.close()
            await between.wait_closed()
            await server.stop(grace_s=0)
