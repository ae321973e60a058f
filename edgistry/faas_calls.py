"""What a handler may ask of its context: the checks that are alike wherever it runs.

Not handled here: doing it (``adapters/faas_context.py``, ``adapters/faas_child_context.py``).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from .errors import InvalidValueError

MAX_TAIL: Final = 1000
"""Elements that a handler can read at once."""
MAX_PUTS: Final = 10_000
"""Puts of one invocation; each is remembered until it ends."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(us: int) -> datetime:
    """The moment ``us`` µs after 1970 began, in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def check_tail(count: int) -> None:
    """Raises InvalidValueError unless a handler may read ``count`` elements at once."""
    if not 0 <= count <= MAX_TAIL:
        raise InvalidValueError(f"a handler reads 0 to {MAX_TAIL} elements at once, not {count}")


def element_bytes(element: object) -> bytes:
    """``element`` as bytes.

    Raises:
        TypeError: it is something else; a text would have to be encoded first.
    """
    if isinstance(element, bytes | bytearray | memoryview):
        return bytes(element)
    raise TypeError(f"an element is bytes, not {type(element).__name__}")
