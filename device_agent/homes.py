"""A node that the device is paired with, as a running agent needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgistry.capability import Capability


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One node; results go to the one whose requests they answer."""

    id: bytes
    """The node's id, 20 bytes. The same node after pairing again is the same home."""
    url: str
    """Where its HTTP API is."""
    capability: Capability = field(repr=False)
    """Signed by the node: what lets the device poll."""
