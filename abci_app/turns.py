"""Whose turn it is to make the key of a privacy epoch, or to give it to one that asked late.

Rules kept here:

* Makers take turns by SHA-256 over the chain, the epoch's number and their node id: another order
  in each epoch, and none that a member could choose, since its id was settled when it became one.
  Those whose epoch was given up come last, the latest one at the very end.
* Givers take turns by SHA-256 over the public key that is given to and their node id. Who asks
  draws that key, so a giver cannot arrange to be first. Those who have the key now come before
  those who once had it.
* The one of rank r may act from r × 20 s on, in block time: one that does not costs 20 s.

Pure, consensus code. Not handled here: since when turns are counted (``epoch_rules``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

TURN_US = 20_000_000
_MAKER_TAG = b"edgistry epoch maker 1\0"
_GIVER_TAG = b"edgistry epoch giver 1\0"


def makers(
    members: Iterable[bytes], *, chain_id: str, epoch: int, given_up: Mapping[bytes, int]
) -> list[bytes]:
    """``members`` in the order in which they may make the key of ``epoch``.

    ``given_up`` has the number of the latest epoch that was given up, by the node that made it.
    """
    drawn = _MAKER_TAG + epoch.to_bytes(4, "big") + chain_id.encode()

    def place(node: bytes) -> tuple[int, bytes]:
        return given_up.get(node, 0), hashlib.sha256(drawn + b"\0" + node).digest()

    return sorted(members, key=place)


def givers(having: Iterable[bytes], once_having: Iterable[bytes], *, public: bytes) -> list[bytes]:
    """In the order in which they may give the epoch's key to who asked with ``public``."""
    now = frozenset(having)

    def place(node: bytes) -> tuple[bool, bytes]:
        return node not in now, hashlib.sha256(_GIVER_TAG + public + node).digest()

    return sorted(now.union(once_having), key=place)
