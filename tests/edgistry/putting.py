"""The program that is killed: writers, and handlers that put, on one database.

Elements say who put them: ``round/writer/turn``, with ``!`` behind when a handler is to run. What
was acknowledged is told as ``number element``. A writer begins with the element that its
predecessor, killed, may or may not have put, and uses the same idempotency key.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.woof_triggers import Trigger

from .killing import Told

WRITERS = 8
HANDLERS = 32
LOG, SHORT, OUT = "a/log", "a/short", "a/out"
SHORT_HISTORY = 3
HANDLER = "copy"
LAST_ROUND = -1
"""Puts nothing new, and ends when no trigger is left."""


def put_until_killed(directory: Path, told: Told, number: int) -> None:
    """Put and handle for ever; round ``LAST_ROUND`` only finishes what is due."""
    asyncio.run(_main(directory, told, number))


def element_of(number: int, writer: int, turn: int) -> bytes:
    """What ``writer`` puts in that turn of that round: every third one fires the handler."""
    return b"%d/%d/%d%s" % (number, writer, turn, b"" if turn % 3 else b"!")


async def _main(directory: Path, told: Told, number: int) -> None:
    store = LevelKeyValue(directory / "db")
    woofs = DurableWoofs(store)
    await woofs.create_namespace("a")
    await woofs.create(LOG, 1_000_000)
    await woofs.create(SHORT, SHORT_HISTORY)
    await woofs.create(OUT, 1_000_000)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_handle(woofs, ends=number == LAST_ROUND))
        if number != LAST_ROUND:
            for writer in range(WRITERS):
                tasks.create_task(_write(woofs, told, number, writer))
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


async def _handle(woofs: DurableWoofs, *, ends: bool) -> None:
    """What a runtime does, as simply as can be: some triggers at a time, each put in its name."""
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[Trigger] = asyncio.Queue()

    def hear(triggers: list[Trigger]) -> None:
        for trigger in triggers:
            loop.call_soon_threadsafe(due.put_nowait, trigger)

    waiting = list(woofs.woofs.triggers(HANDLER))
    woofs.on_triggers = hear
    for trigger in waiting:
        due.put_nowait(trigger)

    async def work() -> None:
        while not (ends and due.empty()):
            trigger = await due.get()
            await woofs.put(OUT, trigger.element, idempotency_key=b"0", by=trigger)
            await _finish(woofs, trigger)

    await asyncio.gather(*(work() for _ in range(HANDLERS)))


async def _finish(woofs: DurableWoofs, trigger: Trigger) -> None:
    await woofs.commit(lambda staging: staging.finish(trigger))
