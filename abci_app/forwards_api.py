"""What the command line and the node say to each other about forwarding.

Rules kept here: pure; JSON documents, strict both ways (both sides are one installation).

Not handled here: the routes (``admin_forwards``) and what the answers are made from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from edgistry.codec import Document, Meta

ForwardState = Literal["starting", "reading", "sending", "in doubt"]


class ForwardEntry(Document):
    """How one WooF is forwarded. Counts go back to its beginning, over all restarts."""

    woof: str
    to: str
    """The WooF there, as node.toml names it."""
    handler: str
    state: ForwardState
    lag: int
    """Elements in the WooF that are still to go onward."""
    through: int
    """The last element that needs no more forwarding."""
    landed: int
    """The number that the newest delivered element got there; 0: not known."""
    delivered: int
    refused: int
    """Elements that the destination does not take."""
    gone: int
    """Elements that the history had moved past before they were forwarded."""
    in_doubt: tuple[int, ...]
    """Elements that may be there or not; the operator has to say."""
    reason: str
    """Why it does not go on; empty while it does."""
    refusal: str
    """The newest element that was refused since the start, and why."""


class ForwardList(Document):
    """What the node forwards, by WooF."""

    forwards: tuple[ForwardEntry, ...]


class SettleRequest(Document):
    """The elements in doubt of ``woof`` up to ``through`` are there, the others are not."""

    woof: str
    through: Annotated[int, Meta(ge=0)]
