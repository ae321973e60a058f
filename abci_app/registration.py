"""Registering and withdrawing devices: from rows to transactions, exactly once.

Rules kept here:

* A row's device entry and the transaction that publishes it are one durable write. So an import
  that was killed at any moment is finished by running it again: what was accepted is unchanged.
* Nothing is sent that the chain has already, or is about to have. What the chain refused or lost
  is not there, so the same row publishes it again.
* A bad row is reported and costs only itself.
* A policy that shows more than the node allows is refused. Where a device is published is decided
  once (``placing``): neither another registration nor a restart changes it, only a move does, and
  that once an epoch.
* A withdrawn device is forgotten, position and salt, when the chain has let its record go.

Not handled here: parsing files (``fleet``), waiting for blocks (``outbox``).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

from edgistry.codec import replace
from edgistry.errors import NotFoundError, Refused
from edgistry.kv import Change, KeyValue
from edgistry.placing import place
from edgistry.policy import PolicyLimits, PrivacyPolicy, check_policy
from edgistry.position import SEED_BYTES
from edgistry.region import cell_text
from edgistry.transactions import (
    MAX_BATCH_RECORDS,
    Kind,
    NodeId,
    RecordKey,
    ServiceRecord,
    ServicesPut,
    ServicesWithdraw,
    owner_tag,
    parse_body,
    parse_transaction,
)

from .admin_api import DeviceEntry, DevicePage, DeviceRow, DeviceState, Outcome, RowOutcome
from .devices import (
    Device,
    DeviceTable,
    Identity,
    handle_of,
    identity_of,
    parse_handle,
    record_of,
)
from .fleet import check_device
from .moves import cell_in, is_put
from .outbox import Outbox
from .outbox_queue import Pending
from .renumbering import Renumbering
from .schema import StoredService, stored_service

_RECORD_BYTES = 93
"""A record without its names: 74 bytes of key, cell, commitment and owner, and MessagePack headers
and small numbers."""
NO_LIMITS = PolicyLimits()
MAX_BATCH_BYTES = 240_000
"""Records in one transaction; the rest of its 256 000 bytes is for what is around them."""


_Key = TypeVar("_Key", bytes, RecordKey)


class ServiceReader(Protocol):
    """What registering needs of the registry."""

    @property
    def epoch(self) -> int: ...
    def service(self, key: bytes) -> StoredService | None: ...
    def keys_of(self, node_id: bytes) -> Iterator[RecordKey]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNoise:
    """What a device brings along that keeps the seed of its noise itself."""

    seed: bytes = field(repr=False)
    """32 bytes."""
    moves: int
    """How often it has moved."""
    cell: int = 0
    """The cell that it tells instead of a position."""


@dataclass(slots=True)
class _Plan:
    """What a request is going to change."""

    devices: dict[Identity, Device] = field(default_factory=dict)
    """Rows to store."""
    publish: dict[Identity, ServiceRecord] = field(default_factory=dict)
    """Which of them to publish, in order, and what the chain is told."""
    left: list[bytes] = field(default_factory=list)
    """Keys of records that are being withdrawn, whose devices have another key now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """What becomes of one good row."""

    line: int
    outcome: Outcome
    identity: Identity
    device: Device
    waits: bool
    """Whether it waits for a transaction that is on its way already."""


class Registrar:
    """Registers devices of node ``node_id``, which sends through ``outbox``.

    The chain is told that they belong to ``owner``, a tag of 8 bytes, where they name no other.
    ``limits`` bound what their policies may show; ``draw`` gives that many random bytes.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        node_id: NodeId,
        owner: bytes,
        reader: ServiceReader,
        outbox: Outbox,
        limits: PolicyLimits = NO_LIMITS,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._limits = limits
        self._table = DeviceTable(store)
        self._node_id = node_id
        self._owner = owner
        self._reader = reader
        self._outbox = outbox
        self._draw = draw
        # One writer at a time: what a plan was made from must not change before it is written.
        self._writing = asyncio.Lock()

    @property
    def epoch(self) -> int:
        """The privacy epoch of the registry."""
        return self._reader.epoch

    # --- registering ----------------------------------------------------------------------------

    async def register(
        self, rows: Sequence[DeviceRow], *, noise: OwnNoise | None = None
    ) -> list[RowOutcome]:
        """Accept the good ones of ``rows``; one outcome for each row, in order.

        ``noise`` is of the one device that they are about, if it keeps that itself. Accepted rows
        and their transactions are durable when this returns.

        Raises:
            UnavailableError: the outbox is full; nothing was accepted.
        """
        async with self._writing:
            plan = _Plan()
            planned = [self._plan_row(plan, row, noise) for row in rows]
            await self._carry_out(plan)
            return [self._outcome(plan, each) for each in planned]

    async def place_moved(self) -> int:
        """Publish the devices that have moved where they are now: the next epoch will show it.

        The number of those that will be shown elsewhere. Safe to repeat: what was done is durable.
        Those that it has not come to when the next epoch begins wait for the end of that one.

        Raises:
            UnavailableError: the outbox is full.
        """
        count, epoch = 0, self.epoch
        for identities in _portions(list(self._table.moved())):
            async with self._writing:
                if self.epoch != epoch:
                    break
                plan = _Plan()
                for identity in identities:
                    self._plan_move(plan, identity)
                await self._carry_out(plan, unmark=identities)
                count += len(plan.publish)
        return count

    async def _carry_out(self, plan: _Plan, *, unmark: Sequence[Identity] = ()) -> None:
        """Make ``plan`` durable; the rows in it get the sequences of what publishes them."""
        batches = _batches(plan)

        def rows_with_sequences(first: int) -> Iterable[Change]:
            for identity in unmark:
                yield from self._table.unmark(identity)
            for key in plan.left:
                yield self._table.unname(key)
            for sequence, batch in enumerate(batches, first):
                for identity in batch:
                    device = plan.devices[identity]
                    plan.devices[identity] = replace(device, sequence=sequence)
            for identity, device in plan.devices.items():
                if identity not in plan.publish:
                    device = self._with_stored_sequence(device, identity)
                yield from self._table.put(device, identity)

        if plan.devices or unmark:
            bodies = [
                ServicesPut(records=tuple(plan.publish[identity] for identity in batch))
                for batch in batches
            ]
            await self._outbox.append(bodies, also=rows_with_sequences)

    def _plan_move(self, plan: _Plan, identity: Identity) -> None:
        known = self._table.get(identity)
        if known is None or known.withdrawing:
            return
        placement = place(
            known.policy,
            known.position,
            seed=known.seed,
            known=known.placement,
            moves=known.told_moves,
        )
        if placement == known.placement:
            return
        plan.devices[identity] = moved = replace(known, placement=placement)
        record = self._record(moved, identity)
        if self._must_publish(known, moved, record):
            plan.publish[identity] = record

    def _record(self, device: Device, identity: Identity | None = None) -> ServiceRecord:
        return record_of(device, identity, owner=self._owner)

    def _with_stored_sequence(self, device: Device, identity: Identity) -> Device:
        # The outbox may have renumbered what waits since the plan was made.
        stored = self._table.get(identity)
        return replace(device, sequence=stored.sequence) if stored else device

    def _plan_row(
        self, plan: _Plan, row: DeviceRow, noise: OwnNoise | None
    ) -> _Planned | RowOutcome:
        try:
            return self._plan_good_row(plan, check_device(row), noise)
        except Refused as error:
            return RowOutcome(line=row.line, outcome="rejected", reason=error.detail)

    def _plan_good_row(self, plan: _Plan, row: DeviceRow, noise: OwnNoise | None) -> _Planned:
        identity = identity_of(row)
        known = plan.devices.get(identity) or self._table.get(identity)
        wanted = self._device(row, identity, known, noise)
        outcome: Outcome
        if known is None or known.withdrawing:
            outcome, publish = "added", True
            if known is not None and known.key != wanted.key:
                plan.left.append(known.key)
        elif identity in plan.publish:
            outcome, publish = "unchanged" if known == wanted else "updated", True
        else:
            publish = self._must_publish(known, wanted, self._record(wanted, identity))
            outcome = self._outcome_of_known(known, wanted, publish=publish)
        if publish:
            plan.publish[identity] = self._record(wanted, identity)
        if publish or known != wanted:
            plan.devices[identity] = wanted
        return _Planned(
            line=row.line,
            outcome=outcome,
            identity=identity,
            device=wanted,
            # Asked now: it may be refused before the answer is made, and the caller must hear it.
            waits=self._outbox.is_pending(wanted.sequence),
        )

    def _device(
        self, row: DeviceRow, identity: Identity, known: Device | None, noise: OwnNoise | None
    ) -> Device:
        policy = PrivacyPolicy(resolution=row.resolution, noise_m=row.noise_m, crowd=row.crowd)
        check_policy(policy, self._limits)
        if noise is None:
            noise = self._noise_of(identity, known)
        placement = place(
            policy,
            noise.cell or (row.lat, row.lon),
            seed=noise.seed,
            known=known.placement if known else None,
            is_edge=False,
            moves=noise.moves,
        )
        named = known if known and not self._comes_back_elsewhere(known) else None
        return Device(
            key=named.key if named else self._draw(16),
            salt=named.salt if named else self._draw(32),
            id=row.id,
            name=row.name,
            lat=row.lat,
            lon=row.lon,
            told_cell=noise.cell,
            told_moves=noise.moves,
            policy=policy,
            seed=noise.seed,
            placement=placement,
            owner=owner_tag(bytes.fromhex(row.owner)) if row.owner else b"",
            type=row.type,
            actions=row.actions,
            wake=row.wake,
            sequence=known.sequence if known else 0,
        )

    def _comes_back_elsewhere(self, known: Device) -> bool:
        """Whether a device that is being withdrawn may be shown elsewhere when it is put again.

        It was about to move, say: under the same handle it could be followed.
        """
        if not known.withdrawing:
            return False
        stored = self._reader.service(known.key)
        return (
            stored is None
            or stored.cell != known.cell
            or stored.cell != cell_in(stored, self._reader.epoch)
        )

    def _noise_of(self, identity: Identity, known: Device | None) -> OwnNoise:
        """The noise of a device that keeps none itself."""
        if known is not None:
            return OwnNoise(seed=known.seed, moves=known.placement.moves)
        kept = self._table.kept_seed(identity)
        if kept is not None:
            return OwnNoise(seed=kept.seed, moves=kept.moves)
        return OwnNoise(seed=self._draw(SEED_BYTES), moves=0)

    def _must_publish(self, known: Device, wanted: Device, record: ServiceRecord) -> bool:
        """Whether the chain neither has ``wanted``, as ``record``, nor is about to have it."""
        if self._outbox.is_pending(known.sequence):
            return self._record(known) != record
        return not self._is_put(self._reader.service(known.key), record)

    def _is_put(self, stored: StoredService | None, record: ServiceRecord) -> bool:
        """Whether ``stored``, what the chain has, is what ``record`` asks for."""
        return is_put(stored, stored_service(self._node_id, record))

    def _outcome_of_known(self, known: Device, wanted: Device, *, publish: bool) -> Outcome:
        if known != wanted:
            return "updated"
        if not publish:
            return "unchanged"
        return "added" if self._reader.service(known.key) is None else "updated"

    def _outcome(self, plan: _Plan, planned: _Planned | RowOutcome) -> RowOutcome:
        if isinstance(planned, RowOutcome):
            return planned
        device = plan.devices.get(planned.identity, planned.device)
        waits = planned.identity in plan.publish or planned.waits
        return RowOutcome(
            line=planned.line,
            outcome=planned.outcome,
            sequence=device.sequence if waits else 0,
            handle=handle_of(device.key),
        )

    # --- withdrawing ----------------------------------------------------------------------------

    async def withdraw(self, handles: Sequence[str], *, forget: bool = False) -> tuple[int, int]:
        """Begin to withdraw the devices with these ``handles``, all or none.

        With ``forget`` nothing stays of them, also of those that were on their way out. The number
        of devices that were not already on their way out, and the sequence to wait for (0: none).

        Raises:
            MalformedError: not a handle.
            NotFoundError: not a device of this node.
            UnavailableError: the outbox is full.
        """
        async with self._writing:
            devices = {handle: self._known(handle) for handle in handles}
            waiting = [device.sequence for device in devices.values() if device.withdrawing]
            leaving = [device for device in devices.values() if not device.withdrawing]
            if forget:
                leaving = [replace(device, forget=True) for device in leaving]
            late = [each for each in devices.values() if each.withdrawing and not each.forget]
            sent = {device.key for device in leaving if self._is_on_chain(device)}

            def rows(sequence: int) -> Iterable[Change]:
                for device in leaving:
                    if device.key in sent:
                        gone = replace(device, sequence=sequence, withdrawing=True)
                        yield from self._table.put(gone)
                    else:
                        yield from self._table.delete(device)
                for device in late if forget else ():
                    yield from self._table.put(replace(device, forget=True))

            last = max(filter(self._outbox.is_pending, waiting), default=0)
            if leaving or (late and forget):
                keys = tuple(device.key for device in leaving if device.key in sent)
                bodies = [ServicesWithdraw(keys=keys)] if keys else []
                appended = await self._outbox.append(bodies, also=rows)
                last = appended if bodies else last
            return len(leaving), last

    async def forget_withdrawn(self) -> int:
        """Destroy what noise was drawn from of devices that were withdrawn; of how many it was.

        Those that come back are published anew. Durable when this returns.
        """
        async with self._writing:
            keys = self._table.kept_seeds()
            if keys:
                await self._outbox.append([], also=lambda _: [(key, None) for key in keys])
            return len(keys)

    def settled(self, entry: Pending, transaction: bytes) -> list[Change]:
        """The changes that follow from a transaction being done (the outbox asks for them).

        Devices whose withdrawal went through are forgotten; one whose withdrawal was refused is
        an ordinary device again.
        """
        if entry.kind != Kind.SERVICES_WITHDRAW:
            return []
        body = parse_body(parse_transaction(transaction))
        changes: list[Change] = []
        for key in body.keys if isinstance(body, ServicesWithdraw) else ():
            device = self._table.by_key(key)
            # Registered again meanwhile: another transaction follows this one.
            if device is None or not device.withdrawing or device.sequence != entry.sequence:
                continue
            if self._reader.service(key) is None:
                changes += self._table.delete(device)
            else:
                changes += self._table.put(replace(device, withdrawing=False, forget=False))
        return changes

    def renumbered(self, renumbering: Renumbering) -> Iterable[Change]:
        """The changes that follow from new sequences (the outbox asks for them)."""
        for device in self._table.scan():
            sequence = renumbering.of(device.sequence)
            if sequence != device.sequence:
                yield from self._table.put(replace(device, sequence=sequence))
        if renumbering.is_shortened:
            for keys in _portions(self._orphans()):
                renumbering.add(ServicesWithdraw(keys=keys))

    def _orphans(self) -> list[RecordKey]:
        """Records of this node that it has no device for.

        A chain that was set back shows devices again that were withdrawn since: nobody else could
        ever withdraw them.
        """
        return [
            key for key in self._reader.keys_of(self._node_id) if self._table.by_key(key) is None
        ]

    def lacks_records(self) -> bool:
        """Whether this node has more devices than the chain has records of it."""
        return self._table.count() > sum(1 for _ in self._reader.keys_of(self._node_id))

    def unpublished(self) -> set[RecordKey]:
        """The keys of devices that the chain does not have, and of which nothing is on its way."""
        return {
            RecordKey(device.key)
            for device in self._table.scan()
            if not self._outbox.is_pending(device.sequence)
            and self._reader.service(device.key) is None
        }

    def _known(self, handle: str) -> Device:
        device = self._table.by_key(parse_handle(handle))
        if device is None:
            raise NotFoundError(f"this node has no device with the handle {handle}")
        return device

    def _is_on_chain(self, device: Device) -> bool:
        """Whether the chain has a record of ``device``, or is about to."""
        # A registry that is being replayed has yet to come to what published the device; to forget
        # it now would leave a record there that nobody can ever withdraw.
        if self._outbox.is_pending(device.sequence) or self._outbox.is_ahead(device.sequence):
            return True
        return self._reader.service(device.key) is not None

    # --- listing --------------------------------------------------------------------------------

    def page(self, *, after: str | None, limit: int) -> DevicePage:
        """Up to ``limit`` devices in order of their record keys, those after ``after``.

        Raises:
            MalformedError: ``after`` is not from an earlier page.
        """
        start = parse_handle(after) if after else b""
        devices = list(islice(self._table.scan(start), limit + 1))
        page = devices[:limit]
        return DevicePage(
            devices=tuple(map(self._entry, page)),
            next=handle_of(page[-1].key) if len(devices) > limit else None,
        )

    def _entry(self, device: Device) -> DeviceEntry:
        stored = self._reader.service(device.key)
        cell = device.cell if stored is None else cell_in(stored, self._reader.epoch)
        waits = stored is not None and cell != stored.cell
        return DeviceEntry(
            handle=handle_of(device.key),
            id=device.id,
            name=device.name,
            lat=device.lat,
            lon=device.lon,
            type=device.type,
            actions=device.actions,
            cell=cell_text(cell),
            resolution=device.policy.resolution,
            noise_m=device.policy.noise_m,
            crowd=device.policy.crowd,
            moved=(device.has_moved or waits) and not device.withdrawing,
            state=self._state(device, stored),
        )

    def _state(self, device: Device, stored: StoredService | None) -> DeviceState:
        if device.withdrawing:
            return "withdrawing"
        if self._outbox.is_pending(device.sequence):
            return "pending"
        return "published" if self._is_put(stored, self._record(device)) else "unpublished"


def _portions(keys: Sequence[_Key]) -> Iterator[tuple[_Key, ...]]:
    """``keys`` in portions that one transaction takes."""
    for at in range(0, len(keys), MAX_BATCH_RECORDS):
        yield tuple(keys[at : at + MAX_BATCH_RECORDS])


def _batches(plan: _Plan) -> list[list[Identity]]:
    """The devices to publish, in transactions within the limits on records and bytes."""
    batches: list[list[Identity]] = []
    size = 0
    for identity, record in plan.publish.items():
        more = _largest_size(record)
        if not batches or size + more > MAX_BATCH_BYTES or len(batches[-1]) >= MAX_BATCH_RECORDS:
            batches.append([])
            size = 0
        batches[-1].append(identity)
        size += more
    return batches


def _largest_size(record: ServiceRecord) -> int:
    """Bytes that ``record`` takes at most, without encoding it: names are ASCII."""
    return _RECORD_BYTES + len(record.type) + sum(len(action) + 2 for action in record.actions)
