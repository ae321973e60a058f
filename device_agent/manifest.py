"""What a device offers: ``manifest.toml``.

Rules kept here:

* A service has a type and actions. An action is the WooF ``TYPE/NAME`` on the device, and the
  handler that a put into it runs; further WooFs hold what the device measures.
* What the node may do for the device stands here, since only its owner knows: whose answers may be
  reused and for how long, what is mirrored, and which handlers run there on what is mirrored.
* The position is the owner's; it goes to the home node and no further.

Not handled here: telling the node (``pairing.py``), which handlers there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgistry.adapters.config import setting
from edgistry.errors import InvalidValueError
from edgistry.pairing import MAX_PERIOD_S
from edgistry.transactions import MAX_ACTIONS, check_service_names
from edgistry.woof import MAX_ELEMENT_BYTES, MAX_HISTORY, check_handler, split_name

from .config import between


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One device's ``manifest.toml``."""

    name: str = setting("", help="Your own name for the device. Stays at its home node.")
    lat: float = setting(
        help="Latitude, north is positive. Stays at its home node.", check=between(-90, 90)
    )
    lon: float = setting(
        help="Longitude, east is positive. Stays at its home node.", check=between(-180, 180)
    )
    resolution: int = setting(
        7, help="Resolution of the published H3 cell; 7 (about 5 km²) is the finest.",
        check=between(5, 7),
    )  # fmt: skip
    service: tuple[Service, ...] = setting((), help="What clients find.")
    woof: tuple[Woof, ...] = setting((), help="Further WooFs.")
    result: tuple[Result, ...] = setting(
        (), help="WooFs at the home node, for handlers that run there."
    )

    def __post_init__(self) -> None:
        names = [f"{service.type}/{action.name}" for service, action in self.actions]
        names += [each.name for each in self.woof] + [each.name for each in self.result]
        for name in names:
            if names.count(name) > 1:
                raise InvalidValueError(f"there are two WooFs {name!r}")

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
