"""In the child process of an isolated handler: the parent, and the context of a plain function.

Rules kept here:

* Everything the handler wants of WooFs is asked of the parent, one question at a time.
* What could not travel is refused here, as it would be in the program itself.

Not handled here: ``async def`` handlers (``faas_child_async.py``).
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..errors import InvalidValueError, LimitExceededError, TooLargeError
from ..faas_calls import MAX_PUTS, check_tail, element_bytes, time_of
from ..faas_frames import (
    MAX_FACTS,
    MAX_WORDS,
    TO_CHILD_BYTES,
    Ask,
    Begin,
    Ended,
    Frame,
    FrameReader,
    Operation,
    Reply,
    Say,
    frame_bytes,
    refusal_named,
)
from ..faas_outcome import Failure, Outcome, failure_of, outcome_of
from ..handlers import Handler
from ..woof import MAX_ELEMENT_BYTES
from .faas_limits import limit_processor_time

_CHUNK = 256 * 1024


class Parent:
    """The socket to the parent, used from one thread; blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = FrameReader(limit=TO_CHILD_BYTES)
        self._frames: list[Frame] = []

    def send(self, frame: Frame) -> None:
        """Send one frame whole."""
        self.connection.sendall(frame_bytes(frame))

    def receive(self) -> Frame:
        """The next frame; ends the process when there will be none."""
        while not self._frames:
            data = self.connection.recv(_CHUNK)
            if not data:
                raise SystemExit(0)
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)


class ChildLogger:
    """A ``HandlerLogger`` that tells the parent."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send

    def debug(self, event: str, **facts: object) -> None:
        """As ``HandlerLogger.debug``."""
        self._say("debug", event, facts)

    def info(self, event: str, **facts: object) -> None:
        """As ``HandlerLogger.info``."""
        self._say("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """As ``HandlerLogger.warning``."""
        self._say("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        """As ``HandlerLogger.error``."""
        self._say("error", event, facts)

    def _say(self, level: str, event: str, facts: dict[str, object]) -> None:
        words = [(_words(name), _words(value)) for name, value in list(facts.items())[:MAX_FACTS]]
        self._send(Say(level=level, event=_words(event), facts=tuple(words)))


def _words(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text[:MAX_WORDS].encode("utf-8", "replace").decode()


class Asking:
    """What both contexts have in common: how the questions are worded."""

    def __init__(self, begin: Begin, send: Callable[[Frame], None]) -> None:
        self.attempt = begin.attempt
        self.logger = ChildLogger(send)
        self._asked = 0
        self._puts = 0

    def now(self) -> datetime:
        """The time, in UTC."""
        return time_of(time.time_ns() // 1000)

    def _get(self, woof: str, seq: int) -> Ask:
        if not 0 <= seq < 1 << 64:
            raise InvalidValueError(f"elements are numbered from 1, so there is no element {seq}")
        return self._question(Operation.GET, woof, number=seq)

    def _latest(self, woof: str) -> Ask:
        return self._question(Operation.LATEST, woof)

    def _tail(self, woof: str, count: int) -> Ask:
        check_tail(count)
        return self._question(Operation.TAIL, woof, number=count)

    def _put(self, woof: str, element: bytes, handler: str | None) -> Ask:
        data = element_bytes(element)
        if len(data) > MAX_ELEMENT_BYTES:
            raise TooLargeError(f"an element of {len(data)} bytes; WooFs take {MAX_ELEMENT_BYTES}")
        if self._puts >= MAX_PUTS:
            raise LimitExceededError(f"one invocation may put {MAX_PUTS} times")
        self._puts += 1
        named = None if handler is None else handler[:128]
        return self._question(
            Operation.PUT, woof, element=data, handler=named, index=self._puts - 1
        )

    def _question(self, operation: Operation, woof: str, **more: Any) -> Ask:
        self._asked += 1
        return Ask(id=self._asked, operation=operation, woof=woof[:128], **more)


def checked(reply: Reply) -> Reply:
    """``reply``; raises the refusal that it is."""
    if reply.code:
        raise refusal_named(reply.code, reply.detail)
    return reply


class ChildContext(Asking):
    """A ``BlockingContext`` for a plain function."""

    def __init__(self, begin: Begin, parent: Parent) -> None:
        super().__init__(begin, parent.send)
        self._parent = parent

    def get(self, woof: str, seq: int) -> bytes:
        """Element ``seq`` of WooF ``woof``."""
        return self._ask(self._get(woof, seq)).elements[0][1]

    def latest(self, woof: str) -> tuple[int, bytes]:
        """The newest element and its number."""
        return self._ask(self._latest(woof)).elements[0]

    def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` elements with their numbers, newest first."""
        return list(self._ask(self._tail(woof, count)).elements)

    def put(self, woof: str, element: bytes, *, handler: str | None = None) -> int:
        """Append ``element``; its number, once it is durable."""
        return self._ask(self._put(woof, element, handler)).number

    def _ask(self, ask: Ask) -> Reply:
        self._parent.send(ask)
        reply = self._parent.receive()
        if not isinstance(reply, Reply):
            raise SystemExit(1)
        return checked(reply)


def serve(parent: Parent, handler: Handler) -> None:
    """Run a plain function on one element after the other; never returns."""
    while True:
        begin = begin_of(parent.receive(), handler)
        try:
            context = ChildContext(begin, parent)
            result = handler.function(context, begin.woof, begin.number, begin.element)
            ended = ended_of(outcome_of(result))
        except BaseException as error:
            ended = raised(error)
        flush()
        parent.send(ended)


def begin_of(frame: Frame, handler: Handler) -> Begin:
    """The element to handle; ends the process when the parent says something else."""
    if not isinstance(frame, Begin):
        raise SystemExit(1)
    limit_processor_time(handler.limits.cpu_s)
    return frame


def ended_of(outcome: Outcome) -> Ended:
    """``outcome`` as it is told to the parent."""
    if isinstance(outcome, Failure):
        return Ended(failure=outcome.reason, for_good=outcome.for_good)
    return Ended(answer=outcome.answer)


def raised(error: BaseException) -> Ended:
    """What the parent is told of a handler that raised ``error``."""
    failure = failure_of(error)
    return Ended(
        failure=failure.reason,
        for_good=failure.for_good,
        exhausted=isinstance(error, MemoryError),
    )


def flush() -> None:
    """What the handler has printed is on its way."""
    # The handler may have closed or replaced them.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
