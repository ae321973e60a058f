"""Making a paired device ready: its WooFs, then its place in the registry.

Rules kept here:

* The node alone creates namespaces and WooFs on the device, by ordinary requests to it that carry
  a capability for just that (paper §3.3). They wait for the device like any other request.
* Its services are listed when all of that has been answered: visible means reachable. A node that
  stands in lists them where they were seen before (``told``).
* Everything goes by what is stored, so it goes on after a restart; what expired is asked again.
  Creating what is there already changes nothing.
* What was to be forgotten when the node stopped is forgotten at the next start.
* A row whose device is paired no longer, or offers that service no longer, is withdrawn.

Not handled here: who may pair (``pairing_desk``), the queue (``request_desk``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.capability_chain import Entry
from edgistry.codec import replace
from edgistry.envelope import MAX_DEADLINE_AHEAD_US, Operation, Status, decode_reply
from edgistry.errors import NotFoundError, Refused
from edgistry.kv import KeyValue
from edgistry.operations import encode_woof_shape
from edgistry.pairing import PairingOffer, woofs_of
from edgistry.rights import EVERYTHING, Right
from edgistry.transactions import NodeId

from .admin_api import DeviceRow
from .device_counts import DeviceCounts
from .devices import DeviceTable, handle_of, identity_of
from .mailbox_states import OUTSTANDING, State
from .pairing import Paired, PairingTable, StoredPairing, device_of_row
from .pairing_desk import noise_of, rows_of
from .registration import Registrar
from .told import seen_in

logger = get_logger("edgistry.node.setup")

LOOK_EVERY_S: Final = 2.0
RETRY_AFTER_S: Final = 60.0
SETUP_RIGHTS: Final = Right.NAMESPACE_CREATE | Right.WOOF_CREATE
_DONE: Final = (Status.OK, Status.EXISTS)


class RequestQueue(Protocol):
    """What setting up needs of the mailboxes."""

    async def submit_own(self, device: str, envelope: bytes, *, idempotency_key: bytes) -> bytes:
        """Queue a request of the node itself; its id, once it is durable."""

    def outcome_of(self, request: bytes) -> tuple[State, bytes | None]:
        """State of a request of the node, and the reply once there is one.

        Raises:
            NotFoundError: there is no such request, or no longer.
        """

    async def forget_device(self, device: str) -> object:
        """End all requests to the device; whoever asked learns it."""


class DeviceSetup:
    """Prepares the devices paired in ``store`` and lists their services through ``registrar``.

    ``draw`` gives that many random bytes; whoever writes pairings holds ``writing``.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        queue: RequestQueue,
        registrar: Registrar,
        node_id: NodeId,
        writing: asyncio.Lock,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        draw: Callable[[int], bytes] = secrets.token_bytes,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._store = store
        self._table = PairingTable(store)
        self._rows = DeviceTable(store)
        self.counts = DeviceCounts(self._table)
        self._queue = queue
        self._registrar = registrar
        self._node_id = node_id
        self._clock_us = clock_us
        self._draw = draw
        self._writing = writing
        self._look_every_s = look_every_s
        self.on_ready: Callable[[str], None] | None = None
        """Told of devices that have all that they offer."""
        self.on_forget: Callable[[str], Awaitable[None]] | None = None
        """Told of devices of which nothing is to stay."""
        # A device that leaves must not be listed by a step that had begun before.
        self._stepping = asyncio.Lock()
        self._unfinished: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._news = asyncio.Event()

    # --- what the desk tells --------------------------------------------------------------------

    def admitted(self, device: str) -> None:
        """Begin to set up ``device``."""
        self.counts.note(device)
        self._unfinished.add(device)
        self._retry_at.pop(device, None)
        self._news.set()

    async def changed(self, known: Paired, paired: Paired) -> None:
        """Withdraw what a device offers no longer, or not here."""
        self.counts.note(paired.device)
        offered = {row.id for row in rows_of(paired)}
        dropped = [row for row in rows_of(known) if row.id not in offered]
        async with self._stepping:
            await self._withdraw(self._handles_of(dropped))

    async def moved(self, paired: Paired) -> None:
        """Note where a device is now: it shows when an epoch begins."""
        async with self._stepping:
            if paired.stored.stage == "ready":
                try:
                    await self._register(paired)
                except Refused as error:
                    logger.warning("where a device is has to wait", reason=error.detail)
                    self._unfinished.add(paired.device)
                    await self._store_stage(paired, stage="new", requests=())

    async def left(self, paired: Paired, *, forget: bool = False) -> None:
        """End the requests to a device that is gone, and withdraw its services.

        With ``forget`` nothing of it stays, also not what was mirrored.
        """
        self.counts.note(paired.device)
        async with self._stepping:
            await self._queue.forget_device(paired.device)
            await self._withdraw(self._handles_of(rows_of(paired)))
        if forget:
            await self._forget(paired.device)

    async def finish_forgetting(self) -> None:
        """Destroy what was to be destroyed when the node stopped."""
        for device in await in_thread(self._table.to_forget):
            await self._forget(device)

    async def _forget(self, device: str) -> None:
        """Destroy what the pairing and the rows did not take with them."""
        if self.on_forget is not None:
            await self.on_forget(device)
        async with self._writing:
            changes = [] if self._table.by_device(device) else self._table.forgotten(device)
            await in_thread(self._store.write, changes, sync=True)
        logger.info("a device is forgotten")

    # --- by itself ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Go on with what is unfinished until cancelled; raises what must stop the node."""
        await self.counts.load()
        self._unfinished |= await in_thread(self._unfinished_in_store)
        await self.withdraw_orphans()
        await self.finish_forgetting()
        while True:
            self._news.clear()
            for device in sorted(self._unfinished):
                await self.step(device)
            if not self._unfinished:
                await self._news.wait()
                continue
            try:
                async with asyncio.timeout(self._look_every_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _unfinished_in_store(self) -> set[str]:
        return {paired.device for paired in self._table.scan() if paired.stored.stage != "ready"}

    async def step(self, device: str) -> None:
        """Go one step on with ``device``, if one can be made now."""
        async with self._stepping:
            await self._step(device)

    async def _step(self, device: str) -> None:
        paired = self._table.by_device(device)
        if paired is None or paired.stored.stage == "ready":
            self._unfinished.discard(device)
            return
        if self._retry_at.get(device, 0) > self._clock_us():
            return
        try:
            if paired.stored.stage == "new":
                await self._ask(paired)
            else:
                await self._look(paired)
        except Refused as error:
            # A full queue or outbox, say: nothing is lost by trying again later.
            logger.warning("setting up a device has to wait", reason=error.detail)
            self._wait_before_retry(device)

    def _wait_before_retry(self, device: str) -> None:
        self._retry_at[device] = self._clock_us() + RETRY_AFTER_S * 1e6

    async def _ask(self, paired: Paired) -> None:
        # A fallback node lists nothing, so it has nothing to prepare, until it stands in.
        requests = self._envelopes(paired) if paired.is_home else []
        ids = [
            await self._queue.submit_own(paired.device, envelope, idempotency_key=self._draw(16))
            for envelope in requests
        ]
        attempt = paired.stored.attempt + 1
        await self._store_stage(paired, stage="asked", requests=tuple(ids), attempt=attempt)

    def _envelopes(self, paired: Paired) -> list[bytes]:
        """Requests that create what the device has to have, in order."""
        serial = int.from_bytes(self._draw(4), "big")
        capability = paired.issuer.mint(serial=serial, entries=(Entry(SETUP_RIGHTS, EVERYTHING),))
        now_us = self._clock_us()
        deadline = now_us + MAX_DEADLINE_AHEAD_US
        return [
            capability.bind(
                operation,
                target,
                payload,
                client=self._node_id[:8],
                sequence=now_us + number,
                deadline=deadline,
            ).encoded
            for number, (operation, target, payload) in enumerate(creations(paired.offer))
        ]

    async def _look(self, paired: Paired) -> None:
        open_requests: list[bytes] = []
        for request in paired.stored.requests:
            state, status = self._outcome_of(request)
            if status in _DONE:
                continue
            if state not in OUTSTANDING:
                logger.warning("a device could not be set up; it is asked again")
                await self._store_stage(paired, stage="new", requests=())
                self._wait_before_retry(paired.device)
                return
            open_requests.append(request)
        if not open_requests:
            await self._list(paired)
        elif len(open_requests) < len(paired.stored.requests):
            await self._store_stage(paired, stage="asked", requests=tuple(open_requests))

    def _outcome_of(self, request: bytes) -> tuple[State, int | None]:
        try:
            state, reply = self._queue.outcome_of(request)
        except NotFoundError:
            return State.DELIVERED, None
        return state, None if reply is None else decode_reply(reply).status

    async def _list(self, paired: Paired) -> None:
        rows = await self._register(paired)
        await self._store_stage(paired, stage="ready", requests=())
        logger.info("a device is ready", services=rows)
        if self.on_ready is not None:
            self.on_ready(paired.device)

    async def _register(self, paired: Paired) -> int:
        """Register the services of a device; how many it has."""
        rows = rows_of(paired)
        if paired.stored.stands_in:
            seen = self._as_seen(paired)
            new = [row for row in rows_of(seen) if self._rows.get(identity_of(row)) is None]
            await self._register_rows(new, seen)
        await self._register_rows(rows, paired)
        return len(rows)

    def _as_seen(self, paired: Paired) -> Paired:
        """``paired`` where others have seen it: a move since then shows with an epoch."""
        stored = paired.stored
        offer = seen_in(self._registrar.epoch, stored.places, stored.offer)
        return dataclasses.replace(paired, stored=replace(stored, offer=offer))

    async def _register_rows(self, rows: Sequence[DeviceRow], paired: Paired) -> None:
        if not rows:
            return
        for outcome in await self._registrar.register(rows, noise=noise_of(paired)):
            if outcome.outcome == "rejected":
                logger.warning("a service cannot be listed", reason=outcome.reason)

    async def _store_stage(self, paired: Paired, **changes: object) -> None:
        async with self._writing:
            latest = self._table.by_device(paired.device)
            if latest is None or latest.stored != paired.stored:
                return  # it has left, or told something new, while we were waiting
            changed: StoredPairing = replace(paired.stored, **changes)
            await in_thread(self._store.write, self._table.put(changed), sync=True)
        self.counts.note(paired.device)

    # --- withdrawing ----------------------------------------------------------------------------

    async def withdraw_orphans(self) -> None:
        """Withdraw every service whose device is paired no longer, or has it no longer.

        Requests to devices that are paired no longer end as well.
        """
        orphans = await in_thread(self._orphans)
        async with self._stepping:
            for device in sorted({device for device, _ in orphans}):
                if self._table.by_device(device) is None:
                    await self._queue.forget_device(device)
            await self._withdraw([handle for _, handle in orphans])

    def _orphans(self) -> list[tuple[str, str]]:
        """Devices and handles of services that nobody offers any more."""
        found: list[tuple[str, str]] = []
        if self._table.is_unused():
            return found  # every row would have to be looked at, and there may be a million
        for row in self._rows.scan():
            device = device_of_row(row.id)
            if device is None or row.withdrawing:
                continue
            if self._table.by_record(row.key) is None:
                found.append((device, handle_of(row.key)))
        return found

    def _handles_of(self, rows: Sequence[DeviceRow]) -> list[str]:
        """The handles of those rows that are registered."""
        found = (self._rows.get(identity_of(row)) for row in rows)
        return [handle_of(row.key) for row in found if row is not None]

    async def _withdraw(self, handles: Sequence[str]) -> None:
        for handle in handles:
            try:
                await self._registrar.withdraw([handle])
            except Refused as error:
                logger.warning("a service is not withdrawn yet", reason=error.detail)


def creations(offer: PairingOffer) -> list[tuple[Operation, str, bytes]]:
    """What has to exist on the device: operations, targets and payloads, in order."""
    found: list[tuple[Operation, str, bytes]] = []
    namespaces: set[str] = set()
    for name, history, element_size in woofs_of(offer):
        namespace = name.partition("/")[0]
        if namespace not in namespaces:
            namespaces.add(namespace)
            found.append((Operation.NAMESPACE_CREATE, namespace, b""))
        shape = encode_woof_shape(history=history, element_size=element_size)
        found.append((Operation.WOOF_CREATE, name, shape))
    return found
