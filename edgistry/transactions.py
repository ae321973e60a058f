"""Registry transactions: their bytes, what is signed, and who signed.

A transaction is the MessagePack array ``[1, kind, chain_id, node_id, sequence, body, signature]``
with unsigned integers. The Ed25519 signature covers ``b"edgistry tx 1\\0"`` and the MessagePack
of the first six elements as a six-element array (consensus.md, *Transactions*).

Rules kept here:

* Bytes in, values out. ``parse_transaction`` accepts only the canonical encoding, so that a
  transaction has one hash.
* ``node_id`` = SHA-256(public key)[0:20]; the registry key is neither validator nor p2p key.
* Limits are checked while parsing: 512 records a batch, 8 192 cells a region, 128 seals of an epoch
  key, 256 KB a transaction.

Not handled here: whether a transaction may be applied (``abci_app.registry``), and the Ed25519
arithmetic itself, which callers pass in (``Sign``, ``Verify``) so that this module stays pure.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, NewType

from .codec import Meta, Raw, Wire, decode, encode
from .errors import InvalidValueError, MalformedError
from .membership import (
    JOIN_KIND,
    LEAVE_KIND,
    REMOVE_KIND,
    NodeJoin,
    NodeLeave,
    NodeRemove,
    check_change,
)

NodeId = NewType("NodeId", bytes)
"""20 bytes: SHA-256 of the node's Ed25519 registry public key, cut."""

RecordKey = NewType("RecordKey", bytes)
"""16 random bytes that name a service record."""

Sign = Callable[[bytes], bytes]
"""Message to its 64-byte Ed25519 signature."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""(32-byte public key, message, 64-byte signature) to whether it verifies. Never raises."""

TRANSACTION_VERSION = 1
SIGNING_TAG = b"edgistry tx 1\0"
MAX_TRANSACTION_BYTES = 256_000
"""CometBFT's ``max_tx_bytes`` in our configuration."""
MAX_BATCH_RECORDS = 512
MAX_REGION_CELLS = 8192
MAX_ACTIONS = 16
MAX_MEMBERS = 128
SEALED_KEY_BYTES = 80
"""A 32-byte epoch key sealed to one member (``adapters.crypto.seal``)."""
LAST_EPOCH = (1 << 32) - 1
WAKE_BUCKETS = ("1m", "15m", "1h", "later")
"""Wake bucket names by number: answers within a minute, 15 minutes, an hour, later."""

_CHAIN_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,49}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_NAME_RULE = "a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
_REGION = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Bytes8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes20 = Annotated[bytes, Meta(min_length=20, max_length=20)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
Sequence = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Cell = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Epoch = Annotated[int, Meta(ge=1, le=LAST_EPOCH)]
Crowd = Annotated[int, Meta(ge=1, le=(1 << 16) - 1)]
SealedKey = Annotated[bytes, Meta(min_length=SEALED_KEY_BYTES, max_length=SEALED_KEY_BYTES)]

_OWNER_TAG = b"\x31"
_EPOCH_CHECK_TAG = b"\x32"


class Kind(IntEnum):
    """What a transaction asks for."""

    NODE_LEASE = 1
    SERVICES_PUT = 2
    SERVICES_WITHDRAW = 3
    REGION_PUT = 4
    MEMBER_KEY = 5
    EPOCH_KEY = 6
    EPOCH_SHARE = 7
    NODE_JOIN = JOIN_KIND
    NODE_LEAVE = LEAVE_KIND
    NODE_REMOVE = REMOVE_KIND


EPOCH_KINDS = frozenset((Kind.MEMBER_KEY, Kind.EPOCH_KEY, Kind.EPOCH_SHARE))
"""What nodes send by themselves to share a key; refused now and then, when two do the same."""


class ServiceRecord(Wire):
    """One anonymised service as it stands on the chain.

    ``cell`` is the published H3 cell (resolution 5, 6 or 7), the finest position anyone sees.
    ``commitment`` is SHA-256(salt | device id): it binds the home node without telling anyone.
    ``owner`` is the tag of whom the device belongs to (``owner_tag``). With ``crowd`` k above 1 it
    is shown only where services of its type have at least k owners.
    """

    key: Bytes16
    type: Annotated[str, Meta(min_length=1, max_length=32)]
    cell: Cell
    actions: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=32)], ...], Meta(max_length=MAX_ACTIONS)
    ]
    wake: Annotated[int, Meta(ge=0, le=len(WAKE_BUCKETS) - 1)]
    commitment: Bytes32
    owner: Bytes8
    crowd: Crowd


class NodeLease(Wire):
    """Renew the sender's lease: its records stay visible for one lease period from block time."""


class ServicesPut(Wire):
    """Publish or replace up to 512 records of the sender; all or nothing."""

    records: Annotated[tuple[ServiceRecord, ...], Meta(min_length=1, max_length=MAX_BATCH_RECORDS)]


class ServicesWithdraw(Wire):
    """Remove up to 512 records of the sender; all or nothing."""

    keys: Annotated[tuple[Bytes16, ...], Meta(min_length=1, max_length=MAX_BATCH_RECORDS)]


class RegionPut(Wire):
    """Create a named region (version 1) or replace one of the sender's (version + 1).

    ``cells`` is the compacted cell set: 8 bytes a cell, big-endian, strictly ascending.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    version: Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
    cells: Annotated[bytes, Meta(min_length=8, max_length=8 * MAX_REGION_CELLS)]


class MemberKey(Wire):
    """Ask for the key of ``epoch``, the current or the next one, sealed to the X25519 ``public``.

    Asking again for the current epoch says that what was sealed so far is of no use.
    """

    epoch: Epoch
    public: Bytes32


Seals = Annotated[tuple[tuple[Bytes20, SealedKey], ...], Meta(min_length=1, max_length=MAX_MEMBERS)]
"""(node id, the epoch key sealed to its published key), node ids strictly ascending."""


class EpochKey(Wire):
    """Begin ``epoch``, the next one, with a key that ``sealed`` gives to members.

    ``check`` is ``epoch_check`` of the key.
    """

    epoch: Epoch
    check: Bytes16
    sealed: Seals


class EpochShare(Wire):
    """Give the key of ``epoch``, the current one, to members that asked for it and have none."""

    epoch: Epoch
    sealed: Seals


Body = (
    NodeLease
    | ServicesPut
    | ServicesWithdraw
    | RegionPut
    | MemberKey
    | EpochKey
    | EpochShare
    | NodeJoin
    | NodeLeave
    | NodeRemove
)

_BODIES: dict[Kind, type[Body]] = {
    Kind.NODE_LEASE: NodeLease,
    Kind.SERVICES_PUT: ServicesPut,
    Kind.SERVICES_WITHDRAW: ServicesWithdraw,
    Kind.REGION_PUT: RegionPut,
    Kind.MEMBER_KEY: MemberKey,
    Kind.EPOCH_KEY: EpochKey,
    Kind.EPOCH_SHARE: EpochShare,
    Kind.NODE_JOIN: NodeJoin,
    Kind.NODE_LEAVE: NodeLeave,
    Kind.NODE_REMOVE: NodeRemove,
}
_KINDS: dict[type[Body], Kind] = {body: kind for kind, body in _BODIES.items()}


class Transaction(Wire):
    """A parsed transaction. ``body`` is still raw MessagePack: see ``parse_body``."""

    version: Annotated[int, Meta(ge=TRANSACTION_VERSION, le=TRANSACTION_VERSION)]
    kind: Annotated[int, Meta(ge=1, le=255)]
    chain_id: Annotated[str, Meta(min_length=1, max_length=50)]
    node_id: Bytes20
    sequence: Sequence
    body: Raw
    signature: Bytes64


def node_id_of(public_key: bytes) -> NodeId:
    """The node id that belongs to a 32-byte Ed25519 registry public key."""
    return NodeId(hashlib.sha256(public_key).digest()[:20])


def owner_tag(public_key: bytes) -> bytes:
    """What records say of an owner, by its 32-byte Ed25519 public key: 8 bytes."""
    return hashlib.sha256(_OWNER_TAG + public_key).digest()[:8]


def epoch_check(key: bytes) -> bytes:
    """What the chain says of a 32-byte epoch key, so that members know theirs: 16 bytes."""
    return hashlib.sha256(_EPOCH_CHECK_TAG + key).digest()[:16]


def signing_bytes(transaction: Transaction) -> bytes:
    """What the signature of ``transaction`` covers."""
    return SIGNING_TAG + encode(
        (
            transaction.version,
            transaction.kind,
            transaction.chain_id,
            transaction.node_id,
            transaction.sequence,
            transaction.body,
        )
    )


def sign_transaction(
    *, chain_id: str, node_id: NodeId, sequence: int, body: Body, sign: Sign
) -> bytes:
    """The signed bytes of one transaction.

    Raises:
        InvalidValueError: the result would exceed ``MAX_TRANSACTION_BYTES``.
    """
    unsigned = Transaction(
        version=TRANSACTION_VERSION,
        kind=_KINDS[type(body)],
        chain_id=chain_id,
        node_id=node_id,
        sequence=sequence,
        body=Raw(encode(body)),
        signature=bytes(64),
    )
    message = signing_bytes(unsigned)
    # The six signed elements, with the array header grown by one and the signature (bin 8, 64)
    # appended: the canonical encoding of all seven without encoding the body twice.
    data = b"\x97" + message[len(SIGNING_TAG) + 1 :] + b"\xc4\x40" + sign(message)
    if len(data) > MAX_TRANSACTION_BYTES:
        raise InvalidValueError(
            f"a transaction of {len(data)} bytes; the limit is {MAX_TRANSACTION_BYTES}"
        )
    return data


def parse_transaction(data: bytes) -> Transaction:
    """The transaction in ``data``; its body is checked by ``parse_body``.

    Raises:
        MalformedError, TooLargeError: not a canonical transaction of this version.
    """
    return decode(data, Transaction, limit=MAX_TRANSACTION_BYTES)


def parse_body(transaction: Transaction) -> Body:
    """The typed body of ``transaction``.

    Raises:
        MalformedError: unknown kind, not canonical, or fields outside their format.
    """
    try:
        kind = _BODIES[Kind(transaction.kind)]
    except ValueError:
        raise MalformedError(f"unknown transaction kind {transaction.kind}") from None
    body = decode(bytes(transaction.body), kind, limit=MAX_TRANSACTION_BYTES)
    if isinstance(body, ServicesPut):
        for record in body.records:
            check_service_names(record.type, record.actions)
    elif isinstance(body, RegionPut):
        check_region_name(body.name)
        unpack_cells(body.cells)
    elif isinstance(body, (EpochKey, EpochShare)):
        _check_ascending(body.sealed)
    elif isinstance(body, (NodeJoin, NodeRemove)):
        check_change(body)
    return body


def check_chain_id(chain_id: str) -> None:
    """Check a chain id: 1–50 of ``a-z 0-9 . -``, beginning with a letter or digit.

    Raises:
        InvalidValueError: any other text.
    """
    if not _CHAIN_ID.fullmatch(chain_id):
        raise InvalidValueError(f"chain id {chain_id!r}: use 1-50 of a-z, 0-9, '.', '-'")


@lru_cache(maxsize=1024)  # a fleet repeats a few of them; what is refused is not remembered
def check_service_names(type_name: str, actions: tuple[str, ...]) -> None:
    """Check a service type and its actions: names, and actions strictly ascending.

    Raises:
        MalformedError: a name outside ``[a-z0-9][a-z0-9._-]{0,31}``, or actions out of order.
    """
    for name in (type_name, *actions):
        if not _TYPE.fullmatch(name):
            raise MalformedError(f"name {name!r}: use 1-32 of {_NAME_RULE}")
    if any(left >= right for left, right in itertools.pairwise(actions)):
        raise MalformedError("actions are not strictly ascending")


def check_region_name(name: str) -> None:
    """Raises ``MalformedError`` for a region name outside ``[a-z0-9][a-z0-9._-]{0,63}``."""
    if not name.isascii():
        # Shown in ASCII: a letter that looks like another one would read as if it were right.
        raise MalformedError(
            f"region name {name[:64]!a}: letters of other alphabets may look like those of another"
            f" region's name; use 1-64 of {_NAME_RULE}"
        )
    if not _REGION.fullmatch(name):
        raise MalformedError(f"region name {name!r}: use 1-64 of {_NAME_RULE}")


def _check_ascending(sealed: tuple[tuple[bytes, bytes], ...]) -> None:
    if any(left[0] >= right[0] for left, right in itertools.pairwise(sealed)):
        raise MalformedError("node ids are not strictly ascending")


def pack_cells(cells: list[int]) -> bytes:
    """A cell set as the ``cells`` of ``RegionPut``: sorted, without repeats."""
    return b"".join(cell.to_bytes(8, "big") for cell in sorted(set(cells)))


def unpack_cells(data: bytes) -> list[int]:
    """The cells packed by ``pack_cells``.

    Raises:
        MalformedError: not a multiple of 8 bytes, or not strictly ascending.
    """
    if len(data) % 8:
        raise MalformedError(f"{len(data)} bytes of cells: not a multiple of 8")
    cells = [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]
    if any(left >= right for left, right in itertools.pairwise(cells)):
        raise MalformedError("cells are not strictly ascending")
    return cells
