"""How a try of a handler ended, and what the handler's result means.

Rules kept here:

* A handler returns ``None``, or bytes that answer the one who put; anything else is its bug.
* A reason is one line, of bounded length, without control characters.

Not handled here: what follows from a failure (``faas.py``).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Final

from .errors import Refused
from .handlers import GiveUpError
from .woof import MAX_ELEMENT_BYTES
from .wording import in_one_line

MAX_REASON: Final = 500
"""Characters."""

MAX_ANSWER_BYTES: Final = MAX_ELEMENT_BYTES
"""What a handler may return: it travels as an element does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A try that succeeded, and what the handler returned."""

    answer: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a try failed, and whether trying again can help."""

    reason: str
    for_good: bool = False
    output: bytes = b""
    """The end of what an isolated handler printed. May hold secrets: for the operator only."""


Outcome = Answer | Failure


def outcome_of(result: object) -> Outcome:
    """What it means that a handler returned ``result``."""
    if result is None:
        return Answer()
    if isinstance(result, bytes | bytearray | memoryview):
        answer = bytes(result)
        if len(answer) <= MAX_ANSWER_BYTES:
            return Answer(answer=answer)
        return Failure(
            reason=f"returned {len(answer)} bytes where {MAX_ANSWER_BYTES} are allowed",
            for_good=True,
        )
    if inspect.iscoroutine(result):
        result.close()
    kind = type(result).__name__
    return Failure(
        reason=one_line(f"returned a {kind}; a handler returns None or bytes"), for_good=True
    )


def failure_of(error: BaseException) -> Failure:
    """What it means that a handler raised ``error``."""
    return Failure(reason=reason_of(error), for_good=isinstance(error, GiveUpError))


def reason_of(error: BaseException) -> str:
    """``error`` in one line of at most ``MAX_REASON`` characters."""
    name = error.code if isinstance(error, Refused) else type(error).__name__
    try:
        words = str(error)
    except Exception:
        words = "(it cannot say)"  # a class of the handler's own, which may do anything
    return one_line(f"{name}: {words}" if words else name)


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters, and not too long."""
    line = in_one_line(text[:MAX_REASON])
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"
