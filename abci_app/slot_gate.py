"""When answers about one service leave: at the edges of slots (privacy.md, *Side channels*).

Rules kept here:

* What is answered about one service leaves at the edge of a slot, whatever it is: an answer, a
  refusal, a failure of the node. So its latency tells neither how busy a device is nor who had the
  answer.

Not handled here: where the edges are (``edgistry.slots``); answers to other nodes, which are
clients' answers on their way.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from edgistry.adapters.clock import wall_us
from edgistry.adapters.http import Handler, Request, Response
from edgistry.slots import until_release_us

SLOTTED: Final = frozenset(
    {
        "grant",
        "any_grant",
        "request_submit",
        "request_fetch",
        "request_cancel",
        "request_acknowledge",
    }
)
"""Operations on one service, by their names in ``edgistry.routes``."""


class SlotGate:
    """Lets answers out at the edges of slots of ``slot_us``; 0: at once."""

    def __init__(
        self,
        *,
        slot_us: int,
        jitter_us: int = 0,
        clock_us: Callable[[], int] = wall_us,
        draw: Callable[[int], int] = secrets.randbits,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._slot_us = slot_us
        self._jitter_us = jitter_us
        self._clock_us = clock_us
        self._draw = draw
        self._sleep = sleep

    def around(self, name: str, handler: Handler) -> Handler:
        """``handler``, whose answers wait for an edge if its operation is about one service."""
        if name not in SLOTTED or not (self._slot_us or self._jitter_us):
            return handler

        async def slotted(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception:
                await self.edge()
                raise
            await self.edge()
            return response

        return slotted

    async def edge(self) -> None:
        """Return at the next edge."""
        wait_us = until_release_us(
            self._clock_us(),
            slot_us=self._slot_us,
            jitter_us=self._jitter_us,
            drawn=self._draw(64) if self._jitter_us else 0,
        )
        if wait_us:
            await self._sleep(wait_us / 1_000_000)
