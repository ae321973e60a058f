"""Calling something in an event loop, from whichever thread.

Rules kept here: in the loop's own thread nothing is woken, which costs two system calls and a turn.

Not handled here: waiting for what was called.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


def call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Have ``loop`` call ``call`` in its next turn; nothing if it is closed: nobody waits in it."""
    with contextlib.suppress(RuntimeError):
        if _is_running_here(loop):
            loop.call_soon(call, *args)
        else:
            loop.call_soon_threadsafe(call, *args)


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
