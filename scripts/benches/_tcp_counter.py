"""A TCP proxy that counts what goes through it, in both directions: all layers above TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Counter:
    """Bytes that went through, since the last ``reset``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._target = 0
        self.reset()

    def reset(self) -> None:
        self.up = self.down = self.connections = 0

    def lead_to(self, port: int) -> None:
        """From now on connections lead to ``port`` of this machine."""
        self._target = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(
            self._copy(reader, server_writer, up=True), self._copy(server_reader, writer, up=False)
        )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()


@contextlib.asynccontextmanager
async def counter() -> AsyncIterator[Counter]:
    """A counter that listens until the end."""
    found: list[Counter] = []
    server = await asyncio.start_server(
        lambda reader, writer: found[0].serve(reader, writer), "127.0.0.1", 0
    )
    found.append(Counter(server.sockets[0].getsockname()[1]))
    try:
        yield found[0]
    finally:
        server.close()
