"""What a device tells its nodes: requests that it has taken on, and results.

Rules kept here:

* A node is told of everything that it may not know, in every exchange, until it says that it does.
* A result that a node has, or that nobody needs, is forgotten; on the disk with a later write.

Not handled here: where results come from (``executor.py``), and the write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence

from edgistry.kv import Change
from edgistry.messages import RequestResult, ResultKind, fitting

from .queues import Asker, DeviceQueues


class Outgoing:
    """What is to be told, of what rests in ``queues``. Used in one event loop."""

    def __init__(self, queues: DeviceQueues) -> None:
        self._queues = queues
        self._results: set[Asker] = set(queues.results())
        """Results that are durable, and that their nodes may not have."""
        self._sent: set[Asker] = set()
        """Of these: on their way, or told."""
        self._told: set[Asker] = set()
        """Requests taken on of which the node knows that they are."""
        self._gone: set[Asker] = set()
        """Results that their nodes have; removed from the disk with a later write."""
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """How many results there are that some node may not have."""
        return len(self._results)

    def has_ended(self, askers: Iterable[Asker]) -> None:
        """These have their results, durably."""
        self._told.difference_update(askers)
        self._results.update(askers)
        self._news.set()

    def is_there(self, asker: Asker) -> bool:
        """Whether there is a result for a request that was just handed down; it is told again."""
        if asker in self._gone:
            # The node had it, and has lost it: it is still on the disk.
            self._gone.discard(asker)
            self._results.add(asker)
        self._sent.discard(asker)
        return asker in self._results

    # --- exchanges ------------------------------------------------------------------------------

    def report(
        self, home: bytes, unfinished: Iterable[Asker], *, limit: int
    ) -> tuple[RequestResult, ...]:
        """What an exchange tells node ``home`` now, in at most about ``limit`` bytes.

        Requests that were taken on, ``unfinished``, come first, where the node may not know of it.
        """
        told = {
            each.request_id: RequestResult(request_id=each.request_id, kind=ResultKind.ACKNOWLEDGED)
            for each in unfinished
            if each.home == home and each not in self._told
        }
        for asker in sorted(self._results):
            finished = self._queues.result(asker) if asker.home == home else None
            if finished is not None:
                told[asker.request_id] = RequestResult(
                    request_id=asker.request_id, kind=finished.kind, reply=finished.reply
                )
        found = list(told.values())
        fits = fitting([len(each.reply) for each in found], count=len(found), limit=limit)
        taken = tuple(found[position] for position in fits)
        self._sent.update(_ends_in(home, taken))
        return taken

    def unanswered(self, home: bytes, told: Sequence[RequestResult]) -> None:
        """Node ``home`` has not answered what it was ``told``: it may not have heard it."""
        self._sent.difference_update(_ends_in(home, told))

    def answered(
        self,
        home: bytes,
        unfinished: Collection[Asker],
        told: Sequence[RequestResult],
        ids: Collection[bytes],
    ) -> None:
        """Node ``home`` has answered what it was ``told``, and needs these no more."""
        confirmed = [each for each in told if each.request_id in ids]
        ended = _ends_in(home, confirmed)
        self._gone.update(ended & self._results)
        self._results -= ended
        for each in confirmed:
            asker = Asker(home, each.request_id)
            if each.kind == ResultKind.ACKNOWLEDGED and asker in unfinished:
                self._told.add(asker)

    # --- what is there --------------------------------------------------------------------------

    def has_news(self, home: bytes) -> bool:
        """Whether there are results that node ``home`` was not told."""
        return any(asker.home == home for asker in self._results - self._sent)

    async def news(self, home: bytes) -> None:
        """Return when there are results that node ``home`` was not told."""
        while not self.has_news(home):
            self._news.clear()
            await self._news.wait()

    def has_results(self, home: bytes) -> bool:
        """Whether there are results that node ``home`` does not have, as far as is known."""
        return any(asker.home == home for asker in self._results)

    def drop_strangers(self, homes: Collection[bytes]) -> None:
        """Forget results for nodes that are not among ``homes``."""
        strangers = {asker for asker in self._results if asker.home not in homes}
        self._results -= strangers
        self._gone |= strangers

    def clearing(self) -> list[Change]:
        """The changes that remove from the disk what is not needed any more."""
        changes = [self._queues.forget(asker) for asker in self._gone]
        self._sent -= self._gone
        self._gone.clear()
        return changes


def _ends_in(home: bytes, told: Iterable[RequestResult]) -> set[Asker]:
    """The requests that ``told`` says to have ended."""
    return {Asker(home, each.request_id) for each in told if each.kind != ResultKind.ACKNOWLEDGED}
