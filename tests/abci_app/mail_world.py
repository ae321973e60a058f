"""A mailbox over a store in memory, devices that wake when told, and a hand-wound clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from abci_app.mailbox import Mailbox, Submission
from abci_app.mailbox_boxes import Boxes, Decision
from abci_app.mailbox_exchange import Exchange
from abci_app.mailbox_records import MailboxLimits, RequestRecord
from abci_app.mailbox_states import State
from edgistry.envelope import Status, encode_reply
from edgistry.kv import MemoryKeyValue
from edgistry.messages import (
    Account,
    ExchangeDown,
    ExchangeUp,
    RequestResult,
    ResultKind,
    request_id,
)

T = TypeVar("T")

NOW = 1_750_000_000_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DEVICE = "d" * 26
SERVICE = b"s" * 16
ALICE = b"\0\0\0\1" + b"alice..."
BOB = b"\0\0\0\2" + b"bob....."


def reply(status: int = Status.OK, payload: bytes = b"21.5") -> bytes:
    """A reply as a device makes it; its tag is of no interest to the mailbox."""
    return encode_reply(
        bytes(32), bytes(16), status=status, result=0, sequence_epoch=0, sequence_floor=0,
        payload=payload, flat=b"",
    )  # fmt: skip


class Shared:
    """Implements ``Sharing``: says of everybody's answer that it is the follower's."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.followers: set[bytes] = set()
        """Requests that were answered with another one's answer."""

    def keep(self, record: RequestRecord, reply: bytes) -> None:
        self.kept.append(record.content)

    def stand_in(
        self, follower: RequestRecord, record: RequestRecord, reply: bytes, *, now_us: int
    ) -> bytes | None:
        self.followers.add(follower.id)
        return reply


class Mail:
    """The mailbox of one node. ``crash`` loses everything that is not written."""

    def __init__(self, store: MemoryKeyValue | None = None, **limits: Any) -> None:
        self.store = store if store is not None else MemoryKeyValue()
        self.limits = MailboxLimits(**limits)
        self.now_us = NOW
        self.histories: dict[bytes, list[State]] = {}
        self.shared = Shared()
        self._asked = 0
        self.crash()

    def crash(self) -> None:
        """Start again from what is written."""
        self.boxes = Boxes(self.store)
        self.mailbox = Mailbox(self.boxes, self.limits)
        self.exchanges = Exchange(self.mailbox)
        self.exchanges.sharing = self.shared

    def decide(self, decide: Callable[[Decision], T]) -> T:
        """What ``decide`` answers, written and settled; or what it raises, taken back."""
        decision = Decision(self.boxes)
        try:
            answer = decide(decision)
        except BaseException:
            decision.take_back()
            raise
        self.store.write(decision.changes, sync=True)
        decision.settle()
        for request, record in decision.decided.items():
            if record is not None:
                self.histories.setdefault(request, []).append(record.outcome)
        return answer

    # --- clients --------------------------------------------------------------------------------

    def asked(self, key: str | None = None, **fields: Any) -> Submission:
        """A request of Alice, for an hour."""
        self._asked += 1
        key = key or f"request {self._asked}"
        party = fields.pop("party", ALICE)
        values: dict[str, Any] = {
            "id": request_id(record_key=SERVICE, client=party[4:], idempotency_key=key.encode()),
            "device": DEVICE,
            "service": SERVICE,
            "party": party,
            "client": party[4:],
            "fetch_hash": hashlib.sha256(b"fetch").digest(),
            "envelope": key.encode(),
            "sequence": self.now_us + self._asked,
            "deadline_us": self.now_us + HOUR,
            **fields,
        }
        return Submission(**values)

    def submit(self, key: str | None = None, **fields: Any) -> bytes:
        """Queue a request; its id."""
        asked = self.asked(key, **fields)
        self.decide(
            lambda decision: self.mailbox.submit(
                decision, asked, now_us=self.now_us, retry_after_s=900
            )
        )
        return asked.id

    def cancel(self, request: bytes) -> State:
        return self.decide(
            lambda decision: self.mailbox.cancel(decision, request, now_us=self.now_us)
        ).outcome

    def acknowledge(self, request: bytes) -> State:
        return self.decide(
            lambda decision: self.mailbox.acknowledge(decision, request, now_us=self.now_us)
        ).outcome

    # --- time -----------------------------------------------------------------------------------

    def passes(self, us: int) -> None:
        """Time passes, and the mailbox notices."""
        self.now_us += us
        while self.decide(lambda decision: self.mailbox.sweep(decision, now_us=self.now_us)):
            pass

    # --- looking --------------------------------------------------------------------------------

    def record(self, request: bytes) -> RequestRecord:
        found = self.boxes.lookup(request)
        assert found is not None
        return found

    def state(self, request: bytes) -> State:
        return self.record(request).outcome

    def states(self, requests: list[bytes]) -> list[State]:
        return [self.state(each) for each in requests]


class Device:
    """A device that keeps what it is given, and executes an id once."""

    def __init__(self, mail: Mail, device: str = DEVICE, *, instance: bytes = b"agent..1") -> None:
        self.mail = mail
        self.id = device
        self.instance = instance
        self.counter = 0
        self.settled = 0
        self.results: dict[bytes, RequestResult] = {}
        """Not confirmed yet."""
        self.waiting: list[bytes] = []
        """Durable, not executed."""
        self.envelopes: list[bytes] = []
        """Of the requests received, in order."""
        self.executed: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.known: set[bytes] = set()

    def exchange(
        self, *, lose_up: bool = False, lose_down: bool = False, count: int = 256,
        limit: int = 1 << 20, back_in_s: int = 0,
        results: Mapping[bytes, RequestResult] | None = None,
    ) -> ExchangeDown | None:  # fmt: skip
        """One exchange; what came down, or nothing when a message was lost."""
        self.counter += 1
        taken = self.results if results is None else results
        up = ExchangeUp(
            version=1,
            instance=self.instance,
            counter=self.counter,
            want_count=count,
            want_bytes=limit,
            back_in_s=back_in_s,
            results=tuple(taken.values()),
            account=Account(awake_ms=5, sent=100, received=10),
            settled=self.settled,
        )
        self.settled = self.counter
        if lose_up:
            return None
        down = self.mail.decide(lambda decision: self._answer(decision, up))
        if lose_down:
            return None
        for request in down.confirmed:
            sent = next((each for each in up.results if each.request_id == request), None)
            if sent is not None and self.results.get(request) == sent:
                del self.results[request]
        for each in down.requests:
            self.envelopes.append(each.envelope)
            if each.request_id in self.known:
                continue
            self.known.add(each.request_id)
            self.waiting.append(each.request_id)
            self.results[each.request_id] = RequestResult(request_id=each.request_id, kind=0)
        for request in down.cancelled:
            self.cancelled.append(request)
            if request in self.waiting:
                self.waiting.remove(request)
                self.tell(request, Status.CANCELLED, ResultKind.REJECTED)
        return down

    def _answer(self, decision: Decision, up: ExchangeUp) -> ExchangeDown:
        exchanges, now_us = self.mail.exchanges, self.mail.now_us
        heard = exchanges.listen(decision, self.id, up, now_us=now_us)
        return exchanges.hand_down(decision, self.id, up, confirmed=heard.confirmed, now_us=now_us)

    def tell(
        self, request: bytes, status: int = Status.OK, kind: ResultKind = ResultKind.RESPONDED
    ) -> None:
        """Have a result for the next exchange."""
        self.results[request] = RequestResult(
            request_id=request, kind=int(kind), reply=reply(status)
        )

    def execute(self) -> None:
        """Execute all that waits, if its deadline has not passed."""
        for request in self.waiting:
            if self.mail.record(request).deadline_us < self.mail.now_us:
                self.tell(request, Status.EXPIRED, ResultKind.REJECTED)
            else:
                self.executed.append(request)
                self.tell(request)
        self.waiting.clear()

    def wake(self) -> None:
        """A wake as it should be: fetch, execute, report."""
        self.exchange()
        self.execute()
        self.exchange()
