"""WooFs for callers with capabilities: envelopes in, replies out, each durable before it is sent.

Rules kept here:

* Requests that arrive together share syncs: each is handed to the group committer, and nothing is
  held while it writes.
* A caller who goes away does not undo anything: its request ends as it would have.
* Every request gets a reply; when the disk fails, one that says so.

Not handled here: what the operations do (``woof_service.py``), and HTTP.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from ..authority import Authority
from ..envelope import Operation
from ..errors import Refused
from ..woof_service import Duplicate, Execution, WoofService
from .clock import wall_us
from .durable_woofs import DurableWoofs

SWEEP_EVERY_S = 60.0


class WoofServer:
    """Serves ``woofs`` to whoever holds capabilities of ``authority``.

    ``require_handler`` raises ``UnknownHandlerError`` unless there is a handler of that name.
    """

    def __init__(
        self,
        woofs: DurableWoofs,
        authority: Authority,
        *,
        require_handler: Callable[[str], object],
        clock_us: Callable[[], int] = wall_us,
    ) -> None:
        self.authority = authority
        self._woofs = woofs
        self._service = WoofService(woofs.woofs, authority, require_handler=require_handler)
        self._clock_us = clock_us

    async def run(self) -> None:
        """Drop replay windows that are over, now and then, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            sweep = functools.partial(self.authority.guard.sweep, now_us=self._clock_us())
            await asyncio.to_thread(sweep)

    async def answer(self, data: bytes) -> bytes:
        """The reply to the request in ``data``, whatever these bytes are.

        What it raises is a bug; the request was not executed then.
        """
        admitted = self._service.admit(data, now_us=self._clock_us())
        if isinstance(admitted, bytes):
            return admitted
        try:
            if isinstance(admitted, Duplicate):
                # Shielded: cancelling would reach through to the future that others wait for.
                return await asyncio.shield(asyncio.wrap_future(admitted.reply))
            return await self._execute(admitted)
        except Refused as error:
            return admitted.checked.refusal(error)

    async def _execute(self, execution: Execution) -> bytes:
        try:
            execution.read()
            committer = self._woofs.committer
            with committer.lock:
                staging = execution.stage()
                try:
                    future = committer.hand_over(staging)
                except BaseException:
                    staging.take_back()
                    raise
        except BaseException:
            execution.abandon()
            raise
        # Not after the await: whoever waits may be cancelled while the write goes on.
        future.add_done_callback(functools.partial(_end, execution))
        await asyncio.shield(future)
        if execution.checked.envelope.op == Operation.DELETE:
            self._woofs.start_sweeping()
        return execution.reply


def _end(execution: Execution, future: asyncio.Future[None]) -> None:
    if future.cancelled() or future.exception() is not None:
        execution.abandon()
    else:
        execution.done()
