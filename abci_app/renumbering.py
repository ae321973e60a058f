"""New sequences for what waits: when the chain does not stand where the outbox counted from.

Rules kept here:

* Whoever remembers a sequence learns what became of it, in the write that changes it: a waiting
  transaction has another one, and one that the chain has lost has none.
* A body that depends on what the chain has (a region's version) may be made anew.

Pure. Not handled here: when this is due (``outbox``), and signing again (``outbox_queue``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgistry.kv import Change
from edgistry.transactions import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Renumbering:
    """What waits is numbered from ``after`` + 1 on, ``after`` being the chain's last sequence."""

    after: int
    moved: Mapping[int, int]
    """The new sequence of each waiting transaction by its old one."""
    bodies: dict[int, Body]
    """What waits, by its new sequence, in order. A listener may replace a body, or ``add`` one."""
    is_shortened: bool = False
    """Whether the chain has lost blocks for good: what it says may be older than the database."""

    def add(self, body: Body) -> None:
        """Let ``body`` wait as well, behind everything that does."""
        self.bodies[self.after + len(self.bodies) + 1] = body

    def of(self, sequence: int) -> int:
        """What ``sequence`` is from now on; 0 when the chain has it no more."""
        moved = self.moved.get(sequence)
        if moved is not None:
            return moved
        return sequence if sequence <= self.after else 0


Renumbered = Callable[[Renumbering], Iterable[Change]]
"""Told of a renumbering before it is signed; the changes it answers are in the same write."""
