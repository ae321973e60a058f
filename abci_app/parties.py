"""Whose requests count together: one client's, or those of all who hold a capability.

Rules kept here:

* A client is proven by a caveat in the issuer's own block alone. Whoever holds a capability can add
  a caveat that names anybody, and of a flattened one nobody can tell which block a caveat was in.
* All grants that name a client are one party: another grant brings no other share.
* Where no client is proven, all who hold what was derived from one grant are one party, so that
  nobody spends what is another's, and nobody makes shares by making up clients.

Not handled here: what a party may have (``mailbox``, ``doors``).
"""

from __future__ import annotations

from typing import Final

from edgistry.blocks import blocks_of
from edgistry.capability_chain import Chain
from edgistry.caveats import CaveatType

ANY_CLIENT: Final = bytes(8)
_NO_SERIAL: Final = bytes(4)


def party_of(chain: Chain) -> bytes:
    """The 12 bytes of the party of who has ``chain``, whose MACs have been checked."""
    client = proven_client(chain)
    if client is not None:
        return party_of_client(client)
    return chain.serial.to_bytes(4, "big") + ANY_CLIENT


def party_of_client(client_id: bytes) -> bytes:
    """The 12 bytes of the party of the client with that id (8 bytes)."""
    return _NO_SERIAL + client_id


def proven_client(chain: Chain) -> bytes | None:
    """The id of the client whom the issuer of ``chain`` has named in it, if there is one."""
    if not chain.clients or chain.rare.lineages:
        return None
    if len(chain.ends) == 1:
        return chain.clients[0]
    named = [each.value for each in blocks_of(chain)[0].caveats if each.type == CaveatType.CLIENT]
    return named[0] if named else None
