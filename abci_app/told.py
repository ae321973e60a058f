"""Where others see a device whose services this node does not list, as far as it was told.

A fallback node hears of a device's moves when they happen, and its primary node shows them with
epochs. When it stands in it lists the device where that was seen last, not where it is by now.

Rules kept here: pure. What is told in an epoch shows with the next one, or with the one after when
it is told too late for that (``move_keeper``), and only if it is a move from the place before. A
few places are kept: the one of now, and those to come.

Not handled here: when a node stands in (``stand_in_keeper``), listing (``device_setup``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from edgistry.codec import Meta, Wire, replace
from edgistry.pairing import Moves, PairingOffer, position_of
from edgistry.position import is_elsewhere
from edgistry.transactions import LAST_EPOCH


class MoveEpochs(NamedTuple):
    """The current privacy epoch, and the one from which on a move shows that is told now."""

    current: int
    shows: int


class ToldPlace(Wire):
    """Where a device is for others from the epoch ``since`` on. Private to its nodes."""

    since: Annotated[int, Meta(ge=0, le=LAST_EPOCH + 2)]
    position: tuple[float, float] | int
    """Latitude and longitude, degrees, or a cell; as the device told it."""
    moves: Moves
    """How often it had moved, as far as it knew itself."""

    def __repr__(self) -> str:
        return f"<ToldPlace since epoch {self.since}>"

    __str__ = __repr__


def told(
    places: Sequence[ToldPlace], offer: PairingOffer, epochs: MoveEpochs
) -> tuple[ToldPlace, ...]:
    """The places of a device that tells ``offer``, which had ``places`` so far (none: it is new).

    Raises:
        MalformedError: the offer tells neither a position nor a cell, or both.
    """
    position = position_of(offer)
    if not places:
        return (ToldPlace(since=0, position=position, moves=offer.moves),)
    kept = [each for each in places if each.since < epochs.shows]
    over = sum(each.since <= epochs.current for each in kept) - 1
    kept = kept[max(0, over) :]
    # The first place is since epoch 0, and is left only for another one that is shown by now.
    if is_elsewhere(kept[-1].position, position, noise_m=offer.policy.noise_m):
        kept.append(ToldPlace(since=epochs.shows, position=position, moves=offer.moves))
    return tuple(kept)


def seen_in(epoch: int, places: Sequence[ToldPlace], offer: PairingOffer) -> PairingOffer:
    """``offer`` with the place where others see the device in ``epoch``."""
    seen = [each for each in places if each.since <= epoch]
    if not seen:
        return offer
    position = seen[-1].position
    lat, lon = (None, None) if isinstance(position, int) else position
    cell = position if isinstance(position, int) else 0
    return replace(offer, lat=lat, lon=lon, cell=cell, moves=seen[-1].moves)
