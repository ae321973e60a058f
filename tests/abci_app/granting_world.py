"""A node with one service to grant."""

from __future__ import annotations

from abci_app.pairing import Paired, StoredPairing
from edgistry.issuer import Issuer
from edgistry.pairing import ServiceOffer
from tests.handle_world import epoch_keys, handle_for

from .pairing_world import FakeDevice

RECORD = b"r" * 16
KEYS = epoch_keys()
DEVICE = FakeDevice(1)
SERVICE = DEVICE.offer().services[1]
"""A valve: read is open to anyone, open is not."""


def handle_of(tag: bytes, record: bytes = RECORD, *, epoch: int = 1) -> str:
    """The handle of the service (or of another record) for the client with that tag."""
    return handle_for(record, tag=tag, epoch=epoch)


class OneService:
    """The pairing of one device with one service."""

    def by_device(self, device: str) -> Paired | None:
        found = self.by_record(RECORD)
        return found[0] if found is not None and device == DEVICE.id else None

    def by_record(self, key: bytes) -> tuple[Paired, ServiceOffer] | None:
        if key != RECORD:
            return None
        stored = StoredPairing(offer=DEVICE.offer(), serial=1, paired_us=0)
        issuer = Issuer(stored.offer.epoch, stored.offer.key)
        return Paired(device=DEVICE.id, issuer=issuer, serial=1, stored=stored), SERVICE
