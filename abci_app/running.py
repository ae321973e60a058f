"""Running until told to stop: the signals, and the coroutines that run meanwhile.

Rules kept here: SIGTERM and Ctrl-C ask to stop; what one of the coroutines raises stops everything,
as itself.

Not handled here: what runs, and in which order it starts and stops.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Self

Tell = Callable[[str], None]
"""Says something to who started the program."""


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class Running:
    """Coroutines that run beside a block; after it they are cancelled and have ended."""

    def __init__(self, *parts: Coroutine[Any, Any, None]) -> None:
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._tasks = {asyncio.create_task(part) for part in self._parts}
        return self

    async def until(self, stop: asyncio.Event) -> None:
        """Wait until ``stop`` is set; raises what a part raises before."""
        stopped = asyncio.create_task(stop.wait())
        try:
            running: set[asyncio.Task[Any]] = {stopped, *self._tasks}
            while not stopped.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    _raise_failure(task)
        finally:
            stopped.cancel()

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def run_together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all until cancelled, or until one raises, as itself; afterwards all have ended.

    Each is cancelled once: what one does then to end in good order is not cancelled too.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _raise_failure(task: asyncio.Task[Any]) -> None:
    error = task.exception()
    # A group of tasks wraps what one of them raised; people want to read that one.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
