"""The outbox: transactions that are durable here and on their way to the chain.

Rules kept here:

* Append, make durable, then send. ``append`` returns when the transactions, and the caller's own
  changes beside them, are in one synced write; only then does anything leave the node.
* Sequences are given at append, strictly consecutive; what is sent is in that order.
* At most 16 transactions and 2 MB are in flight. Without progress for 3 s everything from the
  committed sequence on is sent again (an engine may answer OK and drop what its full mempool
  cannot hold). A sink that is away is tried again with back-off; nothing is lost meanwhile.
* Confirmed by state alone: a transaction is done when the registry's sequence of this node has
  reached it. Refused ones become dead letters, and the next one goes through. Those that share
  the keys of epochs do not: whoever sent them looks at the state, and two may have done the same.

When the chain knows a higher sequence than the database gave, the database is older than the chain
(restored from a copy, say) and the log says so. Until the node has caught up once, nobody can tell:
what is accepted until then is held, and gets new sequences if the chain has used those for others.
A chain whose blocks can come back is waited for when it is behind. One whose blocks cannot (a solo
node's registry restored from a copy) is taken as it is: see ``follow_shortened_chain``.

Not handled here: the queue itself (``outbox_queue``), what the transactions mean, and the transport
(``TransactionSink``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from edgistry.adapters.log import get_logger
from edgistry.errors import UnavailableError
from edgistry.kv import Change, KeyValue
from edgistry.transactions import EPOCH_KINDS, Body, Kind, NodeId, Sign

from .dead_letters import DeadLetter, DeadLetters
from .outbox_queue import Accepted, OutboxQueue, Pending
from .renumbering import Renumbered
from .schema import SequenceState

MAX_IN_FLIGHT = 16
"""Also how many refused sequences the chain remembers for a node: none is ever missed."""
MAX_IN_FLIGHT_BYTES = 2_000_000
RESEND_S = 3.0
MAX_BACK_OFF_S = 5.0
_FIRST_BACK_OFF_S = 0.25
_HELD_LOOK_S = 0.5
_OLDER_DATABASE = (
    "queues.ldb is older than the chain: the chain has transactions of this node that the database"
    " does not know. If it was restored from a copy, import your devices again; if another"
    " directory uses the same key, stop one of them now"
)

logger = get_logger("edgistry.node.outbox")


class TransactionSink(Protocol):
    """Where transactions go: fire and forget."""

    async def submit(self, transaction: bytes) -> None:
        """Hand ``transaction`` over, in order. One that is already known is no error.

        Raises:
            UnavailableError: it cannot be handed over now.
        """


class SequenceReader(Protocol):
    """What the outbox needs of the registry."""

    def sequence(self, node_id: NodeId) -> SequenceState:
        """The sequence state of ``node_id`` in the last committed block."""


Settled = Callable[[Pending, bytes], Iterable[Change]]
"""Told of each transaction that is done, confirmed or refused, with its signed bytes; the changes
it answers are written together with forgetting the transaction."""


class Outbox:
    """The outbox of node ``node_id`` in ``store``, as it was left.

    ``caught_up`` says whether ``reader`` has all blocks that the chain has, as far as is known.

    Raises (on opening):
        ChainMismatchError: the database belongs to another chain or another node.
        CorruptDatabaseError: an entry does not decode.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        chain_id: str,
        node_id: NodeId,
        sign: Sign,
        reader: SequenceReader,
        sink: TransactionSink,
        caught_up: Callable[[], bool] = lambda: True,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dead_letters = DeadLetters(store)
        self.on_settled: Settled | None = None
        self.on_renumbered: Renumbered | None = None
        self._store = store
        self._node_id = node_id
        self._reader = reader
        self._sink = sink
        self._caught_up = caught_up
        self._has_caught_up = False
        self._clock_s = clock_s
        self._queue = OutboxQueue(store, chain_id=chain_id, node_id=node_id, sign=sign)
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._sent = 0
        """How many of the first pending ones were sent since the last progress or failure."""
        self._progress_at_s = 0.0
        self._failures = 0
        self._retry_at_s = 0.0

    # --- what is waiting ------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many transactions are accepted and not yet confirmed."""
        return len(self._queue.entries)

    @property
    def settled_through(self) -> int:
        """Every accepted transaction up to this sequence is confirmed or refused."""
        entries = self._queue.entries
        return entries[0].sequence - 1 if entries else self._queue.last

    @property
    def gap(self) -> int:
        """How many sequences are missing between the chain and the first pending transaction.

        More than 0 while the node catches up; if it stays, the chain is older than the database.
        """
        entries = self._queue.entries
        return max(0, entries[0].sequence - self._committed().last - 1) if entries else 0

    def has_pending(self, kind: Kind) -> bool:
        """Whether a transaction of ``kind`` is waiting."""
        return any(entry.kind == kind for entry in self._queue.entries)

    def is_pending(self, sequence: int) -> bool:
        """Whether the transaction with that sequence is waiting."""
        return self.settled_through < sequence <= self._queue.last

    def is_ahead(self, sequence: int) -> bool:
        """Whether the chain, as far as this node has it, has not come to ``sequence`` yet."""
        return sequence > self._committed().last

    # --- accepting ------------------------------------------------------------------------------

    async def append(
        self,
        bodies: Sequence[Body],
        *,
        also: Callable[[int], Iterable[Change]] | None = None,
    ) -> int:
        """Accept one transaction for each body; the last one's sequence, once all is durable.

        ``also`` is called with the first sequence; the changes it answers are part of the same
        atomic write. Nothing is accepted when it or this method raises.

        Raises:
            UnavailableError: too much is waiting already.
            InvalidValueError: a transaction would be too large.
        """
        async with self._lock:
            accepted = self._queue.accept(
                bodies, after=self._committed().last, hold=not self._knows_the_chain()
            )
            changes = list(accepted.changes)
            if also is not None:
                changes += also(accepted.last - len(bodies) + 1)
            interrupted = await self._write(changes)
            self._queue.accepted(accepted)
        self.notify()
        if interrupted:
            raise asyncio.CancelledError
        return accepted.last

    async def wait_until(self, sequence: int, timeout_s: float) -> bool:
        """Whether everything up to ``sequence`` was settled before ``timeout_s`` ran out.

        Settled means confirmed or refused; ``dead_letters`` tells which.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.settled_through < sequence:
                    await self._progress.wait()
        return self.settled_through >= sequence

    async def purge_dead_letters(self) -> int:
        """Forget the refused transactions of now; how many, once that is durable."""
        async with self._lock:
            count = len(self.dead_letters)
            interrupted = await self._write(self.dead_letters.forget_all())
        if interrupted:
            raise asyncio.CancelledError
        return count

    # --- sending --------------------------------------------------------------------------------

    def notify(self) -> None:
        """A block was committed, or there is something new to send: look soon."""
        self._wake.set()

    async def run(self) -> None:
        """Send, confirm and resend until cancelled."""
        while True:
            self._wake.clear()
            delay_s = await self.step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()

    async def step(self) -> float | None:
        """Settle what the chain has, send what may be sent; seconds until the next step is due.

        ``None``: nothing is due before ``notify``.
        """
        async with self._lock:
            await self._settle()
        if not self.pending:
            return None
        now_s = self._clock_s()
        if now_s < self._retry_at_s:
            return self._retry_at_s - now_s
        if self.gap:
            # Normal while the node catches up. Transactions sent now would only be refused.
            return _HELD_LOOK_S if self._queue.held_from else RESEND_S
        if self._sent and now_s - self._progress_at_s >= RESEND_S:
            self._sent = 0
        try:
            await self._send(now_s)
        except UnavailableError as error:
            return self._back_off(error)
        self._failures = 0
        if self._queue.held_from:
            return _HELD_LOOK_S
        return max(0.0, self._progress_at_s + RESEND_S - now_s)

    async def _send(self, now_s: float) -> None:
        if self._sent == 0:
            self._progress_at_s = now_s
        entries = self._queue.entries
        flying = sum(entries[at].size for at in range(self._sent))
        held_from = self._queue.held_from
        while self._sent < min(MAX_IN_FLIGHT, len(entries)):
            entry = entries[self._sent]
            if held_from and entry.sequence >= held_from:
                break
            flying += entry.size
            if self._sent and flying > MAX_IN_FLIGHT_BYTES:
                break
            await self._sink.submit(self._queue.transaction(entry))
            self._sent += 1

    def _back_off(self, error: UnavailableError) -> float:
        delay_s = min(MAX_BACK_OFF_S, _FIRST_BACK_OFF_S * (1 << min(self._failures, 8)))
        if self._failures == 0:
            logger.warning("cannot send; trying again until it works", reason=str(error))
        self._failures += 1
        self._sent = 0
        self._retry_at_s = self._clock_s() + delay_s
        return delay_s

    # --- confirming -----------------------------------------------------------------------------

    async def _settle(self) -> None:
        state = self._committed()
        held_from = self._queue.held_from
        if state.last > self._queue.last and not held_from:
            logger.warning(_OLDER_DATABASE, chain=state.last, database=self._queue.last)
            self._queue.last = state.last
        # What is held was never sent: whatever the chain has under its numbers is not that.
        await self._confirm(state, min(state.last, held_from - 1) if held_from else state.last)
        if held_from and self._knows_the_chain():
            await self._let_go(held_from)

    async def _confirm(self, state: SequenceState, through: int) -> None:
        done = self._queue.through(through)
        if not done:
            return
        refused = dict(state.refused)
        letters: list[DeadLetter] = []
        changes = self._queue.forget(done)
        for entry in done:
            transaction = self._queue.transaction(entry)
            if entry.sequence in refused and entry.kind not in EPOCH_KINDS:
                letters.append(_letter(entry, refused[entry.sequence], transaction))
            if self.on_settled is not None:
                changes += self.on_settled(entry, transaction)
        # Confirmed entries may be forgotten lazily (the chain confirms them again after a crash);
        # a dead letter is durable before the chain can forget the refusal.
        changes += self.dead_letters.add(letters)
        interrupted = await self._write(changes, sync=bool(letters))
        self._queue.forgotten(done)
        self._sent = max(0, self._sent - len(done))
        self._progress_at_s = self._clock_s()
        self._progress.set()
        self._progress = asyncio.Event()
        if interrupted:
            raise asyncio.CancelledError

    async def _let_go(self, held_from: int) -> None:
        """What is held may be sent, with new sequences if the chain has used those."""
        last = self._committed().last
        if last >= held_from:
            logger.warning(_OLDER_DATABASE, chain=last, database=held_from - 1)
            accepted, changes = self._renumber(last, is_shortened=False)
            interrupted = await self._write(changes)
            self._queue.renumbered(accepted)
        else:
            interrupted = await self._write(self._queue.release())
            self._queue.released()
        if interrupted:
            raise asyncio.CancelledError

    def follow_shortened_chain(self) -> bool:
        """Take the chain as it is when it has lost blocks, which will not come back.

        For a chain that lives in this node alone, before anything runs: what waits gets new
        sequences, and what was lost has none any more; durable on return. Answers whether
        anything was lost.
        """
        last = self._committed().last
        if not self.gap and (self.pending or self._queue.last <= last):
            return False
        logger.warning(
            "the registry is older than queues.ldb: it was wiped, or restored from a copy",
            chain=last,
            database=self._queue.last,
        )
        accepted, changes = self._renumber(last, is_shortened=True)
        self._store.write([*changes, *self.dead_letters.begin_anew()], sync=True)
        self._queue.renumbered(accepted)
        return True

    def _renumber(self, last: int, *, is_shortened: bool) -> tuple[Accepted, list[Change]]:
        renumbering = self._queue.renumbering(last, is_shortened=is_shortened)
        changes = list(self.on_renumbered(renumbering)) if self.on_renumbered else []
        accepted = self._queue.renumber(renumbering)
        return accepted, changes + accepted.changes

    def _knows_the_chain(self) -> bool:
        """Whether the node has caught up since it started: the database is no older since."""
        self._has_caught_up = self._has_caught_up or self._caught_up()
        return self._has_caught_up

    def _committed(self) -> SequenceState:
        return self._reader.sequence(self._node_id)

    async def _write(self, changes: list[Change], *, sync: bool = True) -> bool:
        """Write ``changes``, in a thread when the disk has to be waited for.

        Cancellation waits for the write: memory must agree with the disk, and the store must not
        close under it. Answers whether the caller has to raise ``CancelledError`` now.
        """
        if not sync:
            self._store.write(changes, sync=False)
            return False
        writing = asyncio.ensure_future(asyncio.to_thread(self._store.write, changes, sync=True))
        interrupted = False
        while not writing.done():
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                interrupted = True
        writing.result()
        return interrupted


def _letter(entry: Pending, code: int, transaction: bytes) -> DeadLetter:
    logger.error(
        "the chain refused a transaction; it is kept as a dead letter",
        sequence=entry.sequence,
        code=code,
    )
    return DeadLetter(sequence=entry.sequence, code=code, transaction=transaction)
