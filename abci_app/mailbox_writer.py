"""The mailbox of a running node: decisions made durable, and those told who wait for them.

Rules kept here:

* Decisions go through the node's group committer: those made at one time share one sync, and none
  of them waits for another's.
* Whoever waits for a request or for work is told when it is durable, never before.
* When a write fails, memory is what the store says again, before anything else is decided.

Not handled here: what is decided (``mailbox.py``), and on whose behalf.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, TypeVar

from edgistry.adapters.clock import wall_us
from edgistry.adapters.group_commit import GroupCommitter
from edgistry.adapters.log import get_logger
from edgistry.adapters.loops import call_in
from edgistry.errors import StorageError, UnavailableError
from edgistry.kv import KeyValue
from edgistry.replay import Ticket

from .mailbox import Mailbox
from .mailbox_boxes import Boxes, Decision
from .mailbox_exchange import Exchange
from .mailbox_records import MailboxLimits

logger = get_logger("edgistry.node.mailbox")

T = TypeVar("T")

SWEEP_EVERY_S: Final = 0.5
"""How late an end by time may be noticed. What has expired is not handed down in any case."""

Key = bytes | str
"""A request's id, or a device's."""

Served = Callable[[asyncio.Future[None]], None]
"""To be told of the write that a decision has become."""


class WaitingRoom(Protocol):
    """Where devices wait for work. ``ExchangeDesk`` is one."""

    def serve(self, decision: Decision, device: str) -> list[Served]:
        """Let ``decision`` hand to the device, if it waits, what it has for it: one write less."""


class MailboxWriter:
    """The mailbox in ``store``, written by ``committer``. Made and used in one event loop."""

    def __init__(
        self,
        store: KeyValue,
        committer: GroupCommitter,
        *,
        limits: MailboxLimits | None = None,
        clock_us: Callable[[], int] = wall_us,
    ) -> None:
        self.store = store
        self.clock_us = clock_us
        self.boxes = Boxes(store)
        self.mailbox = Mailbox(self.boxes, limits or MailboxLimits())
        self.exchange = Exchange(self.mailbox)
        self.lock = committer.lock
        """Held while something is decided."""
        self.waiting_room: WaitingRoom | None = None
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Key, set[asyncio.Event]] = {}
        others = committer.on_failure

        def failed() -> None:
            others()
            self.boxes.reload()

        committer.on_failure = failed

    async def commit(self, decide: Callable[[Decision], T]) -> T:
        """What ``decide`` answers, once all that it decided, and was told, is durable.

        To cancel this does not undo it.

        Raises:
            Refused: what ``decide`` raises, and then nothing is decided; ``StorageError``.
        """
        served: list[Served] = []

        def decide_and_serve(decision: Decision) -> T:
            result = decide(decision)
            if self.waiting_room is not None:
                for device in sorted(decision.queued_for):
                    served.extend(self.waiting_room.serve(decision, device))
            return result

        with self.lock:
            decision, result = self.decide(decide_and_serve)
            future = self.hand_over(decision)
        for tell in served:
            tell(future)
        # A device may wait for the same write: whoever decided may leave, and it goes on.
        await (asyncio.shield(future) if served else future)
        return result

    def decide(self, decide: Callable[[Decision], T]) -> tuple[Decision, T]:
        """A decision that is still to be handed over. Called with ``lock`` held."""
        decision = Decision(self.boxes, on_settled=self._settled)
        try:
            return decision, decide(decision)
        except BaseException:
            decision.take_back()
            raise

    def hand_over(self, decision: Decision) -> asyncio.Future[None]:
        """Done when ``decision`` is durable. Called with ``lock`` held, as the next thing.

        It is handed over also when it changes nothing: what it was based on may be on its way.
        """
        try:
            return self._committer.hand_over(decision)
        except BaseException:
            decision.take_back()
            raise

    async def run(self) -> None:
        """Let leases, deadlines and outcomes end when their time has come, until cancelled.

        While the store takes no writes they end later: everything else goes on.
        """
        told = False
        while True:
            try:
                more = await self.sweep()
            except (StorageError, UnavailableError) as error:
                more = False
                if not told:
                    told = True
                    logger.warning("requests do not end in time", reason=error.detail)
            await asyncio.sleep(0 if more else SWEEP_EVERY_S)

    async def sweep(self) -> bool:
        """Let end what is due; whether there may be more."""
        now_us = self.clock_us()
        with self.lock:
            if not self.mailbox.has_due(now_us):
                return False
        return await self.commit(lambda decision: self.mailbox.sweep(decision, now_us=now_us))

    # --- waiting --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def news_of(self, key: Key) -> Iterator[asyncio.Event]:
        """An event that is set when something about ``key`` has become durable."""
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[key]
            waiting.discard(event)
            if not waiting:
                del self._waiting[key]

    def ring(self, keys: Iterable[Key]) -> None:
        """Set the events of those who wait for any of ``keys``. Called in the loop."""
        for key in keys:
            for event in self._waiting.get(key, ()):
                event.set()

    def _settled(self, decision: Decision) -> None:
        """By whoever has written it, with the lock held."""
        # Devices first: they have more to do.
        keys: list[Key] = [*decision.queued_for, *decision.decided]
        if not keys:
            return
        call_in(self._loop, self.ring, keys)


def end_ticket(ticket: Ticket, reply: bytes, future: asyncio.Future[None]) -> None:
    """End ``ticket`` as the write in ``future`` did; duplicates get ``reply``."""
    if future.cancelled() or future.exception() is not None:
        ticket.abandon()
    else:
        ticket.done(reply)
