"""Requests of a node itself to its devices: how it sets them up, and mirrors them.

Rules kept here:

* They are to no service, so that no client's share is theirs, and none has a fetch key, so that
  nobody else sees them.
* Only what is durable is told.

Not handled here: clients' requests (``request_desk``), what is asked (``device_setup``,
``mirror_keeper``).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from edgistry.errors import NotPairedError, UnknownRequestError
from edgistry.messages import request_id

from .asked import NO_FETCH_KEY, Asked
from .device_keys import DeviceKeys
from .mailbox_records import REPLIES, RequestRecord
from .mailbox_states import State
from .mailbox_writer import MailboxWriter
from .pairing import Pairings
from .queueing import Queueing, submission_of

OWN_PARTY: Final = bytes(12)
OWN_CLIENT: Final = bytes(8)


class OwnRequestDesk:
    """The node as a client of the devices in ``pairings``, whose ``keys`` it has."""

    def __init__(self, writer: MailboxWriter, pairings: Pairings, keys: DeviceKeys) -> None:
        self._writer = writer
        self._pairings = pairings
        self._keys = keys
        self._queueing = Queueing(writer, keys)

    async def submit_own(self, device: str, envelope: bytes, *, idempotency_key: bytes) -> bytes:
        """Queue a request of this node to one of its devices, durably; its id.

        Raises:
            NotPairedError: it is none of this node's.
            AuthorityError, MalformedError: the device would not execute it.
            MailboxFullError: there is no room for it.
        """
        paired = self._pairings.by_device(device)
        if paired is None:
            raise NotPairedError(f"device {device} is not paired with this node")
        now_us = self._writer.clock_us()
        asked = Asked(
            service=b"",
            envelope=envelope,
            idempotency_key=idempotency_key,
            fetch_hash=NO_FETCH_KEY,
            priority=9,
        )
        checked = self._keys.check(envelope, paired, now_us=now_us)
        submission = replace(
            submission_of(asked, checked, paired),
            # The device stands in for the service: an own request is to no service of it.
            id=request_id(
                record_key=hashlib.sha256(device.encode()).digest()[:16],
                client=OWN_CLIENT,
                idempotency_key=idempotency_key,
            ),
            party=OWN_PARTY,
            client=OWN_CLIENT,
        )
        record, _ = await self._writer.commit(
            lambda decision: self._queueing.queue(decision, submission, checked, paired, now_us)
        )
        return record.id

    def outcome_of(self, request: bytes) -> tuple[State, bytes | None]:
        """State of a request of this node, and the device's reply once there is one.

        Raises:
            UnknownRequestError: there is no such request, or no longer.
        """
        return self._durable(request).outcome, self._writer.store.get(REPLIES + request)

    def given_us(self, request: bytes) -> int:
        """When the device could first have a request of this node; 0 when it could not yet.

        Raises:
            UnknownRequestError: there is no such request, or no longer.
        """
        return self._durable(request).leased_us

    async def let_go(self, request: bytes) -> None:
        """The outcome of a request of this node need not be kept.

        Raises:
            UnknownRequestError: there is no such request, or no longer.
            NotEndedError: there is no outcome yet.
        """
        now_us = self._writer.clock_us()
        await self._writer.commit(
            lambda decision: self._writer.mailbox.acknowledge(decision, request, now_us=now_us)
        )

    async def forget_device(self, device: str) -> int:
        """End all requests to a device that is no longer paired; how many it were."""
        now_us = self._writer.clock_us()
        return await self._writer.commit(
            lambda decision: self._writer.mailbox.forget_device(decision, device, now_us=now_us)
        )

    def _durable(self, request: bytes) -> RequestRecord:
        record = self._queueing.durable(request)
        if record is None:
            raise UnknownRequestError("there is no request with this id")
        return record
