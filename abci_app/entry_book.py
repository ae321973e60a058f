"""The requests that entered here for other nodes' devices: in memory, and durably.

Rules kept here:

* Memory follows the store: a change counts when it is durable, and nobody is told of it before.
* Whoever changes a request holds its lock from the look that the change is based on. Writes of
  different requests share syncs.
* A request counts for the client that it names only if its handle was that client's. An alias is
  for whoever has it, who may name anybody: it is counted by itself.
* Nothing is dropped silently: what does not fit is refused. A delivered one is forgotten early
  when room is needed; its home node still knows it.

Not handled here: what is next for a request (``entry_records``), and doing it (``entry_courier``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final
from weakref import WeakValueDictionary

from edgistry.adapters.clock import wall_us
from edgistry.adapters.group_commit import GroupCommitter
from edgistry.codec import replace
from edgistry.errors import (
    CorruptDatabaseError,
    MailboxFullError,
    Refused,
    ServiceFullError,
    UnexpectedAnswerError,
)
from edgistry.kv import KeyValue, prefix_end
from edgistry.requests_api import RequestAnswer, StateName, to_text

from .entry_records import (
    ANSWERS,
    DAMAGED,
    ENVELOPES,
    RECORDS,
    EntryLimits,
    EntryRecord,
    Stage,
    changes_of,
    ended,
    forgetting,
    move,
    own_end,
    read_answer,
    read_entry,
    waiting_answer,
)

RETRY_AFTER_S: Final = 60


class EntryBook:
    """The requests in ``store``, written by ``committer``. For one event loop.

    Raises:
        CorruptDatabaseError: what is stored cannot be read.
    """

    def __init__(
        self,
        store: KeyValue,
        committer: GroupCommitter,
        *,
        limits: EntryLimits | None = None,
        clock_us: Callable[[], int] = wall_us,
    ) -> None:
        self.limits = limits or EntryLimits()
        self.clock_us = clock_us
        self._store = store
        self._committer = committer
        self._records: dict[bytes, EntryRecord] = {}
        self._entering: dict[bytes, EntryRecord] = {}
        """Requests that there is room for, and whose home nodes are being asked."""
        self._aliases: dict[bytes, bytes] = {}
        """Of requests that came by an alias: what is counted in the place of the client. After a
        restart it is the client, until they have ended."""
        self._waiting: Counter[bytes] = Counter()
        """By service, and by service and party: requests that their home nodes have not taken."""
        self._clients: Counter[bytes] = Counter()
        """By service and party: requests that have not ended."""
        self._size = 0
        self._urgent: dict[bytes, dict[bytes, EntryRecord]] = {}
        self._followed: dict[bytes, dict[bytes, EntryRecord]] = {}
        self._latest: dict[bytes, RequestAnswer] = {}
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._listeners: dict[bytes, set[asyncio.Event]] = {}
        self._load()

    def _load(self) -> None:
        try:
            for _, value in self._store.scan(RECORDS, prefix_end(RECORDS)):
                record = read_entry(value)
                self._remember(record.id, record)
        except Refused as error:
            raise CorruptDatabaseError(f"queues.ldb: a forwarded request: {error}") from None

    # --- looking --------------------------------------------------------------------------------

    def get(self, request: bytes) -> EntryRecord | None:
        """The request with that id."""
        return self._records.get(request)

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> list[EntryRecord]:
        """All of them, oldest first as far as this process knows."""
        return list(self._records.values())

    def envelope(self, record: EntryRecord) -> bytes | None:
        """The envelope of a request that its home node may not have, if it is still there."""
        return self._store.get(ENVELOPES + record.id)

    def answer(self, record: EntryRecord) -> RequestAnswer:
        """What is known here of how the request is doing."""
        latest = self._latest.get(record.id)
        if latest is not None and record.stage == Stage.PASSED:
            return replace(latest, recalled=latest.recalled or record.recalled)
        if record.is_waiting:
            return waiting_answer(record)
        value = self._store.get(ANSWERS + record.id)
        if value is not None:
            return read_answer(value)
        return own_end(record, "EXPIRED", DAMAGED) if record.has_ended else waiting_answer(record)

    def urgent(self, home: bytes) -> list[EntryRecord]:
        """Requests of which there is something to tell that node, oldest first."""
        return list(self._urgent.get(home, {}).values())

    def followed(self, home: bytes) -> list[EntryRecord]:
        """Requests that are durable at that node and have not ended, oldest first."""
        return list(self._followed.get(home, {}).values())

    def outstanding(self, service: bytes, client: bytes) -> int:
        """How many requests to the service the client with that id has that have not ended."""
        return self._clients.get(service + client, 0)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the envelopes of requests that their home nodes have not taken."""
        return self._size

    # --- changing -------------------------------------------------------------------------------

    def lock(self, request: bytes) -> asyncio.Lock:
        """The lock of the request with that id."""
        lock = self._locks.get(request)
        if lock is None:
            lock = self._locks[request] = asyncio.Lock()
        return lock

    @contextlib.asynccontextmanager
    async def room(self, record: EntryRecord, *, alias: bytes = b"") -> AsyncIterator[None]:
        """There is room to ``add`` ``record``, which is new, as long as the block lasts.

        It came by ``alias``, if that is not empty.

        Delivered ones may be forgotten for it. The lock of ``record`` is held.

        Raises:
            MailboxFullError: there is none for more of this client's.
            ServiceFullError: there is none for anybody's.
        """
        while self._taken >= self.limits.total and (old := self._forgettable()) is not None:
            async with self.lock(old.id):
                if self._records.get(old.id) is old:
                    await self.forget(old)
        if alias:
            self._aliases[record.id] = alias
        try:
            self._check_room(record)
            self._entering[record.id] = record
            self._count(record, +1)
            yield
        finally:
            self._vacate(record.id)
            if record.id not in self._records:
                self._aliases.pop(record.id, None)

    def _vacate(self, request: bytes) -> None:
        """The room that was kept for the request is free, or taken by it."""
        record = self._entering.pop(request, None)
        if record is not None:
            self._count(record, -1)

    @property
    def _taken(self) -> int:
        return len(self._records) + len(self._entering)

    def _forgettable(self) -> EntryRecord | None:
        """The oldest request of which there is nothing more to tell to anybody."""
        for record in self._records.values():
            if record.stage == Stage.DELIVERED and not record.untold:
                return record
        return None

    def _check_room(self, record: EntryRecord) -> None:
        limits = self.limits
        if self._taken >= limits.total:
            what = "this node has as many requests to other nodes as it can take"
        elif not record.is_waiting:
            return
        elif self._waiting[self._who(record)] >= limits.share:
            what = f"{limits.share} of your requests to this service wait already"
            raise MailboxFullError(what, retry_after_s=RETRY_AFTER_S)
        elif self._waiting[record.service] >= limits.service:
            what = "the queue for this service's home node, which is away, is full"
        elif self._size + record.size > limits.bytes:
            what = "the queue for nodes that are away is full"
        else:
            return
        raise ServiceFullError(what, retry_after_s=RETRY_AFTER_S)

    async def add(
        self,
        record: EntryRecord,
        *,
        envelope: bytes | None = None,
        answer: RequestAnswer | None = None,
    ) -> None:
        """``record`` is new, and there is ``room`` for it; durable when this returns.

        Raises:
            StorageError: it was not written.
        """
        self._vacate(record.id)
        # Counted from now on: others who come during the write must see it.
        self._remember(record.id, record)
        try:
            await self._committer.commit(changes_of(record, envelope=envelope, answer=answer))
        except BaseException:
            self._remember(record.id, None)
            raise
        self._ring(record.id)

    async def change(self, record: EntryRecord, answer: RequestAnswer | None = None) -> None:
        """A known request is now as in ``record``; durable when this returns."""
        await self._committer.commit(changes_of(record, answer=answer))
        self._remember(record.id, record)
        self._ring(record.id)

    async def take(self, record: EntryRecord, answer: RequestAnswer) -> EntryRecord:
        """The home node has said how ``record`` is doing; what is new in it is durable after this.

        Raises:
            UnexpectedAnswerError: it is about another request.
        """
        if answer.id != to_text(record.id):
            raise UnexpectedAnswerError("the home node's answer is about another request")
        now_us = self.clock_us()
        if record.has_ended:
            return record
        if answer.final:
            after = ended(record, answer, now_us=now_us, limits=self.limits)
        elif record.stage == Stage.PASSED:
            self._latest[record.id] = answer
            after = replace(record, untold=record.recalled and not answer.recalled)
        else:
            after = move(record, Stage.PASSED, untold=record.recalled and not answer.recalled)
        if after != record:
            await self.change(after, answer)
        return after

    async def recall(self, record: EntryRecord) -> None:
        """The client takes ``record`` back; its home node is still to be told."""
        await self.change(replace(record, recalled=True, untold=True))

    async def end(self, record: EntryRecord, state: StateName, reason: str) -> None:
        """``record`` has ended, as this node tells by itself."""
        answer = own_end(record, state, reason)
        await self.change(ended(record, answer, now_us=self.clock_us(), limits=self.limits), answer)

    async def forget(self, record: EntryRecord) -> None:
        """Nothing of ``record`` is left when this returns."""
        await self._committer.commit(forgetting(record))
        self._remember(record.id, None)
        self._ring(record.id)

    def _remember(self, request: bytes, record: EntryRecord | None) -> None:
        before = self._records.pop(request, None) if record is None else self._records.get(request)
        if before is not None:
            self._count(before, -1)
            for lists in (self._urgent, self._followed):
                mine = lists.get(before.home, {})
                if mine.pop(request, None) is not None and not mine:
                    del lists[before.home]
        if record is None or record.stage != Stage.PASSED:
            self._latest.pop(request, None)
        if record is None:
            self._aliases.pop(request, None)
        else:
            self._records[request] = record
            self._count(record, +1)
            if record.is_waiting or record.untold:
                self._urgent.setdefault(record.home, {})[request] = record
            elif record.stage == Stage.PASSED:
                self._followed.setdefault(record.home, {})[request] = record

    def _who(self, record: EntryRecord) -> bytes:
        return record.service + self._aliases.get(record.id, record.client)

    def _count(self, record: EntryRecord, by: int) -> None:
        if not record.has_ended:
            who = self._who(record)
            self._clients[who] += by
            if not self._clients[who]:
                del self._clients[who]
        if record.is_waiting:
            self._size += by * record.size
            for key in (record.service, self._who(record)):
                self._waiting[key] += by
                if not self._waiting[key]:
                    del self._waiting[key]

    # --- waiting --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def news_of(self, request: bytes) -> Iterator[asyncio.Event]:
        """An event that is set when something about the request has changed."""
        event = asyncio.Event()
        self._listeners.setdefault(request, set()).add(event)
        try:
            yield event
        finally:
            listeners = self._listeners[request]
            listeners.discard(event)
            if not listeners:
                del self._listeners[request]

    def is_awaited(self, request: bytes) -> bool:
        """Whether somebody waits for news of the request."""
        return request in self._listeners

    def ring_all(self, home: bytes) -> None:
        """Wake all who wait for requests to that node: it can be asked again."""
        for request in list(self._listeners):
            record = self._records.get(request)
            if record is not None and record.home == home:
                self._ring(request)

    def _ring(self, request: bytes) -> None:
        for event in self._listeners.get(request, ()):
            event.set()
