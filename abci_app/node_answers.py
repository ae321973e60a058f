"""Answers that a home node gives in its devices' place: shared content, and ends nobody told.

Rules kept here:

* Each has the tag that the client can check, the bit that says who answered, and its age.
* Nothing is shared but what the device let be reused, and what it has said of itself; and with
  nobody whose authority has ended while it waited: the device has the word on that request.

Not handled here: which requests may be answered so (``offload``), and who waits for whom
(``mailbox_boxes``).
"""

from __future__ import annotations

from typing import Final

from edgistry.envelope import BY_NODE, Status
from edgistry.errors import Refused
from edgistry.verifier import Checked

from .device_keys import DeviceKeys
from .mailbox_boxes import Boxes
from .mailbox_records import RequestRecord
from .mailbox_states import State
from .offload import ContentCache, content_of, stand_in
from .pairing import Paired, Pairings

_ENDS: Final = {
    State.REJECTED: Status.REJECTED,
    State.FAILED: Status.HANDLER_FAILED,
    State.EXPIRED: Status.EXPIRED,
    State.CANCELLED: Status.CANCELLED,
    State.DEAD: Status.DEAD,
}


class NodeAnswers:
    """Makes them, with ``keys``; implements ``mailbox_exchange.Sharing``."""

    def __init__(self, boxes: Boxes, pairings: Pairings, keys: DeviceKeys) -> None:
        self._boxes = boxes
        self._pairings = pairings
        self._keys = keys
        self.cache = ContentCache()
        self.merged = 0
        """Requests that were answered with another one's answer, since the start."""

    def keep(self, record: RequestRecord, reply: bytes) -> None:
        """The device has answered ``record`` with ``reply``: others may want it for a while."""
        content = content_of(reply, made_us=record.leased_us)
        if content is not None:
            self.cache.put(record.content, content)

    def stand_in(
        self, follower: RequestRecord, record: RequestRecord, reply: bytes, *, now_us: int
    ) -> bytes | None:
        """A reply to ``follower`` with what ``reply`` to ``record`` says, if that can be."""
        content = content_of(reply, made_us=record.leased_us)
        checked = self._allowed(follower, now_us)
        if content is None or checked is None:
            return None
        self.merged += 1
        return stand_in(checked, content, now_us=now_us)

    def end_of(self, record: RequestRecord, paired: Paired | None) -> bytes | None:
        """The reply to a request that ended without one; ``None`` when this node has no key."""
        status = _ENDS.get(record.outcome)
        checked = None if status is None else self._reopened(record, paired)
        return None if checked is None or status is None else checked.reply(status | BY_NODE)

    def _allowed(self, record: RequestRecord, now_us: int) -> Checked | None:
        envelope = self._boxes.envelope(record.id)
        paired = self._pairings.by_device(record.device)
        if envelope is None or paired is None:
            return None
        try:
            return self._keys.check(envelope, paired, now_us=now_us)
        except Refused:
            return None

    def _reopened(self, record: RequestRecord, paired: Paired | None) -> Checked | None:
        envelope = self._boxes.envelope(record.id)
        if envelope is None or paired is None:
            return None
        return self._keys.reopen(envelope, paired)
