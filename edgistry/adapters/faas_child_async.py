"""The child process of an isolated ``async def`` handler: its context, and its event loop.

Rules kept here: as in ``faas_child.py``, which loads this only where it is needed; an event loop
takes a fifth of the time in which a child starts.

Not handled here: what comes before the first element.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ..faas_frames import TO_CHILD_BYTES, Ask, Begin, Frame, FrameReader, Reply, frame_bytes
from ..faas_outcome import outcome_of
from ..handlers import Handler
from .faas_child_context import Asking, Parent, begin_of, checked, ended_of, flush, raised
from .faas_puts import Put, wait_for_puts

_CHUNK = 256 * 1024


class AsyncParent:
    """The socket to the parent, in an event loop: many questions at a time."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._open: dict[int, asyncio.Future[Reply]] = {}

    def send(self, frame: Frame) -> None:
        """Send one frame soon."""
        self._writer.write(frame_bytes(frame))

    async def ask(self, ask: Ask) -> Reply:
        """What the parent answers."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[ask.id] = future
        self.send(ask)
        await self._writer.drain()
        return checked(await future)

    def answer(self, reply: Reply) -> None:
        """Wake whoever waits for ``reply``."""
        future = self._open.pop(reply.id, None)
        if future is not None and not future.done():
            future.set_result(reply)

    def forget(self) -> None:
        """Nobody waits any more."""
        for future in self._open.values():
            future.cancel()
        self._open.clear()


class AsyncChildContext(Asking):
    """A ``Context`` for an ``async def`` handler."""

    def __init__(self, begin: Begin, parent: AsyncParent) -> None:
        super().__init__(begin, parent.send)
        self._parent = parent
        self._made: list[Put] = []

    async def get(self, woof: str, seq: int) -> bytes:
        """Element ``seq`` of WooF ``woof``."""
        return (await self._parent.ask(self._get(woof, seq))).elements[0][1]

    async def latest(self, woof: str) -> tuple[int, bytes]:
        """The newest element and its number."""
        return (await self._parent.ask(self._latest(woof))).elements[0]

    async def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` elements with their numbers, newest first."""
        return list((await self._parent.ask(self._tail(woof, count))).elements)

    def put(self, woof: str, element: bytes, *, handler: str | None = None) -> Awaitable[int]:
        """Append ``element``; its number, once it is durable."""
        put = Put(self._number_of(self._put(woof, element, handler)))
        self._made.append(put)
        return put

    async def _number_of(self, ask: Ask) -> int:
        return (await self._parent.ask(ask)).number

    async def settle(self) -> None:
        """Wait for puts that the handler did not wait for; raises the refusal of one."""
        await wait_for_puts(self._made)


def run_async(parent: Parent, handler: Handler) -> None:
    """Run an ``async def`` handler until the parent has gone."""
    asyncio.run(_serve(parent, handler))


async def _serve(parent: Parent, handler: Handler) -> None:
    reader, writer = await asyncio.open_connection(sock=parent.connection)
    asking = AsyncParent(writer)
    frames = FrameReader(limit=TO_CHILD_BYTES)
    running: asyncio.Task[None] | None = None
    while data := await reader.read(_CHUNK):
        for frame in frames.feed(data):
            if isinstance(frame, Reply):
                asking.answer(frame)
            else:
                running = asyncio.create_task(_handle(asking, handler, begin_of(frame, handler)))
    if running is not None:
        running.cancel()


async def _handle(asking: AsyncParent, handler: Handler, begin: Begin) -> None:
    context = AsyncChildContext(begin, asking)
    try:
        result = await handler.function(context, begin.woof, begin.number, begin.element)
        await context.settle()
        ended = ended_of(outcome_of(result))
    except BaseException as error:
        ended = raised(error)
    asking.forget()
    flush()
    asking.send(ended)
