"""Work in a thread that has ended when who waited for it goes on, also when that is cancelled.

``asyncio.to_thread`` leaves its thread alone when it is cancelled. So a store was closed under a
read or a write, upon which LevelDB crashes, and locks were let go too early.

Not handled here: work that touches nothing but its arguments; ``asyncio.to_thread`` will do for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns, or raises. Cancelled, however often, it ends after ``work``."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    interrupted: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is None:
        return running.result()
    if not running.cancelled():
        running.exception()  # nobody is there any more to hear of it
    raise interrupted
