"""Requests under a capability over HTTP: each done once, however often it has to be sent.

Rules kept here:

* What gets no answer is sent again unchanged: the issuer executes an envelope once, and remembers
  its reply. STALE and FUTURE replies are followed, and the request is bound anew (paper §3.2).
* A request that got no answer and is then refused for what may have come about since (STALE, say,
  or REVOKED) may have been executed: what changes something is neither bound anew then, nor said
  to be refused (``OutcomeUnknownError``).
* A client whose clock is so far behind that its requests have expired before they are sent asks for
  the issuer's time, and binds them anew.
* At most 32 requests overtake an unfinished one, so that the issuer's window of 64 never moves
  past a request that is still on its way.
* Two requests are never the same bytes, also not those of two programs that share a capability and
  put the same element in the same µs: the issuer would take them for one.
* What the capability cannot allow is refused before anything is sent, with the exact reason.

Not handled here: what the operations mean (``woof_client.py``), keeping requests over a restart.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ..api import ENVELOPE_CONTENT_TYPE, PROBLEM_CONTENT_TYPE
from ..capability import BoundRequest, Capability
from ..caveats import CLIENT_BYTES
from ..envelope import MAX_REPLY_BYTES, Operation, Reply, Status
from ..errors import (
    CannotReachError,
    CaveatError,
    OutcomeUnknownError,
    StaleError,
    UnavailableError,
    UnexpectedAnswerError,
)
from ..sequence import PROBE_DEADLINE, PROBE_SEQUENCE, Sequencer
from ..woof_replies import READS, check_done, status_of
from .clock import wall_us
from .http import HttpClient, Response
from .problems import content_type_of, refusal_in

PATH: Final = "/v1/woof"
MAX_OVERTAKING: Final = 32
PATIENCE_S: Final = 1.0
"""Long enough for a broken connection, short enough for who waits at a terminal."""
FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 2.0
MAX_REBINDS: Final = 8

_JITTER_US: Final = 1_000_000
"""Tells apart the requests of callers that the issuer cannot tell apart."""
_AFTER_ANOTHER_OUTCOME: Final = (Status.STALE, Status.EXPIRED, Status.CAVEAT, Status.REVOKED)
"""What an issuer can say of a request that it has executed before, and remembers no more."""
_CLOCK_CAVEATS: Final = ("not_after", "not_before")
_HEADERS: Final = {"Content-Type": ENVELOPE_CONTENT_TYPE}


class WoofCaller:
    """Sends requests that ``capability`` authorises, with those ``beside`` that it requires.

    ``client`` is the caller's 8-byte id; by default the one that the capability names, or a random
    one. A call is given up after ``timeout_s``; its request's deadline is about as far away. A
    request that gets no answer, or finds the issuer busy, is sent again for ``patience_s``.
    """

    def __init__(
        self,
        http: HttpClient,
        capability: Capability,
        *,
        beside: Sequence[Capability] = (),
        client: bytes | None = None,
        timeout_s: float = 30.0,
        patience_s: float = PATIENCE_S,
        clock_us: Callable[[], int] = wall_us,
    ) -> None:
        self.capability = capability
        named = capability.chain.clients
        self._client = client or (named[0] if named else secrets.token_bytes(CLIENT_BYTES))
        self._beside = tuple(beside)
        self.http = http
        self.timeout_s = timeout_s
        self._patience_s = min(patience_s, timeout_s)
        self._clock_us = clock_us
        self._sequencer = Sequencer()
        self._turns = _Turns()

    async def call(
        self, operation: Operation, target: str, payload: bytes = b"", *, handler: str = ""
    ) -> Reply:
        """The proven reply of a request that was done.

        Raises:
            Refused: it was not done, for this reason.
            CannotReachError, TimedOutError: no answer; it may have been done.
            OutcomeUnknownError: it was sent several times, and nobody knows.
        """
        self._check(operation, target, payload, handler)
        turn = await self._turns.take()
        try:
            for _ in range(MAX_REBINDS):
                request = self.bind(operation, target, payload, handler=handler)
                sent_s = time.monotonic()
                reply, unanswered = await self.send(request)
                if not unanswered and await self.catches_up(request, reply, sent_s):
                    continue
                is_late = status_of(reply) in _AFTER_ANOTHER_OUTCOME
                if is_late and unanswered and operation not in READS:
                    raise OutcomeUnknownError(
                        f"a request on {target!r} got no answer at first ({unanswered} times), and"
                        f" {Status(status_of(reply)).name} since"
                    )
                if not self.follow(reply):
                    check_done(request.envelope, reply)
                    return reply
        finally:
            self._turns.finish(turn)
        raise StaleError(
            f"other callers with this capability were quicker {MAX_REBINDS} times; derive one"
            " with a client id for each of them",
            sequence_epoch=reply.sequence_epoch,
            sequence_floor=reply.sequence_floor,
        )

    def bind(
        self, operation: Operation, target: str, payload: bytes = b"", *, handler: str = ""
    ) -> BoundRequest:
        """A new request, numbered and ready for ``send``."""
        sequence = self._sequencer.next(self._clock_us())
        deadline = sequence + round(self.timeout_s * 1_000_000) + secrets.randbelow(_JITTER_US)
        return self.capability.bind(
            operation,
            target,
            payload,
            handler=handler,
            client=self._client,
            sequence=sequence,
            deadline=deadline,
            sequence_epoch=self._sequencer.epoch,
            beside=self._beside,
        )

    def follow(self, reply: Reply) -> bool:
        """Number what comes next as a proven STALE or FUTURE reply says; whether it was one."""
        return self._sequencer.follow(reply, now_us=self._clock_us())

    async def catches_up(self, request: BoundRequest, reply: Reply, sent_s: float) -> bool:
        """Whether ``reply`` says EXPIRED of what had expired before it was sent, at ``sent_s``.

        Such a request was never executed, and the issuer's time is known from now on.
        """
        if status_of(reply) != Status.EXPIRED:
            return False
        envelope = request.envelope
        probe = self.capability.bind(
            Operation(envelope.op),
            envelope.target,
            handler=envelope.handler,
            client=self._client,
            sequence=PROBE_SEQUENCE,
            deadline=PROBE_DEADLINE,
            sequence_epoch=self._sequencer.epoch,
            beside=self._beside,
        )
        told, _ = await self.send(probe)
        since_us = round((time.monotonic() - sent_s) * 1_000_000)
        if not self.follow(told) or status_of(told) != Status.FUTURE:
            return False
        return told.sequence_floor - since_us > envelope.deadline

    async def send(self, request: BoundRequest) -> tuple[Reply, int]:
        """The proven reply to ``request``, and how often it was sent without getting any.

        Raises:
            CannotReachError, TimedOutError, UnavailableError: no answer, after several tries.
            BadReplyError, UnprovenRefusalError, UnexpectedAnswerError: no proven one.
        """
        began_s = time.monotonic()
        pause_s = FIRST_PAUSE_S
        unanswered = 0
        while True:
            left_s = max(began_s + self.timeout_s - time.monotonic(), 0.001)
            is_last = time.monotonic() + pause_s > began_s + self._patience_s
            try:
                response = await self.http.request(
                    "POST", PATH, body=request.encoded, headers=_HEADERS, timeout_s=left_s
                )
                reply = request.open_reply(reply_in(response))
                if is_last or status_of(reply) != Status.BUSY:
                    return reply, unanswered
            except (CannotReachError, UnavailableError):
                unanswered += 1
                if is_last:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _check(self, operation: Operation, target: str, payload: bytes, handler: str) -> None:
        try:
            self.capability.check(
                operation,
                target,
                payload,
                handler=handler,
                client=self._client,
                now_us=self._sequencer.time_us(self._clock_us()),
                beside=self._beside,
            )
        except CaveatError as error:
            # Whether it is too late, or too early, is for the issuer's clock to say.
            if error.caveat not in _CLOCK_CAVEATS:
                raise


def reply_in(response: Response) -> bytes:
    """The reply that an HTTP response carries.

    Raises:
        Refused: the problem that it tells instead.
        UnexpectedAnswerError: it is neither.
    """
    if content_type_of(response) == PROBLEM_CONTENT_TYPE:
        raise refusal_in(response)
    if response.status != 200 or len(response.body) > MAX_REPLY_BYTES:
        raise UnexpectedAnswerError(f"status {response.status} without a reply or a problem")
    return response.body


class _Turns:
    """Numbers for requests, given so that few overtake the oldest unfinished one."""

    def __init__(self) -> None:
        self._next = 0
        self._oldest = 0
        self._finished: set[int] = set()
        self._waiting: deque[asyncio.Future[int]] = deque()

    async def take(self) -> int:
        """The next turn, once it may begin; to be given to ``finish``."""
        if not self._waiting and self._has_room():
            return self._give()
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.finish(turn.result())
            raise

    def finish(self, turn: int) -> None:
        """The request of that turn is answered, or given up."""
        self._finished.add(turn)
        while self._oldest in self._finished:
            self._finished.remove(self._oldest)
            self._oldest += 1
        while self._waiting and self._has_room():
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(self._give())

    def _has_room(self) -> bool:
        return self._next - self._oldest < MAX_OVERTAKING

    def _give(self) -> int:
        self._next += 1
        return self._next - 1
