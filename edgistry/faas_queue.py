"""What one handler is to run next: a bounded view of its triggers in the store.

Rules kept here:

* Triggers come in the order of arrival; those that wait for another try do not hold up others, and
  come first when their time has come.
* In memory are at most ``MAX_QUEUED`` triggers with their elements, and the arrivals of
  ``MAX_HELD`` that wait. The others are read from the store when their turn comes; while that many
  wait, no new ones come.
* None comes twice, and none is forgotten while it is in the store.

Times are seconds of a clock that never jumps (``now_s``), and the wall clock in µs (``now_us``),
which stored waits are measured by.

Not handled here: running them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from .faas import Course
from .handlers import Retry
from .woof_triggers import Trigger

MAX_QUEUED: Final = 128
MAX_HELD: Final = 1024

Read = Callable[[int], Iterator[Trigger]]
"""The triggers of the handler in the store that arrived after this number, in order."""


class TriggerQueue:
    """The triggers of one handler, which ``read`` gives."""

    def __init__(self, read: Read, retry: Retry) -> None:
        self._read = read
        self._retry = retry
        self._ready: deque[Trigger] = deque()
        self._held: list[tuple[float, int]] = []
        """When, and arrival."""
        self._seen = 0
        """Arrival of the last trigger that was ever in memory."""
        self._behind = False
        """Whether the store may have later ones that were never in memory."""

    def look(self) -> None:
        """There may be triggers in the store that nobody has told of."""
        self._behind = True

    def arrived(self, trigger: Trigger) -> None:
        """``trigger`` has become durable, after all those told of before."""
        if trigger.arrival <= self._seen:
            return  # the store had it already
        if self._behind or len(self._ready) >= MAX_QUEUED:
            self._behind = True
            return
        self._seen = trigger.arrival
        self._ready.append(trigger)

    def leave_out(self, arrival: int) -> None:
        """The trigger with this arrival is not to come, if it is in memory and has not come yet."""
        self._ready = deque(each for each in self._ready if each.arrival != arrival)

    def hold(self, trigger: Trigger, until_s: float) -> None:
        """``trigger``, which had come, is to come again at ``until_s``."""
        heapq.heappush(self._held, (until_s, trigger.arrival))

    def next(self, *, now_s: float, now_us: int) -> Trigger | None:
        """The next one to run; ``None`` when there is none for now.

        Raises:
            CorruptDatabaseError, StorageError: the store cannot be read.
        """
        while self._held and self._held[0][0] <= now_s:
            arrival = heapq.heappop(self._held)[1]
            found = next(self._read(arrival - 1), None)
            if found is not None and found.arrival == arrival:
                return found
        while not self._ready and self._behind and len(self._held) < MAX_HELD:
            self._load(now_s, now_us)
        if self._ready and len(self._held) < MAX_HELD:
            return self._ready.popleft()
        return None

    @property
    def next_due_s(self) -> float | None:
        """When the first of those that wait is due."""
        return self._held[0][0] if self._held else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to come, now or later."""
        return not (self._ready or self._held or self._behind)

    def _load(self, now_s: float, now_us: int) -> None:
        found = list(islice(self._read(self._seen), MAX_QUEUED))
        self._behind = len(found) == MAX_QUEUED
        for trigger in found:
            self._seen = trigger.arrival
            course = Course.of(trigger)
            wait_s = course.due_in_s(self._retry, now_us=now_us)
            wait_s = max(wait_s, course.held_back_s(self._retry))
            if wait_s > 0:
                self.hold(trigger, now_s + wait_s)
            else:
                self._ready.append(trigger)
