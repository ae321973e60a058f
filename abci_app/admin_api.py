"""What the command line and the node say to each other over ``admin.sock``.

Rules kept here: pure; JSON documents, strict both ways (both sides are one installation).

These carry names and exact positions: they travel only over the operator's own socket and never
appear in the public API (``edgistry.api``).

Not handled here: the routes (``admin_server``) and what the answers are made from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from edgistry.codec import Document, Meta
from edgistry.transactions import MAX_BATCH_RECORDS, WAKE_BUCKETS

MAX_ADMIN_BODY_BYTES = 4 << 20
"""A batch of 512 rows has at most about 1 MB, a region's GeoJSON likewise."""
MAX_SETTLED_WAIT_S = 30.0
MAX_LIST = 1000
WAKE_UNKNOWN = len(WAKE_BUCKETS) - 1
"""The wake bucket "later": all that can be promised for a device that never said when it wakes."""

Outcome = Literal["added", "updated", "unchanged", "rejected"]
DeviceState = Literal["published", "pending", "unpublished", "withdrawing"]
"""``pending``: in the outbox. ``unpublished``: refused or lost; the next import tries again."""


class DeviceRow(Document):
    """One device as its owner describes it; ``fleet.check_device`` says what is allowed."""

    line: int
    """Where it stands in its file; comes back in the outcome."""
    id: str | None
    """The owner's own name of the device; without one it is (name, lat, lon, type)."""
    name: str
    lat: float
    """Degrees north."""
    lon: float
    """Degrees east."""
    type: str
    actions: tuple[str, ...]
    resolution: int = 7
    """Resolution of the published cell."""
    noise_m: int = 0
    """The position is moved once by up to so many metres, at random."""
    crowd: int = 1
    """Shown only among those of so many owners."""
    owner: str = ""
    """Ed25519 public key of whom it belongs to, 64 hexadecimal digits; empty: the operator."""
    wake: Annotated[int, Meta(ge=0, le=WAKE_UNKNOWN)] = WAKE_UNKNOWN
    """Its wake bucket."""


class RegisterRequest(Document):
    """Register these devices, all that are valid."""

    rows: Annotated[tuple[DeviceRow, ...], Meta(max_length=MAX_BATCH_RECORDS)]


class RowOutcome(Document):
    """What became of one row. Accepted rows are durable when this is sent."""

    line: int
    outcome: Outcome
    sequence: int = 0
    """The transaction that the row waits for; 0 when it waits for none."""
    handle: str = ""
    reason: str = ""
    """Why the row was rejected."""


class RegisterAnswer(Document):
    outcomes: tuple[RowOutcome, ...]
    height: int


class WithdrawRequest(Document):
    """Withdraw the devices with these handles, all or none."""

    handles: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_BATCH_RECORDS)]
    forget: bool = False
    """Nothing is to stay of them, not even what would publish them at the same place again."""


class ForgetWithdrawnRequest(Document):
    """Destroy what noise was drawn from of devices that were withdrawn."""


class ForgetWithdrawnAnswer(Document):
    forgotten: int
    """Devices."""


class WithdrawAnswer(Document):
    withdrawn: int
    """Devices whose withdrawal is accepted now; those already on their way out do not count."""
    sequence: int
    height: int


class DeviceEntry(Document):
    """One device of this node, as its owner knows it."""

    handle: str
    id: str | None
    name: str
    lat: float
    lon: float
    type: str
    actions: tuple[str, ...]
    cell: str
    resolution: int
    noise_m: int
    crowd: int
    moved: bool
    """It is going to be published elsewhere when a privacy epoch begins."""
    state: DeviceState


class DevicePage(Document):
    devices: tuple[DeviceEntry, ...]
    next: str | None
    """Ask with ``after`` set to this; null at the end."""


class RegionPutRequest(Document):
    name: str
    geojson: dict[str, Any]


class RegionPutAnswer(Document):
    name: str
    version: int
    cells: int
    """Compacted cells."""
    changed: bool
    """False when the region is already exactly this one."""
    sequence: int
    height: int


class RegionDetail(Document):
    """One region with all its cells."""

    name: str
    version: int
    owner: str
    """Node id, hex."""
    cells: tuple[str, ...]


class SettledRefusal(Document):
    sequence: int
    reason: str


class SettledAnswer(Document):
    """How far the outbox has come."""

    through: int
    """Everything accepted up to this sequence is on the chain or refused."""
    height: int
    refused: tuple[SettledRefusal, ...]
    """The refused ones among those asked for."""
