"""Which waiting requests a device gets, and in which order.

Rules kept here:

* Clients take turns; whose request has the higher priority begins each round. So a priority, which
  a client gives itself, buys no more than a fair share. A round goes on with the next exchange: a
  device may take no more than one request at a time.
* Within one client the higher priority goes first, then who came first. At most ``overtakes`` later
  ones (by sequence) go before one that waits, or its sequence would fall out of the device's replay
  window: after that they wait for it. One that waits for the answer to another goes itself then,
  since that other may be among those that wait for it.
* What does not fit into what the device asked for is left out and holds up nobody else.

Not handled here: what is handed down at all (``mailbox_exchange.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from edgistry.messages import ITEM_OVERHEAD_BYTES, MAX_EXCHANGE_ITEMS_BYTES, MAX_ITEMS

from .mailbox_records import RequestRecord
from .mailbox_states import State


@dataclass(frozen=True, slots=True)
class Choice:
    """What a device gets."""

    taken: Sequence[RequestRecord]
    overtaken: dict[bytes, int]
    """How often each of those left behind has been overtaken by now, where that has changed."""
    more: bool
    """Whether some are left that it could have had."""
    had_turn: frozenset[bytes]
    """Of the clients with waiting requests, those that had their turn in this round."""


def choose(
    waiting: Iterable[RequestRecord],
    *,
    count: int,
    limit: int,
    overtakes: int,
    now_us: int,
    had_turn: Set[bytes] = frozenset(),
) -> Choice:
    """Choose at most ``count`` of ``waiting``, of ``limit`` bytes together.

    Clients in ``had_turn`` wait until the others had theirs.
    Those that wait for their time, or for the device to acknowledge them, are among ``waiting``:
    they are not chosen, but they are overtaken.
    """
    by_party: dict[bytes, list[RequestRecord]] = {}
    for record in waiting:
        by_party.setdefault(record.party, []).append(record)
    everyone = {party: _Queue(records, overtakes, now_us) for party, records in by_party.items()}
    queues = dict(everyone)
    served = {party for party in had_turn if party in everyone}
    left = min(limit, MAX_EXCHANGE_ITEMS_BYTES)
    count = min(count, MAX_ITEMS)
    taken: list[RequestRecord] = []
    while queues and len(taken) < count:
        heads = {
            party: head for party, each in queues.items() if (head := each.head(left)) is not None
        }
        queues = {party: queues[party] for party in heads}
        if heads and served.issuperset(heads):
            served.clear()
        turn = [(party, head) for party, head in heads.items() if party not in served]
        turn.sort(key=lambda pair: (-pair[1].priority, pair[1].order))
        for party, head in turn[: count - len(taken)]:
            if _cost(head) <= left:
                left -= _cost(head)
                queues[party].take(head)
                taken.append(head)
                served.add(party)
    left_over = everyone.values()
    return Choice(
        taken,
        {request: times for each in left_over for request, times in each.changed.items()},
        more=any(each.has_ready() for each in left_over),
        had_turn=frozenset(served),
    )


class _Queue:
    """The waiting requests of one client, in the order that it wants."""

    def __init__(self, records: Sequence[RequestRecord], overtakes: int, now_us: int) -> None:
        wanted = sorted(records, key=lambda each: (-each.priority, each.order))
        self._waiting = {each.id: each for each in wanted}
        self._overtaken = {each.id: each.overtaken for each in wanted}
        self._overtakes = overtakes
        self._now_us = now_us
        self.changed: dict[bytes, int] = {}
        """How often each of those that still wait has been overtaken, where that has changed."""

    def head(self, left: int) -> RequestRecord | None:
        """The next one that may go and fits into ``left`` bytes."""
        waiting = self._waiting.values()
        last = min((each.sequence for each in waiting if self._is_stuck(each)), default=None)
        for each in waiting:
            may_go = self._is_ready(each) and _cost(each) <= left
            if may_go and (last is None or each.sequence <= last):
                return each
        return None

    def take(self, record: RequestRecord) -> None:
        """``record`` goes; those before it by sequence are overtaken."""
        del self._waiting[record.id]
        self.changed.pop(record.id, None)
        for each in self._waiting.values():
            if each.sequence < record.sequence:
                self._overtaken[each.id] += 1
                self.changed[each.id] = self._overtaken[each.id]

    def has_ready(self) -> bool:
        """Whether some that are left could be had at another time."""
        return any(self._is_ready(each) for each in self._waiting.values())

    def _is_ready(self, record: RequestRecord) -> bool:
        goes_itself = not record.leader or self._is_stuck(record)
        is_waiting = record.state == State.QUEUED and goes_itself
        return is_waiting and record.not_before_us <= self._now_us

    def _is_stuck(self, record: RequestRecord) -> bool:
        return self._overtaken[record.id] >= self._overtakes


def _cost(record: RequestRecord) -> int:
    return record.size + ITEM_OVERHEAD_BYTES
