"""The devices that this node is home to: whose keys it holds, and what it was told about them.

Four tables in ``queues.ldb``: pairings by device id, device ids by the serial of the capability
that the node gave them, open codes by digest, and devices that are being forgotten.

Rules kept here:

* A pairing holds the device's epoch key: the authority to ask everything of it. It is in this
  node's own database (0700) and in no ``repr``.
* Each device's capability has a serial that no other device of the node has, since a serial is
  what replay state is kept by, and what the exchange knows the pairing by: a device that was paired
  again or revoked has no use for the old one.
* Which service a registry record belongs to is told by the row that it was published from, so
  that both are known, and forgotten, at the same moment.
* A code is remembered as a digest, with the one device that has used it.

Pure: changes are returned for the caller's batch; serials and times come in as arguments. Not
handled here: who may pair (``pairing_desk``), the rows of services (``devices``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, Protocol, TypeVar

from edgistry.capability import Capability
from edgistry.capability_chain import Entry
from edgistry.codec import Meta, Wire, decode, encode
from edgistry.errors import CorruptDatabaseError, Refused
from edgistry.issuer import Issuer
from edgistry.kv import Change, KeyValue, prefix_end
from edgistry.pairing import MAX_OFFER_BYTES, PairingOffer, ServiceOffer, device_object, wake_bucket
from edgistry.rights import Right
from edgistry.transactions import Bytes16

from .devices import ROW_PREFIX, DeviceTable, is_paired_row
from .told import ToldPlace

DEVICE_RIGHTS: Final = Right.PUT | Right.GET | Right.LATEST | Right.POLL
"""Of a device on its own object at the node."""

_Stored = TypeVar("_Stored", bound=Wire)

_PAIRINGS: Final = b"p/d/"
_SERIALS: Final = b"p/s/"
_CODES: Final = b"p/c/"
_FORGETTING: Final = b"p/f/"
_MAX_STORED_BYTES: Final = MAX_OFFER_BYTES + 4096

Stage = Literal["new", "asked", "ready"]
"""``new``: its WooFs are to be created. ``asked``: the device has been asked to. ``ready``: it has
them, and its services are listed."""

U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
Microseconds = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class StoredPairing(Wire):
    """One pairing as it rests."""

    offer: PairingOffer
    serial: U32
    """Of the capability that the node gave."""
    paired_us: Microseconds
    stage: Stage = "new"
    attempt: U32 = 0
    """How often its set-up was begun."""
    requests: tuple[Bytes16, ...] = ()
    """The requests of the set-up that the device has not answered yet, in order."""
    stands_in: bool = False
    """This is the fallback node, and the primary one is away."""
    places: tuple[ToldPlace, ...] = ()
    """Where others see the device, as far as it has told."""


class StoredCode(Wire):
    """An open code."""

    expires_us: Microseconds
    replace: bool
    """Whether it lets a device in whose id is known with another key."""
    device: str = ""
    """The one device that has used it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A device whose home is here."""

    device: str
    issuer: Issuer = field(repr=False)
    """Holds the device's epoch key."""
    serial: int
    """Of the capability that it polls with."""
    stored: StoredPairing = field(repr=False)

    @property
    def epoch(self) -> int:
        """The device's epoch."""
        return self.issuer.epoch

    @property
    def offer(self) -> PairingOffer:
        """What it told about itself."""
        return self.stored.offer

    @property
    def period_s(self) -> int:
        """Seconds between two of its wakes; 0: always awake."""
        return self.offer.period_s

    @property
    def wake(self) -> int:
        """Its wake bucket."""
        return wake_bucket(self.offer.period_s)

    @property
    def is_home(self) -> bool:
        """Whether clients find it here: at its primary node, or the one that stands in for that."""
        return self.offer.role == "primary" or self.stored.stands_in

    @property
    def services(self) -> tuple[ServiceOffer, ...]:
        """What clients find of it here."""
        return self.offer.services if self.is_home else ()


class Pairings(Protocol):
    """Who asks for pairings needs only this. ``PairingTable`` is one."""

    def by_device(self, device: str) -> Paired | None:
        """The pairing of that device."""

    def by_record(self, key: bytes) -> tuple[Paired, ServiceOffer] | None:
        """The device and the service behind that registry record."""


def node_capability(issuer: Issuer, paired: Paired) -> Capability:
    """The capability that the node, ``issuer``, gives to the device. Always the same."""
    entry = Entry(DEVICE_RIGHTS, device_object(paired.device))
    return issuer.mint(serial=paired.serial, entries=(entry,))


def row_id(device: str, service_type: str) -> str:
    """The id of the row from which that service is published."""
    return f"{ROW_PREFIX}{device}/{service_type}"


def device_of_row(id: str | None) -> str | None:
    """The paired device that a row with this id is about, if it is about one."""
    if id is None or not is_paired_row(id):
        return None
    return id.removeprefix(ROW_PREFIX).partition("/")[0]


class PairingTable:
    """The pairings and codes in ``store``."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store
        self._rows = DeviceTable(store)

    # --- pairings -------------------------------------------------------------------------------

    def by_device(self, device: str) -> Paired | None:
        """The pairing of the device with that id."""
        data = self._store.get(_PAIRINGS + device.encode())
        return None if data is None else _paired(data)

    def device_of(self, key: bytes) -> str | None:
        """The id of the device behind the registry record ``key``, also one on its way out."""
        row = self._rows.by_key(key)
        return None if row is None else device_of_row(row.id)

    def by_record(self, key: bytes) -> tuple[Paired, ServiceOffer] | None:
        """The device and the service behind the registry record ``key``."""
        row = self._rows.by_key(key)
        device = None if row is None or row.withdrawing else device_of_row(row.id)
        paired = None if device is None else self.by_device(device)
        if row is None or paired is None:
            return None
        found = (each for each in paired.services if row_id(paired.device, each.type) == row.id)
        service = next(found, None)
        return None if service is None else (paired, service)

    def scan(self) -> Iterator[Paired]:
        """All pairings in order of device ids."""
        for _, data in self._store.scan(_PAIRINGS, prefix_end(_PAIRINGS)):
            yield _paired(data)

    def is_unused(self) -> bool:
        """Whether no device has ever been paired here."""
        return next(self._store.scan(_SERIALS, prefix_end(_SERIALS)), None) is None

    def serial_is_taken(self, serial: int) -> bool:
        """Whether a device of this node has, or had, a capability with that serial."""
        return self._store.get(_SERIALS + serial.to_bytes(4, "big")) is not None

    def put(self, pairing: StoredPairing) -> list[Change]:
        """The changes that store ``pairing`` in place of the one of that device."""
        device = pairing.offer.device.encode()
        return [
            (_PAIRINGS + device, encode(pairing)),
            (_SERIALS + pairing.serial.to_bytes(4, "big"), device),
        ]

    def delete(self, paired: Paired) -> list[Change]:
        """The changes that forget the pairing and its key. Its serial stays taken."""
        return [(_PAIRINGS + paired.device.encode(), None)]

    # --- forgetting -----------------------------------------------------------------------------

    def forget(self, device: str) -> list[Change]:
        """The changes that remember that nothing of ``device`` is to stay, until it is so."""
        changes: list[Change] = [(_FORGETTING + device.encode(), b"")]
        for digest, code in self.codes():
            if code.device == device:
                changes += self.delete_code(digest)
        return changes

    def forgotten(self, device: str) -> list[Change]:
        """The changes after which ``device`` is forgotten."""
        return [(_FORGETTING + device.encode(), None)]

    def to_forget(self) -> list[str]:
        """Devices of which nothing is to stay, and something may be there."""
        found = self._store.scan(_FORGETTING, prefix_end(_FORGETTING))
        return [key.removeprefix(_FORGETTING).decode() for key, _ in found]

    # --- codes ----------------------------------------------------------------------------------

    def code(self, digest: bytes) -> StoredCode | None:
        """The open code with that digest."""
        data = self._store.get(_CODES + digest)
        return None if data is None else _read(data, StoredCode)

    def codes(self) -> Iterator[tuple[bytes, StoredCode]]:
        """All open codes, also those that are too old, with their digests."""
        for key, data in self._store.scan(_CODES, prefix_end(_CODES)):
            yield key.removeprefix(_CODES), _read(data, StoredCode)

    def put_code(self, digest: bytes, code: StoredCode) -> list[Change]:
        """The changes that remember ``code``."""
        return [(_CODES + digest, encode(code))]

    def delete_code(self, digest: bytes) -> list[Change]:
        """The changes that forget the code."""
        return [(_CODES + digest, None)]


@functools.lru_cache(maxsize=1024)
def _paired(data: bytes) -> Paired:
    # By the stored bytes: what is remembered here can never be out of date.
    stored = _read(data, StoredPairing)
    return Paired(
        device=stored.offer.device,
        issuer=Issuer(stored.offer.epoch, stored.offer.key),
        serial=stored.serial,
        stored=stored,
    )


def _read(data: bytes, kind: type[_Stored]) -> _Stored:
    try:
        return decode(data, kind, limit=_MAX_STORED_BYTES)
    except Refused as error:
        raise CorruptDatabaseError(f"queues.ldb: a pairing: {error}") from None
