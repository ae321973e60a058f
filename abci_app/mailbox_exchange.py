"""The mailbox of a node: what a device says when it wakes, and what it gets.

Rules kept here:

* What the device says about a request counts once; about one that is unknown, has ended, or is
  another device's, it is thrown away and confirmed, so that it does not come again. Nothing that a
  device says can hold up the next thing it says.
* A request is handed down again only when the device cannot have it any more, or its lease is
  over; every time is counted, and the last one leads to DEAD.
* What one answer does for is answered with it, unless it is too old by then.
* Two agents with one identity are noticed: the one that was replaced is refused.

Not handled here: the envelope around an exchange and its replay, waiting, and the write.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from edgistry.codec import replace
from edgistry.envelope import BY_NODE, MAX_PAYLOAD, Status, decode_reply
from edgistry.errors import MalformedError, TwoAgentsError
from edgistry.messages import (
    MAX_ITEMS,
    ExchangeDown,
    ExchangeUp,
    RequestDown,
    RequestResult,
    ResultKind,
)

from .mailbox import NOT_IN_TIME, Mailbox
from .mailbox_boxes import Decision
from .mailbox_choice import Choice, choose
from .mailbox_records import MAX_REMEMBERED_INSTANCES, DeviceRecord, RequestRecord, seconds
from .mailbox_states import OUTSTANDING, State

UNREADABLE: Final = "the device's answer cannot be read"
MAX_SLEEP_S: Final = 7 * 24 * 3600
"""A device that says it will sleep longer is not waited for: no request lives longer."""
DAMAGED: Final = "the node has lost what was asked for: its database was damaged"
TRIED: Final = "it was handed down {attempts} times and never arrived"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of listening to a device."""

    confirmed: tuple[bytes, ...]
    ignored: int
    """Results that were of no use."""


class Sharing(Protocol):
    """Makes one answer do for several requests. ``RequestDesk`` is one."""

    def keep(self, record: RequestRecord, reply: bytes) -> None:
        """The device has answered ``record`` with ``reply``, which others may want."""

    def stand_in(
        self, follower: RequestRecord, record: RequestRecord, reply: bytes, *, now_us: int
    ) -> bytes | None:
        """A reply to ``follower`` with what ``reply`` to ``record`` says, if that can be."""


class Exchange:
    """The device's side of ``mailbox``."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._boxes = mailbox.boxes
        self._limits = mailbox.limits
        self.sharing: Sharing | None = None
        """Who makes answers in the device's place; without it each request gets its own."""
        self._told: set[bytes] = set()
        """Recalled requests of which their device was told: no news to wake it for."""
        self._had_turn: dict[str, frozenset[bytes]] = {}
        """By device: clients that had their turn in the round that is under way."""

    # --- up -------------------------------------------------------------------------------------

    def listen(self, decision: Decision, device: str, up: ExchangeUp, *, now_us: int) -> Heard:
        """Take in what ``device`` says. Hearing it again changes nothing more.

        Raises:
            TwoAgentsError: another agent has taken its place; nothing is changed.
        """
        known = self._boxes.device(device)
        _check_instance(known, up)
        is_new_agent = up.instance != known.instance
        ignored = sum(not self._take(decision, device, each, now_us) for each in up.results)
        mentioned = {each.request_id for each in up.results}
        settled = None if is_new_agent else up.settled
        self._give_up_lost(decision, device, mentioned, settled, now_us)
        self._wait_longer(decision, device, up)
        decision.tell_device(device, _after(known, up, now_us))
        return Heard(tuple(each.request_id for each in up.results), ignored)

    def _take(self, decision: Decision, device: str, result: RequestResult, now_us: int) -> bool:
        """Take in one result; whether it was of use."""
        record = self._boxes.lookup(result.request_id)
        if record is None or record.device != device or record.state not in OUTSTANDING:
            return False
        if result.kind == ResultKind.ACKNOWLEDGED:
            if record.state == State.LEASED:
                decision.move(record, State.ACKED, held=False)
            elif record.state == State.QUEUED:
                decision.move(record, State.LEASED, State.ACKED, held=False)
            return True
        state, reason = _end_of(record, result)
        keep = now_us + seconds(self._limits.keep_s)
        reply = b"" if reason == UNREADABLE else result.reply
        if state == State.RESPONDED and record.content:
            self._share(decision, record, reply, now_us)
        decision.end(record, state, now_us=now_us, keep_until_us=keep, reply=reply, reason=reason)
        return True

    def _share(self, decision: Decision, record: RequestRecord, reply: bytes, now_us: int) -> None:
        """Let the answer to ``record`` be that of the requests that wait for it, too."""
        if self.sharing is None:
            return
        self.sharing.keep(record, reply)
        for follower in self._boxes.followers(record.id):
            is_in_time = now_us < follower.deadline_us
            if is_in_time and now_us - record.leased_us <= follower.max_age_us:
                own = self.sharing.stand_in(follower, record, reply, now_us=now_us)
                if own is not None:
                    self._mailbox.answer(decision, follower, own, now_us=now_us)

    def _give_up_lost(
        self,
        decision: Decision,
        device: str,
        mentioned: set[bytes],
        settled: int | None,
        now_us: int,
    ) -> None:
        """Requests that the device would have mentioned if it had them. None: all that it could."""
        for record in list(self._boxes.box(device).requests.values()):
            if record.state == State.ACKED or not record.may_be_held or record.id in mentioned:
                continue
            if settled is None or 0 < record.lease_counter <= settled:
                self._give_up(decision, record, now_us)

    def _wait_longer(self, decision: Decision, device: str, up: ExchangeUp) -> None:
        """The device sleeps longer now than when it was given what it has: its ends come later."""
        for record in list(self._boxes.box(device).requests.values()):
            if record.may_be_held and record.result_until_us < record.deadline_us + _sleep_us(up):
                until_us = record.deadline_us + self._cycles_us(up)
                decision.change(record, result_until_us=until_us)

    def _cycles_us(self, up: ExchangeUp) -> int:
        """Two cycles of the device: it may miss one wake."""
        return max(seconds(self._limits.lease_s), 2 * _sleep_us(up))

    def _give_up(self, decision: Decision, record: RequestRecord, now_us: int) -> None:
        keep = now_us + seconds(self._limits.keep_s)
        if record.recalled:
            decision.end(record, State.CANCELLED, now_us=now_us, keep_until_us=keep)
        elif record.deadline_us <= now_us:
            decision.end(
                record, State.EXPIRED, now_us=now_us, keep_until_us=keep, reason=NOT_IN_TIME
            )
        elif record.attempts >= self._limits.attempts:
            reason = TRIED.format(attempts=record.attempts)
            decision.end(record, State.DEAD, now_us=now_us, keep_until_us=keep, reason=reason)
        elif record.state == State.LEASED:
            decision.move(record, State.QUEUED, held=False)
        else:
            decision.change(record, held=False)

    # --- down -----------------------------------------------------------------------------------

    def has_work(
        self, device: str, up: ExchangeUp, *, now_us: int, decision: Decision | None = None
    ) -> bool:
        """Whether ``hand_down`` would give the device a request, or take back one.

        What begins with ``decision`` counts, if it is handed down in the same write.
        """
        waiting = self._boxes.box(device).requests.values()
        if any(
            each.recalled and each.may_be_held and each.id not in self._told for each in waiting
        ):
            return True
        new = decision.new if decision is not None else {}
        if not (waiting and up.want_count):
            return False
        return bool(self._choice(device, waiting, up, now_us, new).taken)

    def begins_s(self, device: str, *, now_us: int) -> int:
        """Seconds until something begins that waits for its time; 0 when nothing does."""
        waiting = self._boxes.box(device).requests.values()
        begins = [each.not_before_us for each in waiting if each.not_before_us > now_us]
        return min(-(-(min(begins) - now_us) // seconds(1)), 0xFFFFFFFF) if begins else 0

    def hand_down(
        self,
        decision: Decision,
        device: str,
        up: ExchangeUp,
        *,
        confirmed: tuple[bytes, ...],
        now_us: int,
        is_heeded: bool = True,
    ) -> ExchangeDown:
        """Lease to ``device`` what it asks for; nothing unless it listens still (``is_heeded``)."""
        if not is_heeded:
            up = replace(up, want_count=0)
        waiting = list(self._boxes.box(device).requests.values())
        choice = self._choice(device, waiting, up, now_us, decision.new)
        if choice.had_turn:
            self._had_turn[device] = choice.had_turn
        else:
            self._had_turn.pop(device, None)
        requests = []
        for record in choice.taken:
            envelope = decision.new.get(record.id) or self._boxes.envelope(record.id)
            if envelope is None:
                self._lose(decision, record, now_us)
            else:
                requests.append(self._lease(decision, record, envelope, up, now_us))
        for request, times in choice.overtaken.items():
            decision.change(self._boxes.live[request], overtaken=times)
        recalled = [each.id for each in waiting if each.recalled and each.may_be_held][:MAX_ITEMS]
        if is_heeded:
            self._told = {each for each in self._told if each in self._boxes.live}.union(recalled)
        return ExchangeDown(
            version=1,
            now_us=now_us,
            next_wake_s=self.begins_s(device, now_us=now_us),
            more=choice.more,
            requests=tuple(requests),
            confirmed=confirmed,
            cancelled=tuple(recalled),
        )

    def _choice(
        self,
        device: str,
        waiting: Iterable[RequestRecord],
        up: ExchangeUp,
        now_us: int,
        new: Container[bytes],
    ) -> Choice:
        may_go = [
            each
            for each in waiting
            if each.state != State.ACKED and self._may_go(each, now_us, new)
        ]
        return choose(
            may_go,
            count=up.want_count,
            limit=up.want_bytes,
            overtakes=self._limits.overtakes,
            now_us=now_us,
            had_turn=self._had_turn.get(device, frozenset()),
        )

    def _lose(self, decision: Decision, record: RequestRecord, now_us: int) -> None:
        """What is asked for is not there any more: its client learns it."""
        keep = now_us + seconds(self._limits.keep_s)
        decision.end(record, State.EXPIRED, now_us=now_us, keep_until_us=keep, reason=DAMAGED)

    def _may_go(self, record: RequestRecord, now_us: int, new: Container[bytes]) -> bool:
        return (
            not record.recalled
            and (record.id not in self._boxes.unwritten or record.id in new)
            and record.deadline_us > now_us
            and record.attempts < self._limits.attempts
        )

    def _lease(
        self,
        decision: Decision,
        record: RequestRecord,
        envelope: bytes,
        up: ExchangeUp,
        now_us: int,
    ) -> RequestDown:
        cycles_us = self._cycles_us(up)
        result_until_us = record.deadline_us + cycles_us
        attempts = record.attempts + 1
        is_last = attempts >= self._limits.attempts
        decision.move(
            record,
            State.LEASED,
            attempts=attempts,
            held=True,
            leased_us=record.leased_us if record.held else now_us,
            lease_counter=up.counter,
            lease_until_us=result_until_us if is_last else now_us + cycles_us,
            result_until_us=result_until_us,
            leader=b"",
        )
        return RequestDown(request_id=record.id, priority=record.priority, envelope=envelope)


def _sleep_us(up: ExchangeUp) -> int:
    return seconds(min(up.back_in_s, MAX_SLEEP_S))


def _check_instance(known: DeviceRecord, up: ExchangeUp) -> None:
    was_replaced = up.instance in known.former
    has_ended = up.instance == known.instance and up.counter <= known.settled
    if was_replaced or has_ended:
        raise TwoAgentsError("another agent with this device's identity has taken its place")


def _after(known: DeviceRecord, up: ExchangeUp, now_us: int) -> DeviceRecord:
    is_new_agent = up.instance != known.instance
    former = known.former
    if is_new_agent and known.instance:
        former = (known.instance, *former)[:MAX_REMEMBERED_INSTANCES]
    is_news = is_new_agent or up.counter > known.counter
    account = up.account
    return DeviceRecord(
        instance=up.instance,
        former=former,
        counter=up.counter if is_new_agent else max(known.counter, up.counter),
        settled=up.settled if is_new_agent else max(known.settled, up.settled),
        seen_us=now_us,
        back_in_s=up.back_in_s,
        exchanges=known.exchanges + is_news,
        awake_ms=known.awake_ms + is_news * account.awake_ms,
        sent=known.sent + is_news * account.sent,
        received=known.received + is_news * account.received,
    )


def _end_of(record: RequestRecord, result: RequestResult) -> tuple[State, str]:
    """The state in which ``result`` ends ``record``, and the reason where there is one."""
    try:
        reply = decode_reply(result.reply)
        status = reply.status & ~BY_NODE
        if len(reply.payload) > MAX_PAYLOAD:
            raise MalformedError("more than an answer to a request may be")
    except MalformedError:
        state = State.FAILED if result.kind == ResultKind.RESPONDED else State.REJECTED
        return state, UNREADABLE
    if result.kind == ResultKind.RESPONDED:
        failed = status == Status.HANDLER_FAILED
        return (State.FAILED if failed else State.RESPONDED), ""
    if status == Status.EXPIRED:
        return State.EXPIRED, ""
    if status == Status.CANCELLED and record.recalled:
        return State.CANCELLED, ""
    return State.REJECTED, ""
