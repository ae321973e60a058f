"""A device's privacy policy, and what a node lets its devices choose (privacy.md, *Geography*).

Rules kept here:

* Pure. A policy says how much of a position may be seen: the resolution of the published cell, a
  noise radius, and the least number of owners among whom the service hides.
* A node's limits only ever make devices harder to find. A policy that is finer than the node
  allows is refused, not quietly changed: its owner would believe in what is not so.

Not handled here: drawing noise and moving (``placing``), counting owners (the registry's nodes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from .cell import COARSEST_PUBLISHED, FINEST_PUBLISHED
from .codec import Meta, Wire
from .errors import PolicyRefusedError

MAX_NOISE_M: Final = 20_000
MAX_CROWD: Final = 1000


class PrivacyPolicy(Wire):
    """What may be seen of where a device is. The default is the finest that anybody may choose."""

    resolution: Annotated[int, Meta(ge=COARSEST_PUBLISHED, le=FINEST_PUBLISHED)] = FINEST_PUBLISHED
    """Of the published cell."""
    noise_m: Annotated[int, Meta(ge=0, le=MAX_NOISE_M)] = 0
    """The position is moved once by up to so many metres, at random; 0: not at all."""
    crowd: Annotated[int, Meta(ge=1, le=MAX_CROWD)] = 1
    """The service is shown only among those of so many owners, its own counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """What a node allows: no policy may be finer than this."""

    finest_resolution: int = FINEST_PUBLISHED
    least_noise_m: int = 0
    least_crowd: int = 1


_NONE: Final = PolicyLimits()


def check_policy(policy: PrivacyPolicy, limits: PolicyLimits) -> None:
    """Raises ``PolicyRefusedError`` when ``policy`` shows more than ``limits`` allow.

    Its detail names all that does, so that one correction is enough.
    """
    if limits == _NONE:
        return  # as at most nodes, of which some have a million rows to check
    finer: list[str] = []
    for name, chosen, limit, is_finer in (
        (
            "resolution",
            policy.resolution,
            limits.finest_resolution,
            policy.resolution > limits.finest_resolution,
        ),
        ("noise_m", policy.noise_m, limits.least_noise_m, policy.noise_m < limits.least_noise_m),
        ("crowd", policy.crowd, limits.least_crowd, policy.crowd < limits.least_crowd),
    ):
        if is_finer:
            bound = "at most" if name == "resolution" else "at least"
            finer.append(f"{name} = {chosen} shows more than this node allows: {bound} {limit}")
    if finer:
        raise PolicyRefusedError("; ".join(finer))
