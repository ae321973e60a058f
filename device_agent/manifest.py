"""What a device offers: ``manifest.toml``.

Rules kept here:

* A service has a type and actions. An action is the WooF ``TYPE/NAME`` on the device, and the
  handler that a put into it runs; further WooFs hold what the device measures.
* What the node may do for the device stands here, since only its owner knows: whose answers may be
  reused and for how long, what is mirrored, and which handlers run there on what is mirrored.
* The position is the owner's; it goes to the home node and no further. What clients may see of it
  is the owner's choice too, within what the node allows. A cell instead of it keeps even the node
  from knowing more.

Not handled here: telling the node (``pairing.py``), which handlers there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgistry.adapters.config import section, setting
from edgistry.cell import COARSEST_PUBLISHED, FINEST_PUBLISHED, check_cell, parse_cell
from edgistry.errors import InvalidValueError
from edgistry.pairing import MAX_PERIOD_S
from edgistry.policy import MAX_CROWD, MAX_NOISE_M, PrivacyPolicy
from edgistry.position import Position, check_told
from edgistry.transactions import MAX_ACTIONS, check_service_names
from edgistry.woof import MAX_ELEMENT_BYTES, MAX_HISTORY, check_handler, split_name

from .config import between

_OWNER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What may be asked of a service."""

    name: str = setting(help='What clients call it: "read".')
    handler: str = setting(
        "", help="The handler that answers; the action's name if it is not given."
    )
    history: int = setting(
        64, help="Requests that are kept in its WooF.", check=between(1, MAX_HISTORY)
    )
    element_size: int = setting(
        0, help="Bytes of every request; 0: they differ.", check=between(0, MAX_ELEMENT_BYTES)
    )
    read: bool = setting(
        False, help="It changes nothing, so the node may answer it from what it has seen."
    )
    fresh_s: int = setting(
        0, help="For how many seconds an answer may be reused.", check=between(0, MAX_PERIOD_S)
    )
    place: Literal["device", "node"] = setting(
        "device",
        help='Where its handler runs: "device"; at nodes run the handlers of mirrors alone.',
    )

    def __post_init__(self) -> None:
        check_handler(self.handler_name)
        if self.place == "node":
            raise InvalidValueError(
                "place: an action is carried out by the device; a node runs handlers on mirrored"
                " WooFs, [[woof]] with mirror = true, and answers for the device what it has seen"
            )
        if self.fresh_s and not self.read:
            raise InvalidValueError("fresh_s is for actions with read = true")

    @property
    def handler_name(self) -> str:
        """The function that answers; requests name the action."""
        return self.handler or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What clients find in the registry."""

    type: str = setting(help='What it is: "thermometer".')
    action: tuple[Action, ...] = setting(help="What may be asked of it.")

    def __post_init__(self) -> None:
        if not 1 <= len(self.action) <= MAX_ACTIONS:
            raise InvalidValueError(f"a service has 1 to {MAX_ACTIONS} actions")
        check_service_names(self.type, tuple(sorted(each.name for each in self.action)))


def _check_name(name: str) -> None:
    split_name(name)


def _check_forward(uri: str) -> None:
    if uri:
        raise InvalidValueError(
            "a device forwards nothing by itself; say mirror = true, and name the mirror in its"
            " home node's node.toml, [[forward]]"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Woof:
    """A further WooF of the device."""

    name: str = setting(help="namespace/woof", check=_check_name)
    history: int = setting(1000, help="Elements kept.", check=between(1, MAX_HISTORY))
    element_size: int = setting(
        0, help="Bytes of every element; 0: they differ.", check=between(0, MAX_ELEMENT_BYTES)
    )
    mirror: bool = setting(False, help="The home node keeps a copy, and answers for it.")
    forward: str = setting(
        "",
        help="Nothing yet: mirror the WooF, and let its home node forward the mirror.",
        check=_check_forward,
    )
    handler: str = setting(
        "", help="Runs at the home node on each element that is mirrored; needs place."
    )
    place: Literal["device", "node"] = setting("device", help='Where the handler runs: "node".')

    def __post_init__(self) -> None:
        if self.handler:
            check_handler(self.handler)
        if self.handler and self.place == "device":
            raise InvalidValueError(
                'handler: on the device handlers run for requests; say place = "node" to have the'
                " home node run it on the mirror"
            )
        if self.place == "node" and not self.handler:
            raise InvalidValueError('place = "node" is for a handler: name it')
        if self.handler and not self.mirror:
            raise InvalidValueError("handler: the home node has only what has mirror = true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A WooF at the home node, for what handlers there put."""

    name: str = setting(help="namespace/woof", check=_check_name)
    history: int = setting(1000, help="Elements kept.", check=between(1, MAX_HISTORY))
    element_size: int = setting(
        0, help="Bytes of every element; 0: they differ.", check=between(0, MAX_ELEMENT_BYTES)
    )


def _check_cell_text(text: str) -> None:
    if text:
        check_cell(parse_cell(text))


def _check_owner(text: str) -> None:
    if text and not _OWNER.fullmatch(text):
        raise InvalidValueError("an Ed25519 public key has 64 of 0-9 and a-f")


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What may be seen of where the device is."""

    resolution: int = setting(
        FINEST_PUBLISHED,
        help="Resolution of the published H3 cell; 7 (about 5 km²) is the finest.",
        check=between(COARSEST_PUBLISHED, FINEST_PUBLISHED),
    )
    noise_m: int = setting(
        0,
        help="The position is moved by up to so many metres first, at random, once.",
        check=between(0, MAX_NOISE_M),
    )
    crowd: int = setting(
        1,
        help="Shown only in an area where so many owners have such a device, its own counted.",
        check=between(1, MAX_CROWD),
    )
    owner: str = setting(
        "",
        help="Ed25519 public key of whom it belongs to (64 hexadecimal digits); if not given, the\n"
        "node's operator. Devices of one owner are no crowd.",
        check=_check_owner,
    )

    @property
    def policy(self) -> PrivacyPolicy:
        """These settings as a node takes them."""
        return PrivacyPolicy(resolution=self.resolution, noise_m=self.noise_m, crowd=self.crowd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One device's ``manifest.toml``."""

    name: str = setting("", help="Your own name for the device. Stays at its home node.")
    lat: float | None = setting(
        None, help="Latitude, north is positive. Stays at its home node.", check=between(-90, 90)
    )
    lon: float | None = setting(
        None, help="Longitude, east is positive. Stays at its home node.", check=between(-180, 180)
    )
    cell: str = setting(
        "",
        help="An H3 cell of resolution 5, 6 or 7 instead of lat and lon: then not even its node\n"
        "knows more.",
        check=_check_cell_text,
    )
    privacy: Privacy = section(Privacy, help="What may be seen of where it is.")
    service: tuple[Service, ...] = setting((), help="What clients find.")
    woof: tuple[Woof, ...] = setting((), help="Further WooFs.")
    result: tuple[Result, ...] = setting(
        (), help="WooFs at the home node, for handlers that run there."
    )

    def __repr__(self) -> str:
        return f"<Manifest of {len(self.service)} services>"  # not where it is, nor whose

    def __post_init__(self) -> None:
        self._check_place()
        names = [f"{service.type}/{action.name}" for service, action in self.actions]
        names += [each.name for each in self.woof] + [each.name for each in self.result]
        for name in names:
            if names.count(name) > 1:
                raise InvalidValueError(f"there are two WooFs {name!r}")

    def _check_place(self) -> None:
        if self.cell:
            if self.lat is not None or self.lon is not None:
                raise InvalidValueError("say where it is by lat and lon, or by a cell, not by both")
            check_told(self.privacy.policy, self.position)
        elif self.lat is None or self.lon is None:
            missing = "lat" if self.lat is None else "lon"
            raise InvalidValueError(f"{missing}: missing; say where it is, or in which cell")

    @property
    def position(self) -> Position:
        """Where the device is: latitude and longitude in degrees, or a cell."""
        if self.cell or self.lat is None or self.lon is None:
            return parse_cell(self.cell)
        return self.lat, self.lon

    @property
    def actions(self) -> list[tuple[Service, Action]]:
        """All actions, each with its service."""
        return [(service, action) for service in self.service for action in service.action]

    @property
    def functions(self) -> dict[tuple[str, str], str]:
        """Which handler runs on the device, by the WooF and the handler that a request names.

        Requests name the action: what the functions are called would tell devices apart.
        """
        return {
            (f"{service.type}/{action.name}", action.name): action.handler_name
            for service, action in self.actions
        }
