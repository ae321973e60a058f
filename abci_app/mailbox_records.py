"""How requests to devices rest in the node's own database, and what bounds them.

Rules kept here:

* A request's envelope is written once; what changes with its state is a small record beside it.
* A record of its own says for each device what its last exchange told.
* Key layout, under ``mailbox/``: ``r/ID`` the record, ``e/ID`` the envelope, ``a/ID`` the reply,
  ``s/DIGEST`` the id of the request with that envelope, ``x/TIME ID`` when an ended request may be
  forgotten, ``l/ID`` dead letters, ``d/DEVICE``.

Not handled here: what is decided (``mailbox.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final

from edgistry.codec import Meta, Wire, decode
from edgistry.envelope import U32, U64, Bytes8
from edgistry.messages import MAX_PRIORITY, MAX_QUEUED_ENVELOPE_BYTES
from edgistry.transactions import Bytes16, Bytes32

from .mailbox_states import State

PREFIX: Final = b"mailbox/"
RECORDS: Final = PREFIX + b"r/"
ENVELOPES: Final = PREFIX + b"e/"
REPLIES: Final = PREFIX + b"a/"
SENT: Final = PREFIX + b"s/"
FORGETTING: Final = PREFIX + b"x/"
LETTERS: Final = PREFIX + b"l/"
DEVICES: Final = PREFIX + b"d/"

MAX_REMEMBERED_INSTANCES: Final = 8
_RECORD_LIMIT: Final = 1024
_US: Final = 1_000_000
_STATES: Final = tuple(State)

PARTY_BYTES: Final = 12
"""Whose request, as ``parties`` tells: a client that its grant proves, or a grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxLimits:
    """What one node keeps for its devices and their clients."""

    depth: int = 1000
    """Requests per device that have not ended."""
    bytes: int = 16 << 20
    """Bytes of their envelopes."""
    share: int = 16
    """Requests of one party to one service that have not ended."""
    unfetched: int = 256
    """Ended ones of one party to one service whose outcome it has not acknowledged."""
    total: int = 200_000
    """Requests at the node that have not ended: they are in memory, about 1 KB each."""
    attempts: int = 10
    """How often a request is handed down before it is dead."""
    overtakes: int = 32
    """Later requests of the same client that may go before one; the replay window has 64."""
    lease_s: int = 60
    """A lease lasts twice as long as the device says it will sleep, and at least so long."""
    keep_s: int = 24 * 3600
    """How long the outcome waits for a client that does not fetch it."""
    remember_s: int = 3600
    """How long an idempotency key is known after its request was delivered."""


class RequestRecord(Wire):
    """One request without its envelope and reply. Times in µs since 1970."""

    id: Bytes16
    device: Annotated[str, Meta(min_length=1, max_length=32)]
    service: Annotated[bytes, Meta(max_length=16)]
    """The record key of the service; empty for the node's own requests."""
    party: Annotated[bytes, Meta(min_length=PARTY_BYTES, max_length=PARTY_BYTES)]
    client: Bytes8
    fetch_hash: Bytes32
    """SHA-256 of the key that the client shows to see it."""
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)]
    sequence: U64
    """Of the envelope: what may overtake what."""
    size: Annotated[int, Meta(ge=1, le=MAX_QUEUED_ENVELOPE_BYTES)]
    order: U64
    """Of arrival, among those that have not ended."""
    submitted_us: U64
    not_before_us: U64
    deadline_us: U64
    state: Annotated[int, Meta(ge=0, le=int(max(State)))] = int(State.QUEUED)
    attempts: U32 = 0
    """How often it was handed down."""
    held: bool = False
    """The device may have it although it has not said so."""
    recalled: bool = False
    """The client wants to take it back."""
    overtaken: U32 = 0
    """Later requests of its party that went first."""
    leased_us: U64 = 0
    """When the device could first have it."""
    lease_counter: U64 = 0
    """Of the exchange that handed it down last."""
    lease_until_us: U64 = 0
    result_until_us: U64 = 0
    """How long a device that has it may take to say how it ended."""
    ended_us: U64 = 0
    keep_until_us: U64 = 0
    reason: Annotated[str, Meta(max_length=200)] = ""
    """Why it ended so, where the reply does not say it."""
    content: Annotated[bytes, Meta(max_length=32)] = b""
    """The same for requests that the same answer would do for; empty where none may be shared."""
    max_age_us: U64 = 0
    """How old a shared answer may be; 0: the client wants one of its own."""
    leader: Annotated[bytes, Meta(max_length=16)] = b""
    """The request whose answer it waits for, instead of going to the device itself."""
    digest: Annotated[bytes, Meta(max_length=16)] = b""
    """``digest_of`` its envelope."""

    @property
    def outcome(self) -> State:
        """Its state, as such."""
        return _STATES[self.state]

    @property
    def may_be_held(self) -> bool:
        """Whether the device may have it."""
        return self.held or self.state in (State.LEASED, State.ACKED)

    def due_us(self) -> int:
        """When it is next to be looked at, while it has not ended."""
        if self.state == State.LEASED:
            return min(self.lease_until_us, self.result_until_us)
        return self.result_until_us if self.may_be_held else self.deadline_us


class DeviceRecord(Wire):
    """What the last exchanges of one device told."""

    instance: Annotated[bytes, Meta(max_length=8)] = b""
    """The running agent; empty when none has come yet."""
    former: Annotated[tuple[Bytes8, ...], Meta(max_length=MAX_REMEMBERED_INSTANCES)] = ()
    """Agents before it, newest first."""
    counter: U64 = 0
    settled: U64 = 0
    seen_us: U64 = 0
    back_in_s: U32 = 0
    exchanges: U64 = 0
    awake_ms: U64 = 0
    sent: U64 = 0
    received: U64 = 0


def read_request(value: bytes) -> RequestRecord:
    """The record in ``value``."""
    return decode(value, RequestRecord, limit=_RECORD_LIMIT)


def read_device(value: bytes) -> DeviceRecord:
    """The record in ``value``."""
    return decode(value, DeviceRecord, limit=_RECORD_LIMIT)


def digest_of(envelope: bytes) -> bytes:
    """16 bytes that tell an envelope from all others."""
    return sha256(envelope).digest()[:16]


def forgetting_key(until_us: int, request: bytes) -> bytes:
    """Where the store says that ``request`` may be forgotten at ``until_us``."""
    return FORGETTING + until_us.to_bytes(8, "big") + request


def seconds(count: int) -> int:
    """So many seconds in µs."""
    return count * _US
