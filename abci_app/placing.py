"""Where the services of a block are shown, before it and after it.

Rules kept here:

* In a block that begins a privacy epoch, services that move are in their next cells, and all crowds
  are counted anew, over the registry as the block leaves it. In any other block nothing moves, and
  a service with a crowd that changed is taken out of its place.
* Whoever follows the registry hears of every service that is shown otherwise than before, also when
  its record has not changed.
* The work is done in slices; a block that begins no epoch and changes no service with a crowd costs
  nothing more than before.

Not handled here: the counting (``crowd``), and durability (``ledger`` writes both in one batch).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from edgistry.codec import Wire
from edgistry.errors import CorruptDatabaseError
from edgistry.kv import Change, prefix_end
from edgistry.transactions import RecordKey

from .block_state import BlockChanges, Committed
from .crowd import CrowdCount, is_placed_alike, pack_places, places_key, unpack_places
from .moves import cell_in
from .profiles import Listed, Profile, listed, profile_of
from .reader import RecordChange
from .schema import (
    CURRENT_EPOCH_KEY,
    PLACEMENTS,
    SERVICES,
    CurrentEpoch,
    StoredService,
    service_key,
    unpack,
)
from .slices import Slices

_STEP = 256
"""Services handled between two looks at the slice: less than a millisecond."""


class MovedServices(Sequence[RecordChange]):
    """Changes of records, and behind them services that moved; there may be a hundred thousand.

    Those are kept in columns, and made when they are asked for: so many objects at a time would
    make the interpreter's collector hold up everybody.
    """

    def __init__(self, changes: tuple[RecordChange, ...]) -> None:
        self._changes = changes
        self._keys: list[RecordKey] = []
        self._profiles: list[Profile] = []
        self._was: list[int | None] = []
        self._now: list[int | None] = []

    def add(self, key: RecordKey, profile: Profile, was: int | None, now: int | None) -> None:
        """A service moved from the cell ``was`` to the cell ``now``."""
        self._keys.append(key)
        self._profiles.append(profile)
        self._was.append(was)
        self._now.append(now)

    def __len__(self) -> int:
        return len(self._changes) + len(self._keys)

    @overload
    def __getitem__(self, at: int) -> RecordChange: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[RecordChange]: ...
    def __getitem__(self, at: int | slice) -> RecordChange | Sequence[RecordChange]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        index = range(len(self))[at] - len(self._changes)
        if index < 0:
            return self._changes[index]
        was, now, profile = self._was[index], self._now[index], self._profiles[index]
        return RecordChange(
            key=self._keys[index],
            before=None if was is None else Listed(was, profile),
            after=None if now is None else Listed(now, profile),
            is_stored=True,
        )


class Placing:
    """Works out what ``changes`` mean for where services are shown, on top of ``committed``."""

    def __init__(self, committed: Committed, changes: BlockChanges, slices: Slices) -> None:
        self._committed = committed
        self._changes = changes
        self._slices = slices
        self._epoch_before = self._epoch_after = _epoch(committed.get(CURRENT_EPOCH_KEY))
        epoch = changes.values.get(CURRENT_EPOCH_KEY)
        if isinstance(epoch, CurrentEpoch):
            self._epoch_after = epoch.number
        self._moving: dict[bytes, list[bytes]] = {}
        """Keys of services without a crowd whose next cells are shown since this block."""
        self._before: dict[bytes, dict[bytes, int]] = {}
        self._after: dict[bytes, dict[bytes, int]] = {}
        self.bookkeeping: tuple[Change, ...] = ()
        """What is to be kept, keys ascending."""
        self.record_changes: Sequence[RecordChange] = ()
        """What subscribers hear: changed records in key order, then moved services in key order."""

    async def run(self) -> None:
        """Do the work; the results are there afterwards."""
        begins_epoch = self._epoch_after != self._epoch_before
        if begins_epoch:
            await self._count()
        else:
            await self._take_out()
        await self._tell(all_places=begins_epoch)
        await self._pack()

    async def _count(self) -> None:
        count = CrowdCount(self._epoch_after)
        for done, (key, service) in enumerate(self._services(), start=1):
            count.add(key, service)
            # A block may begin two epochs: one is over when somebody who has its key leaves.
            begins_there = self._epoch_before < service.since <= self._epoch_after
            if begins_there and service.crowd == 1:
                self._moving.setdefault(places_key(key), []).append(key)
            if not done % _STEP:
                await self._slices.rest()
        for _ in count.settle():
            await self._slices.rest()
        for places in self._committed.scan(PLACEMENTS, prefix_end(PLACEMENTS)):
            self._read(places[0])
            self._after[places[0]] = {}
            await self._slices.rest()
        for done, (key, cell) in enumerate(count.places.items(), start=1):
            self._places(places_key(key), empty=True)[key] = cell
            if not done % _STEP:
                await self._slices.rest()

    async def _take_out(self) -> None:
        for done, (key, old, new) in enumerate(self._service_changes(), start=1):
            if (
                old is not None
                and old.crowd > 1
                and not (new and is_placed_alike(old, new, epoch=self._epoch_after))
            ):
                self._places(places_key(key)).pop(key, None)
            if not done % _STEP:
                await self._slices.rest()

    async def _tell(self, *, all_places: bool) -> None:
        found: list[RecordChange] = []
        for done, (key, old, new) in enumerate(self._service_changes(), start=1):
            was = self._listed(key, old, self._before, self._epoch_before)
            now = self._listed(key, new, self._after, self._epoch_after)
            found.append(
                RecordChange(key=RecordKey(key), before=was, after=now, is_stored=new is not None)
            )
            if not done % _STEP:
                await self._slices.rest()
        self.record_changes = tuple(found)
        if all_places:
            self.record_changes = await self._moved(self.record_changes)

    async def _moved(self, told: tuple[RecordChange, ...]) -> MovedServices:
        """``told``, and services that are shown elsewhere although their records are the same."""
        found = MovedServices(told)
        known = {change.key for change in told}
        for at in sorted(self._after.keys() | self._moving.keys()):
            before, after = self._before.get(at, {}), self._after.get(at, {})
            await self._slices.rest()
            for key in sorted({*before, *after, *self._moving.get(at, ())}):
                was, now = before.get(key), after.get(key)
                in_crowd = was is not None or now is not None
                if RecordKey(key) in known or (in_crowd and was == now):
                    continue
                service = self._service(key)
                if not in_crowd:
                    was, now = service.before, service.cell
                found.add(RecordKey(key), profile_of(service), was, now)
                if not len(found) % _STEP:
                    await self._slices.rest()
        return found

    async def _pack(self) -> None:
        found: list[Change] = []
        for at, after in sorted(self._after.items()):
            if after != self._before[at]:
                found.append((at, pack_places(sorted(after.items())) or None))
            await self._slices.rest()
        self.bookkeeping = tuple(found)

    # --- reading --------------------------------------------------------------------------------

    def _services(self) -> Iterator[tuple[bytes, StoredService]]:
        """All services as the block leaves them."""
        values = self._changes.values
        for key, data in self._committed.scan(SERVICES, prefix_end(SERVICES)):
            if key not in values:
                yield key[len(SERVICES) :], unpack(data, StoredService)
        for key, value in values.items():
            if key.startswith(SERVICES) and isinstance(value, StoredService):
                yield key[len(SERVICES) :], value

    def _service_changes(
        self,
    ) -> Iterator[tuple[bytes, StoredService | None, StoredService | None]]:
        for key, data in self._changes.before.items():
            if key.startswith(SERVICES):
                old = None if data is None else unpack(data, StoredService)
                yield key[len(SERVICES) :], old, _service(self._changes.values[key])

    def _service(self, key: bytes) -> StoredService:
        """The service ``key``, whose record the block does not change.

        Raises:
            CorruptDatabaseError: there is none, though it has a place.
        """
        data = self._committed.get(service_key(key))
        if data is None:
            raise CorruptDatabaseError(
                f"registry.ldb: a place is kept for {key.hex()}, which is no service"
            )
        return unpack(data, StoredService)

    def _listed(
        self,
        key: bytes,
        service: StoredService | None,
        places: dict[bytes, dict[bytes, int]],
        epoch: int,
    ) -> Listed | None:
        if service is None:
            return None
        if service.crowd == 1:
            return listed(service, cell_in(service, epoch))
        at = places_key(key)
        self._places(at)
        return listed(service, places[at].get(key))

    def _places(self, at: bytes, *, empty: bool = False) -> dict[bytes, int]:
        """The places kept at ``at`` after the block, to be changed; at first those before it."""
        after = self._after.get(at)
        if after is None:
            before = self._read(at)
            after = self._after[at] = {} if empty else dict(before)
        return after

    def _read(self, at: bytes) -> dict[bytes, int]:
        before = self._before.get(at)
        if before is None:
            before = self._before[at] = unpack_places(self._committed.get(at) or b"")
        return before


def _epoch(data: bytes | None) -> int:
    return 0 if data is None else unpack(data, CurrentEpoch).number


def _service(value: Wire | None) -> StoredService | None:
    return value if isinstance(value, StoredService) else None
