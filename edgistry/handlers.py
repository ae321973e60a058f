"""Handlers: functions that run because of a Put, and the table of those that may be named.

    from edgistry.handlers import Context, handler

    @handler(timeout_s=5)
    async def alarm(context: Context, woof: str, seq: int, element: bytes) -> None:
        if float(element) > 40:
            await context.put("greenhouse/alarms", element)

Rules kept here:

* A handler is called by name; the name is looked up in the table and means nothing else, never a
  path or a module. The table is made from a module that the operator names.
* A handler sees the new element and, through its context, elements of WooFs; what it wants to
  last it puts into a WooF. Between two invocations it has no state that it may rely on.
* It may be run more than once for one element. What it puts is put once all the same, as long as
  it decides alike each time; so it should decide by its elements alone.
* ``async def`` handlers get a ``Context``, plain functions a ``BlockingContext``, in a thread.
* Devices may have their home node run only those that are marked ``for_devices``: what a manifest
  names is a wish, and the operator's module says what is granted. These are isolated unless it says
  otherwise.

Not handled here: when a handler runs, and what becomes of one that fails (``faas.py``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeVar, overload

from .errors import InvalidValueError, UnknownHandlerError

Isolation = Literal["none", "process"]
"""``none``: in the program itself. ``process``: in a child process with limits."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

MAX_TIMEOUT_S: Final = 86_400.0
MAX_CONCURRENCY: Final = 256
MAX_ATTEMPTS: Final = 1000
MAX_WAIT_S: Final = 7 * 86_400.0
MAX_MEMORY_MB: Final = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}|_[A-Za-z0-9._-]{1,31}")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_MARK = "__edgistry_handlers__"


class GiveUpError(Exception):
    """Raised by a handler for which trying again is useless: it becomes a dead letter at once."""


class HandlerLogger(Protocol):
    """Where a handler says what happens, with facts: ``logger.info("too hot", degrees=41)``."""

    def debug(self, event: str, **facts: object) -> object:
        """For who looks for a fault."""

    def info(self, event: str, **facts: object) -> object:
        """What an operator may want to know."""

    def warning(self, event: str, **facts: object) -> object:
        """What an operator should look at."""

    def error(self, event: str, **facts: object) -> object:
        """What an operator must look at."""


class Context(Protocol):
    """What an ``async def`` handler has to work with, for one invocation."""

    @property
    def attempt(self) -> int:
        """1 when the element is handled for the first time, as far as is known."""

    @property
    def logger(self) -> HandlerLogger:
        """Lines in the program's log that name the handler and the element."""

    def now(self) -> datetime:
        """The time, in UTC. Differs when the handler is tried again."""

    def get(self, woof: str, seq: int) -> Awaitable[bytes]:
        """Element ``seq`` of WooF ``woof``, this one or another.

        Raises:
            MissingWoofError, EmptyWoofError, ElementEvictedError, ElementNotYetError: why not.
        """

    def latest(self, woof: str) -> Awaitable[tuple[int, bytes]]:
        """The newest element and its number. Raises as ``get``."""

    def tail(self, woof: str, count: int) -> Awaitable[list[tuple[int, bytes]]]:
        """The newest ``count`` elements with their numbers, newest first. Raises as ``get``."""

    def put(self, woof: str, element: bytes, *, handler: str | None = None) -> Awaitable[int]:
        """Append ``element``; its number, once it is durable. ``handler`` is to run on it.

        The n-th put of an invocation is made once, however often the handler is tried.

        Raises:
            MissingWoofError, TooLargeError, InvalidValueError: the WooF does not take it.
            UnknownHandlerError: no handler is called so.
            DivergedError: in an earlier try this put went to another WooF.
        """


class BlockingContext(Protocol):
    """What a plain function has to work with; as ``Context``, without ``await``."""

    @property
    def attempt(self) -> int:
        """As in ``Context``."""

    @property
    def logger(self) -> HandlerLogger:
        """As in ``Context``."""

    def now(self) -> datetime:
        """As in ``Context``."""

    def get(self, woof: str, seq: int) -> bytes:
        """As in ``Context``."""

    def latest(self, woof: str) -> tuple[int, bytes]:
        """As in ``Context``."""

    def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """As in ``Context``."""

    def put(self, woof: str, element: bytes, *, handler: str | None = None) -> int:
        """As in ``Context``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a handler is tried, and how long it waits in between."""

    attempts: int = 5
    """Tries in all; after the last one the element is a dead letter."""
    first_wait_s: float = 1.0
    """Before the second try; doubles each time."""
    longest_wait_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an isolated handler may use."""

    memory_mb: int = 256
    """Address space for its module and its data, in MiB, beside the bare interpreter's."""
    cpu_s: int = 10
    """Seconds of processor time for one invocation."""
    files: int = 32
    """Open files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function under the name that a Put calls it by, and how it is run."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    timeout_s: float = 30.0
    concurrency: int = 4
    """Elements that are handled at the same time. With 1, those that succeed are in order."""
    retry: Retry = Retry()
    isolation: Isolation = "none"
    limits: Limits = Limits()
    for_devices: bool = False
    """Whether devices may have it run on their mirrors, by naming it in their manifests."""


@overload
def handler(function: FunctionT, /) -> FunctionT: ...
@overload
def handler(
    name: str | None = None,
    /,
    *,
    timeout_s: float = ...,
    concurrency: int = ...,
    attempts: int = ...,
    first_wait_s: float = ...,
    longest_wait_s: float = ...,
    isolation: Isolation | None = ...,
    memory_mb: int = ...,
    cpu_s: int = ...,
    for_devices: bool = ...,
) -> Callable[[FunctionT], FunctionT]: ...
def handler(
    name: Any = None,
    /,
    *,
    timeout_s: float = 30.0,
    concurrency: int = 4,
    attempts: int = 5,
    first_wait_s: float = 1.0,
    longest_wait_s: float = 300.0,
    isolation: Isolation | None = None,
    memory_mb: int = 256,
    cpu_s: int = 10,
    for_devices: bool = False,
) -> Any:
    """Make a function a handler, called by ``name`` or else by its own name.

    The function stays as it is. It takes the context, the WooF's name, the number of the element
    and the element, and returns ``None`` or the bytes that answer the one who put. Without
    ``isolation`` it runs in the program itself, and one that is ``for_devices`` in a process.

    Raises:
        InvalidValueError: a parameter is out of its range, or the function takes others.
    """
    if callable(name):
        return handler()(name)

    def mark(function: FunctionT) -> FunctionT:
        made = Handler(
            name=name if name is not None else getattr(function, "__name__", ""),
            function=function,
            is_async=_is_async(function),
            timeout_s=timeout_s,
            concurrency=concurrency,
            retry=Retry(
                attempts=attempts, first_wait_s=first_wait_s, longest_wait_s=longest_wait_s
            ),
            isolation=isolation or ("process" if for_devices else "none"),
            limits=Limits(memory_mb=memory_mb, cpu_s=cpu_s),
            for_devices=for_devices,
        )
        check_handler(made)
        setattr(function, _MARK, (*getattr(function, _MARK, ()), made))
        return function

    return mark


def check_handler(made: Handler) -> None:
    """Return if ``made`` can be run.

    Raises:
        InvalidValueError: it cannot; the detail says why.
    """
    name, retry, limits = made.name, made.retry, made.limits
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            f"handler {name[:80]!r}: a name has 1-32 of A-Z, a-z, 0-9, '.', '_', '-' and begins"
            " with a letter, a digit or '_'"
        )
    for what, value, low, high in (
        ("timeout_s", made.timeout_s, 0.001, MAX_TIMEOUT_S),
        ("concurrency", made.concurrency, 1, MAX_CONCURRENCY),
        ("attempts", retry.attempts, 1, MAX_ATTEMPTS),
        ("first_wait_s", retry.first_wait_s, 0.0, MAX_WAIT_S),
        ("longest_wait_s", retry.longest_wait_s, retry.first_wait_s, MAX_WAIT_S),
        ("memory_mb", limits.memory_mb, 1, MAX_MEMORY_MB),
        ("cpu_s", limits.cpu_s, 1, int(MAX_TIMEOUT_S)),
    ):
        if not low <= value <= high:
            raise InvalidValueError(f"handler {name!r}: {what} is {value}; use {low:g} to {high:g}")
    if made.isolation not in ("none", "process"):
        raise InvalidValueError(f"handler {name!r}: isolation is 'none' or 'process'")
    try:
        inspect.signature(made.function).bind(None, "", 1, b"")
    except TypeError:
        raise InvalidValueError(
            f"handler {name!r} must take four arguments: context, woof, seq, element"
        ) from None


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is looked at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class HandlerTable:
    """The handlers that may be named, and nothing else.

    Raises:
        InvalidValueError: two have the same name.
    """

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers: dict[str, Handler] = {}
        for each in handlers:
            if each.name in self._handlers:
                raise InvalidValueError(f"two handlers are called {each.name!r}")
            self._handlers[each.name] = each

    @classmethod
    def from_names(cls, names: Mapping[str, object]) -> HandlerTable:
        """The handlers among the values of ``names``, for instance ``vars(module)``.

        Raises:
            InvalidValueError: two different ones have the same name.
        """
        found: dict[int, Handler] = {}
        for value in names.values():
            # Looked up, not asked for: a value may answer to every name.
            marks = getattr(value, "__dict__", {}).get(_MARK, ())
            found.update((id(each), each) for each in marks)
        return cls(found.values())

    def require(self, name: str) -> Handler:
        """The handler called ``name``.

        Raises:
            UnknownHandlerError: there is none.
        """
        found = self._handlers.get(name)
        if found is None:
            raise UnknownHandlerError(f"there is no handler {name[:80]!r} here")
        return found

    def require_for_devices(self, name: str) -> Handler:
        """The handler called ``name``, if devices may have it run.

        Raises:
            UnknownHandlerError: there is none that they may.
        """
        found = self._handlers.get(name)
        if found is None or not found.for_devices:
            raise UnknownHandlerError(
                f"this node runs no handler {name[:80]!r} for devices; its operator can mark one"
                " with @handler(for_devices=True)"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    def __iter__(self) -> Iterator[Handler]:
        return iter([self._handlers[name] for name in sorted(self._handlers)])

    def __len__(self) -> int:
        return len(self._handlers)


def check_module(name: str) -> None:
    """Return if a module can be called ``name``; empty means none.

    Raises:
        InvalidValueError: it is a path, or no name at all.
    """
    if name and (not _MODULE.fullmatch(name) or name.endswith(".py")):
        raise InvalidValueError(
            f"{name[:80]!r} is no module's name: use letters, digits and '_', with '.' between"
            " packages, and no '.py'"
        )
