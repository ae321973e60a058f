"""Reading what was sent to the operator's socket: bodies and query parameters, strictly.

Rules kept here: unknown parameters are refused; so is anything that is not what it should be.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from edgistry.adapters.http import Request
from edgistry.codec import Document, decode_json
from edgistry.errors import InvalidValueError, MalformedError

from .admin_api import MAX_ADMIN_BODY_BYTES

T = TypeVar("T", bound=Document)

Answering = Callable[[Request], Awaitable[Document]]
AdminRoute = tuple[str, str, Answering]
"""Method, path and what answers it."""


def body_of(request: Request, kind: type[T]) -> T:
    """The body as a ``kind``.

    Raises:
        MalformedError, TooLargeError: it is none.
    """
    return decode_json(request.body, kind, limit=MAX_ADMIN_BODY_BYTES)


def parameters_of(request: Request, *known: str) -> Mapping[str, str]:
    """The query parameters, all of them ``known``.

    Raises:
        MalformedError: there is another one.
    """
    for name in request.query:
        if name not in known:
            raise MalformedError(f"unknown query parameter {name[:50]!r}")
    return request.query


def integer(
    given: Mapping[str, str], name: str, *, default: int, low: int, high: int = (1 << 63) - 1
) -> int:
    """Parameter ``name`` as a whole number from ``low`` to ``high``.

    Raises:
        MalformedError, InvalidValueError: it is none, or out of its range.
    """
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise MalformedError(f"{name}: {text[:40]!r} is not a whole number")
    if not low <= int(text) <= high:
        raise InvalidValueError(f"{name}: {text} is not between {low} and {high}")
    return int(text)


def seconds(given: Mapping[str, str], name: str, *, default: float, high: float) -> float:
    """Parameter ``name`` as a number from 0 to ``high``. Raises as ``integer``."""
    text = given.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        raise MalformedError(f"{name}: {text[:40]!r} is not a number") from None
    if not (math.isfinite(value) and 0 <= value <= high):
        raise InvalidValueError(f"{name}: {text[:40]} is not between 0 and {high:g}")
    return value
