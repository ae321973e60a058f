"""What a device does at its home node when it wakes: one exchange.

Rules kept here:

* Only the device that is paired here now is heard: its envelope verifies under this node's key, and
  its capability has the serial of the pairing.
* What the device says is durable before it is answered, and clients are told before the exchange
  waits. What it gets is leased in the same write as the strike of its envelope.
* Work for an exchange that waits is leased in the write that it comes with.
* An exchange that waits ends when there is work, when its time is over, or when the device says
  that it has given it up: nothing is handed down to who does not listen.
* What the device gets says when the privacy epoch ends: then it changes its rhythm.
* The same envelope gets the same reply, but without its requests where they are large: those come
  with the next exchange, since the device does not mention them.

Not handled here: HTTP, and what becomes of requests (``mailbox_exchange.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgistry.adapters.log import get_logger
from edgistry.authority import Authority
from edgistry.codec import replace
from edgistry.envelope import Operation, Status, reply_to
from edgistry.errors import (
    BadRequestError,
    MalformedError,
    NotPairedError,
    Refused,
    TooLargeError,
    TwoAgentsError,
    UnavailableError,
)
from edgistry.messages import ExchangeDown, ExchangeUp, decode_up, encode_down
from edgistry.pairing import device_object
from edgistry.replay import Remembered, Running, Ticket
from edgistry.verifier import Checked

from .mailbox_boxes import Decision
from .mailbox_exchange import Heard
from .mailbox_writer import MailboxWriter, Served, end_ticket
from .pairing import Paired, Pairings

logger = get_logger("edgistry.node.exchange")

MAX_WAITING: Final = 2
"""Exchanges of one device that wait for work; of more, the oldest ends."""

MAX_REMEMBERED_BYTES: Final = 4096
"""Replies up to this size are remembered as they are; 64 of them for each device."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the device gets, and what it gets if it sends the same envelope again."""

    reply: bytes
    remembered: bytes


@dataclass(slots=True, eq=False)
class _Open:
    """An exchange that is not answered yet."""

    ticket: Ticket
    device: str
    up: ExchangeUp
    confirmed: tuple[bytes, ...] = ()
    is_given_up: bool = False
    served: tuple[_Answer, asyncio.Future[None]] | None = None
    """Its answer, and the write that must be durable first."""


class ExchangeDesk:
    """Answers the exchanges of the devices in ``pairings``; ``authority`` is this node's."""

    def __init__(self, writer: MailboxWriter, pairings: Pairings, authority: Authority) -> None:
        self._writer = writer
        self._pairings = pairings
        self._authority = authority
        self._waiting: dict[str, list[_Open]] = {}
        writer.waiting_room = self
        self.exchanges = 0
        """Since the start, like the others."""
        self.ignored = 0
        """Results that were of no use."""
        self.refused = 0
        self.conflicts: dict[str, int] = {}
        """How often a device was refused because another agent had taken its place."""
        self.on_exchange: Callable[[Paired, ExchangeUp], None] | None = None
        """Hears of every exchange that is the device's, once; quickly."""
        self.epoch_ends_us: Callable[[], int] = int
        """When the privacy epoch ends, µs since 1970; 0, as here, where there are none."""

    @property
    def waiting(self) -> int:
        """How many exchanges wait for work."""
        return sum(len(each) for each in self._waiting.values())

    async def answer(self, data: bytes, *, wait_s: float = 0) -> bytes:
        """The reply to the exchange in ``data``, whatever these bytes are.

        What it raises is a bug; the exchange did not happen then.
        """
        now_us = self._writer.clock_us()
        try:
            checked = self._authority.verifier.check(data, now_us=now_us)
            paired, up = self._asked(checked)
            admission = self._authority.guard.admit(checked, now_us=now_us)
        except Refused as error:
            self.refused += 1
            return reply_to(error)
        if isinstance(admission, Remembered):
            return admission.reply
        if isinstance(admission, Running):
            return await _reply_of(checked, admission)
        if self.on_exchange is not None:
            self.on_exchange(paired, up)
        return await self._exchange(admission, paired.device, up, wait_s)

    def _asked(self, checked: Checked) -> tuple[Paired, ExchangeUp]:
        envelope = checked.envelope
        try:
            if envelope.op != Operation.EXCHANGE:
                raise BadRequestError("only exchanges are answered here")
            device = envelope.target.rpartition("/")[2]
            paired = self._pairings.by_device(device)
            if (
                paired is None
                or envelope.target != device_object(device)
                or checked.chain.serial != paired.serial
            ):
                raise NotPairedError("the device is not paired with this node")
            return paired, _decode(envelope.payload)
        except Refused as error:
            error.reply = checked.refusal(error)  # type: ignore[attr-defined]
            raise

    # --- one exchange ---------------------------------------------------------------------------

    async def _exchange(self, ticket: Ticket, device: str, up: ExchangeUp, wait_s: float) -> bytes:
        self.exchanges += 1
        exchange = _Open(ticket, device, up)
        try:
            heard = self._listen(exchange, wait=wait_s > 0)
            if exchange.served is None:
                await self._wait_for_work(exchange, heard, wait_s)
            if exchange.served is None:
                self._hand_down(exchange)
        except Refused as error:
            if exchange.served is None:
                ticket.abandon()
            self._count_refusal(device, error)
            return ticket.checked.refusal(error)
        except BaseException:
            if exchange.served is None:
                ticket.abandon()
            raise
        return await self._reply_to(exchange)

    async def _reply_to(self, exchange: _Open) -> bytes:
        if exchange.served is None:
            raise RuntimeError("an exchange without an answer")
        answer, future = exchange.served
        try:
            await asyncio.shield(future)
        except Refused as error:
            return exchange.ticket.checked.refusal(error)
        return answer.reply

    def _listen(self, exchange: _Open, *, wait: bool) -> asyncio.Future[None]:
        """Take in what the device says, and answer it in the same write, unless there is to wait.

        Done when what the device says is durable.
        """
        writer, device, up = self._writer, exchange.device, exchange.up
        now_us = writer.clock_us()

        def decide(decision: Decision) -> tuple[Heard, _Answer | None]:
            heard = writer.exchange.listen(decision, device, up, now_us=now_us)
            exchange.confirmed = heard.confirmed
            if wait and not writer.exchange.has_work(device, up, now_us=now_us):
                return heard, None
            return heard, self._answer(decision, exchange)

        with writer.lock:
            decision, (heard, answer) = writer.decide(decide)
            future = writer.hand_over(decision)
        if answer is not None:
            _serve(exchange, answer, future)
        self._give_up_older(device, up)
        self.ignored += heard.ignored
        return future

    def _hand_down(self, exchange: _Open) -> None:
        writer = self._writer
        with writer.lock:
            decision, answer = writer.decide(lambda decision: self._answer(decision, exchange))
            future = writer.hand_over(decision)
        _serve(exchange, answer, future)

    def _answer(self, decision: Decision, exchange: _Open) -> _Answer:
        """Lease what the device asks for, and put the strike of its envelope beside it."""
        up, checked = exchange.up, exchange.ticket.checked
        down = self._writer.exchange.hand_down(
            decision,
            exchange.device,
            up,
            confirmed=exchange.confirmed,
            now_us=self._writer.clock_us(),
            is_heeded=not exchange.is_given_up,
        )
        down = replace(down, epoch_ends_us=self.epoch_ends_us())
        reply = remembered = _reply(checked, down)
        if len(reply) > MAX_REMEMBERED_BYTES:
            remembered = _reply(checked, replace(down, requests=(), more=True))
        decision.changes += exchange.ticket.changes(remembered)
        decision.size += len(remembered)
        return _Answer(reply, remembered)

    # --- waiting --------------------------------------------------------------------------------

    def serve(self, decision: Decision, device: str) -> list[Served]:
        """Let ``decision`` answer an exchange of ``device`` that waits, if it has work for it."""
        now_us = self._writer.clock_us()
        for exchange in self._waiting.get(device, ()):
            is_open = exchange.served is None and not exchange.is_given_up
            if is_open and self._writer.exchange.has_work(
                device, exchange.up, now_us=now_us, decision=decision
            ):
                answer = self._answer(decision, exchange)
                return [functools.partial(self._served, exchange, answer)]
        return []

    def _served(self, exchange: _Open, answer: _Answer, future: asyncio.Future[None]) -> None:
        _serve(exchange, answer, future)
        self._writer.ring([exchange.device])

    async def _wait_for_work(
        self, exchange: _Open, heard: asyncio.Future[None], wait_s: float
    ) -> None:
        """Return when ``exchange`` is served, is to be, or its time is over."""
        device = exchange.device
        others = self._waiting.setdefault(device, [])
        others.append(exchange)
        try:
            with self._writer.news_of(device) as news:
                await asyncio.shield(heard)
                async with asyncio.timeout(wait_s):
                    while not self._is_over(exchange):
                        await self._news(device, news)
        except TimeoutError:
            return
        finally:
            others.remove(exchange)
            if not others:
                del self._waiting[device]

    async def _news(self, device: str, news: asyncio.Event) -> None:
        """Return when something may have changed: by a decision, or because its time has come."""
        with self._writer.lock:
            begins_s = self._writer.exchange.begins_s(device, now_us=self._writer.clock_us())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(begins_s or None):
                await news.wait()
        news.clear()

    def _is_over(self, exchange: _Open) -> bool:
        if exchange.served is not None or exchange.is_given_up:
            return True
        writer = self._writer
        with writer.lock:
            return writer.exchange.has_work(exchange.device, exchange.up, now_us=writer.clock_us())

    def _give_up_older(self, device: str, up: ExchangeUp) -> None:
        """The device does not listen any more to what it has settled, nor does another agent."""
        given_up = False
        waiting = self._waiting.get(device, [])
        too_many = waiting[: max(len(waiting) - MAX_WAITING + 1, 0)]
        for each in waiting:
            is_settled = each.up.instance != up.instance or each.up.counter <= up.settled
            if is_settled or each in too_many:
                each.is_given_up = given_up = True
        if given_up:
            self._writer.ring([device])

    def _count_refusal(self, device: str, error: Refused) -> None:
        self.refused += 1
        if isinstance(error, TwoAgentsError):
            self.conflicts[device] = self.conflicts.get(device, 0) + 1
            # Which device it is, only the operator may know: `edgistry-node mailbox show` says so.
            logger.warning("two agents use the identity of one device")


def _serve(exchange: _Open, answer: _Answer, future: asyncio.Future[None]) -> None:
    """``answer`` is on its way to the disk. Whoever waits may be cancelled; the write goes on."""
    exchange.served = (answer, future)
    future.add_done_callback(functools.partial(end_ticket, exchange.ticket, answer.remembered))


def _decode(payload: bytes) -> ExchangeUp:
    try:
        return decode_up(payload)
    except (MalformedError, TooLargeError) as error:
        raise BadRequestError(f"an exchange: {error.detail}") from None


def _reply(checked: Checked, down: ExchangeDown) -> bytes:
    return checked.reply(Status.OK, payload=encode_down(down))


async def _reply_of(checked: Checked, running: Running) -> bytes:
    try:
        # Shielded: cancelling would reach through to the future that others wait for.
        return await asyncio.shield(asyncio.wrap_future(running.reply))
    except UnavailableError as error:
        return checked.refusal(error)
