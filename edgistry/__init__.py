"""Edgistry: a blockchain-backed registry and request broker for devices that sleep.

What an application needs is exported here and loaded when first used: ``import edgistry`` itself
loads nothing, and no export of this package needs LevelDB or H3.

    from edgistry import BlockingNodeClient

    with BlockingNodeClient("http://127.0.0.1:27000") as node:
        for service in node.services(region="california", type="weather-station"):
            print(service.handle, service.center)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters.node_client import BlockingNodeClient, NodeClient
    from .api import DiscoverAnswer, RegionList, ServiceEntry, StatusAnswer
    from .capability import Capability
    from .errors import Refused
    from .issuer import Issuer
    from .rights import Right
    from .verifier import Verifier

__version__ = "0.1.0"
"""Of the whole distribution; setup.cfg reads it from here."""

__all__ = [
    "BlockingNodeClient",
    "Capability",
    "DiscoverAnswer",
    "Issuer",
    "NodeClient",
    "Refused",
    "RegionList",
    "Right",
    "ServiceEntry",
    "StatusAnswer",
    "Verifier",
]

_HOMES = {
    "BlockingNodeClient": "adapters.node_client",
    "Capability": "capability",
    "DiscoverAnswer": "api",
    "Issuer": "issuer",
    "NodeClient": "adapters.node_client",
    "Refused": "errors",
    "RegionList": "api",
    "Right": "rights",
    "ServiceEntry": "api",
    "StatusAnswer": "api",
    "Verifier": "verifier",
}
"""Export to the module that has it."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
