"""The grants in a keyring: under which names they are kept, and for how long.

Rules kept here:

* A grant is kept under a name that follows from what it is on, so a later one on the same thing
  takes its place.
* One that ended more than a day ago is of no use to anybody, and its handle means nothing any more:
  it is removed when another is kept. Nothing else is: what the user has put in or renamed, what
  has no end, and what has ended lately, since this clock may be wrong. Calls under way
  have what they need with them (``tickets``).

Not handled here: asking for grants (``cmd_grant``), files (``keyring``).
"""

from __future__ import annotations

import hashlib
from typing import Final

from edgistry.capability import Capability
from edgistry.grants_api import Grant, Granted

from .keyring import Keyring, KeyringEntry

KEPT_AFTER_END_US: Final = 24 * 3600 * 1_000_000


def keep(keyring: Keyring, made: Grant, granted: Granted, handle: str) -> KeyringEntry:
    """Keep one capability of the grant ``made`` on the service with that ``handle``."""
    capability = Capability.from_bytes(granted.capability)
    what = granted.action if granted.is_call else f"{granted.action}.look"
    name = _name(made.type, what, handle)
    return keyring.add(name, capability, place=handle, force=True)


def remove_ended(keyring: Keyring, *, now_us: int) -> int:
    """Remove the grants that ended more than a day before ``now_us``; how many."""
    entries, _ = keyring.entries()
    ended = [
        each
        for each in entries
        if each.capability.chain.not_after_us + KEPT_AFTER_END_US < now_us and _is_grant(each)
    ]
    for each in ended:
        keyring.remove(each.name)
    return len(ended)


def _is_grant(entry: KeyringEntry) -> bool:
    """Whether ``keep`` gave it its name."""
    where = [each.object.split("/") for each in entry.capability.entries]
    return any(
        entry.name == _name(parts[0], what, entry.place)
        for parts in where
        if len(parts) == 2
        for what in (parts[1], f"{parts[1]}.look")
    )


def _name(service_type: str, what: str, handle: str) -> str:
    # Handles have upper-case letters, which names of entries have not.
    where = hashlib.sha256(f"{handle} {what}".encode()).hexdigest()[:8]
    return f"{f'{service_type}.{what}'[:55]}.{where}"
