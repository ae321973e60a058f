"""The inner half of a simulated device: real authority and real WooFs, without a disk or threads.

Rules kept here:

* Requests are checked, executed once and answered by the same code as on a device. What differs is
  where bytes rest, in memory, and who answers: a function, at once, in the place of a handler.
* It costs a few kilobytes, so that one process can be thousands of devices.

Not handled here: exchanges (``agent.py``), how many there are (``fleet.py``).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from edgistry.adapters.group_commit import Work
from edgistry.authority import Authority
from edgistry.envelope import Operation
from edgistry.errors import UnknownHandlerError
from edgistry.issuer import Issuer
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.replay import Outcome
from edgistry.verifier import Checked
from edgistry.woof_service import WoofService
from edgistry.woof_staging import Staging
from edgistry.woof_store import WoofStore

from .executor import Executor, Woofs
from .queues import DeviceQueues

T = TypeVar("T")

Respond = Callable[[str, bytes], bytes]
"""What a simulated device answers to a request (its bytes) that names a handler."""

MEMO = 8
"""Chains whose keys a simulated device remembers."""


class InlineCommitter:
    """Writes at once, in the thread that asks for it."""

    def __init__(self, store: KeyValue) -> None:
        self.lock = threading.Lock()
        self._store = store

    def hand_over(self, work: Work) -> asyncio.Future[None]:
        """``work`` is written. Called with ``lock`` held, in a loop."""
        self._store.write(work.changes, sync=False)
        work.settle()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


class InlineWoofs:
    """The WooFs in a store that is as quick as memory."""

    def __init__(self, store: KeyValue) -> None:
        self.committer = InlineCommitter(store)
        self.woofs = WoofStore(store, lock=self.committer.lock)

    async def commit(self, decide: Callable[[Staging], T]) -> T:
        """What ``decide`` answers, once all that it staged is written."""
        with self.committer.lock:
            staging = self.woofs.begin()
            try:
                result = decide(staging)
                future = self.committer.hand_over(staging)
            except BaseException:
                staging.take_back()
                raise
        await future
        return result

    def start_sweeping(self) -> None:
        """What is left of deleted WooFs goes with the process."""


class SimulatedService(WoofService):
    """The operations, where ``respond`` answers what names one of ``handlers``."""

    def __init__(
        self, woofs: WoofStore, authority: Authority, *, handlers: set[str], respond: Respond
    ) -> None:
        super().__init__(woofs, authority, require_handler=self._require)
        self._handlers = handlers
        self._respond = respond

    def _require(self, name: str) -> object:
        if name not in self._handlers:
            raise UnknownHandlerError(f"there is no handler {name[:80]!r} here")
        return name

    def change(self, checked: Checked, staging: Staging) -> Outcome:
        """As ``WoofService.change``; a put that names a handler has its answer at once."""
        envelope = checked.envelope
        if envelope.op != Operation.PUT or not envelope.handler:
            return super().change(checked, staging)
        self._require(envelope.handler)
        number = staging.put(envelope.target, envelope.payload)
        return Outcome(result=number, payload=self._respond(envelope.handler, envelope.payload))


def simulated_executor(
    issuer: Issuer,
    *,
    handlers: set[str],
    respond: Respond,
    store: KeyValue | None = None,
    woofs: Woofs | None = None,
) -> Executor:
    """The executor of a simulated device.

    It rests in memory; or in ``store``, whose WooFs are ``woofs``.
    """
    kept = MemoryKeyValue() if store is None else store
    own = InlineWoofs(kept) if woofs is None else woofs
    authority = Authority(kept, issuer, memo=MEMO)
    service = SimulatedService(own.woofs, authority, handlers=handlers, respond=respond)
    return Executor(own, service, DeviceQueues(kept))
