"""Epoch keys and handles for tests: of nodes that need no chain to agree on them."""

from __future__ import annotations

import hashlib

from abci_app.epoch_keys import EpochKeys
from abci_app.schema import EpochStates, StoredEpoch
from edgistry.adapters.grant_client import ClientKeys
from edgistry.handles import Target
from edgistry.signed_request import Client
from edgistry.transactions import NodeId, RecordKey, epoch_check

EPOCH_US = 86_400_000_000
HOME = NodeId(b"h" * 20)


def key_of(number: int) -> bytes:
    """The key of the epoch ``number`` of the test cluster."""
    return hashlib.sha256(b"test epoch key %d" % number).digest()


def epoch_keys(number: int = 1, *, since_us: int = 0) -> EpochKeys:
    """What a node has in the epoch ``number``, which began at ``since_us``."""
    keys = EpochKeys()
    begin_epoch(keys, number, since_us=since_us)
    return keys


def begin_epoch(keys: EpochKeys, number: int, *, since_us: int = 0) -> None:
    """The epoch ``number`` has begun; of those before, only the last one's key is kept."""

    def stored(epoch: int) -> StoredEpoch | None:
        if not epoch:
            return None
        check = epoch_check(key_of(epoch))
        return StoredEpoch(since_us=since_us, check=check, keys=(), sealed=())

    states = EpochStates(number, stored(number - 1), stored(number), None)
    known = [each for each in (number - 1, number) if each]
    keys.put({each: key_of(each) for each in known}, states, epoch_us=EPOCH_US)


def client_keys(number: int = 1) -> ClientKeys:
    """The keys of a client, the same in each run."""
    seed = hashlib.sha256(b"test client %d" % number).digest()
    return ClientKeys(signing=seed, sealing=hashlib.sha256(seed).digest())


def client(number: int = 1) -> Client:
    """Who signs with ``client_keys``."""
    return Client(public_key=client_keys(number).public_key)


def handle_for(
    record: bytes, *, client_id: bytes = b"", tag: bytes = b"", epoch: int = 1, home: bytes = HOME
) -> str:
    """The handle of a service for the client with that tag, or with that id."""
    target = Target(NodeId(home), RecordKey(record))
    return epoch_keys(epoch).handles().own(tag or client_id.ljust(16, b"."), target).text
