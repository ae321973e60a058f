"""The agent: does what the tables decide (paper §2.2).

    wake → exchange: results up, requests down → execute → linger → sleep

Rules kept here:

* What came down is durable, and executed as far as it can be at once, before anything else is sent.
* A deadline is judged by a time that a node has proven; before there is one nothing comes down.
* An exchange that fails is over: the next one says again what the node may not know.
* Every failure to reach a node, and every refusal of one, leads to a wait, never to an end. What
  ends the agent: another one with the same identity, a store that takes no more writes, a bug.

Not handled here: when to do what (``runtime.py``), what requests do (``executor.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from edgistry.adapters.log import get_logger
from edgistry.capability import BoundRequest
from edgistry.errors import (
    CannotReachError,
    CorruptDatabaseError,
    Refused,
    StorageError,
    TimedOutError,
    TwoAgentsError,
)
from edgistry.messages import (
    HEAD_BYTES,
    MAX_EXCHANGE_ITEMS_BYTES,
    Account,
    ExchangeDown,
    RequestResult,
)

from .clock import Clock
from .executor import Executor
from .homes import Home
from .link import Answer, Link
from .node_time import NodeTime
from .reach import is_stand_in
from .rhythm import Epoch
from .runtime import Ask, Habits, Linger, Runtime, Sleep
from .talk import Talk, Wish
from .tally import MAX_U32, Tally, Wake, added

logger = get_logger("edgistry.agent")

MAX_TRIES = 4
"""Requests in one exchange: the first, one that asks for the time, two that set things right."""
ACCOUNT_EVERY_S = 60.0
"""How often a device that is always awake accounts for itself."""
AWAKE_WAIT_S = 25
"""How long a node may hold its answer for a device that is always awake."""
AWAKE_PAUSE_S = 1.0
"""How long it waits before its next exchange where there is no time for the node to hold it."""
AWAKE_LINGER_S = 0.02
"""How long such a device waits for quick handlers before its next exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How much a device takes at once."""

    count: int = 20
    """Requests in one exchange."""
    size: int = 256 * 1024
    """Bytes of requests in one exchange."""
    held: int = 100
    """Requests that are taken on, or whose results no node has; no more are taken beyond these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """One node, and how to reach it."""

    home: Home
    link: Link


class Agent:
    """One device, paired with ``nodes``, the primary first. Used in one event loop.

    ``instance`` are 8 random bytes; ``wake_key`` is what its wakes are drawn by (``rhythm.py``);
    ``spread`` draws a number from 0 to 1; ``on_wake`` hears of each wake when it is over.
    """

    def __init__(
        self,
        device_id: str,
        nodes: Sequence[Connected],
        executor: Executor,
        *,
        habits: Habits,
        batch: Batch,
        clock: Clock,
        instance: bytes,
        wake_key: bytes,
        spread: Callable[[], float],
        on_wake: Callable[[Wake], None],
    ) -> None:
        self.time = NodeTime()
        self._nodes = nodes
        self._talks = [Talk(each.home, device_id, instance=instance) for each in nodes]
        self._executor = executor
        self._habits = habits
        self._batch = batch
        self._clock = clock
        self._on_wake = on_wake
        self._runtime = Runtime(
            habits, nodes=len(nodes), now_s=clock.now_s(), spread=spread, wake_key=wake_key
        )
        self._is_woken = False
        """Something else decides when it wakes."""
        self._unsaid = Account()
        """Spent, and not yet told a node."""
        self._wake = Tally()
        self._rested_at_s = clock.now_s()
        """When the last wake ended."""

    # --- running --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the duty cycle until cancelled.

        Raises:
            TwoAgentsError: another agent has this device's identity, and took this one's place.
            StorageError, CorruptDatabaseError: the store does not work.
        """
        while True:
            await self._step()

    async def run_once(self) -> bool:
        """One wake, for devices that something else wakes; whether a node has answered.

        Handlers that have not ended then may end, with the radio off, until the next wake would be
        due: cut short every time they would never end. Raises as ``run``.
        """
        self._is_woken = True
        answered = False
        while True:
            action = self._runtime.next(self._clock.now_s())
            if isinstance(action, Sleep):
                await self._first(self._executor.settled(), by_s=action.until_s)
                return answered
            await self._do(action)
            answered = answered or self._runtime.any_answered

    def finish(self) -> None:
        """Account for a wake that was interrupted; nothing runs any more."""
        if self._wake.has_begun:
            self._account()

    async def _step(self) -> None:
        await self._do(self._runtime.next(self._clock.now_s()))

    async def _do(self, action: Sleep | Ask | Linger) -> None:
        if isinstance(action, Sleep):
            await self._clock.sleep_until(action.until_s)
            return
        if isinstance(action, Linger):
            await self._linger(action.until_s)
        else:
            await self._ask(action)
        now_s = self._clock.now_s()
        if self._runtime.is_asleep and self._wake.has_begun:
            for each in self._nodes:
                await each.link.close()
            self._account()
        elif not self._habits.cycle.period_s and self._wake.lasts_s(now_s) >= ACCOUNT_EVERY_S:
            self._account()

    async def _linger(self, until_s: float) -> None:
        await self._first(self._executor.settled(), by_s=until_s)
        self._runtime.lingered(self._clock.now_s(), is_ready=self._has_news)

    async def _first(self, what: Coroutine[Any, Any, None], *, by_s: float) -> None:
        """Return when ``what`` has returned, or at ``by_s``."""
        done = asyncio.ensure_future(what)
        over = asyncio.ensure_future(self._clock.sleep_until(by_s))
        try:
            await asyncio.wait({done, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(done, over)

    def _account(self) -> None:
        """Tell what this wake, or this part of a wake that does not end, came to."""
        now_s = self._clock.now_s()
        next_wake_s = max(self._runtime.duty.wake_at_s - now_s, 0.0)
        wake = self._wake.ended(now_s, rested_at_s=self._rested_at_s, next_wake_s=next_wake_s)
        self._wake = Tally()
        self._rested_at_s = now_s
        awake_ms = min(round(wake.spending.awake_s * 1000), MAX_U32)
        self._unsaid = added(self._unsaid, Account(awake_ms=awake_ms))
        self._on_wake(wake)

    # --- one exchange ---------------------------------------------------------------------------

    async def _ask(self, action: Ask) -> None:
        self._wake.begin(self._clock.now_s())
        node, talk = self._nodes[action.node], self._talks[action.node]
        # Beside a node that answers none is asked to hold its answer: that one waits meanwhile.
        is_beside = any(reach.failures == 0 for reach in self._runtime.reaches[: action.node])
        try:
            if self._habits.cycle.period_s or is_beside:
                down = await self._exchange(node, talk, timeout_s=action.timeout_s)
            else:
                down = await self._exchange_awake(node, talk, timeout_s=action.timeout_s)
        except (TwoAgentsError, StorageError, CorruptDatabaseError):
            raise
        except Refused as error:
            self._failed(node.home, error)
            return
        executor = self._executor
        self._runtime.answered(
            self._clock.now_s(),
            at_work=executor.is_at_work,
            is_ready=self._has_news,
            more=down.more and self._wanted > 0,
            is_owed=bool(down.requests) or down.more or executor.outgoing.has_results(node.home.id),
            hint_s=float(down.next_wake_s),
            epoch=self._epoch(down),
        )

    def _epoch(self, down: ExchangeDown) -> Epoch | None:
        ahead_us = self.time.ahead_us
        if self._is_woken or not down.epoch_ends_us or ahead_us is None:
            return None
        return Epoch(ends_us=down.epoch_ends_us, ahead_us=ahead_us)

    async def _exchange_awake(
        self, node: Connected, talk: Talk, *, timeout_s: float
    ) -> ExchangeDown:
        """An exchange that the node may hold; results that get ready meanwhile go up at once."""
        if self._executor.is_at_work:
            # Quick handlers are done in a moment, and their results go up with this exchange.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AWAKE_LINGER_S):
                    await self._executor.settled()
        wait_s = max(min(AWAKE_WAIT_S, int(timeout_s) - 2), 0)
        if not self.time.is_fresh(self._reading_us()):
            wait_s = 0  # a reply that was not held proves the time exactly
        elif not wait_s:
            pause_s = min(AWAKE_PAUSE_S, timeout_s / 2)
            await self._first(
                self._executor.outgoing.news(node.home.id), by_s=self._clock.now_s() + pause_s
            )
            timeout_s -= pause_s
        held = asyncio.ensure_future(self._exchange(node, talk, timeout_s=timeout_s, wait_s=wait_s))
        try:
            while not held.done():
                news = asyncio.ensure_future(self._executor.outgoing.news(node.home.id))
                await asyncio.wait({held, news}, return_when=asyncio.FIRST_COMPLETED)
                await _cancelled(news)
                if not held.done():
                    await self._exchange(node, talk, timeout_s=timeout_s)
            return held.result()
        finally:
            await _cancelled(held)

    async def _exchange(
        self, node: Connected, talk: Talk, *, timeout_s: float, wait_s: int = 0
    ) -> ExchangeDown:
        """One exchange; what came down is durable, and executed as far as it can be at once.

        Raises:
            TwoAgentsError, StorageError, CorruptDatabaseError: the agent has to end.
            Refused: no answer that can be trusted.
        """
        executor, home = self._executor, node.home.id
        told = executor.report(home, limit=MAX_EXCHANGE_ITEMS_BYTES - HEAD_BYTES)
        try:
            async with asyncio.timeout(timeout_s):
                request, down = await self._talk(
                    talk, node.link, told, timeout_s=timeout_s, wait_s=wait_s
                )
        except BaseException as error:
            executor.outgoing.unanswered(home, told)
            if isinstance(error, TimeoutError):
                raise TimedOutError(
                    f"no exchange with {node.home.url} in {timeout_s:g} s"
                ) from None
            raise
        executor.answered(home, told, frozenset(down.confirmed))
        # Whatever the node hands down, the device takes no more than it wants.
        requests = down.requests[: self._wanted]
        self._wake.exchanges += 1
        self._wake.requests += len(requests)
        now_us = self.time.at(self._reading_us())
        try:
            if requests and now_us is not None:
                await executor.execute(home, requests, now_us=now_us)
            if down.cancelled:
                await executor.recall(home, down.cancelled)
        finally:
            # Given up when interrupted: the node hands down again what is not mentioned then.
            talk.ended(request)
        return down

    def _failed(self, home: Home, error: Refused) -> None:
        self._wake.failures += 1
        self._runtime.failed(self._clock.now_s())
        # A node that cannot be reached is an everyday matter; one that refuses is not.
        is_usual = isinstance(error, CannotReachError | TimedOutError)
        tell = logger.info if is_usual else logger.warning
        tell("an exchange failed", node=home.url, code=error.code, why=error.detail)

    async def _talk(
        self,
        talk: Talk,
        link: Link,
        told: Sequence[RequestResult],
        *,
        timeout_s: float,
        wait_s: int,
    ) -> tuple[BoundRequest, ExchangeDown]:
        """A request that the node has executed, and what it says; times set right on the way."""
        account, self._unsaid = self._unsaid, Account()
        request = self._request(talk, told, account)
        try:
            for _ in range(MAX_TRIES):
                sent_us = self._reading_us()
                answer = await link.post(request.encoded, wait_s=wait_s, timeout_s=timeout_s)
                received_us = self._reading_us()
                self._count(answer)
                understood = talk.understood(request, answer.reply)
                if isinstance(understood, ExchangeDown):
                    self.time.heard(
                        understood.now_us,
                        sent_us=sent_us,
                        received_us=received_us,
                        was_held=wait_s > 0,
                    )
                    return request, understood
                talk.ended(request)
                if understood.node_us is not None:
                    self.time.heard(understood.node_us, sent_us=sent_us, received_us=received_us)
                request = talk.probe() if understood.probe else self._request(talk, told, account)
            raise CannotReachError(f"{talk.home.url} and this device do not agree on the time")
        except BaseException:
            talk.ended(request)
            self._unsaid = added(account, self._unsaid)
            raise

    def _request(self, talk: Talk, told: Sequence[RequestResult], account: Account) -> BoundRequest:
        now_us = self.time.at(self._reading_us())
        room = max(self._batch.held - self._executor.held(), 0)
        now_s = self._clock.now_s()
        back_in_s = math.ceil(self._runtime.back_at_s(now_s) - now_s)
        wish = Wish(
            count=min(self._batch.count, room),
            size=self._batch.size,
            back_in_s=back_in_s,
            is_home_away=self._is_home_away(talk),
        )
        # Before any node has proven the time the wall clock is a first guess, and no more.
        guess_us = self._clock.wall_us() if now_us is None else now_us
        return talk.request(wish, told, account, now_us=guess_us)

    def _is_home_away(self, talk: Talk) -> bool:
        return is_stand_in(self._runtime.reaches, self._talks.index(talk))

    @property
    def _has_news(self) -> bool:
        """Whether there are results for a node that can be reached, as far as is known."""
        return any(
            self._executor.outgoing.has_news(node.home.id)
            for node, reach in zip(self._nodes, self._runtime.reaches, strict=True)
            if reach.failures == 0
        )

    @property
    def _wanted(self) -> int:
        """How many requests the device takes now."""
        return min(self._batch.count, max(self._batch.held - self._executor.held(), 0))

    def _count(self, answer: Answer) -> None:
        self._wake.sent += answer.sent
        self._wake.received += answer.received
        self._unsaid = added(self._unsaid, Account(sent=answer.sent, received=answer.received))

    def _reading_us(self) -> int:
        return round(self._clock.now_s() * 1_000_000)


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """These have ended, cancelled where they had not."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
