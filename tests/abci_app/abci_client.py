"""A bare ABCI client for tests: frames out, responses in, nothing checked on the way."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from abci_app import abci_pb2 as pb
from abci_app.abci_framing import FrameDecoder, encode_frame
from abci_app.abci_server import ABCIServer, BaseApplication

PATIENCE_S = 20.0
"""How long a test waits for what must come."""


def request_frame(name: str, **fields: Any) -> bytes:
    """A request as the engine sends it."""
    kind = getattr(pb, pb.Request.DESCRIPTOR.fields_by_name[name].message_type.name)
    return encode_frame(pb.Request(**{name: kind(**fields)}).SerializeToString())


class Client:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._frames = FrameDecoder()

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def receive(self) -> Any:
        """The next response; ``None`` when the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            while (message := self._frames.next_message()) is None:
                data = await self._reader.read(1 << 20)
                if not data:
                    assert self._frames.pending == 0
                    return None
                self._frames.feed(data)
        return pb.Response.FromString(message)

    async def call(self, name: str, **fields: Any) -> Any:
        """Send one request and return its response's content, which must be of that name."""
        await self.send(request_frame(name, **fields))
        response = await self.receive()
        assert response is not None
        assert response.WhichOneof("value") == name
        return getattr(response, name)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Served:
    """A server under test, its socket, and what it reported."""

    def __init__(self, app: BaseApplication, path: Path, **options: Any) -> None:
        self.path = path
        self.fatal: list[BaseException] = []
        self.server = ABCIServer(app, path=path, on_fatal=self.fatal.append, **options)
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
        await self.server.stop()


@asynccontextmanager
async def serving(app: BaseApplication, **options: Any) -> AsyncIterator[Served]:
    """A started server on a fresh socket."""
    folder = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
    served = Served(app, folder / "run" / "abci.sock", **options)
    try:
        await served.server.start()
        yield served
    finally:
        await served.close()
        shutil.rmtree(folder)


def names(responses: Sequence[Any]) -> list[str]:
    """Which oneof each response has set."""
    return [response.WhichOneof("value") for response in responses]


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (what we wait for has no event)
            await asyncio.sleep(0.005)
