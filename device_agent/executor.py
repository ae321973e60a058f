"""Requests that a node has handed down, executed on the device; and their results.

Rules kept here:

* The device takes no node's word for what a client wants: each envelope is checked with its own
  key, its deadline by a time that a node has proven, and executed at most once.
* A put that names a handler is ACCEPTED first. When its handler has ended, well or not, there is
  exactly one final reply, and the replay memory gives that one from then on.
* What a request changes, the request itself as far as it is not finished, and its result are one
  durable write. What the node is told is durable before.
* The same envelope under another id is the same request: it has one result, told under both ids.
* What is recalled before its handler has begun never runs, and is answered CANCELLED. Its element
  stays in the log. Where the handler may have begun, how it ends is the answer.

Not handled here: exchanges (``agent.py``), and what the operations do (``woof_service``).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from edgistry.adapters.group_commit import Work
from edgistry.adapters.log import get_logger
from edgistry.adapters.loops import call_in
from edgistry.authority import Authority
from edgistry.envelope import Operation, Status, decode_reply
from edgistry.errors import CorruptDatabaseError, Refused, StorageError
from edgistry.faas_outcome import Failure
from edgistry.faas_outcome import Outcome as HandlerOutcome
from edgistry.kv import Change
from edgistry.messages import RequestDown, RequestResult, ResultKind
from edgistry.replay import Outcome
from edgistry.verifier import Checked
from edgistry.woof_replies import READS, status_of
from edgistry.woof_service import Duplicate, Execution, WoofService
from edgistry.woof_staging import Staging
from edgistry.woof_store import WoofStore
from edgistry.woof_triggers import Trigger

from .outgoing import Outgoing
from .queues import MAX_ASKERS, Asker, DeviceQueues, TakenOn, handler_of, place_of

T = TypeVar("T")

logger = get_logger("edgistry.agent.executor")

_EXECUTED: Final = (Status.OK, Status.ACCEPTED, Status.HANDLER_FAILED)


class DeviceService(WoofService):
    """The operations as a device does them: a put that names a handler is answered later.

    ``functions`` says which handler runs for a WooF and the handler that a request names; where it
    says nothing, the one that is named.
    """

    def __init__(
        self,
        woofs: WoofStore,
        authority: Authority,
        *,
        require_handler: Callable[[str], object],
        functions: Mapping[tuple[str, str], str] = MappingProxyType({}),
    ) -> None:
        super().__init__(woofs, authority, require_handler=require_handler)
        self._functions = functions

    def function_for(self, woof: str, handler: str) -> str:
        """As ``WoofService.function_for``; by the device's own names."""
        return super().function_for(woof, self._functions.get((woof, handler), handler))

    def change(self, checked: Checked, staging: Staging) -> Outcome:
        """As ``WoofService.change``; ACCEPTED where a handler is going to answer."""
        outcome = super().change(checked, staging)
        if not checked.envelope.handler:
            return outcome
        return Outcome(status=Status.ACCEPTED, result=outcome.result)


class Committer(Protocol):
    """Makes works durable, in order. ``GroupCommitter`` is one."""

    @property
    def lock(self) -> threading.Lock:
        """Held while something is decided and handed over."""

    def hand_over(self, work: Work) -> asyncio.Future[None]:
        """Done when ``work`` is durable."""


class Woofs(Protocol):
    """The device's WooFs, and the one way to write them. ``DurableWoofs`` is one."""

    @property
    def committer(self) -> Committer:
        """Their writer."""

    @property
    def woofs(self) -> WoofStore:
        """What is written."""

    async def commit(self, decide: Callable[[Staging], T]) -> T:
        """What ``decide`` answers, once all that it staged is durable."""

    def start_sweeping(self) -> None:
        """Remove what is left of deleted WooFs, in the background."""


class Executor:
    """Executes requests on ``woofs`` by ``service``, and keeps results in ``queues``.

    Should a handler be going to answer, ``handler_ended`` is to be called when it has ended.
    ``withdraw`` lets an invocation end unbegun, with what is staged, if that can be. Used in one
    event loop.
    """

    def __init__(self, woofs: Woofs, service: WoofService, queues: DeviceQueues) -> None:
        self._woofs = woofs
        self._authority = service.authority
        self._queues = queues
        self._service = service
        self.withdraw: Callable[[Staging, Trigger], bool] = lambda _staging, _trigger: False
        self.outgoing = Outgoing(queues)
        self._taken_on = queues.taken_on()
        """Requests whose handlers have not ended. Changed with the committer's lock held."""
        self._places = {_digest(each.envelope): at for at, each in self._taken_on.items()}
        self._triggers: dict[bytes, Trigger] = {}
        """By place: what runs the handlers of those that were taken on since the start."""
        self._ending: dict[bytes, list[Asker]] = {}
        """By place: their handlers have ended, which is being written."""
        self._aside: set[bytes] = set()
        """Of what is taken on: what cannot end, since its handler is not there."""
        self._settled = asyncio.Event()
        if not self._taken_on:
            self._settled.set()

    def set_aside(self, handlers: Container[str]) -> None:
        """Nobody lingers for requests that were taken on before, for others than ``handlers``.

        They wait for a start at which their handlers are there again, or for their deadlines.
        """
        self._aside = {at for at in self._taken_on if handler_of(at) not in handlers}
        if self._aside:
            logger.warning("requests wait for handlers that are not there", count=len(self._aside))
        if not self.is_at_work:
            self._settled.set()

    # --- executing ------------------------------------------------------------------------------

    async def execute(self, home: bytes, requests: Sequence[RequestDown], *, now_us: int) -> None:
        """Execute ``requests`` of node ``home``; afterwards each is taken on, or has its result.

        What was executed before is not executed again. ``now_us`` is a time that a node proved.

        Raises:
            StorageError, CorruptDatabaseError, UnavailableError: the store does not work.
        """
        todo = [
            self._one(Asker(home, request.request_id), request.envelope, now_us)
            for request in requests
        ]
        # All are handed to the writer in one turn of the loop, so they share one sync.
        ends = await asyncio.gather(*todo, return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def _one(self, asker: Asker, envelope: bytes, now_us: int) -> None:
        if self.outgoing.is_there(asker):
            return
        reply = await self._admitted(asker, envelope, now_us)
        if reply is None:
            return
        if status_in(reply) == Status.ACCEPTED:
            # Its handler has just ended, and the write of its final reply is on its way.
            await self._woofs.commit(_nothing)
            reply = await self._admitted(asker, envelope, now_us)
        if reply is not None:
            await self._finish([asker], reply)

    async def _admitted(self, asker: Asker, envelope: bytes, now_us: int) -> bytes | None:
        """The reply to a request that is not to be executed; ``None`` when all is seen to."""
        admitted = self._service.admit(envelope, now_us=now_us)
        if isinstance(admitted, Execution):
            await self._carry_out(asker, envelope, admitted)
            return None
        if isinstance(admitted, Duplicate):
            admitted = await asyncio.shield(asyncio.wrap_future(admitted.reply))
        if await self._joined(asker, envelope):
            return None
        return admitted

    async def _carry_out(self, asker: Asker, envelope: bytes, execution: Execution) -> None:
        operation = execution.checked.envelope.op
        try:
            if operation in READS:
                execution.read(self._service.read)
            committer = self._woofs.committer
            with committer.lock:
                staging = execution.stage()
                try:
                    if staging.triggers:
                        self._take_on(asker, envelope, staging)
                    else:
                        staging.add(self._ended([asker], execution.reply))
                    staging.add(self.outgoing.clearing())
                    future = committer.hand_over(staging)
                except BaseException:
                    staging.take_back()
                    raise
        except (StorageError, CorruptDatabaseError) as error:
            # Damage that this request has met. Where nothing can be written, this cannot be either.
            execution.abandon()
            await self._finish([asker], execution.checked.refusal(error))
            return
        except BaseException:
            execution.abandon()
            raise
        # Not after the await: whoever waits may be cancelled while the write goes on.
        asked = None if staging.triggers else asker
        future.add_done_callback(functools.partial(self._written, execution, asked))
        await asyncio.shield(future)
        if operation == Operation.DELETE:
            self._woofs.start_sweeping()

    def _written(
        self, execution: Execution, asker: Asker | None, future: asyncio.Future[None]
    ) -> None:
        """The request is durable, and so is its result if it has one; or nothing was written."""
        if future.cancelled() or future.exception() is not None:
            execution.abandon()
            return
        execution.done()
        if asker is not None:
            self.outgoing.has_ended([asker])

    def _take_on(self, asker: Asker, envelope: bytes, staging: Staging) -> None:
        trigger = staging.triggers[-1]
        place = place_of(trigger)
        taken = TakenOn(envelope=envelope, askers=(asker,))
        staging.add([self._queues.take_on(place, taken)])
        # Should the write fail, the store takes no further one, and the agent ends.
        self._taken_on[place] = taken
        self._triggers[place] = replace(trigger, element=b"")
        self._places[_digest(envelope)] = place
        self._settled.clear()

    async def _joined(self, asker: Asker, envelope: bytes) -> bool:
        """Whether the request waits for a handler: ``asker`` will be told the result, too."""

        def join(staging: Staging) -> bool:
            place = self._places.get(_digest(envelope))
            if place is None:
                return False
            taken = self._taken_on[place]
            if asker not in taken.askers and len(taken.askers) < MAX_ASKERS:
                taken = TakenOn(envelope=envelope, askers=(*taken.askers, asker))
                staging.add([self._queues.take_on(place, taken)])
                self._taken_on[place] = taken
            return True

        return await self._woofs.commit(join)

    async def _finish(self, askers: Sequence[Asker], reply: bytes) -> None:
        await self._woofs.commit(lambda staging: staging.add(self._ended(askers, reply)))
        self.outgoing.has_ended(askers)

    # --- how handlers end -----------------------------------------------------------------------

    def handler_ended(self, staging: Staging, trigger: Trigger, outcome: HandlerOutcome) -> None:
        """What goes with the write that ends an invocation: the final reply, if somebody waits."""
        if place_of(trigger) in self._taken_on:
            self._conclude(staging, trigger, outcome)

    async def recall(self, home: bytes, ids: Collection[bytes]) -> None:
        """The clients of these requests of node ``home`` have taken them back.

        Those whose handlers have certainly not begun never run; the others go on. One that came
        under several ids is recalled when it is under all of them.

        Raises:
            StorageError: the store takes no more writes.
        """
        recalled = {(home, each) for each in ids}

        def drop(staging: Staging) -> None:
            for place, trigger in list(self._triggers.items()):
                is_recalled = recalled.issuperset(self._taken_on[place].askers)
                if is_recalled and self.withdraw(staging, trigger):
                    self._conclude(staging, trigger, None)

        await self._woofs.commit(drop)

    def _conclude(self, staging: Staging, trigger: Trigger, outcome: HandlerOutcome | None) -> None:
        """Answer whoever waits for ``trigger``, which has ended so, or was withdrawn."""
        place = place_of(trigger)
        taken = self._taken_on.pop(place)
        self._triggers.pop(place, None)
        del self._places[_digest(taken.envelope)]
        staging.add([self._queues.let_go(place)])
        askers = [Asker(*each) for each in taken.askers]
        try:
            checked = self._authority.verifier.reopen(taken.envelope)
        except Refused as error:
            # The device has begun a new epoch since: whoever asked holds nothing any more.
            logger.warning("a request of an earlier epoch is not answered", code=error.code)
            askers = []
        else:
            reply = self._final_reply(checked, trigger, outcome)
            staging.add(self._authority.guard.final_reply(checked, reply))
            staging.add(self._ended(askers, reply))
        self._await_durable(staging, place, askers)

    def _final_reply(
        self, checked: Checked, trigger: Trigger, outcome: HandlerOutcome | None
    ) -> bytes:
        if outcome is None:
            return checked.reply(Status.CANCELLED, result=trigger.number)
        if isinstance(outcome, Failure):
            return checked.reply(Status.HANDLER_FAILED, result=trigger.number)
        return checked.reply(
            Status.OK,
            result=trigger.number,
            payload=outcome.answer or b"",
            flat=self._authority.flat(checked),
        )

    def _await_durable(self, staging: Staging, place: bytes, askers: list[Asker]) -> None:
        """Once ``staging`` is written these have their results. If it never is, the agent ends."""
        loop = asyncio.get_running_loop()
        self._ending[place] = askers

        def ended() -> None:
            del self._ending[place]
            self.outgoing.has_ended(askers)
            if not self.is_at_work:
                self._settled.set()

        staging.when_written(functools.partial(call_in, loop, ended))

    @property
    def is_at_work(self) -> bool:
        """Whether results of requests that were taken on are still to come."""
        return bool(len(self._taken_on) > len(self._aside) or self._ending)

    async def settled(self) -> None:
        """Return when every request that was taken on has its result, durably."""
        await self._settled.wait()

    # --- what nodes are told --------------------------------------------------------------------

    def report(self, home: bytes, *, limit: int) -> tuple[RequestResult, ...]:
        """What an exchange tells node ``home`` now, in at most about ``limit`` bytes."""
        return self.outgoing.report(home, self._unfinished(), limit=limit)

    def answered(self, home: bytes, told: Sequence[RequestResult], ids: Collection[bytes]) -> None:
        """Node ``home`` has answered what it was ``told``, and needs these no more."""
        self.outgoing.answered(home, self._unfinished(), told, ids)

    def held(self) -> int:
        """How many requests are taken on, or have results that some node does not have."""
        return len(self._taken_on) + len(self.outgoing)

    async def drop_strangers(self, homes: Collection[bytes]) -> None:
        """Forget results for nodes that are not among ``homes`` any more."""
        self.outgoing.drop_strangers(homes)
        await self.clear()

    async def clear(self) -> None:
        """Remove from the disk what is not needed any more; to be called before the end."""
        changes = self.outgoing.clearing()
        if changes:
            await self._woofs.commit(lambda staging: staging.add(changes))

    def _ended(self, askers: Iterable[Asker], reply: bytes) -> list[Change]:
        executed = status_in(reply) in _EXECUTED
        kind = ResultKind.RESPONDED if executed else ResultKind.REJECTED
        return [self._queues.finish(asker, kind, reply) for asker in askers]

    def _unfinished(self) -> list[Asker]:
        waiting = [Asker(*each) for taken in self._taken_on.values() for each in taken.askers]
        return [*waiting, *chain.from_iterable(self._ending.values())]


def status_in(reply: bytes) -> int:
    """The status of a reply that this device has made."""
    return status_of(decode_reply(reply))


def _digest(envelope: bytes) -> bytes:
    return sha256(envelope).digest()


def _nothing(_staging: Staging) -> None:
    """Nothing to write: done when everything before it is."""
