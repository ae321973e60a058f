"""Calls of any service of a type in an area: chosen by the node, answered once (privacy.md).

Rules kept here:

* A call is given to another service only if the first one certainly does not carry it out: it was
  not taken at all, or it was cancelled before any device was handed it; or if the action only
  reads, as the grant says that its home node sealed for this client.
* Another service is found before the first one is given up: with none left, or with a node that
  finds none just now, waiting goes on. Whether the first was cancelled is known only when the node
  says so; as long as it says nothing, that call is the one to wait for.
* There is one answer, and one deadline for all that is tried.
* Waiting, tickets and news are as for any call (``service_caller``).

Not handled here: who is chosen, and keeping tickets.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

from ..anycast_api import (
    ANY_GRANT_PATH,
    ANY_GRANT_PURPOSE,
    AnyGrantAnswer,
    AnyGrantBody,
    alias_name,
    open_any_grant,
)
from ..api import JSON_CONTENT_TYPE, PROBLEM_CONTENT_TYPE
from ..calls import CallResult, Ticket, reply_of
from ..capability import Capability
from ..codec import encode_json
from ..envelope import Status
from ..errors import (
    BadReplyError,
    BudgetError,
    CallEndedError,
    CallPendingError,
    CannotReachError,
    GrantRefusedError,
    MailboxFullError,
    MembersBusyError,
    NotFoundError,
    Refused,
    TimedOutError,
    UnavailableError,
    UnexpectedAnswerError,
)
from ..grants_api import seal_context
from ..requests_api import RequestAnswer, to_bytes, to_text
from ..woof_replies import status_of
from .acknowledging import Acknowledger
from .clock import wall_us
from .crypto import open_sealed, sealing_public_key_of
from .grant_client import ClientKeys
from .http import HttpClient
from .problems import content_type_of, decode_answer, refusal_in
from .service_caller import (
    DEFAULT_TTL_S,
    DEFAULT_WAIT_S,
    CallOptions,
    CallTracker,
    Keep,
    News,
    ServiceCaller,
)

MAX_TRIED: Final = 3
"""Services that one call is given to at most."""
_MIN_GRANT_S: Final = 60

_NO_WORD: Final = (CannotReachError, TimedOutError, UnavailableError, BudgetError)
"""What a node says, or does not, that tells nothing of a call."""
_NOBODY_ELSE: Final = (NotFoundError, MembersBusyError, GrantRefusedError, *_NO_WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A service that a node chose for one call."""

    handle: str
    capability: Capability = field(repr=False)
    is_read: bool
    """Whether the action changes nothing, so that two services may carry it out."""


async def request_any_grant(
    http: HttpClient,
    keys: ClientKeys,
    action: str,
    *,
    type: str,
    ttl_s: int,
    avoid: Sequence[str] = (),
    **area: Any,
) -> Chosen:
    """Any service of ``type`` in ``area`` (as for discover) that this client may call.

    Raises:
        CannotReachError, TimedOutError: the node does not answer.
        NoMemberError, MembersBusyError, GrantRefusedError, Refused: why there is none.
        BadReplyError, SealError: what came back is not for this client.
    """
    body = encode_json(
        AnyGrantBody(
            type=type,
            sealing_key=to_text(sealing_public_key_of(keys.sealing)),
            actions=(action,),
            ttl_s=ttl_s,
            avoid=tuple(avoid),
            **area,
        )
    )
    headers = {
        "Content-Type": JSON_CONTENT_TYPE,
        **keys.signed_headers("POST", ANY_GRANT_PATH, body),
    }
    response = await http.request("POST", ANY_GRANT_PATH, body=body, headers=headers)
    if content_type_of(response) == PROBLEM_CONTENT_TYPE:
        raise refusal_in(response)
    if response.status != 200:
        raise UnexpectedAnswerError(f"status {response.status} without a problem document")
    answer = decode_answer(response, AnyGrantAnswer)
    data = open_sealed(
        keys.sealing,
        to_bytes(answer.sealed, "sealed"),
        purpose=ANY_GRANT_PURPOSE,
        context=seal_context(keys.tag, alias_name(answer.handle)),
    )
    grant, reads = open_any_grant(data, handle=answer.handle, client_id=keys.id)
    for each in grant.granted:
        if each.is_call and each.action == action and grant.type == type:
            return Chosen(
                handle=answer.handle,
                capability=Capability.from_bytes(each.capability),
                is_read=action in reads,
            )
    raise BadReplyError("a grant that does not allow what was asked for")


class AnyCaller:
    """Calls any service, as the client with these ``keys``."""

    def __init__(
        self,
        http: HttpClient,
        keys: ClientKeys,
        *,
        clock_us: Callable[[], int] = wall_us,
        acknowledger: Acknowledger | None = None,
    ) -> None:
        self._http = http
        self._acknowledger = acknowledger or Acknowledger(http)
        self._keys = keys
        self._clock_us = clock_us

    async def call(
        self,
        action: str,
        data: bytes = b"",
        *,
        type: str,
        area: dict[str, Any],
        wait_s: float = DEFAULT_WAIT_S,
        patience_s: float | None = None,
        keep: Keep = lambda ticket: None,
        news: News | None = None,
        acknowledge: bool = True,
        **how: Unpack[CallOptions],
    ) -> CallResult:
        """Have a service of ``type`` in ``area`` carry out ``action``; its answer.

        One that has not answered within ``patience_s`` (by default a third of ``wait_s``) is given
        up for another, if it may be. The other arguments are those of ``ServiceCaller.call``.

        Raises:
            NoMemberError, MembersBusyError, GrantRefusedError: nobody there can be called.
            CallPendingError: no outcome within ``wait_s`` seconds; the last call goes on.
            CallEndedError, Refused: it was not done, for this reason.
        """
        start_s = time.monotonic()
        until_s = start_s + wait_s
        ttl_s = how.get("ttl_s", DEFAULT_TTL_S)
        patience_s = wait_s / MAX_TRIED if patience_s is None else patience_s
        tried: list[str] = []

        async def choose() -> Chosen:
            left_s = max(_MIN_GRANT_S, math.ceil(ttl_s))
            return await request_any_grant(
                self._http, self._keys, action, type=type, ttl_s=left_s, avoid=tried, **area
            )

        async def another() -> Chosen | None:
            try:
                return await choose()
            except _NOBODY_ELSE:
                return None

        chosen = await choose()
        while True:
            tried.append(chosen.handle)
            is_last = len(tried) == MAX_TRIED
            left_s = until_s - time.monotonic()
            attempt = _Attempt(self._http, keep, news)
            caller = ServiceCaller(
                self._http,
                chosen.capability,
                client=self._keys.id,
                clock_us=self._clock_us,
                acknowledger=self._acknowledger,
            )
            how["ttl_s"] = max(0.001, ttl_s - (time.monotonic() - start_s))
            try:
                return await caller.call(
                    chosen.handle,
                    action,
                    data,
                    wait_s=left_s if is_last else min(left_s, patience_s),
                    keep=attempt.keep,
                    news=attempt.news,
                    acknowledge=acknowledge,
                    **how,
                )
            except CallPendingError:
                if is_last or time.monotonic() >= until_s:
                    raise
                may_move = chosen.is_read or attempt.is_untouched
            except (MailboxFullError, NotFoundError) as error:
                # A full mailbox answers what it has taken. A service that has just left may have
                # taken what the node was sent before its first answer was lost.
                is_untaken = isinstance(error, MailboxFullError) or chosen.is_read
                if is_last or attempt.answer is not None or not is_untaken:
                    raise
                other = await another()
                if other is None:
                    raise
                chosen = other
                continue
            except CallEndedError as error:
                if is_last or not chosen.is_read or error.state == "EXPIRED":
                    raise
                other = await another()
                if other is None:
                    raise
                chosen = other
                continue
            other = await another() if may_move else None
            if other is None or not await attempt.give_up(is_read=chosen.is_read):
                return await attempt.finish(until_s - time.monotonic(), acknowledge=acknowledge)
            chosen = other


class _Attempt:
    """One call to one service, as it is doing."""

    def __init__(self, http: HttpClient, keep: Keep, news: News | None) -> None:
        self._http = http
        self._keep = keep
        self._news = news
        self._ticket: Ticket | None = None
        self.answer: RequestAnswer | None = None

    def keep(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._keep(ticket)

    def news(self, answer: RequestAnswer) -> None:
        self.answer = answer
        if self._news is not None:
            self._news(answer)

    @property
    def is_untouched(self) -> bool:
        """Whether no device had been handed it when it was last heard of."""
        answer = self.answer
        return answer is not None and answer.state == "QUEUED" and not answer.attempts

    async def give_up(self, *, is_read: bool) -> bool:
        """Take the call back; whether another service may carry it out now.

        Raises:
            BadReplyError, UnprovenRefusalError: nobody who could cancel it says that it is.
        """
        tracker, ticket, _ = self._sent()
        try:
            answer = self.answer = await tracker.cancel()
        except _NO_WORD:
            return False
        if answer.state != "CANCELLED":
            # Of what has ended otherwise there is an outcome, which is the one to have.
            return is_read and not answer.final
        # One that never left the node it was given to has no reply; that is the node's word.
        reply = reply_of(ticket.request, answer)
        if reply is not None and status_of(reply) != Status.CANCELLED:
            raise BadReplyError("the node says that the call was cancelled, and the reply does not")
        with contextlib.suppress(Refused):
            await tracker.acknowledge()
        return is_read or not answer.attempts

    async def finish(self, wait_s: float, *, acknowledge: bool) -> CallResult:
        """Wait for the end of this call; raises as ``CallTracker.wait`` and ``result``."""
        tracker, _, answer = self._sent()
        answer = await tracker.wait(answer, wait_s, self.news)
        self.news(answer)
        return await tracker.result(answer, acknowledge=acknowledge)

    def _sent(self) -> tuple[CallTracker, Ticket, RequestAnswer]:
        if self._ticket is None or self.answer is None:
            raise CallPendingError("the node has not told anything of the call")
        tracker = CallTracker(self._http, self._ticket)
        tracker.known_as(self.answer.id)
        return tracker, self._ticket, self.answer
