"""Capabilities for the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterable

from edgistry.capability import Capability
from edgistry.capability_chain import Entry
from edgistry.caveats import Caveat
from edgistry.issuer import Issuer

ISSUER = Issuer.from_secret(bytes(range(32)), epoch=3)
HOUR_US = 3_600_000_000


def granted(
    rights: int, object_name: str = "", *, serial: int = 1, caveats: Iterable[Caveat] = ()
) -> Capability:
    """A root capability with one entry."""
    return ISSUER.mint(serial=serial, entries=[Entry(rights, object_name)], caveats=caveats)
