"""Following a WooF over HTTP: each element once, in order, also when connections break.

Rules kept here:

* Every event is a proven reply to the envelope that opened the stream; one with another number
  than the next is refused, so nothing is left out or shown twice, whoever is in between.
* A stream that breaks, or falls silent, is opened anew behind the last element, by a new envelope,
  for up to ``patience_s``.
* The WooF must stay the same one: another of its name ends the following.

Not handled here: requests and their numbers (``woof_caller.py``), the form of events.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from ..api import ENVELOPE_CONTENT_TYPE
from ..capability import BoundRequest
from ..envelope import Operation, Reply, Status
from ..errors import (
    BadReplyError,
    CannotReachError,
    MalformedError,
    MissingWoofError,
    Refused,
    StaleError,
    TimedOutError,
    UnavailableError,
    UnexpectedAnswerError,
)
from ..event_stream import EVENT_CONTENT_TYPE, Event, EventReader
from ..operations import NEWEST, Scan, encode_scan
from ..woof_replies import check_done, status_of
from .http import StreamedAnswer
from .problems import content_type_of
from .woof_caller import MAX_REBINDS, WoofCaller, reply_in

STREAM_PATH: Final = "/v1/woof/stream"
SILENCE_S: Final = 45.0
"""A stream is dead when not even three comments in a row arrive."""
FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 5.0

_HEADERS: Final = {"Content-Type": ENVELOPE_CONTENT_TYPE, "Accept": EVENT_CONTENT_TYPE}


class Following:
    """Elements of ``woof`` from number ``first`` on; without it, from the newest ``tail`` on."""

    def __init__(
        self,
        caller: WoofCaller,
        woof: str,
        *,
        first: int | None,
        tail: int,
        patience_s: float,
    ) -> None:
        self._caller = caller
        self._woof = woof
        self._next = first
        self._tail = tail
        self._woof_id: bytes | None = None
        self._patience_s = patience_s
        self._heard = False

    async def elements(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Each element with its number, for ever.

        Raises:
            MissingWoofError: there is no such WooF, or no longer.
            ElementEvictedError: the history has moved past the next element.
            ElementNotYetError: elements before the first one are not put yet.
            CannotReachError, TimedOutError, UnavailableError: nobody answered for ``patience_s``.
            AuthorityError: the capability does not allow it, or no longer.
        """
        pause_s = FIRST_PAUSE_S
        silent_since_s = time.monotonic()
        while True:
            self._heard = False
            failure: Refused = CannotReachError(f"the stream of {self._woof!r} ended at once")
            try:
                async with aclosing(self._once()) as found:
                    async for number, element in found:
                        pause_s = FIRST_PAUSE_S
                        yield number, element
            except (CannotReachError, TimedOutError, UnavailableError) as error:
                failure = error
            now_s = time.monotonic()
            if self._heard:
                # Not since the last element: who reads may have taken long over that.
                silent_since_s = now_s
            elif now_s - silent_since_s > self._patience_s:
                raise failure
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _once(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """The elements of one stream; returns when it breaks off."""
        for _ in range(MAX_REBINDS):
            request = self._bind()
            sent_s = time.monotonic()
            async with self._caller.http.stream(
                "POST", STREAM_PATH, body=request.encoded, headers=_HEADERS, silence_s=SILENCE_S
            ) as answer:
                if content_type_of(answer) == EVENT_CONTENT_TYPE:
                    async with aclosing(self._read(request, answer)) as found:
                        async for number, element in found:
                            yield number, element
                    return
                reply = request.open_reply(reply_in(await answer.whole()))
            if await self._caller.catches_up(request, reply, sent_s):
                continue
            if not self._caller.follow(reply):
                check_done(request.envelope, reply)
                raise UnexpectedAnswerError("the node answered a stream with a reply")
        raise StaleError(
            f"other callers with this capability were quicker {MAX_REBINDS} times",
            sequence_epoch=reply.sequence_epoch,
            sequence_floor=reply.sequence_floor,
        )

    def _bind(self) -> BoundRequest:
        scan = Scan(NEWEST, self._tail) if self._next is None else Scan(self._next, 0)
        return self._caller.bind(Operation.SCAN, self._woof, encode_scan(scan))

    async def _read(
        self, request: BoundRequest, answer: StreamedAnswer
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        reader = EventReader()
        begun = False
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                self._heard = True
                for event in _events(reader, chunk):
                    reply = request.open_reply(_data_of(event))
                    if event.name == "begin":
                        self._begin(reply)
                        begun = True
                        continue
                    check_done(request.envelope, reply)
                    told = (event.name, status_of(reply), reply.result)
                    if not begun or told != ("message", Status.OK, self._next):
                        raise BadReplyError(f"element {self._next} was to come in the stream")
                    self._next = reply.result + 1
                    yield reply.result, reply.payload

    def _begin(self, reply: Reply) -> None:
        """Take note of where the stream begins, and of which WooF it is."""
        if status_of(reply) != Status.ACCEPTED or self._next not in (None, reply.result):
            raise BadReplyError(f"the stream does not begin at element {self._next}")
        if self._woof_id not in (None, reply.payload):
            raise MissingWoofError(f"WooF {self._woof!r} was deleted, and is another one now")
        self._woof_id = reply.payload
        self._next = reply.result


def _events(reader: EventReader, chunk: bytes) -> list[Event]:
    try:
        return reader.feed(chunk)
    except MalformedError as error:
        raise BadReplyError(error.detail) from None


def _data_of(event: Event) -> bytes:
    try:
        return base64.b64decode(event.data, validate=True)
    except (binascii.Error, ValueError):
        raise BadReplyError("an event without a reply in it") from None
