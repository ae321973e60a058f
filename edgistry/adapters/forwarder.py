"""Forwarding at work: does what ``Forwarding`` says, with the store, the clock and a link.

Rules kept here:

* What is to be durable is written by the WooFs' own committer, and shares syncs with puts.
* When the store refuses, the same is stored again later, and nothing is sent before.
* A program that stops waits a moment for the answer that is due, and stores what was answered.
* The capability is read again after each refusal: a new file is noticed without a restart.

Not handled here: the rules (``forwarding.py``), and the way to the destination (a ``Link``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from ..capability import Capability
from ..errors import (
    CorruptDatabaseError,
    ElementLostError,
    MissingWoofError,
    NotFoundError,
    Refused,
    StorageError,
    UnavailableError,
)
from ..forward_actions import Action, Ask, Authorise, Collect, Rest, State, Store
from ..forward_records import ForwardRecord, read_envelopes, read_record
from ..forward_requests import Forward
from ..forwarding import MAX_BEGUN, Forwarding
from ..woof import WoofId
from .clock import steady_us
from .durable_woofs import DurableWoofs
from .log import get_logger

logger = get_logger("edgistry.forwarding")

STOP_GRACE_S: Final = 1.0
"""For the answer that is due when the program stops."""
LOOK_AGAIN_US: Final = 1_000_000
"""For a WooF that is not there: somebody may create it."""
STORE_REST_US: Final = 5_000_000


class Link(Protocol):
    """The way to a destination."""

    async def ask(self, request: bytes) -> bytes:
        """What is answered to an envelope. Raises ``Refused`` when nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardStatus:
    """How one forward is doing. The counts go back to its beginning, over all restarts."""

    forward: Forward
    state: State
    reason: str
    """Why it does not go on; empty while it does."""
    lag: int
    """Elements in the WooF that are still to be forwarded."""
    record: ForwardRecord
    begun: list[int]
    """Elements whose requests are under way."""
    refusal: str
    """The newest refused element since the start, and why."""


class Forwarder:
    """Forwards one WooF of ``woofs`` over ``link``.

    ``capability`` gives the one to use, or raises ``Refused``. ``clock_us`` is a clock that never
    jumps; ``chance`` gives numbers from 0 to 1.

    Raises:
        CorruptDatabaseError: what is stored of an earlier life cannot be used.
    """

    def __init__(
        self,
        woofs: DurableWoofs,
        forward: Forward,
        link: Link,
        *,
        capability: Callable[[], Capability],
        clock_us: Callable[[], int] = steady_us,
        chance: Callable[[], float] = lambda: secrets.randbelow(1001) / 1000,
    ) -> None:
        self.forward = forward
        self._woofs = woofs
        self._link = link
        self._capability = capability
        self._now_us = clock_us
        self._chance = chance
        self._rested = asyncio.Event()
        self._told = ""
        store = woofs.woofs.store
        record = read_record(store, forward.woof) or ForwardRecord(client=secrets.token_bytes(8))
        self._forwarding = Forwarding(forward, record, read_envelopes(store, forward.woof))

    # --- running --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Forward until cancelled."""
        while True:
            try:
                await self._do(self._forwarding.next(self._now_us()))
            except (StorageError, CorruptDatabaseError, UnavailableError) as error:
                # Storing the same once more is safe, whatever became of it the first time.
                until_us = self._now_us() + STORE_REST_US
                self._forwarding.wait(error.detail, until_us=until_us)
            except asyncio.CancelledError:
                await self._say_farewell()
                raise
            self._tell()

    async def _do(self, action: Action) -> None:
        match action:
            case Authorise():
                self._authorise()
            case Ask():
                await self._ask(action.request)
            case Collect():
                await self._collect(wait=action.wait)
            case Store():
                await self._woofs.committer.commit(action.changes)
                self._forwarding.stored()
            case Rest():
                await self._rest(action.until_us)

    def _authorise(self) -> None:
        try:
            self._forwarding.use(self._capability())
        except Refused as error:
            self._failed(error)

    async def _ask(self, request: bytes) -> None:
        asking = asyncio.ensure_future(self._link.ask(request))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait({asking}, timeout=STOP_GRACE_S)
            asking.cancel()
            last = (await asyncio.gather(asking, return_exceptions=True))[0]
            if isinstance(last, bytes):
                self._answered(last)
            raise
        except Refused as error:
            self._failed(error)
        else:
            self._answered(answer)

    def _answered(self, answer: bytes) -> None:
        self._forwarding.answered(answer, now_us=self._now_us(), chance=self._chance())

    def _failed(self, error: Refused) -> None:
        self._forwarding.failed(error, now_us=self._now_us(), chance=self._chance())

    async def _rest(self, until_us: int) -> None:
        self._rested.clear()
        seconds = max(0, until_us - self._now_us()) / 1_000_000
        with contextlib.suppress(TimeoutError):
            # Not ``wait_for``, which can lose a cancellation that comes with the event.
            async with asyncio.timeout(seconds):
                await self._rested.wait()

    async def _say_farewell(self) -> None:
        changes = self._forwarding.farewell()
        if changes:
            with contextlib.suppress(Refused):
                await self._woofs.committer.commit(changes)

    # --- the source -----------------------------------------------------------------------------

    async def _collect(self, *, wait: bool) -> None:
        name, forwarding = self.forward.woof, self._forwarding
        try:
            info = self._woofs.woofs.info(name)
            first = forwarding.begin_at(info.id, info.window)
            elements = self._read(first)
            if self._woofs.woofs.info(name).id != info.id:
                return  # the writer has put another one in its place meanwhile
        except MissingWoofError as error:
            forwarding.wait(error.detail, until_us=self._now_us() + LOOK_AGAIN_US)
            return
        if elements is None:
            return
        if wait and not elements:
            await self._news(info.id, first)
        else:
            forwarding.collected(elements, now_us=self._now_us(), chance=self._chance())

    def _read(self, first: int) -> list[tuple[int, bytes]] | None:
        """Elements from number ``first`` on; ``None``: it was lost, and is counted so."""
        elements = []
        try:
            for element in self._woofs.woofs.scan(self.forward.woof, first, first + MAX_BEGUN - 1):
                elements.append(element)
        except ElementLostError as error:
            if not elements:
                self._forwarding.lost((error.resume_at or first + 1) - 1)
                return None
        return elements

    async def _news(self, woof_id: WoofId, first: int) -> None:
        """Return when element ``first`` is there, or the WooF is not what it was."""
        with contextlib.suppress(NotFoundError):
            following = self._woofs.follow(self.forward.woof, first, woof_id=woof_id)
            generator = cast(AsyncGenerator[tuple[int, bytes], None], following)
            async with contextlib.aclosing(generator):
                await anext(generator)

    # --- what others ask ------------------------------------------------------------------------

    def status(self) -> ForwardStatus:
        """How it is doing."""
        forwarding = self._forwarding
        return ForwardStatus(
            forward=self.forward,
            state=forwarding.state,
            reason=forwarding.reason,
            lag=self._lag(forwarding.record),
            record=forwarding.record,
            begun=forwarding.begun,
            refusal=forwarding.refusal,
        )

    def _lag(self, record: ForwardRecord) -> int:
        try:
            info = self._woofs.woofs.info(self.forward.woof)
        except MissingWoofError:
            return 0
        through = record.through if info.id == record.woof_id else 0
        return max(0, info.window.latest - through)

    def settle(self, through: int) -> None:
        """The elements in doubt up to this number are at the destination, the others are not.

        Raises:
            InvalidValueError: nothing is in doubt, or not about this number.
        """
        self._forwarding.settle(through)
        self._rested.set()

    def _tell(self) -> None:
        """Log when something begins to be wrong, becomes something else, or ends."""
        reason = self._forwarding.reason
        if reason == self._told:
            return
        self._told = reason
        if reason:
            state = self._forwarding.state.value
            logger.warning("forwarding waits", woof=self.forward.woof, state=state, why=reason)
        else:
            logger.info("forwarding goes on", woof=self.forward.woof)
