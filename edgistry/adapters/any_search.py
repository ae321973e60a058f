"""Giving a call to one service after the other, until one has answered (privacy.md, *Anycast*).

Rules kept here:

* A call is given to another service only if the first one certainly does not carry it out: it was
  not taken at all, or it was cancelled before any device was handed it; or if the action only
  reads, as the grant says that its home node sealed for this client.
* Another service is found before the first one is given up. With none left, or while the node
  cannot be asked, waiting goes on, and after a while another is looked for again.
* As long as the node does not say whether a call was taken back, that call is the one to wait for.
  What has ended cancelled although nobody could be told so was given up.

Not handled here: who is chosen and what is granted (``any_caller``), calls (``service_caller``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..calls import CallResult, Ticket, known_outcome, reply_of
from ..capability import Capability
from ..envelope import Status
from ..errors import (
    BadReplyError,
    BudgetError,
    CallEndedError,
    CallPendingError,
    CannotReachError,
    MailboxFullError,
    NotFoundError,
    Refused,
    TimedOutError,
    UnavailableError,
)
from ..requests_api import RequestAnswer
from ..woof_replies import status_of
from .acknowledging import Acknowledger
from .http import HttpClient
from .service_caller import CallTracker, Keep, News

MAX_TRIED: Final = 3
"""Services that one call is given to at most."""
ASK_S: Final = 15.0
"""How long a node may take to choose a service."""
_SHORTEST_PATIENCE_S: Final = 1.0
"""Between two looks for another service, at least."""
_NO_WORD: Final = (CannotReachError, TimedOutError, UnavailableError, BudgetError)
"""What a node says, or does not, that tells nothing of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A service that a node chose for one call."""

    handle: str
    capability: Capability = field(repr=False)
    is_read: bool
    """Whether the action changes nothing, so that two services may carry it out."""


class Search:
    """Services that one call is given to, one after the other, until ``until_s`` (monotonic).

    ``choose`` finds one, ``begin`` makes an attempt, and ``make`` calls and waits.
    """

    def __init__(
        self,
        choose: Callable[[Sequence[str], float], Awaitable[Chosen]],
        make: Callable[[Chosen, Attempt, float, float], Awaitable[CallResult]],
        *,
        begin: Callable[[], Attempt],
        until_s: float,
        patience_s: float,
        acknowledge: bool,
    ) -> None:
        self._acknowledge = acknowledge
        self._choose = choose
        self._make = make
        self._begin = begin
        self._until_s = until_s
        self._patience_s = patience_s
        self._tried: list[str] = []
        self._attempt = begin()
        """The last one."""

    async def result(self) -> CallResult:
        """The answer of whoever gives it; raises as ``AnyCaller.call``."""
        chosen = await self._choose((), ASK_S)
        while True:
            self._tried.append(chosen.handle)
            attempt = self._attempt = self._begin()
            try:
                result = await self._answer_of(chosen, attempt)
            except Refused as error:
                may_move = attempt.may_be_elsewhere(error, is_read=chosen.is_read)
                other = await self._another() if may_move else None
                if other is None:
                    self._end(attempt)
                    raise
                result = other
            if isinstance(result, CallResult):
                self._end(attempt)
                return result
            attempt.let_go()
            chosen = result

    def _end(self, attempt: Attempt) -> None:
        """Nothing else is tried."""
        if self._acknowledge:
            attempt.let_go()

    async def _answer_of(self, chosen: Chosen, attempt: Attempt) -> CallResult | Chosen:
        """The answer of ``chosen``; or another, for which it was given up."""
        left_s = self._left_s
        wait_s = left_s if self._is_last else min(left_s, self._patience_s)
        try:
            return await self._make(chosen, attempt, wait_s, left_s)
        except CallPendingError:
            if self._left_s <= 0:
                raise
        other: Chosen | None = None
        patience_s = max(self._patience_s, _SHORTEST_PATIENCE_S)
        while True:
            may_move = chosen.is_read or attempt.is_untouched
            if may_move and not self._is_last:
                other = other or await self._another()
                if other is not None and await attempt.give_up(is_read=chosen.is_read):
                    return other
            try:
                return await attempt.finish(min(self._left_s, patience_s))
            except CallPendingError:
                if self._left_s <= 0:
                    raise
            patience_s *= 2

    async def _another(self) -> Chosen | None:
        """A service that was not tried; ``None``: there is none, or not now."""
        left_s = self._left_s
        if self._is_last or left_s <= 0:
            return None
        with contextlib.suppress(Refused):
            return await self._choose(self._tried, min(left_s, ASK_S))
        return None

    @property
    def _is_last(self) -> bool:
        return len(self._tried) == MAX_TRIED

    @property
    def _left_s(self) -> float:
        return self._until_s - time.monotonic()

    def no_word(self, detail: str) -> Refused:
        """What a caller is told who cannot be told anything else."""
        answer = self._attempt.answer
        if answer is None:
            return TimedOutError(detail)
        return CallPendingError(f"request {answer.id} was {answer.state}, and {detail}")


class Attempt:
    """One call to one service, as it is doing. ``keep`` and ``news`` are for ``ServiceCaller``."""

    def __init__(
        self, http: HttpClient, keep: Keep, news: News | None, acknowledger: Acknowledger
    ) -> None:
        self._http = http
        self._keep = keep
        self._news = news
        self._acknowledger = acknowledger
        self._ticket: Ticket | None = None
        self._was_taken_back = False
        self.answer: RequestAnswer | None = None

    def keep(self, ticket: Ticket) -> None:
        """``ticket`` is about to be sent."""
        self._ticket, self.answer = ticket, None
        self._keep(ticket)

    def news(self, answer: RequestAnswer) -> None:
        """It is doing so."""
        self.answer = answer
        if self._news is not None:
            self._news(answer)

    @property
    def is_untouched(self) -> bool:
        """Whether no device had been handed it when it was last heard of."""
        answer = self.answer
        return answer is not None and answer.state == "QUEUED" and not answer.attempts

    def may_be_elsewhere(self, error: Refused, *, is_read: bool) -> bool:
        """Whether another service may carry the call out, now that it has ended with ``error``.

        Raises:
            BadReplyError, UnprovenRefusalError: nobody who could cancel it says that it is.
        """
        if isinstance(error, CallEndedError):
            return self._is_given_up() or (is_read and error.state != "EXPIRED")
        # A full mailbox answers what it has taken. A service that has just left may have taken what
        # the node was sent before its first answer was lost.
        is_untaken = isinstance(error, MailboxFullError)
        return self.answer is None and (
            is_untaken or (is_read and isinstance(error, NotFoundError))
        )

    def _is_given_up(self) -> bool:
        """Whether it was taken back here, and certainly no device was handed it."""
        answer, ticket = self.answer, self._ticket
        if answer is None or ticket is None or not self._was_taken_back:
            return False
        if answer.state != "CANCELLED":
            return False
        # One that never left the node it was given to has no reply; that is the node's word.
        reply = reply_of(ticket.request, answer)
        if reply is not None and status_of(reply) != Status.CANCELLED:
            raise BadReplyError("the node says that the call was cancelled, and the reply does not")
        return not answer.attempts

    async def give_up(self, *, is_read: bool) -> bool:
        """Take the call back; whether another service may carry it out now.

        A node that does not answer may take it back all the same; whoever waits hears of it.

        Raises:
            BadReplyError, UnprovenRefusalError: nobody who could cancel it says that it is.
        """
        tracker, _, _ = self._sent()
        self._was_taken_back = True
        try:
            answer = self.answer = await tracker.cancel()
        except _NO_WORD:
            return False
        if answer.state != "CANCELLED":
            # Of what has ended otherwise there is an outcome, which is the one to have.
            return is_read and not answer.final
        is_given_up = self._is_given_up()
        return is_read or is_given_up

    def let_go(self) -> None:
        """Its end is known: the node need not keep it, and is told so with the next call.

        So the ticket of that call is kept by then: whoever is killed in between finds this one, and
        what became of it. What is not proven is fetched again, unless it was given up.
        """
        answer, ticket = self.answer, self._ticket
        if answer is None or ticket is None or not answer.final:
            return
        with contextlib.suppress(Refused):
            if reply_of(ticket.request, answer) is not None or self._is_given_up():
                self._acknowledger.add(known_outcome(ticket, answer))

    async def finish(self, wait_s: float) -> CallResult:
        """Wait for the end of this call; raises as ``CallTracker.wait`` and ``result``."""
        tracker, _, answer = self._sent()
        answer = await tracker.wait(answer, wait_s, self.news)
        self.news(answer)
        return await tracker.result(answer, acknowledge=False)

    def _sent(self) -> tuple[CallTracker, Ticket, RequestAnswer]:
        if self._ticket is None or self.answer is None:
            raise CallPendingError("the node has not told anything of the call")
        tracker = CallTracker(self._http, self._ticket)
        tracker.known_as(self.answer.id)
        return tracker, self._ticket, self.answer
