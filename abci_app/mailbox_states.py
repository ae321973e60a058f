"""The states of a request to a device, and the moves between them (woofs_and_queues.md, *Mailbox*).

Rules kept here:

* The table is all there is: a move that it does not name is a bug, and changes nothing.
* A state says no more than what is known: ACKED means that the request is durable on the device,
  EXPIRED and CANCELLED that it will not be executed any more, unless the reason says otherwise.

Not handled here: when a request moves (``mailbox.py``, ``mailbox_exchange.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class State(IntEnum):
    """How far a request is. The numbers are stored."""

    QUEUED = 0
    """It waits for the device, which has not taken it (or perhaps: ``RequestRecord.held``)."""
    LEASED = 1
    """It was handed to the device, which has not said yet that it is durable there."""
    ACKED = 2
    """It is durable on the device."""
    RESPONDED = 3
    """The device executed it; the reply waits for the client."""
    REJECTED = 4
    """The device will not execute it, and has said why."""
    FAILED = 5
    """The device's handler failed for good."""
    EXPIRED = 6
    """Its deadline has passed."""
    CANCELLED = 7
    """The client took it back in time."""
    DEAD = 8
    """It was handed down as often as may be, and never arrived."""
    DELIVERED = 9
    """The client has the outcome, and said so."""


MOVES: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.QUEUED: frozenset({State.LEASED, State.EXPIRED, State.CANCELLED}),
        State.LEASED: frozenset(
            {State.QUEUED, State.ACKED, State.EXPIRED, State.CANCELLED, State.DEAD}
        ),
        State.ACKED: frozenset(
            {State.RESPONDED, State.REJECTED, State.FAILED, State.EXPIRED, State.CANCELLED}
        ),
        State.RESPONDED: frozenset({State.DELIVERED}),
        State.REJECTED: frozenset({State.DELIVERED}),
        State.FAILED: frozenset({State.DELIVERED}),
        State.EXPIRED: frozenset({State.DELIVERED}),
        State.CANCELLED: frozenset({State.DELIVERED}),
        # An operator may let a dead one try again until its client has taken note of the end.
        State.DEAD: frozenset({State.DELIVERED, State.QUEUED}),
        State.DELIVERED: frozenset(),
    }
)

OUTSTANDING: Final = frozenset({State.QUEUED, State.LEASED, State.ACKED})
"""It may still be executed."""

UNFETCHED: Final = frozenset(State) - OUTSTANDING - {State.DELIVERED}
"""It has ended, and the client has not said that it knows."""


class IllegalMoveError(Exception):
    """A bug: the table has no such move."""


def check_move(before: State, *path: State) -> None:
    """Return if a request may go from ``before`` through all of ``path``.

    Raises:
        IllegalMoveError: it may not.
    """
    for after in path:
        if after not in MOVES[before]:
            raise IllegalMoveError(f"a request does not go from {before.name} to {after.name}")
        before = after


@functools.cache
def path_between(before: State, after: State) -> tuple[State, ...]:
    """The shortest legal way from ``before`` to ``after``: what a late message implies.

    A result for a request that is QUEUED again, say, means that it was leased and acknowledged.

    Raises:
        IllegalMoveError: there is none.
    """
    ways: list[tuple[State, ...]] = [(step,) for step in sorted(MOVES[before])]
    seen = set(MOVES[before])
    while ways:
        way = ways.pop(0)
        if way[-1] == after:
            return way
        for step in sorted(MOVES[way[-1]] - seen):
            seen.add(step)
            ways.append((*way, step))
    raise IllegalMoveError(f"a request cannot come from {before.name} to {after.name}")
