"""This node in its devices' place: it has their keys, so it can check and answer for them.

Rules kept here:

* A request is looked at as the device would: tag, capabilities, deny set, caveats, rights. What
  the node denies, it denies for good, in the device's current epoch.
* Keys are those of the pairing of now: another epoch is another authority.

Not handled here: replay windows (the caller's, one guard for the node), who is paired.
"""

from __future__ import annotations

import hashlib
from typing import Final

from edgistry.authority import Authority
from edgistry.envelope import Operation
from edgistry.errors import (
    AuthorityError,
    BadRequestError,
    FutureError,
    InvalidValueError,
    MalformedError,
)
from edgistry.kv import KeyValue
from edgistry.messages import MAX_QUEUED_ENVELOPE_BYTES
from edgistry.replay import ReplayGuard
from edgistry.replay_window import MAX_AHEAD_US
from edgistry.verifier import Checked

from .pairing import Paired

MAX_AUTHORITIES: Final = 1024
"""Devices whose keys and deny sets, and what was computed with them, are kept at hand."""

_MEMO: Final = 16
"""Chains remembered for each of them."""


class DeviceKeys:
    """The authorities of this node's devices; what they deny is in ``store``."""

    def __init__(self, store: KeyValue, guard: ReplayGuard) -> None:
        self._store = store
        self._guard = guard
        self._authorities: dict[str, Authority] = {}

    def authority(self, paired: Paired) -> Authority:
        """The device's authority as this node stands in for it."""
        known = self._authorities.get(paired.device)
        if known is None or known.issuer != paired.issuer:
            known = self._opened(paired)
            while len(self._authorities) >= MAX_AUTHORITIES:
                del self._authorities[next(iter(self._authorities))]
            self._authorities[paired.device] = known
        return known

    def _opened(self, paired: Paired) -> Authority:
        label = paired.device.encode()
        try:
            return self._of(paired, label)
        except InvalidValueError:
            # Paired again with another secret, whose epochs began anew: what was denied under the
            # former one, and what it had executed, says nothing about this one.
            digest = hashlib.sha256(b"edgistry device key" + paired.offer.key).digest()[:8]
            return self._of(paired, label + digest)

    def _of(self, paired: Paired, label: bytes) -> Authority:
        return Authority(self._store, paired.issuer, label=label, guard=self._guard, memo=_MEMO)

    def check(self, data: bytes, paired: Paired, *, now_us: int) -> Checked:
        """The request in ``data``, if the device would execute it now.

        Raises:
            AuthorityError, MalformedError: it would not.
        """
        if len(data) > MAX_QUEUED_ENVELOPE_BYTES:
            raise MalformedError(f"a request has at most {MAX_QUEUED_ENVELOPE_BYTES} bytes")
        checked = self.authority(paired).verifier.check(data, now_us=now_us)
        envelope = checked.envelope
        if envelope.op == Operation.EXCHANGE:
            raise BadRequestError("an exchange goes to /v1/exchange")
        if envelope.sequence > now_us + MAX_AHEAD_US:
            raise FutureError(
                "the sequence is too far ahead of this node's clock",
                sequence_epoch=envelope.sequence_epoch,
                sequence_floor=now_us,
            )
        return checked

    def reopen(self, data: bytes, paired: Paired) -> Checked | None:
        """A request that was checked before, to answer it; ``None`` under another key since."""
        try:
            return self.authority(paired).verifier.reopen(data)
        except (AuthorityError, MalformedError):
            return None
