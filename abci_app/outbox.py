"""The outbox: transactions that are durable here and on their way to the chain.

Rules kept here:

* Append, make durable, then send. ``append`` returns when the transactions, and the caller's own
  changes beside them, are in one synced write; only then does anything leave the node.
* Sequences are given at append, strictly consecutive; what is sent is in that order.
* At most 16 transactions and 2 MB are in flight. Without progress for 3 s everything from the
  committed sequence on is sent again (an engine may answer OK and drop what its full mempool
  cannot hold). A sink that is away is tried again with back-off; nothing is lost meanwhile.
* Confirmed by state alone: a transaction is done when the registry's sequence of this node has
  reached it. Refused ones become dead letters, and the next one goes through.

The database remembers which chain and node it belongs to, and the last sequence it gave. When the
chain knows a higher one, the database is older than the chain (restored from a copy, say) and the
log says so.

Not handled here: what the transactions mean, and the transport (``TransactionSink``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from edgistry.adapters.log import get_logger
from edgistry.codec import Wire, decode, encode
from edgistry.errors import ChainMismatchError, CorruptDatabaseError, Refused, UnavailableError
from edgistry.journal import Journal
from edgistry.kv import Change, KeyValue
from edgistry.transactions import (
    MAX_TRANSACTION_BYTES,
    Body,
    Bytes20,
    Kind,
    NodeId,
    Sign,
    parse_transaction,
    sign_transaction,
)

from .dead_letters import DeadLetter, DeadLetters
from .schema import SequenceState

MAX_IN_FLIGHT = 16
"""Also how many refused sequences the chain remembers for a node: none is ever missed."""
MAX_IN_FLIGHT_BYTES = 2_000_000
RESEND_S = 3.0
MAX_PENDING_BYTES = 256 << 20
"""About 1.5 million records: weeks of a cut-off node's registrations, bounded on its disk."""
MAX_BACK_OFF_S = 5.0
_FIRST_BACK_OFF_S = 0.25

_OWNER_KEY = b"o/owner"
_LAST_KEY = b"o/last"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One transaction that is not yet confirmed; its bytes stay in the database."""

    number: int
    """Its number in the log."""
    sequence: int
    kind: int
    size: int
    """Bytes of the signed transaction."""


class _Owner(Wire):
    chain_id: str
    node_id: Bytes20


Settled = Callable[[Pending, bytes], Iterable[Change]]
"""Told of each transaction that is done, confirmed or refused, with its signed bytes; the changes
it answers are written together with forgetting the transaction."""


class Outbox:
    """The outbox of node ``node_id`` in ``store``, as it was left.

    Raises (on opening):
        ChainMismatchError: the database belongs to another chain or another node.
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
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dead_letters = DeadLetters(store)
        self.on_settled: Settled | None = None
        self.behind_chain = False
        """Whether the chain has had a sequence that this database did not give."""
        self._store = store
        self._chain_id = chain_id
        self._node_id = node_id
        self._sign = sign
        self._reader = reader
        self._sink = sink
        self._clock_s = clock_s
        self._log = Journal(store, "node/outbox", element_limit=MAX_TRANSACTION_BYTES)
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._sent = 0
        """How many of the first pending ones were sent since the last progress or failure."""
        self._progress_at_s = 0.0
        self._failures = 0
        self._retry_at_s = 0.0
        self._check_owner()
        self._last = self._stored_last()
        self._pending = deque(self._load())
        self._pending_bytes = sum(entry.size for entry in self._pending)

    # --- what is waiting ------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many transactions are accepted and not yet confirmed."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Their bytes."""
        return self._pending_bytes

    @property
    def settled_through(self) -> int:
        """Every accepted transaction up to this sequence is confirmed or refused."""
        return self._pending[0].sequence - 1 if self._pending else self._last

    @property
    def gap(self) -> int:
        """How many sequences are missing between the chain and the first pending transaction.

        More than 0 while the node catches up; if it stays, the chain is older than the database.
        """
        if not self._pending:
            return 0
        return max(0, self._pending[0].sequence - self._committed().last - 1)

    def has_pending(self, kind: Kind) -> bool:
        """Whether a transaction of ``kind`` is waiting."""
        return any(entry.kind == kind for entry in self._pending)

    def is_pending(self, sequence: int) -> bool:
        """Whether the transaction with that sequence is waiting."""
        return bool(self._pending) and self._pending[0].sequence <= sequence <= self._last

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
            first = max(self._committed().last, self._last) + 1
            transactions = [
                sign_transaction(
                    chain_id=self._chain_id,
                    node_id=self._node_id,
                    sequence=sequence,
                    body=body,
                    sign=self._sign,
                )
                for sequence, body in enumerate(bodies, first)
            ]
            self._check_room(sum(map(len, transactions)))
            appended = self._log.append(transactions)
            changes = list(appended.changes)
            if also is not None:
                changes += also(first)
            last = first + len(bodies) - 1
            if transactions:
                changes.append((_LAST_KEY, last.to_bytes(8, "big")))
            interrupted = await self._write(changes)
            if transactions:
                added = self._parse(enumerate(transactions, appended.first))
                self._pending.extend(added)
                self._pending_bytes += sum(entry.size for entry in added)
                self._last = last
        self.notify()
        if interrupted:
            raise asyncio.CancelledError
        return last

    async def wait_until(self, sequence: int, timeout_s: float) -> bool:
        """Whether everything up to ``sequence`` was settled before ``timeout_s`` ran out.

        Settled means confirmed or refused; ``dead_letters`` tells which.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.settled_through < sequence:
                    await self._progress.wait()
        return self.settled_through >= sequence

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
        if not self._pending:
            return None
        now_s = self._clock_s()
        if now_s < self._retry_at_s:
            return self._retry_at_s - now_s
        if self.gap:
            # Normal while the node catches up. Transactions sent now would only be refused.
            return RESEND_S
        if self._sent and now_s - self._progress_at_s >= RESEND_S:
            self._sent = 0
        try:
            await self._send(now_s)
        except Refused as error:
            return self._back_off(error)
        self._failures = 0
        return max(0.0, self._progress_at_s + RESEND_S - now_s)

    async def _send(self, now_s: float) -> None:
        if self._sent == 0:
            self._progress_at_s = now_s
        flying = sum(self._pending[at].size for at in range(self._sent))
        while self._sent < min(MAX_IN_FLIGHT, len(self._pending)):
            entry = self._pending[self._sent]
            flying += entry.size
            if self._sent and flying > MAX_IN_FLIGHT_BYTES:
                break
            await self._sink.submit(self._log.get(entry.number))
            self._sent += 1

    def _back_off(self, error: Refused) -> float:
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
        if state.last > self._last:
            logger.warning(
                "queues.ldb is older than the chain: the chain has transactions of this node that "
                "the database does not know. If it was restored from a copy, import your devices "
                "again; if another directory uses the same key, stop one of them now",
                chain=state.last,
                database=self._last,
            )
            self.behind_chain = True
            self._last = state.last
        done = list(takewhile(lambda entry: entry.sequence <= state.last, self._pending))
        if not done:
            return
        refused = dict(state.refused)
        letters: list[DeadLetter] = []
        changes = self._log.trim(done[-1].number)
        for entry in done:
            transaction = self._log.get(entry.number)
            if entry.sequence in refused:
                letters.append(_letter(entry, refused[entry.sequence], transaction))
            if self.on_settled is not None:
                changes += self.on_settled(entry, transaction)
        # Confirmed entries may be forgotten lazily (the chain confirms them again after a crash);
        # a dead letter is durable before the chain can forget the refusal.
        changes += self.dead_letters.add(letters)
        interrupted = await self._write(changes, sync=bool(letters))
        for entry in done:
            self._pending.popleft()
            self._pending_bytes -= entry.size
        self._sent = max(0, self._sent - len(done))
        self._progress_at_s = self._clock_s()
        self._progress.set()
        self._progress = asyncio.Event()
        if interrupted:
            raise asyncio.CancelledError

    def _committed(self) -> SequenceState:
        return self._reader.sequence(self._node_id)

    # --- the database ---------------------------------------------------------------------------

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

    def _check_room(self, size: int) -> None:
        if self._pending_bytes + size > MAX_PENDING_BYTES:
            raise UnavailableError(
                f"{self.pending} transactions ({self._pending_bytes} bytes) wait for the chain; "
                f"the outbox holds {MAX_PENDING_BYTES} bytes"
            )

    def _check_owner(self) -> None:
        owner = encode(_Owner(chain_id=self._chain_id, node_id=self._node_id))
        stored = self._store.get(_OWNER_KEY)
        if stored is None:
            self._store.write([(_OWNER_KEY, owner)], sync=True)
        elif stored != owner:
            theirs = decode(stored, _Owner, limit=256)
            raise ChainMismatchError(
                f"queues.ldb belongs to node {theirs.node_id.hex()} of chain {theirs.chain_id!r}, "
                f"but this is node {self._node_id.hex()} of chain {self._chain_id!r}"
            )

    def _stored_last(self) -> int:
        return int.from_bytes(self._store.get(_LAST_KEY) or b"", "big")

    def _load(self) -> list[Pending]:
        return self._parse(self._log.scan())

    def _parse(self, elements: Iterable[tuple[int, bytes]]) -> list[Pending]:
        try:
            return [_pending(number, element) for number, element in elements]
        except Refused as error:
            raise CorruptDatabaseError(f"queues.ldb: an outbox entry: {error}") from None


def _pending(number: int, element: bytes) -> Pending:
    transaction = parse_transaction(element)
    return Pending(
        number=number,
        sequence=transaction.sequence,
        kind=transaction.kind,
        size=len(element),
    )


def _letter(entry: Pending, code: int, transaction: bytes) -> DeadLetter:
    logger.error(
        "the chain refused a transaction; it is kept as a dead letter",
        sequence=entry.sequence,
        code=code,
    )
    return DeadLetter(sequence=entry.sequence, code=code, transaction=transaction)
