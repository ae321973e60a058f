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
import logging
from collections.abc import AsyncGenerator, Callable

from ..authority import Authority
from ..envelope import Operation, Status
from ..errors import BusyError, Refused, UnavailableError
from ..replay import Execute
from ..woof_replies import READS
from ..woof_service import CheckChange, Duplicate, Execution, WoofService, change_anything
from .clock import wall_us
from .durable_woofs import DurableWoofs
from .in_thread import in_thread
from .woof_stream import KEEP_ALIVE_S, WoofStreams

logger = logging.getLogger("edgistry.woofs")

SWEEP_EVERY_S = 300.0
"""To look at a thousand windows takes a quarter of a second, of a thread of its own; a grant that
needs one looks at once."""
MAX_STREAMS = 512
"""Half of the connections that a node takes."""


class WoofServer:
    """Serves ``woofs`` to whoever holds capabilities of ``authority``.

    ``require_handler`` raises ``UnknownHandlerError`` unless there is a handler of that name,
    ``check_change`` what the program allows no request.
    """

    def __init__(
        self,
        woofs: DurableWoofs,
        authority: Authority,
        *,
        require_handler: Callable[[str], object],
        check_change: CheckChange = change_anything,
        clock_us: Callable[[], int] = wall_us,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self.authority = authority
        self._woofs = woofs
        self._service = WoofService(
            woofs.woofs, authority, require_handler=require_handler, check_change=check_change
        )
        self._clock_us = clock_us
        self._opening = 0
        """Streams that wait for their beginning to be durable."""
        self._streams = WoofStreams(
            woofs, self._service, clock_us=clock_us, keep_alive_s=keep_alive_s
        )

    @property
    def streams_open(self) -> int:
        """How many streams are being read."""
        return self._streams.open

    async def run(self) -> None:
        """Remove what is left of WooFs deleted before; then, until cancelled, drop replay windows
        that are over, now and then."""
        self._woofs.start_sweeping()
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            sweep = functools.partial(self.authority.guard.sweep, now_us=self._clock_us())
            try:
                await in_thread(sweep)
            except Refused as error:
                # On a full disk, say: requests are refused then, but what is there can be read.
                logger.warning("replay windows are kept: %s", error)

    async def answer(self, data: bytes) -> bytes:
        """The reply to the request in ``data``, whatever these bytes are.

        What it raises is a bug; the request was not executed then.
        """
        admitted = self._service.admit(data, now_us=self._clock_us())
        if isinstance(admitted, bytes):
            return admitted
        if isinstance(admitted, Duplicate):
            return await _reply_of(admitted)
        reads = admitted.checked.envelope.op in READS
        return await self._execute(admitted, self._service.read if reads else None)

    async def open_stream(
        self, data: bytes, *, last_seen: int | None = None
    ) -> bytes | AsyncGenerator[bytes, None]:
        """The events of a WooF from where the scan in ``data`` begins, or behind ``last_seen``.

        A reply instead, when there is none: why, or that the envelope was used before.

        Raises:
            BusyError: as many streams as may be are open.
        """
        if self._streams.open + self._opening >= MAX_STREAMS:
            raise BusyError(f"{MAX_STREAMS} streams are open already")
        admitted = self._service.admit(data, now_us=self._clock_us())
        if isinstance(admitted, bytes):
            return admitted
        if isinstance(admitted, Duplicate):
            return await _reply_of(admitted)
        issuer = self.authority.issuer
        self._opening += 1
        try:
            reply = await self._execute(
                admitted, lambda checked: self._service.begin_stream(checked, last_seen)
            )
        finally:
            self._opening -= 1
        if admitted.status != Status.ACCEPTED:
            return reply
        return self._streams.events(admitted.checked, issuer, reply)

    async def _execute(self, execution: Execution, read: Execute | None) -> bytes:
        """The reply, once what it says is durable. ``read`` is what changes no WooF."""
        try:
            if read is not None:
                execution.read(read)
            committer = self._woofs.committer
            with committer.lock:
                staging = execution.stage()
                try:
                    future = committer.hand_over(staging)
                except BaseException:
                    staging.take_back()
                    raise
        except Refused as error:
            execution.abandon()
            execution.status = error.wire_status
            return execution.checked.refusal(error)
        except BaseException:
            execution.abandon()
            raise
        # Not after the await: whoever waits may be cancelled while the write goes on.
        future.add_done_callback(functools.partial(_end, execution))
        try:
            await asyncio.shield(future)
        except Refused as error:
            execution.status = error.wire_status
            return execution.checked.refusal(error)
        if execution.checked.envelope.op == Operation.DELETE:
            self._woofs.start_sweeping()
        return execution.reply


async def _reply_of(duplicate: Duplicate) -> bytes:
    try:
        # Shielded: cancelling would reach through to the future that others wait for.
        return await asyncio.shield(asyncio.wrap_future(duplicate.reply))
    except UnavailableError as error:
        return duplicate.checked.refusal(error)


def _end(execution: Execution, future: asyncio.Future[None]) -> None:
    if future.cancelled() or future.exception() is not None:
        execution.abandon()
    else:
        execution.done()
