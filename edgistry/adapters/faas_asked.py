"""What the child process of an isolated handler asks for while it handles one element.

Rules kept here:

* It is done through the same ``Access`` as for a handler in this program, and checked as there.
* Reading is done at once. Puts are under way together, ``MAX_AT_ONCE`` at most: who asks for more
  waits. Before the try counts as ended all are made.
* What it logs says whose it is, and is bounded.

Not handled here: how questions and answers travel (``faas_spawned.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ..errors import Refused
from ..faas_calls import MAX_PUTS
from ..faas_frames import Ask, Operation, Reply, Say
from .faas_context import Access

MAX_AT_ONCE: Final = 64
"""Puts of one child that are under way."""
MAX_SAID: Final = 100
"""Lines that one try may log."""


class Asked:
    """One try's questions; ``reply`` sends the answer to one. Left, nothing more is done."""

    def __init__(self, access: Access, reply: Callable[[Reply], Awaitable[None]]) -> None:
        self._access = access
        self._reply = reply
        self._said = 0
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Asked:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._access.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def do(self, ask: Ask) -> None:
        """Do what the child asks."""
        if ask.operation is not Operation.PUT:
            await self._answer(self._read(ask))
            return
        await self._slots.acquire()
        task = asyncio.create_task(self._put(ask))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def say(self, say: Say) -> None:
        """Log what the handler says."""
        self._said += 1
        if self._said > MAX_SAID:
            return
        logger = self._access.logger
        # With a prefix, so that none passes for a fact of ours.
        facts = {f"said_{name}": value for name, value in say.facts}
        {
            "debug": logger.debug,
            "info": logger.info,
            "warning": logger.warning,
            "error": logger.error,
        }[say.level](say.event, **facts)

    async def end(self) -> None:
        """All puts are made."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    def _read(self, ask: Ask) -> Reply:
        access = self._access
        try:
            if ask.operation is Operation.GET:
                found = [(ask.number, access.get(ask.woof, ask.number))]
            elif ask.operation is Operation.LATEST:
                found = [access.latest(ask.woof)]
            else:
                found = access.tail(ask.woof, ask.number)
        except Refused as error:
            return Reply(id=ask.id, code=error.code, detail=error.detail)
        return Reply(id=ask.id, elements=tuple(found))

    async def _put(self, ask: Ask) -> None:
        index = min(ask.index, MAX_PUTS - 1)
        try:
            number = await self._access.put(index, ask.woof, ask.element, ask.handler)
        except Refused as error:
            await self._answer(Reply(id=ask.id, code=error.code, detail=error.detail))
        else:
            await self._answer(Reply(id=ask.id, number=number))

    async def _answer(self, reply: Reply) -> None:
        # One frame after the other: a large one is sent in pieces.
        async with self._writing:
            await self._reply(reply)
