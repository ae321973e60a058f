"""Queueing requests that have authority: what clients' requests and the node's own have in common.

Rules kept here:

* A revocation is in force here with the write that queues it, before the device has heard of it.

Not handled here: authority (``device_keys``), what the mailbox takes (``mailbox``).
"""

from __future__ import annotations

from typing import Final

from edgistry.envelope import Operation
from edgistry.errors import BadRequestError
from edgistry.replay import Outcome
from edgistry.verifier import Checked

from .asked import Asked
from .device_keys import DeviceKeys
from .mailbox import Submission
from .mailbox_boxes import Decision
from .mailbox_records import RECORDS, RequestRecord, read_request
from .mailbox_writer import MailboxWriter
from .pairing import Paired
from .parties import party_of

WAKE_LIMITS_S: Final = (60, 15 * 60, 3600, 4 * 3600)
"""When to come back to a full queue, by wake bucket: the device has been there by then."""


class Queueing:
    """Queues in the mailbox of ``writer``, for devices with these ``keys``."""

    def __init__(self, writer: MailboxWriter, keys: DeviceKeys) -> None:
        self._writer = writer
        self._keys = keys

    def queue(
        self,
        decision: Decision,
        submission: Submission,
        checked: Checked,
        paired: Paired,
        now_us: int,
        *,
        recalled: bool = False,
    ) -> tuple[RequestRecord, bool]:
        """Queue ``submission`` by ``decision``; the request, and whether it is new.

        One that was ``recalled`` on the way is taken back at once. Raises as ``Mailbox.submit``.
        """
        retry_after_s = WAKE_LIMITS_S[paired.wake]
        mailbox = self._writer.mailbox
        record = mailbox.submit(decision, submission, now_us=now_us, retry_after_s=retry_after_s)
        is_new = record.id in decision.new
        if recalled:
            # In the same write: a device that waits for work must not be quicker.
            record = mailbox.cancel(decision, record.id, now_us=now_us)
        elif is_new and checked.envelope.op == Operation.REVOKE:
            # Here it is in force at once; on the device when it wakes.
            outcome = self._keys.authority(paired).perform(checked, _nothing_else, now_us=now_us)
            decision.changes += outcome.changes
        return record, is_new

    def durable(self, request: bytes) -> RequestRecord | None:
        """The request with that id, as the store knows it."""
        value = self._writer.store.get(RECORDS + request)
        return None if value is None else read_request(value)


def submission_of(asked: Asked, checked: Checked, paired: Paired) -> Submission:
    """What is ``asked``, as the mailbox takes it; its id is still to be set."""
    envelope = checked.envelope
    return Submission(
        id=b"",
        device=paired.device,
        service=asked.service,
        party=party_of(checked.chain),
        client=envelope.client,
        fetch_hash=asked.fetch_hash,
        envelope=asked.envelope,
        sequence=envelope.sequence,
        deadline_us=envelope.deadline,
        priority=asked.priority,
        not_before_us=asked.not_before_us,
    )


def _nothing_else(checked: Checked) -> Outcome:
    raise BadRequestError(f"operation {checked.envelope.op} is for the device")
