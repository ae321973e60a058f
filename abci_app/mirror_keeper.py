"""Keeping mirrors: the requests to devices, and the elements that come back.

Rules kept here:

* One request for each mirror at a time. It waits for the device like any other, so that reading a
  sleeping device costs it one request a wake.
* Elements and the mirror's record are one write; the outcome of a request is let go after that.
* A device that is paired no longer is not read any more; what was read stays, unless the device
  is to be forgotten: then all copies go, with what handlers made of them.
* A handler that the device names runs on each element: its trigger is in the write that appends
  the element. If there is no such handler any more, triggers wait until there is. Triggers keep
  their elements, so the device is not asked for more while very many wait.
* A copy that somebody has deleted is made again; what had been in it is a gap.

Not handled here: what is asked and what follows (``mirror``); where elements go from the mirror
(``[[forward]]`` in node.toml).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edgistry.adapters.clock import wall_us
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.capability_chain import Entry
from edgistry.codec import replace
from edgistry.envelope import MAX_DEADLINE_AHEAD_US, Reply, decode_reply
from edgistry.errors import (
    MissingNamespaceError,
    MissingWoofError,
    NamespaceNotEmptyError,
    NotFoundError,
    Refused,
)
from edgistry.kv import KeyValue, prefix_end
from edgistry.pairing import ResultOffer, WoofOffer
from edgistry.rights import Right
from edgistry.transactions import NodeId
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import last_arrival

from .device_setup import RequestQueue
from .mailbox_states import OUTSTANDING, State
from .mirror import (
    CopyRecord,
    MirrorRecord,
    Progress,
    begin_mirror,
    copy_key,
    copy_lost,
    copy_name,
    copy_prefix,
    mirror_name,
    mirror_namespace,
    paired_again,
    progress_of,
    question_of,
    read_mirror,
    record_key,
    record_prefix,
    write_copy,
    write_mirror,
)
from .pairing import Paired, PairingTable

logger = get_logger("edgistry.node.mirror")

LOOK_EVERY_S: Final = 1.0
REST_AFTER_TROUBLE_US: Final = 60_000_000
REST_WHEN_LEVEL_US: Final = 5_000_000
"""A device that is always awake is not asked all the time for what it has not got."""
MAX_DUE: Final = 10_000
"""Elements due for a handler at which mirrors that it runs on wait: at most 640 MB."""
SHORTEST_LIFE_US: Final = 3600 * 1_000_000
"""For how long a request waits for its device at least; or for ``ROUNDS`` of the device's rounds.
Not for as long as can be: a node knows its requests until their deadlines, also the answered ones,
and a device that is awake answers one every few seconds."""
ROUNDS: Final = 4
READ_RIGHTS: Final = Right.GET | Right.LATEST


class OwnRequests(RequestQueue, Protocol):
    """What mirrors need of the mailboxes. ``OwnRequestDesk`` is one."""

    def given_us(self, request: bytes) -> int:
        """When the device could first have a request of the node; 0 when it could not yet."""

    async def let_go(self, request: bytes) -> None:
        """The outcome of a request of the node need not be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A WooF that the node keeps for a device."""

    name: str
    """Here."""
    history: int
    element_size: int
    record: CopyRecord


class MirrorKeeper:
    """Mirrors what the devices paired in ``store`` want mirrored, into ``woofs``.

    ``draw`` gives that many random bytes.
    """

    def __init__(
        self,
        store: KeyValue,
        woofs: DurableWoofs,
        *,
        queue: OwnRequests,
        node_id: NodeId,
        clock_us: Callable[[], int] = wall_us,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._woofs = woofs
        self._table = PairingTable(store)
        self._queue = queue
        self._node_id = node_id
        self._clock_us = clock_us
        self._draw = draw
        self._devices: set[str] = set()
        # What is forgotten must not be made again by a step that had begun before.
        self._stepping = asyncio.Lock()
        self._rests_until: dict[bytes, int] = {}

    def watch(self, device: str) -> None:
        """Keep the mirrors of ``device``, which is ready, from now on."""
        self._devices.add(device)

    async def run(self) -> None:
        """Keep all mirrors until cancelled; raises what must stop the node."""
        self._devices |= await in_thread(self._with_mirrors)
        while True:
            for device in sorted(self._devices):
                await self.step(device)
            await asyncio.sleep(LOOK_EVERY_S)

    def _with_mirrors(self) -> set[str]:
        return {paired.device for paired in self._table.scan() if mirrored(paired)}

    def mirrors(self) -> Iterator[tuple[Paired, WoofOffer, MirrorRecord | None]]:
        """All mirrors in order of devices; ``None`` for one that has not begun."""
        for paired in self._table.scan():
            for woof in mirrored(paired):
                data = self._store.get(record_key(paired.device, woof.name))
                yield paired, woof, None if data is None else read_mirror(data)

    async def forget(self, device: str) -> None:
        """Delete all that was kept for ``device``, which is not paired any more."""
        self._devices.discard(device)
        records, copies = record_prefix(device), copy_prefix(device)
        async with self._stepping:
            names = [copy_name(key) for key, _ in self._store.scan(copies, prefix_end(copies))]
            there = [name for name in names if self._is_there(name)]
            kept = [key for key, _ in self._store.scan(records, prefix_end(records))]
            kept += map(copy_key, names)

            def decide(staging: Staging) -> None:
                for name in there:
                    staging.delete(name)
                with contextlib.suppress(NamespaceNotEmptyError, MissingNamespaceError):
                    staging.delete_namespace(mirror_namespace(device))
                staging.add([(key, None) for key in kept])

            await self._woofs.commit(decide)
            await self._woofs.sweep()

    async def step(self, device: str) -> None:
        """Go one step on with the mirrors of ``device``."""
        async with self._stepping:
            await self._steps(device)

    async def _steps(self, device: str) -> None:
        paired = self._table.by_device(device)
        wanted = [] if paired is None else mirrored(paired)
        if paired is None or not wanted:
            self._devices.discard(device)
            return
        for woof in wanted:
            try:
                await self._step(paired, woof)
            except Refused as error:
                self._rest(record_key(device, woof.name), error.detail)

    async def _step(self, paired: Paired, woof: WoofOffer) -> None:
        key = record_key(paired.device, woof.name)
        record = self._record(key, paired)
        if record.request:
            state, reply = self._outcome_of(record.request)
            if state in OUTSTANDING:
                return
            progress = progress_of(record, reply, given_us=self._given_us(record.request))
            kept = await self._keep(paired, woof, progress)
            await self._let_go(record.request)
            if progress.trouble:
                self._rest(key, progress.trouble)
            elif record.asks == "scan" and not progress.elements:
                self._rests_until[key] = self._clock_us() + REST_WHEN_LEVEL_US
            record = kept
        if self._rests_until.get(key, 0) <= self._clock_us():
            await self._ask(paired, woof, record)

    def _record(self, key: bytes, paired: Paired) -> MirrorRecord:
        data = self._store.get(key)
        grant = int.from_bytes(self._draw(4), "big")
        if data is None:
            return begin_mirror(serial=paired.serial, grant=grant)
        record = read_mirror(data)
        if record.serial == paired.serial:
            return record
        return paired_again(record, serial=paired.serial, grant=grant)

    def _outcome_of(self, request: bytes) -> tuple[State, Reply | None]:
        try:
            state, reply = self._queue.outcome_of(request)
        except NotFoundError:
            return State.DELIVERED, None
        return state, None if reply is None else decode_reply(reply)

    def _given_us(self, request: bytes) -> int:
        try:
            return self._queue.given_us(request)
        except NotFoundError:
            return 0

    def _is_behind(self, handler: str) -> bool:
        """Whether too much is due already, from the oldest to the newest."""
        oldest = next(self._woofs.woofs.triggers(handler), None)
        if oldest is None:
            return False
        return last_arrival(self._store, handler.encode()) - oldest.arrival >= MAX_DUE

    async def _ask(self, paired: Paired, woof: WoofOffer, record: MirrorRecord) -> None:
        if woof.handler and self._is_behind(woof.handler):
            self._rest(record_key(paired.device, woof.name), "its handler is far behind")
            return
        operation, payload = question_of(record)
        sequence = max(self._clock_us(), record.sequence + 1)
        entry = Entry(READ_RIGHTS, woof.name)
        request = paired.issuer.mint(serial=record.grant, entries=(entry,)).bind(
            operation,
            woof.name,
            payload,
            client=self._node_id[:8],
            sequence=sequence,
            deadline=sequence + _life_us(paired),
        )
        request_id = await self._queue.submit_own(
            paired.device, request.encoded, idempotency_key=self._draw(16)
        )
        asked = replace(record, sequence=sequence, request=request_id)
        await self._keep(paired, woof, Progress(record=asked))

    async def _keep(self, paired: Paired, woof: WoofOffer, progress: Progress) -> MirrorRecord:
        """Append the elements and remember how far the mirror is, in one write; the record."""
        name = mirror_name(paired.device, woof.name)
        copies = copies_of(paired)
        missing = [each for each in copies if not self._is_there(each.name)]
        # A manifest may make a result of what was a mirror, and the other way round.
        records = [(copy_key(each.name), write_copy(each.record)) for each in copies]
        changed = [(at, data) for at, data in records if self._store.get(at) != data]
        is_missing = any(each.name == name for each in missing)

        def decide(staging: Staging) -> MirrorRecord:
            _create(staging, mirror_namespace(paired.device), missing)
            staging.add(changed)
            record = progress.record
            if is_missing:
                record = copy_lost(record, fresh=len(progress.elements))
            for element in progress.elements:
                number = staging.put(name, element, handler=woof.handler or None)
                record = replace(record, copied=number)
            staging.add([(record_key(paired.device, woof.name), write_mirror(record))])
            return record

        return await self._woofs.commit(decide)

    def _is_there(self, name: str) -> bool:
        try:
            self._woofs.woofs.info(name)
        except MissingWoofError:
            return False
        return True

    async def _let_go(self, request: bytes) -> None:
        try:
            await self._queue.let_go(request)
        except NotFoundError:
            return  # it was over already

    def _rest(self, key: bytes, why: str) -> None:
        logger.warning("a mirror has to wait", reason=why)
        self._rests_until[key] = self._clock_us() + REST_AFTER_TROUBLE_US


def _life_us(paired: Paired) -> int:
    rounds_us = ROUNDS * paired.period_s * 1_000_000
    return min(max(SHORTEST_LIFE_US, rounds_us), MAX_DEADLINE_AHEAD_US)


def _create(staging: Staging, namespace: str, missing: Sequence[Copy]) -> None:
    if missing:
        staging.create_namespace(namespace)
    for each in missing:
        staging.create(each.name, each.history, each.element_size)


def copies_of(paired: Paired) -> list[Copy]:
    """What the node keeps for a device, once it has its WooFs: copies, and results of handlers."""
    mirrors = mirrored(paired)
    results = paired.offer.results if mirrors else ()
    return [_copy(paired.device, each, is_result=False) for each in mirrors] + [
        _copy(paired.device, each, is_result=True) for each in results
    ]


def _copy(device: str, woof: WoofOffer | ResultOffer, *, is_result: bool) -> Copy:
    return Copy(
        name=mirror_name(device, woof.name),
        history=woof.history,
        element_size=woof.element_size,
        record=CopyRecord(device=device, woof=woof.name, is_result=is_result),
    )


def mirrored(paired: Paired) -> list[WoofOffer]:
    """The WooFs of a device that are mirrored here, once it has them."""
    if paired.stored.stage != "ready" or paired.offer.role != "primary":
        return []
    return [woof for woof in paired.offer.woofs if woof.mirror]
