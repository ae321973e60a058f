"""What waits in the outbox, in ``queues.ldb`` and in memory.

Rules kept here:

* Sequences are given at append, strictly consecutive, and the last one given is remembered also
  when nothing waits: none is ever given twice for different transactions.
* Transactions are signed when they are accepted; their bytes stay on disk, only what is needed to
  order them is in memory.
* Changes are returned for the caller's batch; memory follows when the batch is written.
* What is accepted while nobody knows where the chain stands is held: it is remembered, durably,
  from which sequence on nothing was sent, so that none of it is taken for what the chain has.
* The database remembers which chain and node it belongs to.

Not handled here: when to send, and what the chain said (``outbox``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from edgistry.codec import Wire, decode, encode
from edgistry.errors import ChainMismatchError, CorruptDatabaseError, Refused, UnavailableError
from edgistry.journal import Journal
from edgistry.kv import Change, KeyValue
from edgistry.transactions import (
    MAX_TRANSACTION_BYTES,
    Body,
    Bytes20,
    NodeId,
    Sign,
    parse_body,
    parse_transaction,
    sign_transaction,
)

from .renumbering import Renumbering

MAX_PENDING_BYTES = 256 << 20
"""About 1.5 million records: weeks of a cut-off node's registrations, bounded on its disk."""

_OWNER_KEY = b"o/owner"
_LAST_KEY = b"o/last"
_HELD_KEY = b"o/held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One transaction that is not yet confirmed; its bytes stay in the database."""

    number: int
    """Its number in the journal."""
    sequence: int
    kind: int
    size: int
    """Bytes of the signed transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Transactions that are accepted once ``changes`` are written."""

    last: int
    """The last sequence given; the one before the first when there are no transactions."""
    held_from: int
    entries: list[Pending]
    changes: list[Change]


class _Owner(Wire):
    chain_id: str
    node_id: Bytes20


class OutboxQueue:
    """The queue of node ``node_id`` in ``store``, as it was left.

    Raises (on opening):
        ChainMismatchError: the database belongs to another chain or another node.
        CorruptDatabaseError: an entry does not decode.
    """

    def __init__(self, store: KeyValue, *, chain_id: str, node_id: NodeId, sign: Sign) -> None:
        self._store = store
        self._chain_id = chain_id
        self._node_id = node_id
        self._sign = sign
        self._journal = Journal(store, "node/outbox", element_limit=MAX_TRANSACTION_BYTES)
        self._check_owner()
        self.last = int.from_bytes(store.get(_LAST_KEY) or b"", "big")
        """The last sequence given, or a later one that the chain has."""
        self.held_from = int.from_bytes(store.get(_HELD_KEY) or b"", "big")
        """The first sequence of which none was ever sent; 0 when nothing is held."""
        self.entries = deque(_parse(self._journal.scan()))
        """All that wait, in order."""
        self.bytes = sum(entry.size for entry in self.entries)

    def transaction(self, entry: Pending) -> bytes:
        """The signed bytes of a waiting transaction."""
        return self._journal.get(entry.number)

    def accept(self, bodies: Sequence[Body], *, after: int, hold: bool) -> Accepted:
        """Sign ``bodies`` with the sequences after ``after`` and after all given before.

        With ``hold`` they, and all that come after them, are held until ``release``.

        Raises:
            UnavailableError: too much is waiting already.
            InvalidValueError: a transaction would be too large.
        """
        first = max(after, self.last) + 1
        transactions = [self._signed(body, first + at) for at, body in enumerate(bodies)]
        size = sum(map(len, transactions))
        if self.bytes + size > MAX_PENDING_BYTES:
            raise UnavailableError(
                f"{len(self.entries)} transactions ({self.bytes} bytes) wait for the chain; "
                f"the outbox holds {MAX_PENDING_BYTES} bytes"
            )
        last = first + len(bodies) - 1
        appended = self._journal.append(transactions)
        changes = list(appended.changes)
        held_from = self.held_from
        if transactions:
            changes.append(_last_change(last))
            if hold and not held_from:
                held_from = first
                changes.append((_HELD_KEY, first.to_bytes(8, "big")))
        entries = _parse(enumerate(transactions, appended.first))
        return Accepted(last=last, held_from=held_from, entries=entries, changes=changes)

    def accepted(self, accepted: Accepted) -> None:
        """The changes of ``accept`` are written."""
        if accepted.entries:
            self.entries.extend(accepted.entries)
            self.bytes += sum(entry.size for entry in accepted.entries)
            self.last = accepted.last
            self.held_from = accepted.held_from

    def through(self, sequence: int) -> list[Pending]:
        """The waiting transactions up to ``sequence``."""
        return list(takewhile(lambda entry: entry.sequence <= sequence, self.entries))

    def forget(self, done: Sequence[Pending]) -> list[Change]:
        """The changes that forget ``done``, the first ones of the queue."""
        return self._journal.trim(done[-1].number) if done else []

    def forgotten(self, done: Sequence[Pending]) -> None:
        """The changes of ``forget`` are written."""
        for entry in done:
            self.entries.popleft()
            self.bytes -= entry.size

    def release(self) -> list[Change]:
        """The changes after which nothing is held."""
        return [(_HELD_KEY, None)]

    def released(self) -> None:
        """The changes of ``release`` are written."""
        self.held_from = 0

    def renumbering(self, after: int, *, is_shortened: bool) -> Renumbering:
        """What it means to give all that waits the sequences from ``after`` + 1 on."""
        new = range(after + 1, after + 1 + len(self.entries))
        bodies = (parse_body(parse_transaction(self.transaction(entry))) for entry in self.entries)
        return Renumbering(
            after=after,
            moved=dict(zip((entry.sequence for entry in self.entries), new, strict=True)),
            bodies=dict(zip(new, bodies, strict=True)),
            is_shortened=is_shortened,
        )

    def renumber(self, renumbering: Renumbering) -> Accepted:
        """Sign all that waits again, as ``renumbering`` says; nothing is held afterwards.

        Only for what was never sent, or for a chain that has lost blocks for good: else the
        transactions of a number could differ between the nodes that have it and this one.
        """
        bodies = renumbering.bodies
        transactions = [self._signed(body, sequence) for sequence, body in bodies.items()]
        appended = self._journal.append(transactions)
        last = renumbering.after + len(bodies)
        trimmed = self._journal.trim(appended.first - 1)
        return Accepted(
            last=last,
            held_from=0,
            entries=_parse(enumerate(transactions, appended.first)),
            changes=[*appended.changes, *trimmed, _last_change(last), *self.release()],
        )

    def renumbered(self, accepted: Accepted) -> None:
        """The changes of ``renumber`` are written."""
        self.last = accepted.last
        self.held_from = 0
        self.entries = deque(accepted.entries)
        self.bytes = sum(entry.size for entry in self.entries)

    def _signed(self, body: Body, sequence: int) -> bytes:
        return sign_transaction(
            chain_id=self._chain_id,
            node_id=self._node_id,
            sequence=sequence,
            body=body,
            sign=self._sign,
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


def _last_change(last: int) -> Change:
    return _LAST_KEY, last.to_bytes(8, "big")


def _parse(elements: Iterable[tuple[int, bytes]]) -> list[Pending]:
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
