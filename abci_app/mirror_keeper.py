"""Keeping mirrors: the requests to devices, and the elements that come back.

Rules kept here:

* One request for each mirror at a time. It waits for the device like any other, so that reading a
  sleeping device costs it one request a wake.
* Elements and the mirror's record are one write; the outcome of a request is let go after that.
* A device that is paired no longer is not read any more; what was read stays.

Not handled here: what is asked and what follows (``mirror``); where elements go from the mirror
(``[[forward]]`` in node.toml).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from edgistry.adapters.clock import wall_us
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.log import get_logger
from edgistry.capability_chain import Entry
from edgistry.codec import replace
from edgistry.envelope import MAX_DEADLINE_AHEAD_US, Reply, decode_reply
from edgistry.errors import MissingWoofError, NotFoundError, Refused
from edgistry.kv import KeyValue
from edgistry.pairing import WoofOffer
from edgistry.rights import Right
from edgistry.transactions import NodeId
from edgistry.woof_staging import Staging

from .device_setup import RequestQueue
from .mailbox_states import OUTSTANDING, State
from .mirror import (
    MirrorRecord,
    Progress,
    begin_mirror,
    mirror_name,
    mirror_namespace,
    paired_again,
    progress_of,
    question_of,
    read_mirror,
    record_key,
    write_mirror,
)
from .pairing import Paired, PairingTable

logger = get_logger("edgistry.node.mirror")

LOOK_EVERY_S: Final = 1.0
REST_AFTER_TROUBLE_US: Final = 60_000_000
REST_WHEN_LEVEL_US: Final = 5_000_000
"""A device that is always awake is not asked all the time for what it has not got."""
READ_RIGHTS: Final = Right.GET | Right.LATEST


class OwnRequests(RequestQueue, Protocol):
    """What mirrors need of the mailboxes. ``RequestDesk`` is one."""

    def given_us(self, request: bytes) -> int:
        """When the device could first have a request of the node; 0 when it could not yet."""

    async def let_go(self, request: bytes) -> None:
        """The outcome of a request of the node need not be kept."""


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
        self._rests_until: dict[bytes, int] = {}

    def watch(self, device: str) -> None:
        """Keep the mirrors of ``device``, which is ready, from now on."""
        self._devices.add(device)

    async def run(self) -> None:
        """Keep all mirrors until cancelled; raises what must stop the node."""
        self._devices |= await asyncio.to_thread(self._with_mirrors)
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

    async def step(self, device: str) -> None:
        """Go one step on with the mirrors of ``device``."""
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

    async def _ask(self, paired: Paired, woof: WoofOffer, record: MirrorRecord) -> None:
        operation, payload = question_of(record)
        sequence = max(self._clock_us(), record.sequence + 1)
        entry = Entry(READ_RIGHTS, woof.name)
        request = paired.issuer.mint(serial=record.grant, entries=(entry,)).bind(
            operation,
            woof.name,
            payload,
            client=self._node_id[:8],
            sequence=sequence,
            deadline=sequence + MAX_DEADLINE_AHEAD_US,
        )
        request_id = await self._queue.submit_own(
            paired.device, request.encoded, idempotency_key=self._draw(16)
        )
        asked = replace(record, sequence=sequence, request=request_id)
        await self._keep(paired, woof, Progress(record=asked))

    async def _keep(self, paired: Paired, woof: WoofOffer, progress: Progress) -> MirrorRecord:
        """Append the elements and remember how far the mirror is, in one write; the record."""
        name = mirror_name(paired.device, woof.name)
        is_there = self._is_there(name)

        def decide(staging: Staging) -> MirrorRecord:
            if not is_there:
                staging.create_namespace(mirror_namespace(paired.device))
                staging.create(name, woof.history, woof.element_size)
            record = progress.record
            for element in progress.elements:
                record = replace(record, copied=staging.put(name, element))
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


def mirrored(paired: Paired) -> list[WoofOffer]:
    """The WooFs of a device that are mirrored here, once it has them."""
    if paired.stored.stage != "ready" or paired.offer.role != "primary":
        return []
    return [woof for woof in paired.offer.woofs if woof.mirror]
