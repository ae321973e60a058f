"""What the device tells a node when they pair: its manifest, and the key of its epoch.

Not handled here: sending it (``pair_link``).
"""

from __future__ import annotations

from edgistry.issuer import Issuer
from edgistry.pairing import (
    PAIRING_VERSION,
    ActionOffer,
    PairingOffer,
    ResultOffer,
    ServiceOffer,
    WoofOffer,
    check_offer,
)

from .manifest import Action, Manifest
from .pairing import Role


def offer_of(
    manifest: Manifest, *, period_s: int, device: str, secret: bytes, epoch: int, role: Role
) -> PairingOffer:
    """What ``device`` offers, with the key that ``secret`` has in ``epoch``.

    Raises:
        MalformedError: names that a node would refuse.
    """
    offer = PairingOffer(
        version=PAIRING_VERSION,
        device=device,
        epoch=epoch,
        key=Issuer.from_secret(secret, epoch=epoch).danger_key(),
        name=manifest.name,
        lat=manifest.lat,
        lon=manifest.lon,
        resolution=manifest.resolution,
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


def _action(action: Action) -> ActionOffer:
    return ActionOffer(
        name=action.name,
        history=action.history,
        element_size=action.element_size,
        read=action.read,
        fresh_s=action.fresh_s,
        place=action.place,
    )
