"""Reading mirrors: what a copy of a device's WooF says in its place.

Rules kept here:

* Only what the copy is sure of: the newest element and the extent as of a known time, and elements
  by number where no gap, and no new beginning, lies between them and the newest.
* Numbers are those that the device gives; the copy has its own.
* Who asks that the device itself answers, or is under a veil, gets nothing here.

Not handled here: keeping mirrors (``mirror_keeper``), which age is young enough, replies.
"""

from __future__ import annotations

from edgistry.envelope import Operation
from edgistry.errors import Refused
from edgistry.kv import KeyValue
from edgistry.operations import Extent, decode_get, encode_extent
from edgistry.pairing import WoofOffer
from edgistry.verifier import Checked
from edgistry.woof_store import WoofStore

from .mirror import MirrorRecord, mirror_name, read_mirror, record_key
from .mirror_keeper import mirrored
from .offload import Content, is_for_the_device_alone
from .pairing import Paired


class MirrorReader:
    """Reads the mirrors whose records are in ``store`` and whose elements are in ``woofs``."""

    def __init__(self, store: KeyValue, woofs: WoofStore) -> None:
        self._store = store
        self._woofs = woofs

    def read(self, paired: Paired, checked: Checked) -> Content | None:
        """What the mirror says to ``checked``, and as of when; ``None`` if it cannot."""
        envelope = checked.envelope
        if envelope.op not in (Operation.GET, Operation.LATEST) or _is_for_others(checked):
            return None
        woof = next((each for each in mirrored(paired) if each.name == envelope.target), None)
        data = None if woof is None else self._store.get(record_key(paired.device, woof.name))
        if woof is None or data is None:
            return None
        record = read_mirror(data)
        if record.serial != paired.serial or not record.as_of_us:
            return None
        try:
            payload = self._payload(paired.device, woof, record, checked)
        except Refused:
            return None  # the device knows better why not
        return None if payload is None else Content(payload, record.as_of_us)

    def _payload(
        self, device: str, woof: WoofOffer, record: MirrorRecord, checked: Checked
    ) -> bytes | None:
        newest = record.next - 1
        earliest = max(1, newest - woof.history + 1)
        if checked.envelope.op == Operation.LATEST:
            return encode_extent(Extent(earliest=earliest, latest=newest))
        number = decode_get(checked.envelope.payload) or newest
        has_gap = number < newest and (
            record.begun > 0 or any(last >= number for _, last in record.gaps)
        )
        if has_gap or not earliest <= number <= newest:
            return None
        # By the number in the record: the copy may be further already, or not as far for readers.
        name = mirror_name(device, woof.name)
        return self._woofs.get(name, record.copied - (newest - number))


def _is_for_others(checked: Checked) -> bool:
    """Whether the mirror says nothing to ``checked``."""
    return checked.is_veiled or is_for_the_device_alone(checked)
