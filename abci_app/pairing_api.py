"""What the command line and the node say to each other about paired devices.

Rules kept here: pure; JSON documents, strict both ways (both sides are one installation).

Codes, offers and answers are secrets, and device ids are the owner's: these travel only over the
operator's own socket. Not handled here: the routes (``admin_pairing``), the use cases
(``pairing_desk``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from edgistry.codec import Document, Meta
from edgistry.pairing import MAX_OFFER_BYTES

MAX_CODES = 10_000
"""Made at once."""


class CodeRequest(Document):
    """Make one-time codes."""

    ttl_s: float
    replace: bool
    """They also let in devices whose ids are known with another key."""
    count: Annotated[int, Meta(ge=1, le=MAX_CODES)] = 1


class CodeAnswer(Document):
    codes: tuple[str, ...]
    expires: str
    """RFC 3339."""

    def __repr__(self) -> str:
        return f"<CodeAnswer until {self.expires}>"


class ImportRequest(Document):
    """Pair the device whose offer (a pairing file) this is."""

    offer: Annotated[bytes, Meta(max_length=MAX_OFFER_BYTES)]
    replace: bool

    def __repr__(self) -> str:
        return f"<ImportRequest of {len(self.offer)} bytes>"


class ImportAnswer(Document):
    device: str
    answer: bytes
    """For the device: a pairing answer."""

    def __repr__(self) -> str:
        return f"<ImportAnswer for {self.device}>"


class ForgetRequest(Document):
    device: str
    forget: bool = False
    """Nothing is to stay of it."""


class DeviceOfAnswer(Document):
    device: str
    """The paired device whose service was asked for; empty if it is none's."""


class PairedEntry(Document):
    """One paired device."""

    device: str
    name: str
    role: Literal["primary", "fallback"]
    stands_in: bool
    """This is the fallback node, and services are listed here while the primary one is away."""
    epoch: int
    period_s: int
    types: tuple[str, ...]
    stage: Literal["new", "asked", "ready"]
    """``new``: its WooFs are to be created. ``asked``: the device has been asked to, and has not
    answered everything. ``ready``: its services are listed."""
    waiting: int
    """Requests of its set-up that it has not answered."""
    paired: str
    """RFC 3339."""


class PairedList(Document):
    """Paired devices in order of their ids."""

    devices: tuple[PairedEntry, ...]
    more: bool
    """Whether there are more than were asked for."""


class MirrorEntry(Document):
    """A device's WooF that this node mirrors."""

    device: str
    woof: str
    """On the device."""
    mirror: str
    """Here."""
    through: int
    """The number, on the device, of the last element that is here."""
    lost: int
    """Elements that the device had evicted before they were read, or that were in a copy that was
    deleted."""
    gaps: tuple[tuple[int, int], ...]
    """First and last number of each gap, the newest of them."""
    begun: int
    """How often the WooF has begun anew on the device."""
    handler: str
    """Runs on each element here; "" for none."""
    handler_state: Literal["", "ok", "missing", "refused"]
    """``missing``: it is not in the node's module, and elements wait for it. ``refused``: it is
    there, and not for devices; elements become dead letters."""


class MirrorList(Document):
    """Mirrors in order of device ids."""

    mirrors: tuple[MirrorEntry, ...]
    more: bool
