"""Server-sent events: the text form of a stream over HTTP, written and read (WHATWG HTML §9.2).

Rules kept here:

* Reading takes bytes as they come and gives the events that are complete; lines may end in LF, CR
  or CRLF. Comments keep a silent connection alive and are skipped.
* An event is bounded: a line or an event over the limit is refused, not collected.

Not handled here: what the events mean, and reconnecting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .errors import MalformedError

EVENT_CONTENT_TYPE: Final = "text/event-stream"
KEEP_ALIVE: Final = b":\n\n"
MAX_EVENT_BYTES: Final = 256 * 1024
"""An element of 64 KiB in its reply has about 88 KB as base64."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. ``id`` is the last one that was sent, "" before the first."""

    name: str = "message"
    data: str = ""
    id: str = ""


def encode_event(data: str, *, name: str = "", event_id: str = "") -> bytes:
    """The bytes of one event; no argument has an end of line in it."""
    head = f"event: {name}\n" if name else ""
    if event_id:
        head += f"id: {event_id}\n"
    return f"{head}data: {data}\n\n".encode()


class EventReader:
    """From the bytes of a stream to its events."""

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = b""
        self._is_first = True
        self._id = ""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes.

        Raises:
            MalformedError: no UTF-8, or an event over the limit; the reader is of no use then.
        """
        text = self._rest + data
        # A CR at the end may be the first half of a CRLF.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = _LINE_END.split(text[: len(text) - len(held)])
        self._rest = lines.pop() + held
        if len(self._rest) > self._limit:
            raise MalformedError(f"a line of over {self._limit} bytes in an event stream")
        found = []
        for line in lines:
            event = self._line(line)
            if event is not None:
                found.append(event)
        return found

    def _line(self, line: bytes) -> Event | None:
        if self._is_first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._is_first = False
        if not line:
            return self._dispatch()
        try:
            field, _, value = line.decode().partition(":")
        except UnicodeDecodeError:
            raise MalformedError("an event stream that is not UTF-8") from None
        value = value.removeprefix(" ")
        if field == "data":
            self._size += len(line)
            if self._size > self._limit:
                raise MalformedError(f"an event of over {self._limit} bytes")
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        event = None
        if self._data:
            event = Event(name=self._name or "message", data="\n".join(self._data), id=self._id)
        self._name = ""
        self._data = []
        self._size = 0
        return event
