"""WooFs that are durable when they say so: the store, its writer, and who follows along.

Rules kept here:

* A put returns when its element, its number and its handler's trigger are durable, in one write.
  A put that is cancelled, or refused because the disk failed, may be there or not, never twice:
  try it again with the same idempotency key.
* Reading goes to the store directly; it never waits for a writer.
* Following a WooF gives each element once, in order, without a gap. Who is too slow for the WooF's
  history, or follows one that is deleted, is told so.

Not handled here: handlers (the runtime listens with ``on_triggers``), and who may do what.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Final, TypeVar

from ..errors import ElementNotYetError, Refused
from ..kv import KeyValue
from ..woof import Window, WoofId, evicted
from ..woof_staging import Staging
from ..woof_state import REMEMBERED_KEYS, missing
from ..woof_store import WoofStore
from ..woof_triggers import Trigger
from .group_commit import GroupCommitter, Work
from .loops import call_in

T = TypeVar("T")

SWEEP_NUMBERS: Final = 512
"""Numbers of deleted WooFs that are removed in one write: less than a hundredth of a second."""

FOLLOW_BYTES: Final = 256 * 1024
FOLLOW_ELEMENTS: Final = 1024
"""A follower reads about this much at once."""

_Follower = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]


class DurableWoofs:
    """The WooFs in ``store``, and from now until ``close`` its only writer of WooFs.

    What is read is in ``woofs``. Safe to use from many threads, and from many event loops.
    """

    def __init__(self, store: KeyValue, *, remembered_keys: int = REMEMBERED_KEYS) -> None:
        self.committer = GroupCommitter(store)
        self.woofs = WoofStore(store, lock=self.committer.lock, remembered_keys=remembered_keys)
        self.on_triggers: Callable[[list[Trigger]], None] | None = None
        """Told of triggers that have become durable, in order, by whoever wrote them; quickly."""
        self.committer.on_settled = self._settled
        self.committer.on_failure = self.woofs.forget_unwritten
        self._lock = self.committer.lock
        self._followers: dict[str, list[_Follower]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._puts: Staging | None = None
        """The last one that was made for a plain put: others may join it."""

    # --- writing --------------------------------------------------------------------------------

    async def commit(self, decide: Callable[[Staging], T]) -> T:
        """What ``decide`` answers, once all that it staged is durable, in one write.

        It is called at once and must not wait for anything. When it raises, nothing is staged.

        Raises:
            Refused: what ``decide`` raises; ``StorageError`` when the write failed.
        """
        with self._lock:
            staging = self.woofs.begin()
            try:
                result = decide(staging)
                future = self.committer.hand_over(staging)
            except BaseException:
                staging.take_back()
                raise
        await future
        return result

    def commit_blocking(self, decide: Callable[[Staging], T]) -> T:
        """As ``commit``, for threads without an event loop; blocks until all is durable."""
        results: list[T] = []

        def stage() -> Staging:
            staging = self.woofs.begin()
            try:
                results.append(decide(staging))
            except BaseException:
                staging.take_back()
                raise
            return staging

        self.committer.commit_blocking(stage)
        return results[0]

    async def put(
        self,
        name: str,
        element: bytes,
        *,
        handler: str | None = None,
        idempotency_key: bytes | None = None,
        by: Trigger | None = None,
    ) -> int:
        """Append ``element`` to WooF ``name``; its number, once it is durable.

        The arguments, and what is raised, are those of ``Staging.put``; and ``StorageError``.
        """
        if handler is not None or idempotency_key is not None:
            return await self.commit(
                lambda staging: staging.put(
                    name, element, handler=handler, idempotency_key=idempotency_key, by=by
                )
            )
        # Plain puts that wait for one sync share a staging: making one is a good part of the work.
        with self._lock:
            staging = self._puts
            future = None if staging is None else self.committer.join(staging, len(element))
            if staging is not None and future is not None:
                try:
                    number = staging.put(name, element)
                except BaseException:
                    future.cancel()  # a put that is refused has staged nothing
                    raise
            else:
                staging = self.woofs.begin()
                try:
                    number = staging.put(name, element)
                    future = self.committer.hand_over(staging)
                except BaseException:
                    staging.take_back()
                    raise
                self._puts = staging
        await future
        return number

    async def create_namespace(self, name: str) -> bool:
        """Make sure that the namespace exists; whether it did not."""
        return await self.commit(lambda staging: staging.create_namespace(name))

    async def delete_namespace(self, name: str) -> None:
        """Delete an empty namespace."""
        await self.commit(lambda staging: staging.delete_namespace(name))

    async def create(self, name: str, history: int, element_size: int = 0) -> bool:
        """Make sure that the WooF exists with these parameters; whether it did not."""
        return await self.commit(lambda staging: staging.create(name, history, element_size))

    async def delete(self, name: str) -> None:
        """Delete the WooF. Its elements are removed from the disk after that, bit by bit."""
        await self.commit(lambda staging: staging.delete(name))
        self.start_sweeping()

    def start_sweeping(self) -> None:
        """Remove what is left of deleted WooFs, in the background. Called in an event loop.

        What cannot be removed now, on a full disk say, is left for the next time.
        """
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep_if_possible())

    async def _sweep_if_possible(self) -> None:
        with contextlib.suppress(Refused):
            await self.sweep()

    async def sweep(self) -> None:
        """Remove what is left of deleted WooFs; nothing is, afterwards."""
        more = True
        while more:
            more = await self.commit(lambda staging: staging.sweep(SWEEP_NUMBERS))

    async def close(self) -> None:
        """Write everything that waits, then take nothing more. The store stays open."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await asyncio.to_thread(self.committer.close)

    # --- following ------------------------------------------------------------------------------

    def follow(
        self, name: str, first: int | None = None, *, woof_id: WoofId | None = None
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Each element from number ``first`` on with its number, for ever.

        Without ``first``: those that are put from now on. To go on after an interruption, give the
        number after the last one seen, and the WooF's id: it tells the WooF from a later one of
        the same name.

        Raises (at once, or while iterating):
            MissingWoofError: there is no such WooF, or no longer, or it is another one.
            ElementEvictedError: the history has moved past the next element.
            ElementNotYetError: elements before ``first`` are not put yet.
            ElementLostError: damage has taken the next element.
        """
        info = self.woofs.info(name)
        if woof_id is not None and info.id != woof_id:
            raise missing(name)
        at = info.window.latest + 1 if first is None else first
        if at > info.window.latest + 1:
            raise ElementNotYetError(
                f"WooF {name!r} ends at {info.window.latest}: from {at} on elements would be missed"
            )
        if at < info.window.earliest:
            raise evicted(name, at, info.window)
        return self._follow(name, info.id, at)

    async def _follow(
        self, name: str, woof_id: WoofId, at: int
    ) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            for number, element in self._read(name, woof_id, at):
                yield number, element
                at = number + 1
            await self._news(name, woof_id, at)

    def _read(self, name: str, woof_id: WoofId, at: int) -> list[tuple[int, bytes]]:
        """Some elements from number ``at`` on; none when there are none yet."""
        window = self._window(name, woof_id)
        if at < window.earliest:
            raise evicted(name, at, window)
        found: list[tuple[int, bytes]] = []
        size = 0
        for number, element in islice(self.woofs.scan(name, at), FOLLOW_ELEMENTS):
            found.append((number, element))
            size += len(element)
            if size > FOLLOW_BYTES:
                break
        # The writer may have put another WooF of the name in its place since the first look.
        self._window(name, woof_id)
        if found and found[0][0] > at:
            raise evicted(name, at, self._window(name, woof_id))
        return found

    async def _news(self, name: str, woof_id: WoofId, at: int) -> None:
        """Return when element ``at`` may be there, or the WooF may be gone."""
        loop = asyncio.get_running_loop()
        follower = (loop, loop.create_future())
        with self._lock:
            self._followers.setdefault(name, []).append(follower)
        try:
            # Looked at after registering: what is written from now on wakes us.
            if self._window(name, woof_id).latest < at:
                await follower[1]
        finally:
            with self._lock:
                waiting = self._followers.get(name, [])
                if follower in waiting:
                    waiting.remove(follower)
                if not waiting:
                    self._followers.pop(name, None)

    def _window(self, name: str, woof_id: WoofId) -> Window:
        info = self.woofs.info(name)
        if info.id != woof_id:
            raise missing(name)
        return info.window

    def _settled(self, works: Sequence[Work]) -> None:
        """With the lock held: tell who waits for these."""
        self._puts = None  # written, or about to be: it is not kept in memory for longer
        if self.on_triggers is None and not self._followers:
            return
        stagings = [work for work in works if isinstance(work, Staging)]
        if self.on_triggers is not None:
            triggers = [trigger for staging in stagings for trigger in staging.triggers]
            if triggers:
                self.on_triggers(triggers)
        if self._followers:
            changed = {name for staging in stagings for name in staging.woofs_changed()}
            for name in self._followers.keys() & changed:
                for loop, future in self._followers.pop(name):
                    _wake(loop, future)


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not future.done():
            future.set_result(None)

    call_in(loop, wake)
