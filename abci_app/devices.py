"""The node's own table of devices: who they are and where exactly, which never leaves the node.

Four tables in ``queues.ldb``: rows by identity, identities by record key, marks of rows that wait
for an epoch to be published elsewhere, and seeds of devices that were withdrawn.

Rules kept here:

* A device is the same one when its identity is: the owner's id, or without one exactly
  (name, latitude, longitude, type).
* The record key and the salt are drawn once for each device. The chain gets the key and
  SHA-256(salt | identity): it binds the node to the device without telling anyone which.
* Where it is published is decided once, and kept in the row with all that it was decided from
  (``placing``). What it has told since is there too, and waits for the next epoch; such rows have a
  mark, so that an epoch costs nothing for a million others.
* Of a device that was withdrawn the seed of its noise stays, by identity: registered again, it is
  published where it was. Of one that is to be forgotten nothing stays.
* A row remembers the transaction that published it last. Whether it *is* published is asked of
  the registry, never remembered: what the chain refused or lost needs no bookkeeping.

Pure: changes are returned for the caller's batch, keys and salts come in as arguments. Not handled
here: what is allowed in a row (``fleet``), and transactions (``registration``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import Annotated, Final, TypeVar

from edgistry.codec import Meta, Wire, decode, encode
from edgistry.errors import CorruptDatabaseError, MalformedError, Refused
from edgistry.kv import Change, KeyValue, prefix_end
from edgistry.placing import Placement, has_moved
from edgistry.policy import PrivacyPolicy
from edgistry.position import Position
from edgistry.transactions import Bytes16, Bytes32, Cell, RecordKey, ServiceRecord

from .admin_api import DeviceRow

_ROWS = b"d/i/"
_KEYS = b"d/k/"
_MOVED = b"d/m/"
_SEEDS = b"d/s/"
_MARK = b"\x01"
ROW_PREFIX: Final = "paired:"
"""How the ids of rows begin whose services belong to a paired device."""
_IDENTITY_TAG = b"edgistry device identity\0"
_MAX_ROW_BYTES = 8192


class Device(Wire):
    """One device of this node."""

    key: Bytes16
    """Names its record on the chain; the handle is made from it."""
    salt: Bytes32
    id: str | None
    name: str
    lat: float
    """Degrees north, exactly as given last; of a device that tells a cell, the cell's centre."""
    lon: float
    """Degrees east."""
    told_cell: Cell
    """The cell that it told instead of a position; else 0."""
    told_moves: Annotated[int, Meta(ge=0)]
    """How often it has moved as far as it knows itself."""
    policy: PrivacyPolicy
    seed: Bytes32
    """Noise is drawn from it."""
    placement: Placement
    """Where it is published."""
    owner: Annotated[bytes, Meta(max_length=8)]
    """The tag of whom it belongs to; empty: the node's operator."""
    type: str
    actions: tuple[str, ...]
    wake: int
    sequence: Annotated[int, Meta(ge=0)]
    """The transaction that published or withdrew it last."""
    withdrawing: bool = False
    forget: bool = False
    """Nothing is to stay of it, once it is withdrawn."""

    def __repr__(self) -> str:
        return f"<Device {handle_of(self.key)}>"

    __str__ = __repr__

    @property
    def cell(self) -> int:
        """The published cell."""
        return self.placement.cell

    @property
    def position(self) -> Position:
        """Where it is as it told last: degrees, or a cell."""
        return self.told_cell or (self.lat, self.lon)

    @property
    def has_moved(self) -> bool:
        """Whether it is to be published elsewhere when an epoch begins."""
        return has_moved(self.placement, self.position)


class KeptSeed(Wire):
    """What stays of a withdrawn device."""

    seed: Bytes32
    moves: Annotated[int, Meta(ge=0)]

    def __repr__(self) -> str:
        return f"<KeptSeed after {self.moves} moves>"

    __str__ = __repr__


_Stored = TypeVar("_Stored", bound=Wire)

Identity = bytes
"""32 bytes: SHA-256 over the canonical form of what makes a device the same one."""


def identity_of(device: Device | DeviceRow) -> Identity:
    """The identity of a device: by its id, else by (name, latitude, longitude, type)."""
    what: tuple[object, ...]
    if device.id is not None:
        what = (device.id,)
    else:
        what = (device.name, device.lat, device.lon, device.type)
    return hashlib.sha256(_IDENTITY_TAG + encode(what)).digest()


def record_of(device: Device, identity: Identity | None = None, *, owner: bytes) -> ServiceRecord:
    """What the chain is told of ``device``, which belongs to ``owner`` (a tag of 8 bytes) unless it
    names another one.

    ``identity`` is its identity where it is at hand.
    """
    return ServiceRecord(
        key=device.key,
        type=device.type,
        cell=device.cell,
        actions=device.actions,
        wake=device.wake,
        commitment=hashlib.sha256(device.salt + (identity or identity_of(device))).digest(),
        owner=device.owner or owner,
        crowd=device.policy.crowd,
    )


def handle_of(key: bytes) -> str:
    """The handle clients see: base64url of the 16-byte record key, 22 characters."""
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def parse_handle(handle: str) -> RecordKey:
    """The record key in ``handle``.

    Raises:
        MalformedError: anything ``handle_of`` does not write.
    """
    try:
        key = base64.b64decode(handle.encode() + b"==", altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if len(key) != 16 or handle_of(key) != handle:
        raise MalformedError(f"{handle[:40]!r} is not a handle: 22 characters of base64url")
    return RecordKey(key)


def is_paired_row(id: str | None) -> bool:
    """Whether a row with this id is about a service of a paired device."""
    return id is not None and id.startswith(ROW_PREFIX)


class DeviceTable:
    """The devices in ``store``."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store

    def count(self) -> int:
        """The number of devices; all their keys are walked through."""
        return sum(1 for _ in self._store.scan(_KEYS, prefix_end(_KEYS)))

    def get(self, identity: Identity) -> Device | None:
        """The device with that identity."""
        data = self._store.get(_ROWS + identity)
        return None if data is None else _device(data)

    def by_key(self, key: bytes) -> Device | None:
        """The device whose record has that key."""
        identity = self._store.get(_KEYS + key)
        return None if identity is None else self.get(identity)

    def scan(self, after: bytes = b"") -> Iterator[Device]:
        """All devices in order of their record keys, those after the key ``after``."""
        # The first possible key after one of fixed length is that key with a zero byte.
        start = _KEYS + after + b"\0" if after else _KEYS
        for _, identity in self._store.scan(start, prefix_end(_KEYS)):
            device = self.get(identity)
            if device is not None:
                yield device

    def put(self, device: Device, identity: Identity | None = None) -> list[Change]:
        """The changes that store ``device``; ``identity`` is its identity where it is at hand."""
        identity = identity or identity_of(device)
        changes: list[Change] = [(_ROWS + identity, encode(device)), (_KEYS + device.key, identity)]
        if device.has_moved:
            changes.append((_MOVED + identity, _MARK))
        return changes

    def delete(self, device: Device) -> list[Change]:
        """The changes that forget ``device``: position, name and salt are gone.

        Its seed stays if noise was drawn from it, unless the device is to be forgotten, or keeps
        the seed itself as a paired one does.
        """
        identity = identity_of(device)
        kept = None
        if device.placement.noise_m and not device.forget and not is_paired_row(device.id):
            kept = encode(KeptSeed(seed=device.seed, moves=device.placement.moves))
        return [
            (_ROWS + identity, None),
            (_KEYS + device.key, None),
            (_MOVED + identity, None),
            (_SEEDS + identity, kept),
        ]

    def unname(self, key: bytes) -> Change:
        """The change after which no device is found by the record key ``key``."""
        return (_KEYS + key, None)

    def kept_seed(self, identity: Identity) -> KeptSeed | None:
        """What stayed of a device that was withdrawn."""
        data = self._store.get(_SEEDS + identity)
        return None if data is None else _read(data, KeptSeed)

    def kept_seeds(self) -> list[bytes]:
        """The keys under which seeds of withdrawn devices are kept."""
        return [key for key, _ in self._store.scan(_SEEDS, prefix_end(_SEEDS))]

    def moved(self) -> Iterator[Identity]:
        """Identities of devices that may have moved, in ascending order."""
        for key, _ in self._store.scan(_MOVED, prefix_end(_MOVED)):
            yield key.removeprefix(_MOVED)

    def unmark(self, identity: Identity) -> list[Change]:
        """The changes after which the device waits for no epoch, whatever it has told."""
        return [(_MOVED + identity, None)]


def _device(data: bytes) -> Device:
    return _read(data, Device)


def _read(data: bytes, kind: type[_Stored]) -> _Stored:
    try:
        return decode(data, kind, limit=_MAX_ROW_BYTES)
    except Refused as error:
        raise CorruptDatabaseError(f"queues.ldb: a device row: {error}") from None
