"""What a client can do with requests to the services of this node's own devices.

Rules kept here:

* A request is looked at before it is queued as the device would: tag, capabilities, deny set,
  rights and deadline, with the device's own key. So an attacker without a capability costs the
  device nothing. A revocation holds here before it holds there. Replay is left to the device, but
  for the very same request: that is taken once.
* Who sends a request again that was taken is told how it is doing, also when its authority has
  ended since, or the service is no longer here: a refusal would say that it was never carried out.
* What the device lets be reused is answered here, from what it has said before, if the client
  agrees to the age.
* A request is seen by who has its fetch key; to everybody else it does not exist.
* Only what is durable is told.
* An end that the device did not tell gets a reply of this node in its name, with the tag that the
  client can check, and the bit that says so.

Not handled here: transport, the device's side (``exchange_desk``), requests to other nodes'
devices (``entry_desk``), and of the node itself (``own_requests``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

from edgistry.api import WakeBucket
from edgistry.envelope import decode_envelope
from edgistry.errors import (
    AuthorityError,
    MalformedError,
    NotFoundError,
    Refused,
    StorageError,
    UnknownRequestError,
)
from edgistry.messages import request_id
from edgistry.pairing import ServiceOffer
from edgistry.replay import ReplayGuard
from edgistry.requests_api import RequestAnswer, StateName, to_text
from edgistry.transactions import WAKE_BUCKETS
from edgistry.verifier import Checked

from .asked import NO_FETCH_KEY, Asked, FetchHash, digest_of
from .device_keys import DeviceKeys
from .mailbox import Mailbox, Submission
from .mailbox_boxes import Decision
from .mailbox_records import REPLIES, RequestRecord, seconds
from .mailbox_states import OUTSTANDING, State
from .mailbox_writer import MailboxWriter
from .node_answers import NodeAnswers
from .offload import Content, content_key, reusable_action, stand_in
from .pairing import Paired, Pairings
from .queueing import Queueing, submission_of


class RequestBudget(Protocol):
    """What parties may ask of this node's devices. ``PartyBudget`` is one."""

    def spend(self, party: bytes) -> None:
        """One request of ``party``; raises ``BudgetError``."""

    def give_back(self, party: bytes) -> None:
        """The request was refused."""


class Mirrors(Protocol):
    """Copies of devices' WooFs. ``MirrorReader`` is one."""

    def read(self, paired: Paired, checked: Checked) -> Content | None:
        """What the copy says to a reading request, if there is one that can."""


class RequestDesk:
    """Use cases of clients.

    ``guard`` is this node's; requests that it executes for a device, revocations, go through it.
    """

    def __init__(
        self,
        writer: MailboxWriter,
        pairings: Pairings,
        guard: ReplayGuard,
        *,
        mirrors: Mirrors | None = None,
    ) -> None:
        self._writer = writer
        self._mirrors = mirrors
        self._pairings = pairings
        self.keys = DeviceKeys(writer.store, guard)
        self._queueing = Queueing(writer, self.keys)
        self.budget: RequestBudget | None = None
        """Pays for what has authority and is taken; what is refused costs nothing."""
        self.answers = NodeAnswers(writer.boxes, pairings, self.keys)
        writer.exchange.sharing = self.answers

    async def submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        """Queue what is ``asked``; how it is doing, and whether it is new.

        In the same write the outcomes that the client knows are let go; where the request is
        refused, nothing is let go.

        Raises:
            NotFoundError: no service of this node has that record key.
            AuthorityError, MalformedError: the device would refuse it.
            KeyReusedError, SentBeforeError, InvalidValueError, MailboxFullError: as
                ``Mailbox.submit``.
            BudgetError: the client has asked for too much.
            StorageError: it cannot be written.
        """
        try:
            return await self._submit(asked)
        except StorageError:
            if not asked.acknowledged:
                raise
            # It may have been taken before: to tell that, nothing has to be written.
            return await self._submit(replace(asked, acknowledged=()))

    async def _submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        now_us = self._writer.clock_us()
        try:
            found = self._pairings.by_record(asked.service)
            if found is None:
                raise NotFoundError("there is no service with this handle here")
            paired, service = found
            checked = self.keys.check(asked.envelope, paired, now_us=now_us)
        except (AuthorityError, NotFoundError):
            known = await self._known(asked)
            if known is None:
                raise
            if asked.acknowledged:
                await self._writer.commit(
                    lambda decision: self._let_go(decision, asked.acknowledged, now_us)
                )
            return self._answer(known, self._pairings.by_device(known.device)), False
        submission = replace(
            submission_of(asked, checked, paired),
            id=request_id(
                record_key=asked.service,
                client=checked.envelope.client,
                idempotency_key=asked.idempotency_key,
            ),
        )
        # Of what was taken its sender must hear, whatever else it has asked.
        budget = self.budget if self._writer.boxes.lookup(submission.id) is None else None
        if budget is not None:
            budget.spend(submission.party)
        try:
            return await self._take(asked, submission, checked, paired, service, now_us)
        except Refused:
            if budget is not None:
                budget.give_back(submission.party)
            raise

    async def _take(
        self,
        asked: Asked,
        submission: Submission,
        checked: Checked,
        paired: Paired,
        service: ServiceOffer,
        now_us: int,
    ) -> tuple[RequestAnswer, bool]:
        """Queue what has authority and is paid for, or answer it in the device's place."""
        action = reusable_action(checked, service)
        if action is not None:
            submission = replace(
                submission,
                content=content_key(paired, checked.envelope),
                max_age_us=seconds(min(asked.max_age_s, action.fresh_s)),
            )
        content = None
        if not asked.recalled:
            content = self._content(submission, checked, paired, seconds(asked.max_age_s), now_us)

        def decide(decision: Decision) -> tuple[RequestRecord, bool, Decision]:
            self._let_go(decision, asked.acknowledged, now_us)
            record, is_new = self._queueing.queue(
                decision, submission, checked, paired, now_us, recalled=asked.recalled
            )
            if is_new and content is not None:
                reply = stand_in(checked, content, now_us=now_us)
                record = self._mailbox.answer(decision, record, reply, now_us=now_us)
            return record, is_new, decision

        record, is_new, decision = await self._writer.commit(decide)
        # A device that waits for work has it already.
        return self._answer(decision.decided.get(record.id) or record, paired), is_new

    async def _known(self, asked: Asked) -> RequestRecord | None:
        """The request that was taken when authority and service were still there, durable."""
        try:
            client = decode_envelope(asked.envelope).client
        except MalformedError:
            return None
        number = request_id(
            record_key=asked.service, client=client, idempotency_key=asked.idempotency_key
        )
        record = self._writer.boxes.lookup(number)
        if (
            record is None
            or asked.fetch_hash == NO_FETCH_KEY
            or record.fetch_hash != asked.fetch_hash
        ):
            return None
        return await self._writer.commit(lambda _decision: record)

    def _let_go(
        self, decision: Decision, known: Sequence[tuple[bytes, bytes]], now_us: int
    ) -> None:
        """What the client knows of these need not be kept, as far as they are there and its own."""
        for request, fetch_key in known:
            record = self._writer.boxes.lookup(request)
            is_over = record is not None and record.state not in OUTSTANDING
            if record is not None and is_over and _is_seen(record, fetch_key):
                self._mailbox.acknowledge(decision, request, now_us=now_us)

    def _content(
        self,
        submission: Submission,
        checked: Checked,
        paired: Paired,
        max_age_us: int,
        now_us: int,
    ) -> Content | None:
        """What this node can say in the device's place, if it is young enough."""
        if submission.content:
            cached = self.answers.cache.get(
                submission.content, max_age_us=submission.max_age_us, now_us=now_us
            )
            if cached is not None:
                return cached
        if self._mirrors is None or not max_age_us:
            return None
        content = self._mirrors.read(paired, checked)
        return content if content and content.age_us(now_us) <= max_age_us else None

    async def fetch(
        self,
        request: bytes,
        fetch_key: bytes | FetchHash,
        *,
        wait_s: float = 0,
        known: str | None = None,
    ) -> RequestAnswer:
        """How a request is doing: at once if it has ended, or is not in the state ``known``.

        Otherwise, with ``wait_s``, as soon as that is so, or after so many seconds.

        Raises:
            UnknownRequestError: there is none that is seen with this key.
        """
        record = self._seen(request, fetch_key)
        if wait_s > 0 and record.state in OUTSTANDING:
            record = await self._wait(record, wait_s, known)
        return self._answer(record, self._pairings.by_device(record.device))

    async def _wait(self, record: RequestRecord, wait_s: float, known: str | None) -> RequestRecord:
        with self._writer.news_of(record.id) as news:
            try:
                async with asyncio.timeout(wait_s):
                    while True:
                        found = self._queueing.durable(record.id)
                        if found is None:
                            return record
                        record = found
                        differs = known is not None and record.outcome.name != known
                        if differs or record.state not in OUTSTANDING:
                            return record
                        await news.wait()
                        news.clear()
            except TimeoutError:
                return record

    async def acknowledge(self, request: bytes, fetch_key: bytes | FetchHash) -> RequestAnswer:
        """The client has the outcome: it need not be kept.

        Raises:
            UnknownRequestError: there is none that is seen with this key.
            NotEndedError: there is no outcome yet.
        """
        self._seen(request, fetch_key)
        now_us = self._writer.clock_us()
        record = await self._writer.commit(
            lambda decision: self._mailbox.acknowledge(decision, request, now_us=now_us)
        )
        return self._answer(record, self._pairings.by_device(record.device))

    async def cancel(self, request: bytes, fetch_key: bytes | FetchHash) -> RequestAnswer:
        """Take a request back, or ask the device to; how it is doing.

        Raises:
            UnknownRequestError: there is none that is seen with this key.
        """
        self._seen(request, fetch_key)
        now_us = self._writer.clock_us()
        record = await self._writer.commit(
            lambda decision: self._mailbox.cancel(decision, request, now_us=now_us)
        )
        return self._answer(record, self._pairings.by_device(record.device))

    # --- looking --------------------------------------------------------------------------------

    @property
    def _mailbox(self) -> Mailbox:
        return self._writer.mailbox

    def _seen(self, request: bytes, fetch_key: bytes | FetchHash) -> RequestRecord:
        record = self._queueing.durable(request)
        if record is None or not _is_seen(record, fetch_key):
            raise UnknownRequestError("there is no request with this id and fetch key")
        return record

    def _answer(self, record: RequestRecord, paired: Paired | None) -> RequestAnswer:
        state = record.outcome
        reply = None
        if state not in OUTSTANDING and state != State.DELIVERED:
            reply = self._writer.store.get(REPLIES + record.id) or self.answers.end_of(
                record, paired
            )
        return RequestAnswer(
            id=to_text(record.id),
            state=cast(StateName, state.name),
            final=state not in OUTSTANDING,
            wake=cast(WakeBucket, WAKE_BUCKETS[paired.wake if paired else -1]),
            attempts=record.attempts,
            submitted_us=record.submitted_us,
            deadline_us=record.deadline_us,
            recalled=record.recalled,
            reply=None if reply is None else to_text(reply),
            reason=record.reason,
        )


def _is_seen(record: RequestRecord, fetch_key: bytes | FetchHash) -> bool:
    digest = digest_of(fetch_key)
    return digest != NO_FETCH_KEY and digest == record.fetch_hash
