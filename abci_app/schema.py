"""What ``registry.ldb`` holds: its keys and its values, and the genesis document they start from.

Rules kept here:

* Keys that begin with a lower-case letter are *records*: they are the leaves of the app hash, so
  every node of a chain has exactly the same ones. All other keys are this node's bookkeeping
  (head, format number, index of records by home node, where records with a crowd are shown); they
  follow from the blocks as well, but they change on empty blocks or can be derived, so they stay
  outside the hash.
* Values are canonical MessagePack arrays; what does not decode is ``CorruptDatabaseError``.
* Times are microseconds since 1970 in block time; leases are in *lease time*, which is block time
  minus the replicated shift (consensus.md, *Time*).

Not handled here: which change is allowed (``registry``), and the hash (``merkle``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, NamedTuple, TypeVar

from edgistry.codec import Document, Meta, Wire, decode, decode_json, encode, encode_json
from edgistry.errors import ConfigError, CorruptDatabaseError, InvalidValueError, Refused
from edgistry.membership import MAX_POWER
from edgistry.transactions import (
    LAST_EPOCH,
    MAX_ACTIONS,
    MAX_MEMBERS,
    MAX_REGION_CELLS,
    Bytes8,
    Bytes20,
    Bytes32,
    Cell,
    Crowd,
    Epoch,
    NodeId,
    SealedKey,
    ServiceRecord,
    check_chain_id,
    node_id_of,
)

T = TypeVar("T")

FORMAT = 4
"""Number of this layout; a database with another one is refused. 2: epochs, owners and crowds; 3:
services that move with the next epoch; 4: who had an epoch's key, and members that change."""
BEAT_S = 10
"""Seconds between two blocks of an idle chain: the engine's empty-block interval."""
MAX_REFUSED = 16
"""Refused sequences remembered for each node (consensus.md, *Transactions*)."""
MAX_GENESIS_BYTES = 1_000_000
_MAX_VALUE_BYTES = 8 * MAX_REGION_CELLS + 256
_MAX_PERIOD_S = 10 * 365 * 86_400

Microseconds = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

FORMAT_KEY = b"!format"
HEAD_KEY = b"!head"
PARAMETERS_KEY = b"c"
LEASE_CLOCK_KEY = b"k"
CURRENT_EPOCH_KEY = b"e"
ROLL_KEY = b"n"
RECORDS_START, RECORDS_STOP = b"a", b"{"
"""The half-open range of all keys that the app hash covers."""

FORMER = b"f"
"""Who is a member no more."""
LEASES = b"l"
MEMBERS = b"m"
EPOCHS = b"p"
"""Privacy epochs by number: the current and the next one, and those before it that are kept."""
SEQUENCES = b"q"
REGIONS = b"r"
SERVICES = b"s"
HOMES = b"H"
"""Index of services by home node: ``H`` | node id | record key, empty value."""
PLACEMENTS = b"P"
"""Where services with a crowd are shown: ``P`` | first byte of the record key (``crowd``)."""


class ChainParameters(Wire):
    """What all nodes of a chain agreed on at genesis."""

    chain_id: Annotated[str, Meta(min_length=1, max_length=50)]
    lease_us: Microseconds
    """How long records stay visible after their node's last lease renewal."""
    delete_after_us: Microseconds
    """How long after its lease lapsed a node's records are deleted."""
    outage_gap_us: Microseconds
    """A longer silence between two blocks is an outage, and does not age leases."""
    epoch_us: Microseconds
    """How long a privacy epoch lasts at least, in block time."""


class CurrentEpoch(Wire):
    """Which privacy epoch has begun last; before the first one there is no such record."""

    number: Annotated[int, Meta(ge=0, le=LAST_EPOCH)]
    good: Annotated[int, Meta(ge=0, le=LAST_EPOCH)]
    """The last one before it that was not given up; 0: none."""
    given_up: Annotated[tuple[tuple[Bytes20, Epoch], ...], Meta(max_length=MAX_MEMBERS)] = ()
    """Members whose epoch was given up, and which one was the latest. Node ids ascend."""


NO_EPOCH = CurrentEpoch(number=0, good=0)
"""Before the first one."""


class StoredEpoch(Wire):
    """A privacy epoch, or the next one while members ask for its key. Node ids ascend."""

    since_us: Microseconds
    """Block time at which it began; while it is to come, at which it was first asked for."""
    check: Annotated[bytes, Meta(max_length=16)]
    """``epoch_check`` of its key; empty while it is to come."""
    keys: tuple[tuple[Bytes20, Bytes32], ...]
    """X25519 public keys that members want its key sealed to."""
    sealed: tuple[tuple[Bytes20, SealedKey], ...]
    """Its key, sealed to members."""
    maker: Annotated[bytes, Meta(max_length=20)] = b""
    """The node that made its key, and so has it; empty while it is to come."""
    over_us: Microseconds = 0
    """Block time from which it is over before its time; 0: it is not."""
    late: tuple[tuple[Bytes20, Microseconds], ...] = ()
    """Who asked for its key after it began, and when last."""
    took_back: tuple[Bytes20, ...] = ()
    """Who was given its key and asked again: it may have it all the same."""


class EpochStates(NamedTuple):
    """What the chain knows of privacy epochs; ``number`` 0: none has begun."""

    number: int
    previous: StoredEpoch | None
    current: StoredEpoch | None
    coming: StoredEpoch | None
    """What is asked for the next one."""
    good: tuple[int, StoredEpoch] | None = None
    """The last one that was not given up, and its number, where that is none of the above."""
    given_up: tuple[tuple[bytes, int], ...] = ()
    """As in ``CurrentEpoch``."""

    def kept(self) -> dict[int, StoredEpoch]:
        """Those that have begun, by number."""
        numbered = ((self.number - 1, self.previous), (self.number, self.current))
        found = {number: epoch for number, epoch in numbered if epoch is not None}
        return found if self.good is None else found | {self.good[0]: self.good[1]}


class LeaseClock(Wire):
    """How far lease time is behind block time."""

    shift_us: Microseconds


class Member(Wire):
    """A node that may write. ``name`` is for people and for error texts."""

    public_key: Bytes32
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    validator_key: Annotated[bytes, Meta(max_length=32)] = b""
    """Ed25519: what its engine signs votes with; empty where there are no validators."""
    peer_id: Annotated[bytes, Meta(max_length=20)] = b""
    """What its engine connects as."""
    power: Annotated[int, Meta(ge=0, le=MAX_POWER)] = 0
    """Its voting power."""


class Former(Wire):
    """A node that is a member no more."""

    left_us: Microseconds
    """Block time at which it left or was removed."""
    peer_id: Annotated[bytes, Meta(max_length=20)]
    withdrawing: bool
    """Whether records of it may be left; they are deleted block by block."""


class Roll(Wire):
    """How often the members have changed. Without such a record: never."""

    changes: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Lease(Wire):
    """A node's lease: alive while lease time is before ``expires_us``."""

    expires_us: Microseconds


class SequenceState(Wire):
    """The last consumed sequence of a node, and its latest refused ones with error numbers."""

    last: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    refused: Annotated[tuple[tuple[int, int], ...], Meta(max_length=MAX_REFUSED)] = ()


class StoredService(Wire):
    """A service record as it is kept: its key is in the database key, its home node here."""

    home: Bytes20
    type: Annotated[str, Meta(min_length=1, max_length=32)]
    cell: Cell
    actions: Annotated[tuple[str, ...], Meta(max_length=MAX_ACTIONS)]
    wake: Annotated[int, Meta(ge=0, le=255)]
    commitment: Bytes32
    owner: Bytes8
    crowd: Crowd
    since: Annotated[int, Meta(ge=0, le=LAST_EPOCH + 1)] = 0
    """The privacy epoch from which on it is in ``cell``; 0: at once."""
    before: Cell = 0
    """The cell in which it is until then; 0: none."""


class StoredRegion(Wire):
    """A named region: ``cells`` packed as in ``RegionPut``."""

    owner: Bytes20
    version: Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
    cells: Annotated[bytes, Meta(min_length=8, max_length=8 * MAX_REGION_CELLS)]


class Head(Wire):
    """The last committed block. ``height`` 0: none yet."""

    height: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    block_time_us: Microseconds
    app_hash: Bytes32
    """The hash after this block; the engine shows it in the next header."""
    previous_app_hash: Bytes32
    """The hash before this block, which this block's header shows."""


class GenesisMember(Document):
    """A member in the genesis document. Keys are 64 hex digits, ``peer_id`` 40.

    Without a ``validator_key`` it can be removed, but its validator stays one.
    """

    name: str
    public_key: str
    validator_key: str = ""
    peer_id: str = ""


class GenesisState(Document):
    """The ``app_state`` of a chain's genesis file. Periods are whole seconds."""

    members: tuple[GenesisMember, ...]
    chain_id: str = ""
    """May be left out; when stated it must be the chain's."""
    lease_s: int = 600
    delete_after_s: int = 7 * 86_400
    outage_gap_s: int = 0
    """A longer silence between blocks is an outage. 0: a third of the lease, 15 to 60 seconds, so
    that a lease renewed every third of itself outlasts any silence that is none."""
    epoch_s: int = 86_400
    """How long a privacy epoch lasts at least; a client's handles are the same for so long."""


def service_key(key: bytes) -> bytes:
    """Database key of the service record ``key`` (16 bytes)."""
    return SERVICES + key


def region_key(name: str) -> bytes:
    """Database key of the region ``name``."""
    return REGIONS + name.encode()


def member_key(node_id: bytes) -> bytes:
    """Database key of the member ``node_id`` (20 bytes)."""
    return MEMBERS + node_id


def former_key(node_id: bytes) -> bytes:
    """Database key of the former member ``node_id``."""
    return FORMER + node_id


def lease_key(node_id: bytes) -> bytes:
    """Database key of the lease of ``node_id``."""
    return LEASES + node_id


def sequence_key(node_id: bytes) -> bytes:
    """Database key of the sequence state of ``node_id``."""
    return SEQUENCES + node_id


def epoch_key(number: int) -> bytes:
    """Database key of the privacy epoch ``number``."""
    return EPOCHS + number.to_bytes(4, "big")


def home_key(node_id: bytes, key: bytes) -> bytes:
    """Database key of the index entry of record ``key``, whose home is ``node_id``."""
    return HOMES + node_id + key


def stored_service(home: bytes, record: ServiceRecord) -> StoredService:
    """``record`` as its home node wants it to be kept."""
    return StoredService(
        home=home,
        type=record.type,
        cell=record.cell,
        actions=record.actions,
        wake=record.wake,
        commitment=record.commitment,
        owner=record.owner,
        crowd=record.crowd,
    )


def pack(value: Wire) -> bytes:
    """The bytes kept for ``value``."""
    return encode(value)


def unpack(data: bytes, kind: type[T]) -> T:
    """The value kept in ``data``.

    Raises:
        CorruptDatabaseError: the bytes are not one ``kind``.
    """
    try:
        return decode(data, kind, limit=_MAX_VALUE_BYTES)
    except Refused as error:
        raise CorruptDatabaseError(f"a stored {kind.__name__} does not decode: {error}") from None


NO_POWERS: Mapping[bytes, int] = MappingProxyType({})

_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PEER_ID = re.compile(r"[0-9a-f]{40}")
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


def genesis_bytes(state: GenesisState) -> bytes:
    """``state`` as JSON, checked.

    Raises:
        ConfigError: what ``parse_genesis`` would refuse.
    """
    data = encode_json(state)
    parse_genesis(data)
    return data


def parse_genesis(data: bytes) -> GenesisState:
    """The genesis state in the JSON ``data``.

    Raises:
        ConfigError: not this document, or a value outside its range; the detail names it.
    """
    try:
        state = decode_json(data, GenesisState, limit=MAX_GENESIS_BYTES)
        _check_genesis(state)
    except ConfigError:
        raise
    except Refused as error:
        raise ConfigError(f"genesis app_state: {error}") from None
    return state


def _check_genesis(state: GenesisState) -> None:
    if state.chain_id:
        check_chain_id(state.chain_id)
    for field, seconds, least in (
        ("lease_s", state.lease_s, 1),
        ("delete_after_s", state.delete_after_s, 1),
        # Else every beat of an idle chain would be an outage, and move the replicated shift.
        ("outage_gap_s", outage_gap_s(state), BEAT_S + 1),
        ("epoch_s", state.epoch_s, 1),
    ):
        if not least <= seconds <= _MAX_PERIOD_S:
            raise InvalidValueError(f"{field} is {seconds}; allowed: {least} to {_MAX_PERIOD_S}")
    if not 1 <= len(state.members) <= MAX_MEMBERS:
        raise InvalidValueError(f"{len(state.members)} members; allowed are 1 to {MAX_MEMBERS}")
    for member in state.members:
        if not _MEMBER_NAME.fullmatch(member.name):
            raise InvalidValueError(f"member name {member.name!r}: use 1-64 of A-Z a-z 0-9 . _ -")
        if not _PUBLIC_KEY.fullmatch(member.public_key):
            raise InvalidValueError(f"member {member.name}: public_key is not 64 hex digits")
        if member.validator_key and not _PUBLIC_KEY.fullmatch(member.validator_key):
            raise InvalidValueError(f"member {member.name}: validator_key is not 64 hex digits")
        if member.peer_id and not _PEER_ID.fullmatch(member.peer_id):
            raise InvalidValueError(f"member {member.name}: peer_id is not 40 hex digits")
    for what in ("name", "public_key", "validator_key", "peer_id"):
        stated = [getattr(each, what) for each in state.members if getattr(each, what)]
        if len(set(stated)) < len(stated):
            raise InvalidValueError(f"two members have the same {what}")


def outage_gap_s(state: GenesisState) -> int:
    """The outage gap of ``state``, stated or derived, in seconds."""
    return state.outage_gap_s or min(60, max(15, state.lease_s // 3))


def genesis_parameters(chain_id: str, state: GenesisState) -> ChainParameters:
    """The parameters of the chain ``chain_id`` that starts from ``state``."""
    return ChainParameters(
        chain_id=chain_id,
        lease_us=state.lease_s * 1_000_000,
        delete_after_us=state.delete_after_s * 1_000_000,
        outage_gap_us=outage_gap_s(state) * 1_000_000,
        epoch_us=state.epoch_s * 1_000_000,
    )


def genesis_members(
    state: GenesisState, powers: Mapping[bytes, int] = NO_POWERS
) -> dict[NodeId, Member]:
    """The members of ``state`` by node id; ``powers`` by validator key."""
    members: dict[NodeId, Member] = {}
    for member in state.members:
        public_key = bytes.fromhex(member.public_key)
        validator_key = bytes.fromhex(member.validator_key)
        members[node_id_of(public_key)] = Member(
            public_key=public_key,
            name=member.name,
            validator_key=validator_key,
            peer_id=bytes.fromhex(member.peer_id),
            power=powers.get(validator_key, 0) if validator_key else 0,
        )
    return members
