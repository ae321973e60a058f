"""The errands for requests that entered here: to their home nodes, and the outcomes back.

Rules kept here:

* What is sent is durable as SENT before. What was sent before is first asked for, and sent again
  only if the home node does not know it: so a request whose fate was unknown is never taken for
  one that expired.
* A node that is away is tried again after a time that doubles, with jitter. A request that is only
  here is not sent before the node has answered something: it stays certain that nobody has it.
* Each request has one errand at a time. What one request is refused with stops no other, nor does
  one that a node never answers while it answers others.

Not handled here: which errand it is (``entry_records``), clients (``entry_desk``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edgistry.adapters.log import get_logger
from edgistry.errors import (
    BudgetError,
    ExpiredError,
    MailboxFullError,
    NodeProblemError,
    NotEndedError,
    Refused,
    TimedOutError,
    UnexpectedAnswerError,
    UnknownRequestError,
)
from edgistry.requests_api import RequestAnswer, StateName, to_bytes
from edgistry.transactions import NodeId

from .entry_book import EntryBook
from .entry_records import (
    DAMAGED,
    HOME_FORGOT,
    HOME_SILENT,
    NOT_REACHED,
    EntryRecord,
    Errand,
    Stage,
    errand,
    move,
    told,
)
from .peer_api import MAX_REFERENCES
from .peer_link import PeerLink, is_away
from .running import run_together

logger = get_logger("edgistry.node.peers")

AT_ONCE: Final = 16
"""Requests that travel to one node at the same time."""
FOLLOW_EVERY_S: Final = 5.0
"""How often a node is asked for outcomes that no client waits for."""
FOLLOW_AWAITED_EVERY_S: Final = 1.0
"""The same for those that a client waits for; mostly it waits at the home node itself."""
FULL_REST_S: Final = 15.0
"""When to come back to a home node whose queue is full."""
SWEEP_EVERY_S: Final = 1.0
FIRST_REST_S: Final = 0.25
LONGEST_REST_S: Final = 8.0

_TIMED: Final = (Errand.EXPIRE, Errand.GIVE_UP, Errand.FORGET)


def rest_s(failures: int, chance: float) -> float:
    """How long to leave a node alone after so many failures; ``chance`` is from 0 to 1."""
    longest = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(failures, 16))
    return longest * (0.5 + chance / 2)


class Courier:
    """Does the errands of ``book`` over ``links``, by node id, while it ``run``s."""

    def __init__(
        self,
        book: EntryBook,
        links: Mapping[NodeId, PeerLink],
        *,
        chance: Callable[[], float] = lambda: secrets.randbelow(1001) / 1000,
    ) -> None:
        self.links = links
        self._book = book
        self._chance = chance
        self._bells = {node: asyncio.Event() for node in links}
        self._missed: set[bytes] = set()
        """Nodes that somebody wanted to ask and could not."""
        self._resting: set[bytes] = set()
        """Requests that their full home node is not asked to take just now."""

    def wake(self, home: bytes) -> None:
        """There is something to do for requests to that node."""
        bell = self._bells.get(NodeId(home))
        if bell is not None:
            bell.set()

    def missed(self, home: bytes) -> None:
        """That node could not be asked: whoever waits is to be woken when it can be."""
        self._missed.add(home)
        self.wake(home)

    async def run(self) -> None:
        """Run errands until cancelled; what it raises is a bug."""
        await run_together(*map(self._serve, self.links.values()), self._watch_time())

    async def close(self) -> None:
        """Close all links."""
        for link in self.links.values():
            await link.close()

    async def _serve(self, link: PeerLink) -> None:
        failures = 0
        bell = self._bells[link.node]
        while True:
            bell.clear()
            was_missed = failures > 0 or link.node in self._missed
            self._missed.discard(link.node)
            try:
                more = await self.step(link)
            except Refused as error:
                # Whatever another node answers must not stop this one.
                failures += 1
                if failures == 1:
                    logger.warning(
                        "requests to another node wait", node=link.node.hex(), reason=error.detail
                    )
                await asyncio.sleep(rest_s(failures, self._chance()))
                continue
            if failures:
                failures = 0
                logger.info("the other node answers again", node=link.node.hex())
            if was_missed:
                self._book.ring_all(link.node)
            if not more:
                await self._pause(link, bell)

    async def _pause(self, link: PeerLink, bell: asyncio.Event) -> None:
        """Return when somebody rings, or when it is time to ask for outcomes."""
        for _ in range(round(FOLLOW_EVERY_S / FOLLOW_AWAITED_EVERY_S)):
            with contextlib.suppress(TimeoutError):
                # Not ``wait_for``, which can lose a cancellation that comes with the event.
                async with asyncio.timeout(FOLLOW_AWAITED_EVERY_S):
                    await bell.wait()
                    return
            if any(self._book.is_awaited(each.id) for each in self._book.followed(link.node)):
                return

    # --- one round ------------------------------------------------------------------------------

    async def step(self, link: PeerLink) -> bool:
        """All that can be done now with one node; whether it has more to tell.

        Raises:
            Refused: the node is away, or the store refuses; then the rest is still to be done.
        """
        urgent = [each for each in self._book.urgent(link.node) if each.id not in self._resting]
        if any(each.stage == Stage.HELD for each in urgent):
            await link.which_ended(())
        for start in range(0, len(urgent), AT_ONCE):
            some = urgent[start : start + AT_ONCE]
            done = await asyncio.gather(
                *(self._run(link, each.id) for each in some), return_exceptions=True
            )
            for record, result in zip(some, done, strict=True):
                if isinstance(result, BaseException):
                    await self._failed(link, record, result)
        return await self._follow(link, self._book.followed(link.node))

    async def _failed(self, link: PeerLink, record: EntryRecord, error: BaseException) -> None:
        """Let one request wait that the node cannot handle, and go on with the others.

        Raises:
            Refused: it is the node that is away. Exception: a bug.
        """
        if not isinstance(error, Refused):
            raise error
        if isinstance(error, TimedOutError | UnexpectedAnswerError):
            await link.which_ended(())  # which it can answer, if it is not away
        elif is_away(error) and not isinstance(error, NodeProblemError):
            raise error
        logger.warning("a request to another node waits", reason=error.detail)
        self._rest(record)

    def _rest(self, record: EntryRecord) -> None:
        self._resting.add(record.id)
        loop = asyncio.get_running_loop()
        loop.call_later(FULL_REST_S, self._rested, record.id, record.home)

    async def hurry(self, request: bytes) -> None:
        """Do the errand of one request now, if its home node seems to be up; else wake up."""
        record = self._book.get(request)
        if record is None:
            return
        link = self.links.get(NodeId(record.home))
        if link is not None and link.seems_up:
            try:
                await self._run(link, request)
            except Refused as error:
                if not is_away(error):
                    raise
        self.wake(record.home)

    async def _run(self, link: PeerLink, request: bytes) -> None:
        async with self._book.lock(request):
            record = self._book.get(request)
            if record is None:
                return
            now_us = self._book.clock_us()
            match errand(record, now_us=now_us, limits=self._book.limits):
                case Errand.PASS:
                    record = move(record, Stage.SENT)
                    await self._book.change(record)
                    await self._pass(link, record)
                case Errand.ASK:
                    await self._ask(link, record)
                case Errand.RECALL:
                    await self._recall(link, record)
                case Errand.CONFIRM:
                    # Who does not know it any more need not be told.
                    with contextlib.suppress(UnknownRequestError, NotEndedError):
                        await link.acknowledge(record.reference)
                    await self._book.change(told(record, now_us, self._book.limits))
                case Errand.EXPIRE | Errand.GIVE_UP | Errand.FORGET:
                    await self._time_out(record)
                case _:
                    pass

    async def _ask(self, link: PeerLink, record: EntryRecord) -> None:
        try:
            answer = await link.look(record.reference)
        except UnknownRequestError:
            await self._pass(link, record)
            return
        record = await self._book.take(record, answer)
        if record.untold and not record.has_ended:
            await self._recall(link, record)

    async def _pass(self, link: PeerLink, record: EntryRecord) -> None:
        envelope = self._book.envelope(record)
        if envelope is None:
            await self._book.end(record, "EXPIRED", DAMAGED)
            return
        try:
            answer, _ = await link.pass_on(record.passed_request(envelope))
        except (MailboxFullError, BudgetError):
            self._rest(record)
        except Refused as error:
            if is_away(error):
                raise
            state: StateName = "EXPIRED" if isinstance(error, ExpiredError) else "REJECTED"
            await self._book.end(record, state, f"not taken by its home node: {error.detail}")
        else:
            await self._book.take(record, answer)

    def _rested(self, request: bytes, home: bytes) -> None:
        self._resting.discard(request)
        self.wake(home)

    async def _recall(self, link: PeerLink, record: EntryRecord) -> None:
        try:
            answer = await link.cancel(record.reference)
        except UnknownRequestError:
            await self._book.end(record, "EXPIRED", HOME_FORGOT)
        else:
            await self._book.take(record, answer)

    async def _follow(self, link: PeerLink, records: Sequence[EntryRecord]) -> bool:
        more = False
        for start in range(0, len(records), MAX_REFERENCES):
            some = records[start : start + MAX_REFERENCES]
            found = await link.which_ended([each.reference for each in some])
            more = more or found.more
            asked = {each.id for each in some}
            answers = {to_bytes(each.id, "id"): each for each in found.ended}
            unknown = {to_bytes(each, "id") for each in found.unknown}
            await asyncio.gather(
                *(self._bring(each, answers[each]) for each in asked & answers.keys()),
                *(self._bring(each, None) for each in asked & unknown),
            )
        return more

    async def _bring(self, request: bytes, answer: RequestAnswer | None) -> None:
        """A request has ended as in ``answer``, or its home node does not know it."""
        async with self._book.lock(request):
            record = self._book.get(request)
            if record is None:
                return
            if answer is not None:
                await self._book.take(record, answer)
            elif record.stage == Stage.PASSED:
                await self._book.end(record, "EXPIRED", HOME_FORGOT)

    # --- time -----------------------------------------------------------------------------------

    async def _watch_time(self) -> None:
        while True:
            try:
                await self.sweep()
            except Refused as error:
                logger.warning("a request to another node is not ended", reason=error.detail)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """End what is due, and forget what may be forgotten."""
        now_us, limits = self._book.clock_us(), self._book.limits
        for record in self._book.records():
            if errand(record, now_us=now_us, limits=limits) in _TIMED:
                async with self._book.lock(record.id):
                    current = self._book.get(record.id)
                    if current is not None:
                        await self._time_out(current)

    async def _time_out(self, record: EntryRecord) -> None:
        match errand(record, now_us=self._book.clock_us(), limits=self._book.limits):
            case Errand.EXPIRE:
                await self._book.end(record, "EXPIRED", NOT_REACHED)
            case Errand.GIVE_UP:
                await self._book.end(record, "EXPIRED", HOME_SILENT)
            case Errand.FORGET:
                await self._book.forget(record)
            case _:
                pass
