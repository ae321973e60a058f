"""What the device tells a node when they pair: its manifest, and the key of its epoch.

Not handled here: sending it (``pair_link``).
"""

from __future__ import annotations

from edgistry.issuer import Issuer
from edgistry.pairing import (
    OFFER_VERSION,
    ActionOffer,
    PairingOffer,
    ResultOffer,
    ServiceOffer,
    WoofOffer,
    check_offer,
)
from edgistry.position import Position

from .manifest import Action, Manifest
from .pairing import Role
from .whereabouts import Whereabouts


def offer_of(
    manifest: Manifest,
    whereabouts: Whereabouts,
    *,
    period_s: int,
    device: str,
    secret: bytes,
    epoch: int,
    role: Role,
) -> PairingOffer:
    """What ``device`` offers, with the key that ``secret`` has in ``epoch``.

    It is at ``whereabouts``, whatever the manifest says.

    Raises:
        MalformedError: names that a node would refuse.
    """
    lat, lon, cell = told_position(whereabouts.position)
    offer = PairingOffer(
        version=OFFER_VERSION,
        device=device,
        epoch=epoch,
        key=Issuer.from_secret(secret, epoch=epoch).danger_key(),
        name=manifest.name,
        lat=lat,
        lon=lon,
        cell=cell,
        moves=whereabouts.moves,
        policy=manifest.privacy.policy,
        seed=whereabouts.seed,
        owner=bytes.fromhex(manifest.privacy.owner),
        period_s=period_s,
        services=tuple(
            ServiceOffer(type=service.type, actions=tuple(map(_action, service.action)))
            for service in manifest.service
        ),
        woofs=tuple(
            WoofOffer(
                name=woof.name,
                history=woof.history,
                element_size=woof.element_size,
                mirror=woof.mirror,
                forward=woof.forward,
                handler=woof.handler,
            )
            for woof in manifest.woof
        ),
        role=role,
        results=tuple(
            ResultOffer(name=result.name, history=result.history, element_size=result.element_size)
            for result in manifest.result
        ),
    )
    return check_offer(offer)


def told_position(position: Position) -> tuple[float | None, float | None, int]:
    """``position`` as messages say it: latitude, longitude, cell."""
    return (None, None, position) if isinstance(position, int) else (*position, 0)


def _action(action: Action) -> ActionOffer:
    return ActionOffer(
        name=action.name,
        history=action.history,
        element_size=action.element_size,
        read=action.read,
        fresh_s=action.fresh_s,
        place=action.place,
    )
