"""The node's own table of devices: who they are and where exactly, which never leaves the node.

Two tables in ``queues.ldb``: rows by identity, and identities by record key.

Rules kept here:

* A device is the same one when its identity is: the owner's id, or without one exactly
  (name, latitude, longitude, type).
* The record key and the salt are drawn once for each device. The chain gets the key and
  SHA-256(salt | identity): it binds the node to the device without telling anyone which.
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
from typing import Annotated

from edgistry.codec import Meta, Wire, decode, encode
from edgistry.errors import CorruptDatabaseError, MalformedError, Refused
from edgistry.kv import Change, KeyValue, prefix_end
from edgistry.transactions import Bytes16, Bytes32, Cell, RecordKey, ServiceRecord

from .admin_api import DeviceRow

_ROWS = b"d/i/"
_KEYS = b"d/k/"
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
    """Degrees north, exactly as given."""
    lon: float
    """Degrees east, exactly as given."""
    resolution: int
    type: str
    actions: tuple[str, ...]
    wake: int
    cell: Cell
    """The published cell."""
    sequence: Annotated[int, Meta(ge=0)]
    """The transaction that published or withdrew it last."""
    withdrawing: bool = False


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
    """What the chain is told of ``device``, which belongs to ``owner`` (a tag of 8 bytes).

    ``identity`` is its identity where it is at hand.
    """
    return ServiceRecord(
        key=device.key,
        type=device.type,
        cell=device.cell,
        actions=device.actions,
        wake=device.wake,
        commitment=hashlib.sha256(device.salt + (identity or identity_of(device))).digest(),
        owner=owner,
        crowd=1,
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
        return [(_ROWS + identity, encode(device)), (_KEYS + device.key, identity)]

    def delete(self, device: Device) -> list[Change]:
        """The changes that forget ``device``: position, name and salt are gone."""
        return [(_ROWS + identity_of(device), None), (_KEYS + device.key, None)]


def _device(data: bytes) -> Device:
    try:
        return decode(data, Device, limit=_MAX_ROW_BYTES)
    except Refused as error:
        raise CorruptDatabaseError(f"queues.ldb: a device row: {error}") from None
