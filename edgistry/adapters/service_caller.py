"""Calls of services through any node: given once, fetched when the device has answered.

Rules kept here:

* A ticket is made, and the owner may keep it, before anything is sent. What got no answer is sent
  again unchanged: a node takes a request once.
* Waiting can end at any time and go on later, here or in another process: the call goes on by
  itself until its deadline.
* An outcome is acknowledged only after its reply has been proven. ``call`` does not wait for that:
  it goes with the next call, or soon by itself, or when ``http`` is closed.
* A caller who does not ask for news waits in the request itself: one question, one answer.
* A call that the device refused unexecuted for its number alone is bound anew, a few times.

Not handled here: what a call means (``edgistry.calls``), keeping tickets.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, TypedDict, Unpack

from ..api import JSON_CONTENT_TYPE, PROBLEM_CONTENT_TYPE
from ..calls import (
    FETCH_KEY_BYTES,
    CallResult,
    Ticket,
    bind_call,
    call_result,
    call_target,
    known_outcome,
    proven_result,
    reply_of,
)
from ..capability import BoundRequest, Capability
from ..caveats import CLIENT_BYTES
from ..codec import encode_json
from ..envelope import Reply
from ..errors import (
    CallPendingError,
    CannotReachError,
    Refused,
    StaleError,
    TimedOutError,
    UnavailableError,
)
from ..handles import HandleKind, parse_handle_text
from ..requests_api import (
    FETCH_KEY_HEADER,
    MAX_WAIT_S,
    KnownOutcome,
    RequestAnswer,
    SubmitBody,
    to_bytes,
    to_text,
)
from ..sequence import Sequencer
from .acknowledging import Acknowledger
from .clock import wall_us
from .http import HttpClient, Response
from .problems import content_type_of, decode_answer, refusal_in

DEFAULT_TTL_S: Final = 3600.0
DEFAULT_WAIT_S: Final = 60.0
MAX_REBINDS: Final = 3
_PATH: Final = "/v1/requests"
_PAUSES_S: Final = (0.1, 0.4, 1.6)
_KEY_BYTES: Final = 16
_ANSWER_S: Final = 15.0
"""How long a node may take for an answer beyond what it was asked to wait."""


class CallOptions(TypedDict, total=False):
    """How a service is called."""

    ttl_s: float
    """Carried out within so many seconds, or never; 3600 if not given, at most 7 days."""
    max_age_s: int
    """An answer of this age, in seconds, is good enough; 0: a new one."""
    priority: int
    """0 to 9, among your own calls; a higher one goes first."""
    not_before_us: int
    """Not handed to the device before this time, in µs since 1970."""
    idempotency_key: bytes | None
    """1 to 64 bytes that stand for this call: given again, it is not made again."""
    device_only: bool
    """Only the device itself may answer, not its home node for it."""


Keep = Callable[[Ticket], None]
"""Told of the ticket before the call is sent."""
News = Callable[[RequestAnswer], None]
"""Told how a call is doing whenever that changes."""


class ServiceCaller:
    """Calls services under ``capability``, with those ``beside`` that it requires.

    ``client`` is the caller's 8-byte id; by default the one that the capability names, else the one
    that the handle was given to.
    """

    def __init__(
        self,
        http: HttpClient,
        capability: Capability,
        *,
        beside: Sequence[Capability] = (),
        client: bytes | None = None,
        clock_us: Callable[[], int] = wall_us,
        acknowledger: Acknowledger | None = None,
    ) -> None:
        self._http = http
        self._capability = capability
        self._beside = tuple(beside)
        named = capability.chain.clients
        self._client = client or (named[0] if named else None)
        self._clock_us = clock_us
        self._sequencer = Sequencer()
        self._acknowledger = acknowledger or Acknowledger(http)

    def ticket(
        self,
        handle: str,
        action: str,
        data: bytes = b"",
        *,
        ttl_s: float = DEFAULT_TTL_S,
        max_age_s: int = 0,
        priority: int = 0,
        not_before_us: int = 0,
        idempotency_key: bytes | None = None,
        device_only: bool = False,
    ) -> Ticket:
        """A call of ``action`` with ``data``, bound and ready for ``submit``.

        It is carried out within ``ttl_s`` seconds or never. An answer up to ``max_age_s`` seconds
        old is good enough; with ``device_only`` only the device itself may answer.

        Raises:
            NoRightError, InvalidValueError, TooLargeError: the capability or an argument.
        """
        return self._bound(
            handle,
            action,
            data,
            ttl_s=ttl_s,
            max_age_s=max_age_s,
            priority=priority,
            not_before_us=not_before_us,
            idempotency_key=idempotency_key,
            device_only=device_only,
        )[0]

    def _bound(
        self,
        handle: str,
        action: str,
        data: bytes,
        *,
        ttl_s: float = DEFAULT_TTL_S,
        max_age_s: int = 0,
        priority: int = 0,
        not_before_us: int = 0,
        idempotency_key: bytes | None = None,
        device_only: bool = False,
    ) -> tuple[Ticket, BoundRequest]:
        """A ticket, and its request, which a ticket that was kept has to be opened for."""
        sequence = self._sequencer.next(self._clock_us())
        request = bind_call(
            self._capability,
            call_target(self._capability, action),
            data,
            client=self._client or client_of(handle),
            sequence=sequence,
            sequence_epoch=self._sequencer.epoch,
            deadline_us=sequence + round(ttl_s * 1_000_000),
            beside=self._beside,
            device_only=device_only,
        )
        ticket = Ticket(
            version=1,
            node=str(self._http.target),
            handle=handle,
            action=action,
            idempotency_key=idempotency_key or secrets.token_bytes(_KEY_BYTES),
            fetch_key=secrets.token_bytes(FETCH_KEY_BYTES),
            priority=priority,
            not_before_us=not_before_us,
            max_age_s=max_age_s,
            envelope=request.encoded,
            capabilities=tuple(
                holder.danger_bytes() for holder in (self._capability, *self._beside)
            ),
        )
        return ticket, request

    async def call(
        self,
        handle: str,
        action: str,
        data: bytes = b"",
        *,
        wait_s: float = DEFAULT_WAIT_S,
        submit_s: float | None = None,
        keep: Keep = lambda ticket: None,
        news: News | None = None,
        acknowledge: bool = True,
        **how: Unpack[CallOptions],
    ) -> CallResult:
        """Call ``action`` and wait for its answer; the other arguments are those of ``ticket``.

        ``keep`` gets the ticket before anything is sent; ``news`` hears how the call is doing,
        which takes a question to the node for every state in between. A node that goes away while
        it may have the call is asked about it for ``submit_s`` seconds, by default ``wait_s``.
        Without ``acknowledge`` the node keeps the outcome, to be fetched again, for a day.

        Raises:
            CallPendingError: no outcome within ``wait_s`` seconds; the call goes on.
            CallEndedError, Refused: it was not done, for this reason.
        """
        until_s = time.monotonic() + wait_s
        submit_until_s = until_s if submit_s is None else time.monotonic() + submit_s
        key = how.get("idempotency_key") or secrets.token_bytes(_KEY_BYTES)
        for attempt in range(MAX_REBINDS):
            how["idempotency_key"] = _key_of_attempt(key, attempt)
            ticket, request = self._bound(handle, action, data, **how)
            keep(ticket)
            tracker = CallTracker(self._http, ticket)
            known = self._acknowledger.take()
            now_s = time.monotonic()
            answer = await tracker.submit(
                wait_s=until_s - now_s if news is None else 0.0,
                patience_s=submit_until_s - now_s,
                acknowledged=known,
            )
            self._acknowledger.told(known)
            if news is not None:
                news(answer)
            answer = await tracker.wait(answer, until_s - time.monotonic(), news)
            reply = reply_of(request, answer)
            if reply is None or not self._sequencer.follow(reply, now_us=self._clock_us()):
                break
            if attempt == MAX_REBINDS - 1:
                raise _outrun(reply)
            # With the next one, whose ticket is kept by then: until it is, this one tells its end.
            self._acknowledger.add(known_outcome(ticket, answer))
        if acknowledge and reply is not None:
            self._acknowledger.add(known_outcome(ticket, answer))
        return proven_result(request, answer, reply, max_age_s=ticket.max_age_s)


def client_of(handle: str) -> bytes:
    """The id (8 bytes) of the client that ``handle`` was given to; of an alias, any.

    Raises:
        MalformedError: it is no handle.
    """
    parsed = parse_handle_text(handle)
    if parsed.kind is HandleKind.ALIAS:
        return secrets.token_bytes(CLIENT_BYTES)
    return parsed.tag[:CLIENT_BYTES]


def _key_of_attempt(idempotency_key: bytes, attempt: int) -> bytes:
    """The key of a call that is bound anew: another request, but the same one for its caller."""
    if not attempt:
        return idempotency_key
    return hashlib.sha256(idempotency_key + bytes((attempt,))).digest()


def keys_of_attempts(idempotency_key: bytes) -> list[bytes]:
    """The keys that a call with ``idempotency_key`` may have when it was bound anew."""
    return [_key_of_attempt(idempotency_key, attempt) for attempt in range(MAX_REBINDS)]


def _outrun(reply: Reply) -> StaleError:
    return StaleError(
        f"other callers with this capability were quicker {MAX_REBINDS} times; derive one"
        " with a client id for each of them",
        sequence_epoch=reply.sequence_epoch,
        sequence_floor=reply.sequence_floor,
    )


class CallTracker:
    """One call at a node: everything that its ticket allows."""

    def __init__(self, http: HttpClient, ticket: Ticket) -> None:
        self._http = http
        self._ticket = ticket
        self._id = ""

    async def submit(
        self,
        *,
        wait_s: float = 0.0,
        patience_s: float = 0.0,
        acknowledged: Sequence[KnownOutcome] = (),
    ) -> RequestAnswer:
        """Give the call to the node, which has it durably then; also if it had it already.

        How it is doing then; with ``wait_s``, as soon as it has ended within so many seconds (30
        at most). The node takes note that ``acknowledged`` outcomes are known. A node that went
        away while it may have had the call is asked again for as long as ``wait_s`` or
        ``patience_s`` last.

        Raises:
            CannotReachError, TimedOutError: no answer; it may have been taken.
            Refused: the node does not take it.
        """
        ticket = self._ticket
        body = SubmitBody(
            handle=ticket.handle,
            envelope=to_text(ticket.envelope),
            idempotency_key=to_text(ticket.idempotency_key),
            fetch_hash=to_text(hashlib.sha256(ticket.fetch_key).digest()),
            priority=ticket.priority,
            not_before_us=ticket.not_before_us,
            max_age_s=ticket.max_age_s,
            acknowledged=tuple(acknowledged),
        )
        began_s = time.monotonic()
        until_s, patient_until_s = began_s + wait_s, began_s + max(wait_s, patience_s)
        pauses_s = iter(_PAUSES_S)
        may_be_taken = False
        while True:
            try:
                left_s = until_s - time.monotonic() if wait_s else 0.0
                answer = await self._ask(
                    "POST",
                    _PATH,
                    query=_wait(left_s) if left_s > 0 else None,
                    body=encode_json(body),
                    wait_s=left_s,
                )
                self._id = answer.id
                return answer
            except (CannotReachError, TimedOutError, UnavailableError) as error:
                may_be_taken = may_be_taken or _may_have_arrived(error)
                pause_s = next(pauses_s, None)
                if pause_s is None and may_be_taken and time.monotonic() < patient_until_s:
                    # The node may be starting again; the call is safe in it.
                    pause_s = min(_PAUSES_S[-1], patient_until_s - time.monotonic())
                if pause_s is None:
                    raise
            await asyncio.sleep(max(pause_s, 0.0))

    def known_as(self, request_id: str) -> None:
        """Take ``request_id``, which ``submit`` answered in another process."""
        to_bytes(request_id, "the id")
        self._id = request_id

    async def look(self, wait_s: float = 0.0, *, known: str | None = None) -> RequestAnswer:
        """How the call is doing, or as soon as it is no longer ``known``, within ``wait_s``."""
        query = _wait(wait_s)
        if known is not None:
            query["known"] = known
        return await self._ask("GET", f"{_PATH}/{self._id}", query=query, wait_s=wait_s)

    async def wait(
        self, answer: RequestAnswer, wait_s: float, news: News | None = None
    ) -> RequestAnswer:
        """The end of the call, of which ``answer`` is known; ``news`` hears of states in between.

        Raises:
            CallPendingError: it has not ended after ``wait_s`` seconds.
        """
        until_s = time.monotonic() + wait_s
        pauses_s = iter(_PAUSES_S)
        while not answer.final:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise CallPendingError(f"request {self._id} is {answer.state} still")
            try:
                known = None if news is None else answer.state
                found = await self.look(left_s, known=known)
                pauses_s = iter(_PAUSES_S)
            except (CannotReachError, TimedOutError, UnavailableError):
                # The node may be starting again; the call is safe in it.
                await asyncio.sleep(min(next(pauses_s, _PAUSES_S[-1]), max(left_s, 0.0)))
                continue
            if news is not None and found.state != answer.state:
                news(found)
            answer = found
        return answer

    async def result(self, answer: RequestAnswer, *, acknowledge: bool = True) -> CallResult:
        """The proven result of the call, whose end is ``answer``.

        The node is told with ``acknowledge`` that it may forget it then.

        Raises:
            CallEndedError, Refused: it was not done.
        """
        request = self._ticket.request
        try:
            return call_result(request, answer, max_age_s=self._ticket.max_age_s)
        finally:
            # Only what is proven is acknowledged: a reply that somebody changed is fetched again.
            with contextlib.suppress(Exception):
                if acknowledge and reply_of(request, answer) is not None:
                    await self.acknowledge()

    async def cancel(self) -> RequestAnswer:
        """Take the call back, if it is not too late; how it is doing."""
        return await self._ask("DELETE", f"{_PATH}/{self._id}")

    async def acknowledge(self) -> RequestAnswer:
        """Say that the outcome is known."""
        return await self._ask("POST", f"{_PATH}/{self._id}/ack")

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes = b"",
        wait_s: float = 0.0,
    ) -> RequestAnswer:
        headers = {FETCH_KEY_HEADER: to_text(self._ticket.fetch_key)}
        if body:
            headers = {"Content-Type": JSON_CONTENT_TYPE}
        response = await self._http.request(
            method,
            path,
            query=query,
            body=body,
            headers=headers,
            timeout_s=min(max(wait_s, 0.0), MAX_WAIT_S) + _ANSWER_S,
        )
        return _read(response)


def _may_have_arrived(error: Refused) -> bool:
    return isinstance(error, TimedOutError) or (
        isinstance(error, CannotReachError) and error.may_have_arrived
    )


def _wait(wait_s: float) -> dict[str, str]:
    return {"wait": f"{min(max(wait_s, 0.0), MAX_WAIT_S):.3f}"}


def _read(response: Response) -> RequestAnswer:
    if content_type_of(response) == PROBLEM_CONTENT_TYPE:
        raise refusal_in(response)
    return decode_answer(response, RequestAnswer)
