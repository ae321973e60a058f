"""Reading the registry: the last committed state, and word of each new one.

Rules kept here:

* Readers see committed blocks only, whole, with the height and block time they belong to; never
  the wall clock. A node that is cut off goes on answering from its last block.
* Subscribers are called after each Commit, in order of subscription, before anything else runs:
  an index they keep is never behind ``head``. One that raises stops the node.

Not handled here: writing (transactions do that), and search by place (``discovery``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from edgistry.kv import prefix_end
from edgistry.transactions import NodeId, RecordKey

from .crowd import place_in, places_key
from .ledger import Ledger
from .moves import cell_in
from .profiles import Listed, listed
from .schema import (
    CURRENT_EPOCH_KEY,
    LEASE_CLOCK_KEY,
    LEASES,
    NO_EPOCH,
    REGIONS,
    SERVICES,
    ChainParameters,
    CurrentEpoch,
    EpochStates,
    Former,
    Head,
    Lease,
    LeaseClock,
    Member,
    SequenceState,
    StoredEpoch,
    StoredRegion,
    StoredService,
    epoch_key,
    home_key,
    region_key,
    sequence_key,
    service_key,
    unpack,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChange:
    """A service that a block created, replaced or removed, or that is shown elsewhere since."""

    key: RecordKey
    before: Listed | None
    """How it was shown; ``None``: it was not."""
    after: Listed | None
    is_stored: bool
    """Whether the registry has its record, shown or not."""


Subscriber = Callable[[Head, Sequence[RecordChange]], None]
"""Called with the new head and the services that changed: records in key order, then moves."""


class RegistryReader:
    """The committed registry of ``ledger``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._subscribers: list[Subscriber] = []
        self._committed = asyncio.Event()
        self._leases: dict[NodeId, int] = {}
        self._region_versions: dict[str, int] = {}
        self._region_heights: dict[str, int] = {}
        self._shift_us = 0
        self._lease_now_us = 0
        self._known_epochs: tuple[Head, EpochStates] | None = None
        self.refresh()

    @property
    def head(self) -> Head:
        """The last committed block; height 0 before the first."""
        return self._ledger.head

    @property
    def parameters(self) -> ChainParameters:
        """What genesis fixed.

        Raises:
            UnavailableError: no chain has begun here.
        """
        return self._ledger.parameters

    def members(self) -> Mapping[NodeId, Member]:
        """The members by node id; empty before genesis."""
        return MappingProxyType(self._ledger.members)

    def is_member(self, node_id: NodeId) -> bool:
        """Whether ``node_id`` is a member at the head."""
        return node_id in self._ledger.members

    def former(self) -> Mapping[NodeId, Former]:
        """Those who are members no more, by node id."""
        return MappingProxyType(self._ledger.former)

    @property
    def member_changes(self) -> int:
        """How often the members have changed."""
        return self._ledger.member_changes

    def service(self, key: bytes) -> StoredService | None:
        """The service record ``key`` (16 bytes), whether visible or not."""
        data = self._ledger.records.get(service_key(key))
        return None if data is None else unpack(data, StoredService)

    def services(self) -> Iterator[tuple[RecordKey, StoredService]]:
        """All service records in key order, whether visible or not."""
        for key, value in self._ledger.records.scan(SERVICES, prefix_end(SERVICES)):
            yield RecordKey(key[len(SERVICES) :]), unpack(value, StoredService)

    def listed(self) -> Iterator[tuple[RecordKey, Listed]]:
        """All services as they are shown, in key order, whether their nodes are there or not."""
        at, places = b"", b""
        epoch = self.epoch
        for key, service in self.services():
            cell: int | None = cell_in(service, epoch)
            if service.crowd > 1:
                if at != (at := places_key(key)):
                    places = self._ledger.records.get(at) or b""
                cell = place_in(places, key)
            found = listed(service, cell)
            if found is not None:
                yield key, found

    def keys_of(self, node_id: bytes) -> Iterator[RecordKey]:
        """The keys of all service records whose home is ``node_id``, ascending."""
        start = home_key(node_id, b"")
        for key, _ in self._ledger.records.scan(start, prefix_end(start)):
            yield RecordKey(key[len(start) :])

    def region(self, name: str) -> StoredRegion | None:
        """The region ``name``."""
        data = self._ledger.records.get(region_key(name))
        return None if data is None else unpack(data, StoredRegion)

    def region_version(self, name: str) -> int | None:
        """The version of the region ``name``; read once for each version, then kept in memory."""
        version = self._region_versions.get(name)
        if version is None:
            region = self.region(name)
            if region is None:
                return None
            version = self._region_versions[name] = region.version
        return version

    def regions(self) -> Iterator[tuple[str, StoredRegion]]:
        """All regions in order of their names."""
        for key, value in self._ledger.records.scan(REGIONS, prefix_end(REGIONS)):
            yield key[len(REGIONS) :].decode(), unpack(value, StoredRegion)

    def region_changed_at(self, name: str) -> int:
        """The height at which the region ``name`` was last put since this program began, or 0."""
        return self._region_heights.get(name, 0)

    def sequence(self, node_id: NodeId) -> SequenceState:
        """The last consumed sequence of ``node_id`` (0: none) and its latest refused ones."""
        data = self._ledger.records.get(sequence_key(node_id))
        return SequenceState(last=0) if data is None else unpack(data, SequenceState)

    @property
    def epoch(self) -> int:
        """The number of the current privacy epoch; 0 before the first."""
        return self.epochs().number

    def epochs(self) -> EpochStates:
        """The privacy epochs that the chain keeps; read once a block."""
        head = self._ledger.head
        known = self._known_epochs
        if known is None or known[0] is not head:
            known = self._known_epochs = head, self._read_epochs()
        return known[1]

    def _read_epochs(self) -> EpochStates:
        chain = self._epochs()
        number = chain.number
        previous, current, coming = (
            None if number + step < 1 else self._epoch(number + step) for step in (-1, 0, 1)
        )
        good = None if chain.good in {0, number - 1} else self._epoch(chain.good)
        return EpochStates(
            number,
            previous,
            current,
            coming,
            good=None if good is None else (chain.good, good),
            given_up=chain.given_up,
        )

    def _epochs(self) -> CurrentEpoch:
        data = self._ledger.records.get(CURRENT_EPOCH_KEY)
        return NO_EPOCH if data is None else unpack(data, CurrentEpoch)

    def _epoch(self, number: int) -> StoredEpoch | None:
        data = self._ledger.records.get(epoch_key(number))
        return None if data is None else unpack(data, StoredEpoch)

    @property
    def lease_now_us(self) -> int:
        """Lease time of the head: its block time without the outages, microseconds."""
        return self._lease_now_us

    def is_visible(self, node_id: bytes) -> bool:
        """Whether records of ``node_id`` are shown: its lease lives at the head."""
        return self._leases.get(NodeId(node_id), 0) > self._lease_now_us

    def visible_nodes(self) -> frozenset[NodeId]:
        """All nodes whose records are shown at the head."""
        now_us = self._lease_now_us
        return frozenset(node for node, until_us in self._leases.items() if until_us > now_us)

    def subscribe(self, callback: Subscriber) -> None:
        """Call ``callback`` after each Commit from now on."""
        self._subscribers.append(callback)

    async def next_commit(self) -> None:
        """Return after the next Commit and all its subscribers."""
        await self._committed.wait()

    def announce(self, changed: Iterable[bytes], changes: Sequence[RecordChange]) -> None:
        """Tell subscribers and waiters of the head just committed (the application's part).

        ``changed`` are the database keys of all records that the block changed.
        """
        keys = list(changed)
        groups = {key[:1] for key in keys}
        if not groups.isdisjoint((LEASES, LEASE_CLOCK_KEY)):
            self._read_leases()
        if REGIONS in groups:
            self._region_versions.clear()
            for key in keys:
                if key.startswith(REGIONS):
                    self._region_heights[key[len(REGIONS) :].decode()] = self.head.height
        self._lease_now_us = self.head.block_time_us - self._shift_us
        for callback in self._subscribers:
            callback(self.head, changes)
        waiting, self._committed = self._committed, asyncio.Event()
        waiting.set()

    def refresh(self) -> None:
        """Look at the ledger anew (the application's part, after genesis)."""
        self._region_versions.clear()
        self._read_leases()
        self._lease_now_us = self.head.block_time_us - self._shift_us

    def _read_leases(self) -> None:
        records = self._ledger.records
        self._leases = {
            NodeId(key[len(LEASES) :]): unpack(value, Lease).expires_us
            for key, value in records.scan(LEASES, prefix_end(LEASES))
        }
        data = records.get(LEASE_CLOCK_KEY)
        self._shift_us = 0 if data is None else unpack(data, LeaseClock).shift_us
