"""Waiting for calls at a terminal: tickets kept on the way, and what Ctrl-C leaves.

Rules kept here:

* A ticket is kept until its outcome has been shown; a call with a key of the user's own keeps its
  ticket, so that the same command later shows the same outcome. A call that the node did not take
  has no outcome, and leaves no ticket; nor does one that another call is made instead of.
* Ctrl-C ends the waiting, never the call. It, and a node that does not answer, leave a remark that
  says how to go on.

Not handled here: options and words (``call_options.py``), the commands.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import click

from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker
from edgistry.calls import Ticket
from edgistry.errors import (
    BadReplyError,
    BudgetError,
    CallPendingError,
    CannotReachError,
    Refused,
    TimedOutError,
    UnavailableError,
    UnexpectedAnswerError,
    UnprovenRefusalError,
)
from edgistry.requests_api import RequestAnswer

from .call_options import show_pending, show_result, tell_how_it_is
from .output import remark
from .tickets import Kept, Tickets

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

NO_WORD = (
    CannotReachError,
    TimedOutError,
    UnavailableError,
    UnexpectedAnswerError,
    BadReplyError,
    UnprovenRefusalError,
    BudgetError,
)
"""What says nothing of the call itself: another try may bring its outcome."""


class Following:
    """One call as a command follows it. ``keeps``: its ticket stays when it has ended."""

    def __init__(self, tickets: Tickets, *, keeps: bool = False) -> None:
        self._tickets = tickets
        self.keeps = keeps
        self._unsent: tuple[Ticket, str] | None = None
        """What no node has confirmed, and its name."""
        self._is_new = False
        """Whether that was never sent before."""
        self.answer: RequestAnswer | None = None

    def keep(self, ticket: Ticket, *, is_new: bool = True) -> None:
        """``ticket`` is about to be sent; in place of the one before, if there was one."""
        if self._unsent is not None:
            self._tickets.remove(self._unsent[1])
        elif self.answer is not None:
            self._tickets.remove(self.answer.id)
        self.answer = None
        self._unsent = ticket, self._tickets.keep(ticket)
        self._is_new = is_new

    def news(self, answer: RequestAnswer) -> None:
        """The call is doing so."""
        if self._unsent is not None:
            self._tickets.sent(self._unsent[0], answer.id)
            self._unsent = None
        if not answer.final:
            tell_how_it_is(answer)
        self.answer = answer

    def ended(self) -> None:
        """Its outcome has been shown."""
        if not self.keeps and self.answer is not None:
            self._tickets.remove(self.answer.id)

    def _refused(self, error: Refused) -> None:
        """What this end leaves behind."""
        if isinstance(error, NO_WORD):
            if self._unsent is not None:
                remark(_perhaps_taken(self._unsent[1]))
        elif self._unsent is None:
            if self.answer is not None and self.answer.final:
                self.ended()
        elif self._is_new:
            self._tickets.remove(self._unsent[1])

    @contextlib.contextmanager
    def waiting(self, *, wait_s: float, as_json: bool) -> Iterator[None]:
        """Around all that asks the node: what an end without an answer leaves behind."""
        try:
            yield
        except CallPendingError:
            if self.answer is not None and (as_json or not wait_s):
                show_pending(self.answer, as_json=as_json)
            if wait_s:
                raise
        except Refused as error:
            self._refused(error)
            raise
        except KeyboardInterrupt:
            if self._unsent is not None:
                remark(f"\n{_perhaps_taken(self._unsent[1])}")
            elif self.answer is not None:
                name = self.answer.id
                remark(
                    f"\nThe call goes on. `edgistry request status {name} --wait 60s` waits for it,"
                    f" `edgistry request cancel {name}` takes it back."
                )
            click.get_current_context().exit(INTERRUPTED)


async def follow_kept(
    kept: Kept,
    following: Following,
    *,
    node: str,
    wait_s: float,
    timeout_s: float,
    as_json: bool,
    as_hex: bool,
) -> None:
    """Follow a kept call to its end and show it.

    Raises:
        CallPendingError: it has not ended after ``wait_s`` seconds.
        CallEndedError, Refused: it ended without an answer.
    """
    async with HttpClient(node or kept.ticket.node, timeout_s=timeout_s) as http:
        tracker = CallTracker(http, kept.ticket)
        answer = await begin_again(kept, tracker, following)
        answer = await tracker.wait(answer, wait_s, following.news)
        following.news(answer)
        result = await tracker.result(answer, acknowledge=not following.keeps)
        show_result(result, answer.id, as_json=as_json, as_hex=as_hex)
        following.ended()


async def begin_again(kept: Kept, tracker: CallTracker, following: Following) -> RequestAnswer:
    """How a kept call is doing; one that no node has told an id of is given to the node again."""
    if kept.is_sent:
        tracker.known_as(kept.name)
        answer = await tracker.look()
    else:
        following.keep(kept.ticket, is_new=False)
        answer = await tracker.submit()
    following.news(answer)
    return answer


def _perhaps_taken(name: str) -> str:
    return (
        "The node may have taken the call, and may not."
        f" `edgistry request status {name} --wait 60s` gives it to the node once more;"
        " it is carried out once."
    )


def now_us() -> int:
    """The time in µs since 1970."""
    return time.time_ns() // 1000
