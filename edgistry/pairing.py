"""Pairing: what a device and its home node tell each other, once, to trust each other afterwards.

The device gives its current epoch key, from which the node mints the root capability and all
others of that epoch; the node gives a capability that the node signed (paper §3.3, §4). Both
travel over TLS whose key is pinned by a one-time code, or in files that a person carries.

Rules kept here:

* An offer and an answer are canonical MessagePack, versioned and bounded; any bytes give a value
  or ``MalformedError``. Names in an offer are checked as the registry checks them.
* A code says whom to trust (the node's registry key), where (the port of its link) and proves
  that its bearer was told it (16 random bytes). It is good for one device and a short time.
* Keys, capabilities and codes are in no ``repr``.

Not handled here: who may pair and how long a code lives (the node), files (the device), TLS.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from .caveats import MAX_HANDLER_BYTES
from .codec import Meta, Wire, decode, encode
from .errors import InvalidValueError, MalformedError, TooLargeError
from .policy import PrivacyPolicy
from .position import SEED_BYTES
from .rights import check_object
from .transactions import (
    MAX_ACTIONS,
    WAKE_BUCKETS,
    Bytes16,
    Bytes32,
    Cell,
    check_service_names,
)

PAIRING_VERSION: Final = 1
OFFER_VERSION: Final = 2
CODE_PREFIX: Final = "edgpair1:"
CODE_SECRET_BYTES: Final = 16
OWNER_KEY_BYTES: Final = 32
MAX_SERVICES: Final = 16
MAX_WOOFS: Final = 64
MAX_PERIOD_S: Final = 7 * 24 * 3600
"""A device that wakes more rarely could never be asked: no request lives longer than 7 days."""
MAX_OFFER_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 8 * 1024

_DEVICE_ID: Final = re.compile(r"[a-z2-7]{26}")
_WAKE_LIMITS_S: Final = (60, 15 * 60, 3600)
_CODE: Final = re.compile(r"[A-Za-z0-9_-]{67}")

Name = Annotated[str, Meta(min_length=1, max_length=32)]
History = Annotated[int, Meta(ge=1, le=1 << 32)]
ElementSize = Annotated[int, Meta(ge=0, le=64 * 1024)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Moves = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Uri = Annotated[str, Meta(max_length=512)]
"""Where each element goes onward; "" for nowhere."""


class ActionOffer(Wire):
    """One action of a service: the WooF ``TYPE/NAME``, where a put fires the handler ``NAME``."""

    name: Name
    """Envelopes name it as the handler, too; which function answers is the device's own affair."""
    history: History = 64
    element_size: ElementSize = 0
    read: bool = False
    """It changes nothing: its answers may be reused, and anybody may be granted it."""
    fresh_s: Annotated[int, Meta(ge=0, le=MAX_PERIOD_S)] = 0
    """How long an answer may be reused for other callers; 0: never."""
    place: Literal["device", "node"] = "device"
    """Where its handler runs; no node does that for actions, and an offer with one is refused."""


class WoofOffer(Wire):
    """A further WooF of the device, ``NAMESPACE/WOOF``."""

    name: Annotated[str, Meta(min_length=3, max_length=65)]
    history: History
    element_size: ElementSize = 0
    mirror: bool = False
    """The home node keeps a copy and answers for it."""
    forward: Uri = ""
    handler: Annotated[str, Meta(max_length=32)] = ""
    """Runs at the home node on each element that comes into the mirror; "" for none."""


class ResultOffer(Wire):
    """A WooF that the home node keeps for the device, for what handlers there make of mirrors."""

    name: Annotated[str, Meta(min_length=3, max_length=65)]
    history: History
    element_size: ElementSize = 0


class ServiceOffer(Wire):
    """One service: what clients find in the registry."""

    type: Name
    actions: Annotated[tuple[ActionOffer, ...], Meta(min_length=1, max_length=MAX_ACTIONS)]


class PairingOffer(Wire):
    """What the device gives its node. Secret: whoever has it can command the device."""

    version: Annotated[int, Meta(ge=OFFER_VERSION, le=OFFER_VERSION)]
    device: Annotated[str, Meta(min_length=26, max_length=26)]
    epoch: Annotated[int, Meta(ge=0, le=0xFFFF_FFFE)]
    key: Bytes32
    """The device's epoch key."""
    name: Annotated[str, Meta(max_length=200)]
    """The owner's own name of the device; stays at the node."""
    lat: Latitude | None
    """Degrees north; stays at the node. ``None`` if the device tells a cell."""
    lon: Longitude | None
    """Degrees east; stays at the node."""
    cell: Cell
    """The H3 cell that it tells instead of a position; else 0."""
    moves: Moves
    """How often it has been somewhere else since its seed was drawn."""
    policy: PrivacyPolicy
    """What may be seen of where it is."""
    seed: Annotated[bytes, Meta(min_length=SEED_BYTES, max_length=SEED_BYTES)]
    """What noise is drawn from: the device's own, so that all its nodes draw the same."""
    owner: Annotated[bytes, Meta(max_length=32)]
    """Ed25519 public key of whom it belongs to; empty: the node's operator."""
    period_s: Annotated[int, Meta(ge=0, le=MAX_PERIOD_S)]
    """Seconds between two wakes; 0: always awake."""
    services: Annotated[tuple[ServiceOffer, ...], Meta(max_length=MAX_SERVICES)]
    woofs: Annotated[tuple[WoofOffer, ...], Meta(max_length=MAX_WOOFS)] = ()
    role: Literal["primary", "fallback"] = "primary"
    """A fallback node serves the device, and lists its services, while its primary one is away."""
    results: Annotated[tuple[ResultOffer, ...], Meta(max_length=MAX_WOOFS)] = ()

    def __repr__(self) -> str:
        return f"<PairingOffer of {self.device}, epoch {self.epoch}>"

    __str__ = __repr__


class PairingAnswer(Wire):
    """What the node gives the device. Secret: whoever has it can poll in the device's place."""

    version: Annotated[int, Meta(ge=PAIRING_VERSION, le=PAIRING_VERSION)]
    device: Annotated[str, Meta(min_length=26, max_length=26)]
    epoch: Annotated[int, Meta(ge=0, le=0xFFFF_FFFE)]
    """Of the device's key that the node holds."""
    node_name: Annotated[str, Meta(min_length=1, max_length=64)]
    node_key: Bytes32
    """The node's registry key: what its certificates are signed with."""
    link_port: Annotated[int, Meta(ge=1, le=65535)]
    """Where its link listens."""
    capability: Annotated[bytes, Meta(min_length=33, max_length=2048 + 32)]
    """In the delegable form: PUT, GET, LATEST, POLL on ``devices/<device id>``."""
    now_us: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    """The node's time when it answered."""

    def __repr__(self) -> str:
        return f"<PairingAnswer of {self.node_name} to {self.device}>"

    __str__ = __repr__


class PairingRequest(Wire):
    """An offer with the secret of a code, as it travels over TLS."""

    secret: Bytes16
    offer: PairingOffer

    def __repr__(self) -> str:
        return f"<PairingRequest of {self.offer.device}>"

    __str__ = __repr__


MAX_REQUEST_BYTES: Final = MAX_OFFER_BYTES + 64
PAIR_PATH: Final = "/pair/v1/pair"
UNPAIR_PATH: Final = "/pair/v1/unpair"
UNPAIR: Final = b"edgistry unpair 1"
"""What a device puts into its own object, over the link, to leave its node."""
FORGET: Final = b"edgistry forget 1"
"""The same of one that is to be forgotten: nothing of it stays at the node."""
MOVE_PATH: Final = "/pair/v1/move"
MAX_MOVED_BYTES: Final = 256


class Moved(Wire):
    """What a device puts into its own object, over the link, to say that it is elsewhere."""

    what: Literal["edgistry move 1"]
    lat: Latitude | None
    lon: Longitude | None
    cell: Cell
    moves: Moves
    """As in an offer."""

    def __repr__(self) -> str:
        return f"<Moved, the {self.moves}. time>"

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingCode:
    """A one-time code: the node to trust, the port of its link, and the proof of having it."""

    node_key: bytes
    port: int
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """The code as people copy it: 76 characters, "edgpair1:" first."""
        data = self.node_key + self.port.to_bytes(2, "big") + self.secret
        return CODE_PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parse_code(text: str) -> PairingCode:
    """The code in ``text``; blanks around it do not matter.

    Raises:
        MalformedError: it is none. The detail does not quote it.
    """
    body = text.strip().removeprefix(CODE_PREFIX)
    size = 32 + 2 + CODE_SECRET_BYTES
    data = b""
    if text.strip().startswith(CODE_PREFIX) and _CODE.fullmatch(body):
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    code = PairingCode(
        node_key=data[:32], port=int.from_bytes(data[32:34], "big"), secret=data[34:size]
    )
    if len(data) != size or not code.port or code.text() != text.strip():
        raise MalformedError(
            f"not a pairing code: {CODE_PREFIX} and 67 more characters, as"
            " `edgistry-node pair-code` prints it"
        )
    return code


def code_digest(secret: bytes) -> bytes:
    """What a node remembers of a code's secret: 32 bytes that do not give it away."""
    return hashlib.sha256(b"edgistry pairing code\0" + secret).digest()


def check_device_id(text: str) -> str:
    """``text``, if it is a device id: 26 characters of lower-case base32.

    Raises:
        MalformedError: it is not.
    """
    if not _DEVICE_ID.fullmatch(text):
        raise MalformedError(f"{text[:40]!r} is no device id: 26 of a-z and 2-7")
    return text


def device_object(device: str) -> str:
    """The object on the node that a device's capability is for."""
    return f"devices/{device}"


def wake_bucket(period_s: float) -> int:
    """The number of the wake bucket (``WAKE_BUCKETS``) of a device with that period."""
    within = sum(1 for limit in _WAKE_LIMITS_S if period_s > limit)
    return min(within, len(WAKE_BUCKETS) - 1)


def decode_offer(data: bytes) -> PairingOffer:
    """The offer in ``data``, with names checked.

    Raises:
        MalformedError, TooLargeError: it is none.
    """
    return check_offer(decode(data, PairingOffer, limit=MAX_OFFER_BYTES))


def decode_request(data: bytes) -> PairingRequest:
    """The request in ``data``, with the names of its offer checked.

    Raises:
        MalformedError, TooLargeError: it is none.
    """
    request = decode(data, PairingRequest, limit=MAX_REQUEST_BYTES)
    check_offer(request.offer)
    return request


def decode_answer(data: bytes) -> PairingAnswer:
    """The answer in ``data``.

    Raises:
        MalformedError, TooLargeError: it is none.
    """
    answer = decode(data, PairingAnswer, limit=MAX_ANSWER_BYTES)
    check_device_id(answer.device)
    return answer


def decode_moved(data: bytes) -> Moved:
    """What a device says of where it is now.

    Raises:
        MalformedError, TooLargeError: nothing of that kind.
    """
    moved = decode(data, Moved, limit=MAX_MOVED_BYTES)
    position_of(moved)
    return moved


def position_of(told: PairingOffer | Moved) -> tuple[float, float] | int:
    """Where a device says that it is: latitude and longitude in degrees, or a cell.

    Raises:
        MalformedError: neither, or both.
    """
    if told.lat is not None and told.lon is not None and not told.cell:
        return told.lat, told.lon
    if told.lat is None and told.lon is None and told.cell:
        return told.cell
    raise MalformedError("a device tells either its latitude and longitude, or a cell")


def encode_offer(offer: PairingOffer) -> bytes:
    """The bytes of a checked offer.

    Raises:
        MalformedError: names that the registry would refuse.
        TooLargeError: more than 64 KiB.
    """
    data = encode(check_offer(offer))
    if len(data) > MAX_OFFER_BYTES:
        raise TooLargeError(f"an offer of {len(data)} bytes; the limit is {MAX_OFFER_BYTES}")
    return data


def check_offer(offer: PairingOffer) -> PairingOffer:
    """``offer``, if all its names may stand in the registry and in capabilities.

    Raises:
        MalformedError: a name that may not, or the same type, action or WooF twice.
    """
    check_device_id(offer.device)
    position_of(offer)
    if len(offer.owner) not in (0, OWNER_KEY_BYTES):
        raise MalformedError(f"an owner is an Ed25519 public key of {OWNER_KEY_BYTES} bytes")
    for service in offer.services:
        actions = tuple(sorted(action.name for action in service.actions))
        check_service_names(service.type, actions)
        if any(action.place == "node" for action in service.actions):
            raise MalformedError(f"service {service.type!r}: nodes carry out no actions of devices")
    results = [each.name for each in offer.results]
    for name in (*(each.name for each in offer.woofs), *results):
        if "/" not in check_object(name):
            raise MalformedError(f"WooF {name!r} needs a namespace: NAMESPACE/WOOF")
    for woof in offer.woofs:
        if woof.handler and not woof.mirror:
            raise MalformedError(f"WooF {woof.name!r} has a handler at the node, and no mirror")
        if len(woof.handler.encode("utf-8", "replace")) > MAX_HANDLER_BYTES:
            raise MalformedError(f"a handler of WooF {woof.name!r} has too long a name")
    names = [name for name, _, _ in woofs_of(offer)] + results
    if len({service.type for service in offer.services}) != len(offer.services):
        raise MalformedError("the same type of service twice")
    if len(set(names)) != len(names):
        raise MalformedError("the same WooF twice")
    return offer


def woofs_of(offer: PairingOffer) -> list[tuple[str, int, int]]:
    """All WooFs of a device: name, history, element size. Actions first, in the offer's order."""
    own = [
        (f"{service.type}/{action.name}", action.history, action.element_size)
        for service in offer.services
        for action in service.actions
    ]
    return own + [(woof.name, woof.history, woof.element_size) for woof in offer.woofs]


def encode_device_id(random: bytes) -> str:
    """The id that 16 random bytes make.

    Raises:
        InvalidValueError: not 16 bytes.
    """
    if len(random) != 16:
        raise InvalidValueError("a device id is made from 16 random bytes")
    return base64.b32encode(random).rstrip(b"=").decode().lower()
