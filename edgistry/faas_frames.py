"""What a program and the child process of an isolated handler say to each other.

Rules kept here:

* A frame is its length (u32), its kind (one byte) and a MessagePack array. Any bytes give frames
  or ``MalformedError``; a frame that is too long is refused before it is read.
* One invocation at a time: ``Setup``, then ``Ready`` or ``Ended``; then again and again ``Begin``
  and, after any number of ``Ask`` and ``Say``, ``Ended``. Every ``Ask`` gets one ``Reply``.
* The child is not believed: its frames are small, and what it asks for is checked as if the
  handler ran here.

Not handled here: moving bytes (``adapters/faas_spawned.py``, ``adapters/faas_child.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Final

from .codec import Meta, Wire, decode, encode
from .errors import MalformedError, Refused, TooLargeError, every_refusal
from .faas_calls import MAX_TAIL
from .woof import MAX_ELEMENT_BYTES

HEAD_BYTES: Final = 5

FROM_CHILD_BYTES: Final = MAX_ELEMENT_BYTES + 4096
TO_CHILD_BYTES: Final = MAX_TAIL * (MAX_ELEMENT_BYTES + 32) + 4096

MAX_FACTS: Final = 16
MAX_WORDS: Final = 500
"""Characters of an event or a fact that a handler logs."""

_Text = Annotated[str, Meta(max_length=MAX_WORDS)]
_Number = Annotated[int, Meta(ge=0)]


class Setup(Wire):
    """To the child, once: which handler it serves, and its limits."""

    module: str
    handler: str
    memory_mb: int
    cpu_s: int
    files: int


class Begin(Wire):
    """To the child: handle this element."""

    woof: str
    number: int
    element: bytes
    attempt: int


class Reply(Wire):
    """To the child: what came of ``Ask`` number ``id``."""

    id: int
    code: str = ""
    """Of the refusal; empty when there is none."""
    detail: str = ""
    number: int = 0
    elements: tuple[tuple[int, bytes], ...] = ()


class Ready(Wire):
    """From the child, once: the handler is loaded."""


class Operation(IntEnum):
    """What a handler can ask of its context."""

    GET = 1
    LATEST = 2
    TAIL = 3
    PUT = 4


class Ask(Wire):
    """From the child: the handler wants this done."""

    id: _Number
    operation: Operation
    woof: Annotated[str, Meta(max_length=128)]
    number: int = 0
    """The element's, or how many elements."""
    element: bytes = b""
    handler: Annotated[str, Meta(max_length=128)] | None = None
    index: _Number = 0
    """Which put of this invocation it is."""


class Say(Wire):
    """From the child: the handler logs this."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")]
    event: _Text
    facts: Annotated[tuple[tuple[_Text, _Text], ...], Meta(max_length=MAX_FACTS)]


class Ended(Wire):
    """From the child: how the invocation ended, or why the handler cannot be loaded."""

    answer: bytes | None = None
    failure: _Text | None = None
    for_good: bool = False
    exhausted: bool = False
    """Memory ran out: the child is not to be used again."""


Frame = Setup | Begin | Reply | Ready | Ask | Say | Ended

_KINDS: Final[tuple[type[Frame], ...]] = (Setup, Begin, Reply, Ready, Ask, Say, Ended)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}


def frame_bytes(frame: Frame) -> bytes:
    """``frame`` as it travels."""
    body = encode(frame)
    return len(body).to_bytes(4, "big") + bytes((_NUMBERS[type(frame)],)) + body


def parse_head(head: bytes, *, limit: int) -> tuple[type[Frame], int]:
    """Kind, and number of further bytes, of a frame that begins with ``head`` (5 bytes).

    Raises:
        TooLargeError: more than ``limit`` bytes.
        MalformedError: no such kind.
    """
    length, number = int.from_bytes(head[:4], "big"), head[4]
    if length > limit:
        raise TooLargeError(f"a frame of {length} bytes where {limit} are allowed")
    if number >= len(_KINDS):
        raise MalformedError(f"no frame is of kind {number}")
    return _KINDS[number], length


class FrameReader:
    """Frames out of bytes that arrive in pieces."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with ``data``.

        Raises:
            MalformedError, TooLargeError: it is no frame; nothing more can be read.
        """
        self._data += data
        while len(self._data) >= HEAD_BYTES:
            kind, length = parse_head(bytes(self._data[:HEAD_BYTES]), limit=self._limit)
            end = HEAD_BYTES + length
            if len(self._data) < end:
                return
            body = bytes(self._data[HEAD_BYTES:end])
            del self._data[:end]
            yield decode(body, kind, limit=self._limit)


def refusal_named(code: str, detail: str) -> Refused:
    """The refusal with this code: what the program raised, raised again in the child."""
    kind = _REFUSALS.get(code, Refused)
    if kind.__init__ is not Refused.__init__:
        kind = Refused
    return kind(detail)


_REFUSALS: Final = {kind.code: kind for kind in every_refusal()}
