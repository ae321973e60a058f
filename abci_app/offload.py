"""What a home node may answer in a device's place: which requests, and with which content.

Rules kept here (woofs_and_queues.md, *Off-loading*):

* Only what the device declares: actions that change nothing and whose answers it lets be reused
  for a time, asked for by clients that say which age is good enough and want no more than that.
* The age of content counts from the moment when the device could first have had the request: it is
  never younger than the node says.
* Same means the same pairing and epoch of a device, operation, target, handler and payload. Who
  asked makes no difference, also under a veil: that two callers may tell from a shared answer that
  they ask the same device is what the owner takes on who declares answers reusable.
* What is kept is bounded; what was not asked for longest goes first.

Not handled here: replies and their tags (``request_desk``), requests that wait for one another's
answer (``mailbox_boxes``).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from edgistry.envelope import BY_NODE, Envelope, Flag, Operation, Status, decode_reply
from edgistry.errors import MalformedError
from edgistry.pairing import ActionOffer, ServiceOffer
from edgistry.verifier import Checked

from .pairing import Paired

MAX_CONTENT_BYTES: Final = 32 << 20
"""Content kept by one node, with its overhead."""

_OVERHEAD_BYTES: Final = 256
_OWN_ANSWER: Final = Flag.DEVICE_ONLY | Flag.FLATTEN
"""Flags of a request that only the device can do justice to."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a device has answered."""

    payload: bytes
    made_us: int
    """Not before this time, µs since 1970."""

    def age_us(self, now_us: int) -> int:
        """How old it is at most."""
        return max(now_us - self.made_us, 0)


def is_for_the_device_alone(checked: Checked) -> bool:
    """Whether nobody may answer ``checked`` in the device's place."""
    return bool(checked.envelope.flags & _OWN_ANSWER)


def reusable_action(checked: Checked, service: ServiceOffer) -> ActionOffer | None:
    """The action that ``checked`` asks for, if its answer may be another caller's, too."""
    if is_for_the_device_alone(checked):
        return None
    envelope = checked.envelope
    for action in service.actions:
        if envelope.target == f"{service.type}/{action.name}":
            asks = (envelope.op, envelope.handler)
            is_read = asks in ((Operation.PUT, action.name), (Operation.GET, ""))
            return action if is_read and action.read and action.fresh_s else None
    return None


def content_key(paired: Paired, envelope: Envelope) -> bytes:
    """32 bytes that are the same for requests which the same content answers."""
    parts = (
        paired.device.encode(),
        paired.serial.to_bytes(4, "big"),
        paired.epoch.to_bytes(4, "big"),
        envelope.op.to_bytes(1, "big"),
        envelope.target.encode(),
        envelope.handler.encode(),
        envelope.payload,
    )
    hashed = sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    return hashed.digest()


def content_of(reply: bytes, *, made_us: int) -> Content | None:
    """The content in a device's reply, if it succeeded."""
    try:
        answer = decode_reply(reply)
    except MalformedError:
        return None
    if answer.status != Status.OK:
        return None
    return Content(answer.payload, made_us)


def stand_in(checked: Checked, content: Content, *, now_us: int) -> bytes:
    """The reply to ``checked`` that a home node makes of ``content``: it says who, and the age."""
    age_ms = content.age_us(now_us) // 1000
    return checked.reply(Status.OK | BY_NODE, result=age_ms, payload=content.payload)


class ContentCache:
    """Content by key, in memory: losing it costs the device a wake, nothing else."""

    def __init__(self, limit: int = MAX_CONTENT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[bytes, Content] = OrderedDict()
        self.hits = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: bytes, content: Content) -> None:
        """Keep ``content``, unless what is there is newer."""
        known = self._kept.pop(key, None)
        if known is not None:
            self._size -= _size_of(known)
            if known.made_us > content.made_us:
                content = known
        self._kept[key] = content
        self._size += _size_of(content)
        while self._size > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._size -= _size_of(oldest)

    def get(self, key: bytes, *, max_age_us: int, now_us: int) -> Content | None:
        """Content that is at most so old; none when the age that will do is 0."""
        content = self._kept.get(key)
        if content is None or not max_age_us or content.age_us(now_us) > max_age_us:
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return content


def _size_of(content: Content) -> int:
    return len(content.payload) + _OVERHEAD_BYTES
