"""The mailbox of a node: what clients and operators do with requests to its devices.

Rules kept here:

* One id, one request, however often it is sent; who sends it again gets the one that is there.
* One envelope, one request, until its deadline: who has recorded one gets nothing by sending it
  under another id, no answer and no effect, whatever became of it.
* Nothing is dropped silently: what does not fit is refused, and says when to come back.
* A request is taken back for certain, or not at all: while the device may have it, it is only
  recalled, and the device has the last word.
* Expired requests are never handed down. What the device may have gets time to be reported; after
  that the reason says that nobody knows.
* Requests that one answer would do for go to the device once, if their clients agree to that.
* Outcomes wait until the client has acknowledged them, or their time is over.

Not handled here: the device's side (``mailbox_exchange.py``), who may do what, and the write: all
that is decided goes into a ``Decision``. Times in µs since 1970 are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgistry.errors import (
    ExpiredError,
    InvalidValueError,
    KeyReusedError,
    MailboxFullError,
    NotEndedError,
    NotFoundError,
    SentBeforeError,
    ServiceFullError,
    UnknownRequestError,
)
from edgistry.kv import prefix_end

from .mailbox_boxes import Boxes, Decision
from .mailbox_records import LETTERS, MailboxLimits, RequestRecord, digest_of, seconds
from .mailbox_states import OUTSTANDING, State

UNKNOWN_EFFECT: Final = (
    "the device had taken it and did not say how it ended; nobody knows the outcome"
)
NOT_IN_TIME: Final = "the device did not take it before its deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request as it comes in; authority has looked at it. Times in µs since 1970."""

    id: bytes
    device: str
    service: bytes
    """The record key of the service, 16 bytes; empty for the node's own requests."""
    party: bytes
    client: bytes
    fetch_hash: bytes
    envelope: bytes
    sequence: int
    deadline_us: int
    priority: int = 0
    not_before_us: int = 0
    content: bytes = b""
    """The same for requests that one answer would do for; empty where none may be shared."""
    max_age_us: int = 0
    """How old a shared answer may be; 0: the client wants one of its own."""


class Mailbox:
    """Decides about requests in ``boxes``, within ``limits``."""

    def __init__(self, boxes: Boxes, limits: MailboxLimits) -> None:
        self.boxes = boxes
        self.limits = limits

    # --- clients --------------------------------------------------------------------------------

    def submit(
        self, decision: Decision, asked: Submission, *, now_us: int, retry_after_s: int
    ) -> RequestRecord:
        """Queue what is ``asked``, unless it is known; as it is then.

        ``retry_after_s`` is what to tell who comes when there is no room.

        Raises:
            KeyReusedError: the id is known, but belongs to another fetch key.
            SentBeforeError: the envelope is known under another id.
            ExpiredError, InvalidValueError: it could never be executed.
            MailboxFullError: there is no room for more of this client's.
            ServiceFullError: there is no room for anybody's.
        """
        known = self.boxes.lookup(asked.id)
        if known is not None:
            if known.fetch_hash != asked.fetch_hash:
                raise KeyReusedError("this idempotency key was used with another fetch key")
            return known
        if asked.deadline_us <= now_us:
            raise ExpiredError("the request's deadline has passed")
        digest = digest_of(asked.envelope)
        if self.boxes.sent_as(digest) is not None:
            raise SentBeforeError("this very request was sent before, and is another one's")
        if asked.not_before_us >= asked.deadline_us:
            raise InvalidValueError("not_before lies behind the request's deadline")
        self._check_room(asked, retry_after_s)
        leader = None
        if asked.content and asked.max_age_us and not asked.not_before_us:
            leader = self.boxes.leader_for(asked.device, asked.content)
        record = RequestRecord(
            id=asked.id,
            device=asked.device,
            service=asked.service,
            party=asked.party,
            client=asked.client,
            fetch_hash=asked.fetch_hash,
            priority=asked.priority,
            sequence=asked.sequence,
            size=len(asked.envelope),
            order=self.boxes.next_order,
            submitted_us=now_us,
            not_before_us=asked.not_before_us,
            deadline_us=asked.deadline_us,
            content=asked.content,
            max_age_us=asked.max_age_us,
            leader=b"" if leader is None else leader.id,
            digest=digest,
        )
        decision.add(record, asked.envelope)
        return record

    def _check_room(self, asked: Submission, retry_after_s: int) -> None:
        limits = self.limits
        box = self.boxes.box(asked.device)
        count = self.boxes.count(asked.service, asked.party)
        if count.outstanding >= limits.share:
            what = f"{count.outstanding} of your requests to this service wait already"
            raise MailboxFullError(what, retry_after_s=retry_after_s)
        if count.unfetched >= limits.unfetched:
            what = f"{count.unfetched} outcomes wait for you: acknowledge them first"
            raise MailboxFullError(what, retry_after_s=retry_after_s)
        if len(box.requests) >= limits.depth or box.size + len(asked.envelope) > limits.bytes:
            what = "the queue of this service is full"
        elif len(self.boxes.live) >= limits.total:
            what = "this node has as many requests as it can take"
        else:
            return
        raise ServiceFullError(what, retry_after_s=retry_after_s)

    def answer(
        self, decision: Decision, record: RequestRecord, reply: bytes, *, now_us: int
    ) -> RequestRecord:
        """``record`` is answered in the device's place; as it is then."""
        keep = now_us + seconds(self.limits.keep_s)
        return decision.end(record, State.RESPONDED, now_us=now_us, keep_until_us=keep, reply=reply)

    def cancel(self, decision: Decision, request: bytes, *, now_us: int) -> RequestRecord:
        """Take a request back, or ask the device to; as it is then. What has ended stays so.

        Raises:
            UnknownRequestError: there is no such request.
        """
        record = self._known(request)
        if record.state not in OUTSTANDING or record.recalled:
            return record
        if record.may_be_held:
            decision.queued_for.add(record.device)
            return decision.change(record, recalled=True)
        return self._end(decision, record, State.CANCELLED, now_us)

    def acknowledge(self, decision: Decision, request: bytes, *, now_us: int) -> RequestRecord:
        """The client has the outcome of a request; as it is then. Doing it again is nothing.

        Raises:
            UnknownRequestError: there is no such request.
            NotEndedError: it has not ended.
        """
        record = self._known(request)
        if record.state == State.DELIVERED:
            return record
        if record.state in OUTSTANDING:
            raise NotEndedError(f"the request is {record.outcome.name}: there is no outcome yet")
        return decision.deliver(record, keep_until_us=now_us + seconds(self.limits.remember_s))

    def _known(self, request: bytes) -> RequestRecord:
        record = self.boxes.lookup(request)
        if record is None:
            raise UnknownRequestError("there is no request with this id and fetch key")
        return record

    # --- time -----------------------------------------------------------------------------------

    def has_due(self, now_us: int) -> bool:
        """Whether ``sweep`` would do anything."""
        return self.boxes.due(now_us) is not None or any(True for _ in self.boxes.over(now_us))

    def sweep(self, decision: Decision, *, now_us: int, limit: int = 256) -> bool:
        """Let leases, deadlines and outcomes end whose time has come; whether there may be more."""
        done = 0
        while done < limit and (record := self.boxes.due(now_us)) is not None:
            self._time_out(decision, record, now_us)
            done += 1
        for key, request in self.boxes.over(now_us):
            if done >= limit:
                break
            ended = self.boxes.lookup(request)
            if ended is None or ended.keep_until_us > now_us or ended.state in OUTSTANDING:
                decision.changes.append((key, None))  # of a time that does not count any more
            else:
                decision.forget(ended)
            done += 1
        return done >= limit

    def _time_out(self, decision: Decision, record: RequestRecord, now_us: int) -> None:
        if not record.may_be_held:
            self._end(decision, record, State.EXPIRED, now_us, NOT_IN_TIME)
        elif now_us >= record.result_until_us:
            self._end(decision, record, State.EXPIRED, now_us, UNKNOWN_EFFECT)
        else:
            decision.move(record, State.QUEUED, held=True)

    # --- operators ------------------------------------------------------------------------------

    def forget_device(self, decision: Decision, device: str, *, now_us: int) -> int:
        """End all requests to a device that is no longer here; how many it were."""
        waiting = list(self.boxes.box(device).requests.values())
        for record in waiting:
            reason = "the device is not paired with this node any more"
            if record.may_be_held:
                reason = f"{reason}; {UNKNOWN_EFFECT}"
            self._end(decision, record, State.CANCELLED, now_us, reason)
        decision.tell_device(device, None)
        return len(waiting)

    def letters(self, limit: int, *, device: str | None = None) -> list[RequestRecord]:
        """Up to ``limit`` dead letters, as the store knows them."""
        found: list[RequestRecord] = []
        for key, _ in self.boxes.store.scan(LETTERS, prefix_end(LETTERS)):
            record = self.boxes.lookup(key[len(LETTERS) :])
            if record is not None and device in (None, record.device):
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def replay(self, decision: Decision, requests: Sequence[bytes], *, now_us: int) -> int:
        """Try dead letters again, all or none; how many.

        Raises:
            NotFoundError: one is no dead letter.
            ExpiredError: the deadline of one has passed.
            InvalidValueError: the client of one was told that it is dead, and knows it.
        """
        records = self._dead(requests)
        for record in records:
            if record.state != State.DEAD:
                raise InvalidValueError(f"{record.id.hex()}: its client has taken note of the end")
            if record.deadline_us <= now_us:
                raise ExpiredError(f"{record.id.hex()}: the deadline has passed")
        for record in records:
            decision.revive(record)
        return len(records)

    def purge(self, decision: Decision, requests: Sequence[bytes]) -> int:
        """Take dead letters from the list, all or none; how many. Their clients are still told.

        Raises:
            NotFoundError: one is no dead letter.
        """
        records = self._dead(requests)
        for record in records:
            decision.bury(record)
        return len(records)

    def _dead(self, requests: Sequence[bytes]) -> list[RequestRecord]:
        records = []
        for request in dict.fromkeys(requests):
            record = self.boxes.lookup(request)
            is_letter = self.boxes.store.get(LETTERS + request) is not None
            if record is None or record.state in OUTSTANDING or not is_letter:
                raise NotFoundError(f"{request.hex()} is no dead letter")
            records.append(record)
        return records

    # --- ends -----------------------------------------------------------------------------------

    def _end(
        self,
        decision: Decision,
        record: RequestRecord,
        state: State,
        now_us: int,
        reason: str = "",
    ) -> RequestRecord:
        keep = now_us + seconds(self.limits.keep_s)
        return decision.end(record, state, now_us=now_us, keep_until_us=keep, reason=reason)
