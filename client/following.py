"""Waiting for calls at a terminal: tickets kept on the way, and what Ctrl-C leaves.

Rules kept here:

* A ticket is kept until its outcome has been shown; a call with a key of the user's own keeps its
  ticket, so that the same command later shows the same outcome.
* Ctrl-C ends the waiting, never the call.

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
from edgistry.errors import CallEndedError, CallPendingError
from edgistry.requests_api import RequestAnswer

from .call_options import show_pending, show_result, tell_how_it_is
from .output import remark
from .tickets import Kept, Tickets

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Following:
    """One call as a command follows it. ``keeps``: its ticket stays when it has ended."""

    def __init__(self, tickets: Tickets, *, keeps: bool = False) -> None:
        self._tickets = tickets
        self.keeps = keeps
        self._ticket: Ticket | None = None
        self.answer: RequestAnswer | None = None

    def keep(self, ticket: Ticket) -> None:
        """``ticket`` is about to be sent."""
        self._tickets.keep(ticket)
        self._ticket = ticket

    def news(self, answer: RequestAnswer) -> None:
        """The call is doing so."""
        if self._ticket is not None:
            self._tickets.sent(self._ticket, answer.id)
            self._ticket = None
        if not answer.final:
            tell_how_it_is(answer)
        self.answer = answer

    def ended(self) -> None:
        """Its outcome has been shown."""
        if not self.keeps and self.answer is not None:
            self._tickets.remove(self.answer.id)

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
        except CallEndedError:
            self.ended()
            raise
        except KeyboardInterrupt:
            name = self.answer.id if self.answer is not None else ""
            if name:
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
        following.keep(kept.ticket)
        answer = await tracker.submit()
    following.news(answer)
    return answer


def now_us() -> int:
    """The time in µs since 1970."""
    return time.time_ns() // 1000
