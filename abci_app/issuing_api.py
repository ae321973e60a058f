"""What the operator and the node say to each other about capabilities.

Rules kept here: pure; strict both ways. An answer holds a bearer secret: it travels only over the
operator's own socket, and no ``repr`` shows it.

Not handled here: minting (``issuing_desk``).
"""

from __future__ import annotations

from typing import Annotated

from edgistry.codec import Document, Meta

Moment = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Hex8 = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Hex16 = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class MintRequest(Document):
    """A grant to somebody: a root capability of its own. Times in µs since 1970."""

    object: str
    rights: Annotated[tuple[str, ...], Meta(min_length=1)]
    not_before_us: Moment | None = None
    not_after_us: Moment | None = None
    client: Hex8 | None = None
    handlers: tuple[str, ...] = ()
    max_payload: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] | None = None


class MintAnswer(Document):
    """The capability that was made."""

    id: str
    """Public id, hex."""
    grant: str
    """Serial number, hex."""
    epoch: int
    danger_text: str
    """The capability with its secret."""

    def __repr__(self) -> str:
        return f"MintAnswer(id={self.id!r}, …)"


class RevokeRequest(Document):
    """The public id of a capability, hex."""

    id: Hex16


class RevokeAnswer(Document):
    """It is revoked, with all that derive from it."""

    id: str
    revoked: int
    """Ids that are revoked in this epoch; there is room for 256."""
