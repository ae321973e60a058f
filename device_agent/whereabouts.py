"""Where a device is for its nodes, and what its noise is drawn from: ``keys/whereabouts``.

Rules kept here:

* The seed is 32 random bytes of the device's own, and nothing else comes from it. It is drawn
  once, before any node is told, and goes with the device's other secrets (0600).
* All nodes are told the same position, the one that the seed was used for last: a reading that
  trembles changes nothing, so that neither another pairing nor another node draws anew.
* A move counts when the device is far enough from there (``position.is_elsewhere``). Then position
  and counter change together, durably, before any node hears of it.
* A position in the manifest that has changed is a move like one that was reported; the later of
  the two is where the device is.
* Whoever changes the file, or tells a node what it says, holds it meanwhile
  (``directory.hold_whereabouts``): two who counted on from one move would tell two places under the
  same count, with the same noise.

Not handled here: telling nodes (``cli_pair``, ``cli_move``), and drawing noise (the node).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from edgistry.adapters.secret_files import read_secret, write_secret
from edgistry.cell import COARSEST_PUBLISHED
from edgistry.codec import Meta, Wire, decode, encode, replace
from edgistry.errors import FileError, NotFoundError, Refused
from edgistry.pairing import Moves
from edgistry.policy import PrivacyPolicy
from edgistry.position import SEED_BYTES, Position, check_told, is_elsewhere

from .manifest import Manifest

_MAX_BYTES: Final = 1024
_COARSEST: Final = PrivacyPolicy(resolution=COARSEST_PUBLISHED)
"""A policy that any place goes with."""


class Whereabouts(Wire):
    """What the file holds. Secret."""

    version: Annotated[int, Meta(ge=1, le=1)]
    seed: Annotated[bytes, Meta(min_length=SEED_BYTES, max_length=SEED_BYTES)]
    moves: Moves
    """Since the seed was drawn."""
    # Without limits, which are checked after: see tests/test_wire_types.py.
    position: tuple[float, float] | int
    """What nodes are told."""
    manifest: tuple[float, float] | int
    """What the manifest said then."""

    def __repr__(self) -> str:
        return f"<Whereabouts after {self.moves} moves>"

    __str__ = __repr__


def begun(position: Position, *, seed: bytes) -> Whereabouts:
    """Those of a device that no node knows yet."""
    return Whereabouts(version=1, seed=seed, moves=0, position=position, manifest=position)


def followed(known: Whereabouts, manifest: Manifest) -> Whereabouts:
    """``known``, when the manifest says what it says now."""
    if manifest.position == known.manifest:
        return known
    moved = reported(known, manifest.position, noise_m=manifest.privacy.noise_m)
    return replace(moved, manifest=manifest.position)


def reported(known: Whereabouts, position: Position, *, noise_m: int) -> Whereabouts:
    """``known``, when the device is at ``position`` now; the same unless that is a move."""
    if not is_elsewhere(known.position, position, noise_m=noise_m):
        return known
    return replace(known, position=position, moves=known.moves + 1)


def read_whereabouts(path: Path) -> Whereabouts | None:
    """What the file at ``path`` holds, if there is one.

    Raises:
        FileError: it cannot be read, or is damaged.
    """
    try:
        found = decode(read_secret(path, limit=_MAX_BYTES), Whereabouts, limit=_MAX_BYTES)
        for place in (found.position, found.manifest):
            check_told(_COARSEST, place)
        return found
    except NotFoundError:
        return None
    except Refused as error:
        raise FileError(
            f"{path} is damaged ({error.detail}); restore it from backup. If it is removed, the"
            " device's noise is drawn anew, which tells more of where it is"
        ) from None


def current_whereabouts(path: Path, manifest: Manifest, *, seed: bytes) -> Whereabouts:
    """What nodes are to be told now; durable in ``path``. ``seed`` is for a device without one.

    Raises:
        FileError: it cannot be read or written, or is damaged.
    """
    known = read_whereabouts(path)
    now = begun(manifest.position, seed=seed) if known is None else followed(known, manifest)
    if now != known:
        write_whereabouts(path, now)
    return now


def write_whereabouts(path: Path, whereabouts: Whereabouts) -> None:
    """Keep ``whereabouts`` in ``path``, whole or not at all.

    Raises:
        FileError: it cannot be written; what was there is unchanged.
    """
    write_secret(path, encode(whereabouts), force=True)
