"""One ABCI connection: requests in, answers out, in order.

Rules kept here:

* Strict FIFO: while a request's answer is being awaited, later ones stay in the frame decoder.
  When that holds more than ``READ_AHEAD`` bytes, or the peer does not read our answers, we stop
  reading; nothing is dropped, and any number of requests may be under way (the engine sends up
  to 256).
* No task per message: a method that answers at once is answered from the read callback, and the
  answers of one read leave in one write. Flush sends what is there without waiting for more.
* The event loop is shared: after ``SLICE_S`` of work the connection lets others go first.
* A peer that breaks the protocol gets an exception response, a log line and a closed
  connection. An application that raises stops the server, through ``Host.fail``.
* A peer that closed its writing side still gets the answers to what it had asked. One that is
  told why we close may still be sending: its writes must not fail before it has read that.

Not handled here: listening, and what happens between connections (``abci_server``).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from edgistry.errors import MalformedError, Refused, TooLargeError

from .abci_framing import FrameDecoder
from .abci_messages import (
    CALLS,
    Call,
    decode_request,
    encode_exception,
    encode_response,
    refusal,
)

log = logging.getLogger("edgistry.node.abci")

READ_AHEAD = 1024 * 1024
"""Bytes kept unread while a connection waits: room for the engine's 256 requests of usual size."""

SLICE_S = 0.005
"""Seconds of work before others on the event loop get a turn; a fraction of what a person or an
HTTP client would notice, a hundred times what the switch costs."""

LINGER_S = 1.0
"""Seconds that a peer has for reading why we close, before we close under it."""

Method = Callable[[Any], Any]

_ECHO, _FLUSH = CALLS["echo"], CALLS["flush"]
_FLUSH_FRAME = encode_response(_FLUSH, _FLUSH.response_type())


class FaultyAnswerError(Exception):
    """The application answered something that would stop the engine: a bug of ours."""


class Host(Protocol):
    """What a connection needs of the server."""

    methods: Mapping[str, Method]
    frame_limit: int

    def joined(self, connection: Connection) -> None:
        """A peer has connected."""

    def left(self, connection: Connection) -> None:
        """The peer sends no more."""

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""

    def settled(self, connection: Connection) -> None:
        """An answer that was awaited has come, and no further one is awaited."""

    def may_work(self, connection: Connection) -> bool:
        """Whether requests of this connection may be handled now."""

    def fail(self, error: BaseException) -> None:
        """The application raised: halt."""


class Connection(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._frames = FrameDecoder(host.frame_limit)
        self._answers: list[bytes] = []
        self._unwritten = 0  # bytes of them
        self._awaited: asyncio.Future[Any] | None = None
        self._congested = False  # the peer does not read
        self._yielded = False  # the rest of a long slice is scheduled
        self._ended = False  # the peer sends no more
        self._finished = False  # nothing more is answered
        self._paused = False  # we do not read
        self.is_lost = False

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=READ_AHEAD)
        self._host.joined(self)

    def data_received(self, data: bytes) -> None:
        if not self._finished:
            self._frames.feed(data)
            self.work()

    def eof_received(self) -> bool:
        self._ended = True
        self._host.left(self)
        if self._finished:
            self._transport.close()
        self.work()
        return True  # keep the writing side until the answers are out

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = self._finished = self.is_lost = True
        if error is not None:
            log.info("ABCI connection lost: %s", error)
        self._host.lost(self)

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self.work()

    # --- called by the server

    @property
    def awaited(self) -> asyncio.Future[Any] | None:
        """The answer that the application is working on."""
        return self._awaited

    def close(self) -> None:
        """Answer nothing more; send what was answered, then close."""
        if not self._finished:
            self._finished = True
            self._write()
            self._transport.close()

    def abort(self) -> None:
        """Close without sending."""
        self._finished = True
        self._transport.abort()

    def work(self) -> None:
        """Handle what can be handled now; arrange for the rest."""
        if self._may_work():
            self._handle_slice()
        if self._finished:
            return
        waiting = not self._may_work()
        if self._ended:
            if not waiting:
                self._end()
        elif waiting and self._frames.pending > READ_AHEAD:
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
        elif self._paused and not waiting:
            self._paused = False
            self._transport.resume_reading()

    # --- one slice of work

    def _may_work(self) -> bool:
        return (
            self._awaited is None
            and not self._congested
            and not self._yielded
            and not self._finished
            and self._host.may_work(self)
        )

    def _handle_slice(self) -> None:
        time = self._loop.time
        deadline = time() + SLICE_S
        next_message = self._frames.next_message
        try:
            while (message := next_message()) is not None:
                call, request = decode_request(message)
                if call is _FLUSH:
                    self._add(_FLUSH_FRAME)
                    self._write()
                else:
                    self._dispatch(call, request)
                    # Only what is written tells whether the peer reads.
                    if self._unwritten > READ_AHEAD:
                        self._write()
                if self._awaited is not None or self._congested or self._finished:
                    break
                if time() > deadline:
                    self._yielded = True
                    self._loop.call_soon(self._resume)
                    break
        except (MalformedError, TooLargeError) as error:
            self._refuse(error)
        self._write()

    def _dispatch(self, call: Call, request: Any) -> None:
        """Answer, or start to await the answer. Never raises: what the application raises halts."""
        if call is _ECHO:
            response = _ECHO.response_type(message=request.message)
            self._add(encode_response(_ECHO, response))
            return
        try:
            response = self._host.methods[call.name](request)
            if type(response) is not call.response_type and inspect.isawaitable(response):
                self._awaited = asyncio.ensure_future(response)
                self._awaited.add_done_callback(lambda done: self._settle(call, request, done))
                return
        except BaseException as error:
            self._answer_error(call, error)
            return
        self._answer(call, request, response)

    def _answer(self, call: Call, request: Any, response: Any) -> None:
        try:
            if type(response) is not call.response_type:
                raise FaultyAnswerError(f"{call.name} answered a {type(response).__name__}")
            fault = call.find_fault and call.find_fault(request, response)
            if fault:
                raise FaultyAnswerError(f"{call.name} answered {fault}")
            self._add(encode_response(call, response))
        except Exception as error:
            self._halt(call, error)

    def _answer_error(self, call: Call, error: BaseException) -> None:
        if isinstance(error, Refused) and call.has_code:
            self._answer(call, None, refusal(call, error))
        else:
            self._halt(call, error)

    def _settle(self, call: Call, request: Any, done: asyncio.Future[Any]) -> None:
        """The awaited answer is there."""
        self._awaited = None
        if done.cancelled():
            # Only our own shutdown cancels; whoever else did has stopped half-way through a call.
            if not self._finished:
                self._halt(call, asyncio.CancelledError(f"{call.name} was cancelled"))
        elif (error := done.exception()) is not None:
            self._answer_error(call, error)
        else:
            self._answer(call, request, done.result())
        self._write()
        self.work()
        if self._awaited is None:
            self._host.settled(self)

    def _resume(self) -> None:
        self._yielded = False
        self.work()

    # --- ways out

    def _add(self, answer: bytes) -> None:
        self._answers.append(answer)
        self._unwritten += len(answer)

    def _write(self) -> None:
        if self._answers:
            answers, self._answers, self._unwritten = self._answers, [], 0
            if not self._transport.is_closing():
                self._transport.write(b"".join(answers))

    def _refuse(self, error: Refused) -> None:
        """The peer broke the protocol; there is nothing to read after that."""
        log.warning("ABCI connection closed: %s", error)
        self._close_telling(f"{error.code}: {error}")

    def _halt(self, call: Call, error: BaseException) -> None:
        log.critical("stopping: the application failed in %s", call.name, exc_info=error)
        self._close_telling(f"{call.name} failed; the node's log says why")
        self._host.fail(error)

    def _close_telling(self, why: str) -> None:
        """Answer an exception and nothing more; close when the peer does, or soon."""
        if self._finished:
            return
        self._add(encode_exception(why))
        if self._ended:
            self.close()
            return
        self._finished = True
        self._write()
        if self._transport.is_closing():
            return
        self._transport.write_eof()
        if self._paused:
            self._transport.resume_reading()
        self._loop.call_later(LINGER_S, self._transport.close)

    def _end(self) -> None:
        if self._frames.pending:
            log.warning("ABCI connection ended within a frame")
        self.close()
