"""Requests that entered at this node for a device of another one: how far they are, what is next.

```
HELD → SENT → PASSED → ENDED → DELIVERED
  ↘ ENDED  ↘ ENDED
```

Rules kept here:

* The table is all there is. HELD: the home node has certainly not got it, so it can be cancelled
  and expires here, for certain. SENT: it may have, so only the home node can tell.
* An end that this node tells by itself has no reply: it has no key to make one. What it does not
  know, it says so.
* Key layout, under ``entry/``: ``r/ID`` the record, ``e/ID`` the envelope while the home node may
  not have it, ``a/ID`` what is to be told to the client.

Pure; times in µs since 1970 are arguments. Not handled here: memory and writes (``entry_book``),
sending anything (``entry_courier``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Annotated, Final, cast

from edgistry.api import WakeBucket
from edgistry.codec import Meta, Wire, decode, decode_json, encode, encode_json, replace
from edgistry.envelope import U64, Bytes8
from edgistry.kv import Change
from edgistry.messages import MAX_PRIORITY, MAX_QUEUED_ENVELOPE_BYTES
from edgistry.requests_api import RequestAnswer, StateName, to_text
from edgistry.transactions import WAKE_BUCKETS, Bytes16, Bytes20, Bytes32

from .peer_api import PassedRequest, Reference

PREFIX: Final = b"entry/"
RECORDS: Final = PREFIX + b"r/"
ENVELOPES: Final = PREFIX + b"e/"
ANSWERS: Final = PREFIX + b"a/"

_RECORD_LIMIT: Final = 1024
_ANSWER_LIMIT: Final = 256 * 1024
_S: Final = 1_000_000

NOT_REACHED: Final = "its home node was not reached before the deadline; it was not carried out"
CANCELLED_HERE: Final = "cancelled before its home node had it; it was not carried out"
HOME_SILENT: Final = "its home node, which may have it, cannot be reached; nobody knows the outcome"
DAMAGED: Final = "this node's disk has lost it; nobody knows the outcome"
HOME_FORGOT: Final = "its home node does not know it any more; nobody knows the outcome"


class Stage(IntEnum):
    """How far a request is, as its entry node knows. The numbers are stored."""

    HELD = 0
    """Only here."""
    SENT = 1
    """It was sent to the home node, which has not said that it has it."""
    PASSED = 2
    """It is durable at the home node."""
    ENDED = 3
    """The outcome is durable here, for the client."""
    DELIVERED = 4
    """The client has the outcome, and said so."""


MOVES: Final[Mapping[Stage, frozenset[Stage]]] = MappingProxyType(
    {
        Stage.HELD: frozenset({Stage.SENT, Stage.ENDED}),
        Stage.SENT: frozenset({Stage.PASSED, Stage.ENDED, Stage.DELIVERED}),
        Stage.PASSED: frozenset({Stage.ENDED, Stage.DELIVERED}),
        Stage.ENDED: frozenset({Stage.DELIVERED}),
        Stage.DELIVERED: frozenset(),
    }
)


class IllegalStageError(Exception):
    """A bug: the table has no such move."""


class Errand(IntEnum):
    """What this node has to do for a request."""

    NOTHING = 0
    PASS = 1
    """Send it to its home node: nobody has yet."""
    ASK = 2
    """Ask whether the home node has it, and send it again if not."""
    RECALL = 3
    """Tell the home node that the client takes it back."""
    FOLLOW = 4
    """Ask from time to time whether it has ended."""
    CONFIRM = 5
    """Tell the home node that the client has the outcome."""
    EXPIRE = 6
    """End it: its time is over, and nobody executes it."""
    GIVE_UP = 7
    """End it without knowing the outcome."""
    FORGET = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryLimits:
    """What one node keeps for services of other nodes."""

    total: int = 20_000
    """Requests, in any stage: they are in memory, about 1 KB each."""
    service: int = 1000
    """Requests to one service that its home node has not taken."""
    share: int = 16
    """Of these, those of one client, or by one alias."""
    bytes: int = 64 << 20
    """Bytes of the envelopes of such requests."""
    silence_s: int = 3600
    """How long after its deadline a request that was sent may remain without any word of it."""
    keep_s: int = 24 * 3600
    """How long the outcome waits for its client, and a request that was passed for its outcome."""
    remember_s: int = 600
    """How long a delivered one is known."""


class EntryRecord(Wire):
    """One request without its envelope and outcome. Times in µs since 1970."""

    id: Bytes16
    home: Bytes20
    """Node id of the service's home node."""
    service: Bytes16
    client: Bytes8
    idempotency_key: Annotated[bytes, Meta(min_length=1, max_length=64)]
    fetch_hash: Bytes32
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)]
    not_before_us: U64
    max_age_s: U64
    size: Annotated[int, Meta(ge=1, le=MAX_QUEUED_ENVELOPE_BYTES)]
    wake: Annotated[int, Meta(ge=0, le=255)]
    submitted_us: U64
    deadline_us: U64
    stage: Annotated[int, Meta(ge=0, le=int(max(Stage)))]
    recalled: bool = False
    """The client wants to take it back."""
    untold: bool = False
    """The home node is to be told: of the recall, or that the client has the outcome."""
    keep_until_us: U64 = 0

    @property
    def reference(self) -> Reference:
        """How this node names it to the home node."""
        return Reference(id=self.id, fetch_hash=self.fetch_hash)

    @property
    def is_waiting(self) -> bool:
        """Whether its envelope is kept here."""
        return self.stage in (Stage.HELD, Stage.SENT)

    @property
    def has_ended(self) -> bool:
        """Whether there is an outcome."""
        return self.stage in (Stage.ENDED, Stage.DELIVERED)

    def passed_request(self, envelope: bytes) -> PassedRequest:
        """What is sent to the home node."""
        return PassedRequest(
            service=self.service,
            envelope=envelope,
            idempotency_key=self.idempotency_key,
            fetch_hash=self.fetch_hash,
            priority=self.priority,
            not_before_us=self.not_before_us,
            max_age_s=self.max_age_s,
            recalled=self.recalled,
        )


def errand(record: EntryRecord, *, now_us: int, limits: EntryLimits) -> Errand:
    """What is next for ``record``."""
    over_us = now_us - record.deadline_us
    match record.stage:
        case Stage.HELD:
            return Errand.PASS if over_us < 0 else Errand.EXPIRE
        case Stage.SENT:
            return Errand.ASK if over_us < limits.silence_s * _S else Errand.GIVE_UP
        case Stage.PASSED:
            if over_us >= limits.keep_s * _S:
                return Errand.GIVE_UP
            return Errand.RECALL if record.untold else Errand.FOLLOW
    if now_us >= record.keep_until_us:
        return Errand.FORGET
    return Errand.CONFIRM if record.untold else Errand.NOTHING


# --- moves ---------------------------------------------------------------------------------------


def move(record: EntryRecord, stage: Stage, **fields: object) -> EntryRecord:
    """``record`` in another stage.

    Raises:
        IllegalStageError: the table has no such move.
    """
    before = Stage(record.stage)
    if stage not in MOVES[before]:
        raise IllegalStageError(f"a request does not go from {before.name} to {stage.name}")
    return replace(record, stage=int(stage), **fields)


def ended(
    record: EntryRecord, answer: RequestAnswer, *, now_us: int, limits: EntryLimits
) -> EntryRecord:
    """``record`` with the outcome in ``answer``; delivered already if its home node says so."""
    if answer.state == "DELIVERED":
        return delivered(record, now_us=now_us, limits=limits, untold=False)
    keep = now_us + limits.keep_s * _S
    return move(record, Stage.ENDED, untold=False, keep_until_us=keep)


def delivered(
    record: EntryRecord, *, now_us: int, limits: EntryLimits, untold: bool
) -> EntryRecord:
    """``record`` whose client has the outcome; ``untold`` if its home node is still to hear it."""
    keep_s = limits.keep_s if untold else limits.remember_s
    return move(record, Stage.DELIVERED, untold=untold, keep_until_us=now_us + keep_s * _S)


def told(record: EntryRecord, now_us: int, limits: EntryLimits) -> EntryRecord:
    """A delivered ``record`` of which its home node has heard."""
    return replace(record, untold=False, keep_until_us=now_us + limits.remember_s * _S)


# --- what clients are told -----------------------------------------------------------------------


def waiting_answer(record: EntryRecord) -> RequestAnswer:
    """What is told of a request that its home node has not taken."""
    return RequestAnswer(
        id=to_text(record.id),
        state="QUEUED",
        final=False,
        wake=wake_name(record.wake),
        attempts=0,
        submitted_us=record.submitted_us,
        deadline_us=record.deadline_us,
        recalled=record.recalled,
        reply=None,
        reason="",
    )


def own_end(record: EntryRecord, state: StateName, reason: str) -> RequestAnswer:
    """What is told of a request that ended here, without a reply."""
    return replace(waiting_answer(record), state=state, final=True, reason=reason[:200])


def delivered_answer(answer: RequestAnswer) -> RequestAnswer:
    """What is told of a request after its outcome."""
    return replace(answer, state="DELIVERED", reply=None)


def wake_name(wake: int) -> WakeBucket:
    """The wake bucket of a service, as clients see it; of unknown ones the longest."""
    return cast(WakeBucket, WAKE_BUCKETS[min(wake, len(WAKE_BUCKETS) - 1)])


# --- bytes ---------------------------------------------------------------------------------------


def changes_of(
    record: EntryRecord, *, envelope: bytes | None = None, answer: RequestAnswer | None = None
) -> list[Change]:
    """What to write for ``record``, with its envelope if it is new, or its answer if it changed."""
    changes: list[Change] = [(RECORDS + record.id, encode(record))]
    if envelope is not None and record.is_waiting:
        changes.append((ENVELOPES + record.id, envelope))
    elif not record.is_waiting:
        changes.append((ENVELOPES + record.id, None))
    if answer is not None:
        changes.append((ANSWERS + record.id, encode_json(answer)))
    return changes


def forgetting(record: EntryRecord) -> list[Change]:
    """What to write so that nothing of ``record`` is left."""
    return [(prefix + record.id, None) for prefix in (RECORDS, ENVELOPES, ANSWERS)]


def read_entry(value: bytes) -> EntryRecord:
    """The record in ``value``."""
    return decode(value, EntryRecord, limit=_RECORD_LIMIT)


def read_answer(value: bytes) -> RequestAnswer:
    """The answer in ``value``."""
    return decode_json(value, RequestAnswer, limit=_ANSWER_LIMIT)
