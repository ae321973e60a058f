"""What a handler that runs in this program works with: contexts over the WooFs.

Rules kept here:

* A context works while its try runs, and not after that: what a handler does that was given up
  has no effect.
* The n-th put of an invocation has the same key in every try, so it is made once. Puts that the
  handler does not wait for are made, and waited for, before the try counts as ended.
* Reading goes to the store; it waits for nobody.
* What has a scope reaches nothing outside of it.

Not handled here: handlers in processes of their own (``faas_child.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from ..errors import LimitExceededError, TriggerSettledError
from ..faas import put_key
from ..faas_calls import MAX_PUTS, check_tail, element_bytes, time_of
from ..faas_scope import Scope
from ..handlers import HandlerLogger, HandlerTable
from ..woof_staging import Staging
from ..woof_triggers import Trigger
from .durable_woofs import DurableWoofs
from .faas_puts import Put, wait_for_puts
from .log import get_logger

logger = get_logger("edgistry.handlers")


class Access:
    """What one try of an invocation may do to the WooFs, from any thread."""

    def __init__(
        self,
        woofs: DurableWoofs,
        table: HandlerTable,
        trigger: Trigger,
        *,
        attempt: int,
        clock_us: Callable[[], int],
        scope: Scope | None = None,
    ) -> None:
        self.trigger = trigger
        self.woof = trigger.woof if scope is None else scope.woof
        """What the handler gets as the name of the WooF."""
        self.attempt = attempt
        self.logger: HandlerLogger = logger.bind(
            handler=trigger.handler, woof=trigger.woof, seq=trigger.number
        )
        self._woofs = woofs
        self._table = table
        self._clock_us = clock_us
        self._scope = scope
        self._puts = 0
        self._ended = False

    def end(self) -> None:
        """The try is over, however it ended: nothing more is done in its name."""
        self._ended = True

    def now(self) -> datetime:
        """The time, in UTC."""
        return time_of(self._clock_us())

    def get(self, woof: str, seq: int) -> bytes:
        """Element ``seq`` of WooF ``woof``."""
        self._check_running()
        return self._woofs.woofs.get(self._real(woof), seq)

    def latest(self, woof: str) -> tuple[int, bytes]:
        """The newest element and its number."""
        self._check_running()
        return self._woofs.woofs.newest(self._real(woof))

    def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` elements with their numbers, newest first."""
        self._check_running()
        check_tail(count)
        return self._woofs.woofs.tail(self._real(woof), count)

    def next_index(self) -> int:
        """The number of the next put.

        Raises:
            LimitExceededError: there were too many.
        """
        index = self._puts
        if index >= MAX_PUTS:
            raise LimitExceededError(f"one invocation may put {MAX_PUTS} times")
        self._puts += 1
        return index

    async def put(self, index: int, woof: str, element: bytes, handler: str | None) -> int:
        """Make put number ``index``; the element's number, once it is durable."""
        return await self._woofs.commit(self._put(index, woof, element, handler))

    def put_blocking(self, index: int, woof: str, element: bytes, handler: str | None) -> int:
        """As ``put``, in a thread without an event loop."""
        return self._woofs.commit_blocking(self._put(index, woof, element, handler))

    def _put(
        self, index: int, woof: str, element: bytes, handler: str | None
    ) -> Callable[[Staging], int]:
        if handler is not None:
            table = self._table
            check = table.require if self._scope is None else table.require_for_devices
            check(handler)
        name = self._real(woof)
        if self._scope is not None:
            self._scope.check_put(name)
        trigger = self.trigger
        key = put_key(trigger.woof_id, trigger.number, trigger.handler, index)

        def decide(staging: Staging) -> int:
            # Here, where decisions are made one at a time: not after the try was given up.
            self._check_running()
            return staging.put(name, element, handler=handler, idempotency_key=key, by=trigger)

        return decide

    def _real(self, woof: str) -> str:
        return woof if self._scope is None else self._scope.real_name(woof)

    def _check_running(self) -> None:
        if self._ended:
            raise TriggerSettledError(
                f"the try of handler {self.trigger.handler!r} on element {self.trigger.number} of"
                f" {self.trigger.woof!r} has ended"
            )


class ThreadContext:
    """A ``BlockingContext`` for a plain function."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.attempt = access.attempt
        self.logger = access.logger
        self.now = access.now
        self.get = access.get
        self.latest = access.latest
        self.tail = access.tail

    def put(self, woof: str, element: bytes, *, handler: str | None = None) -> int:
        """Append ``element``; its number, once it is durable."""
        data = element_bytes(element)
        return self._access.put_blocking(self._access.next_index(), woof, data, handler)


class LoopContext:
    """A ``Context`` for an ``async def`` handler, in the event loop that it runs in."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.attempt = access.attempt
        self.logger = access.logger
        self.now = access.now
        self._puts: list[Put] = []

    async def get(self, woof: str, seq: int) -> bytes:
        """Element ``seq`` of WooF ``woof``."""
        return self._access.get(woof, seq)

    async def latest(self, woof: str) -> tuple[int, bytes]:
        """The newest element and its number."""
        return self._access.latest(woof)

    async def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` elements with their numbers, newest first."""
        return self._access.tail(woof, count)

    def put(self, woof: str, element: bytes, *, handler: str | None = None) -> Awaitable[int]:
        """Append ``element``; its number, once it is durable."""
        data = element_bytes(element)
        put = Put(self._access.put(self._access.next_index(), woof, data, handler))
        self._puts.append(put)
        return put

    async def settle(self) -> None:
        """Wait for puts that the handler did not wait for; raises the refusal of one."""
        await wait_for_puts(self._puts)
