"""WooF: the rules of one append-only log (the name is CSPOT's).

Rules kept here:

* Elements are numbered from 1 by one. A WooF with ``history`` h whose newest element is number n
  shows exactly the numbers ``[max(1, n - h + 1), n]``, for every h, also 1.
* What cannot be read is refused in four different ways: the WooF is missing, it is empty, the
  element is evicted, the element is not there yet. A fifth, "lost", can only follow from damage.
* An element is at most 64 KiB; a WooF with an ``element_size`` takes elements of just that size.
* A WooF is called ``namespace/woof``; each component as in ``rights.py``.

Not handled here: where elements rest (``woof_store.py``), and who may do what (``rights.py``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, NewType

from .caveats import MAX_HANDLER_BYTES
from .errors import (
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    TooLargeError,
)
from .rights import is_component

WoofId = NewType("WoofId", int)
"""Tells a WooF from all others that its store ever had, also from earlier ones of its name."""

MAX_ELEMENT_BYTES: Final = 64 * 1024
MAX_HISTORY: Final = 1 << 32
MAX_NUMBER: Final = (1 << 64) - 2
"""The last number that can be given. At a million puts a second it is reached in 584 542 years."""
MAX_KEY_BYTES: Final = 64
"""Of an idempotency key."""

_NAME_RULE = "each part 1-32 of a-z, 0-9, '.', '_', '-', and not '.' or '..'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The numbers that can be read: ``earliest`` to ``latest``, both included."""

    earliest: int
    """``latest + 1`` when the WooF is empty."""
    latest: int
    """0 when the WooF is empty."""

    def __len__(self) -> int:
        return self.latest - self.earliest + 1


def window_of(latest: int, history: int) -> Window:
    """The window of a WooF whose newest element is number ``latest`` (0: it has none)."""
    return Window(earliest=max(1, latest - history + 1), latest=latest)


def check_readable(name: str, number: int, window: Window) -> None:
    """Return if element ``number`` is inside ``window``.

    Raises:
        InvalidValueError: no element ever has that number.
        EmptyWoofError, ElementEvictedError, ElementNotYetError: why it cannot be read.
    """
    if window.earliest <= number <= window.latest:
        return
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidValueError(f"elements are numbered from 1, so there is no element {number}")
    if window.latest == 0:
        raise EmptyWoofError(f"WooF {name!r} has no element yet")
    if number > window.latest:
        not_yet = ElementNotYetError(f"WooF {name!r} ends at {window.latest}, not yet at {number}")
        not_yet.latest = window.latest
        raise not_yet
    raise evicted(name, number, window)


def evicted(name: str, number: int, window: Window) -> ElementEvictedError:
    """The refusal of an element that ``window`` has moved past."""
    gone = ElementEvictedError(
        f"element {number} of WooF {name!r} is gone; it begins at {window.earliest}"
    )
    gone.earliest = window.earliest
    return gone


def check_parameters(history: int, element_size: int) -> None:
    """Return if a WooF may be created with these.

    Raises:
        InvalidValueError: one is out of its range.
    """
    if not 1 <= history <= MAX_HISTORY:
        raise InvalidValueError(f"history is {history}; a WooF keeps 1 to {MAX_HISTORY} elements")
    if not 0 <= element_size <= MAX_ELEMENT_BYTES:
        raise InvalidValueError(
            f"element_size is {element_size}; use 1 to {MAX_ELEMENT_BYTES} bytes, or 0 for any size"
        )


def check_element(name: str, element: bytes, element_size: int) -> None:
    """Return if WooF ``name`` takes ``element``.

    Raises:
        TooLargeError, InvalidValueError: it does not.
    """
    size = len(element)
    limit = element_size or MAX_ELEMENT_BYTES
    if size > limit:
        raise TooLargeError(f"an element of {size} bytes; WooF {name!r} takes {limit}")
    if element_size and size != element_size:
        raise InvalidValueError(
            f"an element of {size} bytes; WooF {name!r} takes just {element_size}"
        )


def check_key(key: bytes) -> bytes:
    """``key``, if it can be an idempotency key.

    Raises:
        InvalidValueError: it is empty or too long.
    """
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise InvalidValueError(f"an idempotency key of {len(key)} bytes; use 1-{MAX_KEY_BYTES}")
    return key


@functools.lru_cache(maxsize=1024)
def check_handler(name: str) -> bytes:
    """The bytes of ``name``, if a handler can be called so.

    Raises:
        InvalidValueError: it is empty or too long.
    """
    encoded = name.encode("utf-8", "replace")
    if not 1 <= len(encoded) <= MAX_HANDLER_BYTES:
        raise InvalidValueError(f"handler {name[:80]!r}: use 1-{MAX_HANDLER_BYTES} bytes")
    return encoded


@functools.lru_cache(maxsize=1024)
def check_namespace(name: str) -> bytes:
    """The bytes of ``name``, if a namespace can be called so.

    Raises:
        InvalidValueError: it cannot.
    """
    encoded = name.encode("utf-8", "replace")
    if not is_component(encoded):
        raise InvalidValueError(f"namespace {name[:80]!r}: use {_NAME_RULE}")
    return encoded


@functools.lru_cache(maxsize=1024)
def split_name(name: str) -> tuple[bytes, bytes]:
    """Namespace and own name of the WooF called ``name``.

    Raises:
        InvalidValueError: it is not ``namespace/woof``.
    """
    namespace, slash, woof = name.encode("utf-8", "replace").partition(b"/")
    if not (slash and is_component(namespace) and is_component(woof)):
        raise InvalidValueError(f"WooF {name[:80]!r}: use namespace/woof, {_NAME_RULE}")
    return namespace, woof
