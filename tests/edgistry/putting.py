"""The program that is killed: writers, and the runtime with handlers that put, on one database.

Elements say who put them: ``round/writer/turn``, with ``!`` behind when a handler is to run. What
was acknowledged is told as ``number element``. A writer begins with the element that its
predecessor, killed, may or may not have put, and uses the same idempotency key.

``copy``, in an event loop, puts its element twice; one of these fires ``pass_on``, which runs in a
thread, puts once more and, on some elements, fails when first tried in each process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.log import setup_logging
from edgistry.handlers import BlockingContext, Context, HandlerTable, handler

from . import isolated_handlers as isolated
from .faas_world import faas, until
from .killing import Told

WRITERS = 8
LOG, SHORT, OUT, MIDDLE, END = "a/log", "a/short", "a/out", "a/middle", "a/end"
SHORT_HISTORY = 3
HANDLER = "copy"
LAST_ROUND = -1
"""Puts nothing new, and ends when no invocation is left."""

_failed: set[int] = set()


@handler(attempts=1000, first_wait_s=0.05, longest_wait_s=1, concurrency=8)
async def copy(context: Context, woof: str, seq: int, element: bytes) -> None:
    await asyncio.gather(context.put(OUT, element), context.put(MIDDLE, element, handler="pass_on"))


@handler(attempts=1000, first_wait_s=0.05, longest_wait_s=1)
def pass_on(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put(END, element)
    if seq % 3 == 0 and seq not in _failed:
        _failed.add(seq)
        raise ValueError("fails first")


def put_until_killed(directory: Path, told: Told, number: int) -> None:
    """Put and handle for ever; round ``LAST_ROUND`` only finishes what is due."""
    asyncio.run(_main(directory, told, number))


def element_of(number: int, writer: int, turn: int) -> bytes:
    """What ``writer`` puts in that turn of that round: every third one fires the handler."""
    return b"%d/%d/%d%s" % (number, writer, turn, b"" if turn % 3 else b"!")


async def _main(directory: Path, told: Told, number: int) -> None:
    setup_logging(level="error", path=None)
    store = LevelKeyValue(directory / "db")
    woofs = DurableWoofs(store)
    await woofs.create_namespace("a")
    await woofs.create(SHORT, SHORT_HISTORY)
    for name in (OUT, MIDDLE, END, LOG):
        await woofs.create(name, 1_000_000)
    runtime = HandlerRuntime(store, woofs, HandlerTable.from_names(globals()))
    running = asyncio.create_task(runtime.run())
    if number != LAST_ROUND:
        writers = (_write(woofs, told, number, writer) for writer in range(WRITERS))
        await asyncio.gather(running, *writers)
    await runtime.idle()
    running.cancel()
    await asyncio.wait([running])
    await woofs.close()
    store.close()


async def _write(woofs: DurableWoofs, told: Told, number: int, writer: int) -> None:
    retries = (woofs.woofs.store.get(b"test/doing/%d" % writer) or b"").splitlines()
    turn = 0
    while True:
        element = retries.pop() if retries else element_of(number, writer, turn)
        # The writer's own note of what it is about to put is durable before it puts.
        await woofs.committer.commit([(b"test/doing/%d" % writer, element)])
        handler = HANDLER if element.endswith(b"!") else None
        at = await woofs.put(LOG, element, handler=handler, idempotency_key=element)
        told(b"%d %s" % (at, element))
        await woofs.put(SHORT, element)
        turn += 1


def isolate_until_killed(_directory: Path, told: Told, _number: int) -> None:
    """Run an isolated handler that never ends; tell the number of its process."""

    async def main() -> None:
        async with faas(isolated.waits) as world:
            await world.put(b"x", handler="waits")
            await until(world.elements)
            told(world.elements()[0])
            await asyncio.Event().wait()

    asyncio.run(main())
