"""Pairing as the node does it: codes, admitting devices, and letting them go.

Rules kept here:

* A code is good for one device, until it is too old; only its digest is kept. The device that used
  it gets the same answer again, since the first one may have been lost: as long as it is paired,
  and under the same key. So no used code brings a device back that left or was revoked.
* A device that is known is let in again under the same key, to tell what has changed. Under
  another key only if the operator said so when making the code: an id alone proves nothing.
* A pairing and the code's use are one durable write, and so are its end and the denial of the
  device's capability.
* Logs and refusals do not name devices: ids are for the operator's own eyes.
* A privacy policy that shows more than this node allows is refused, and changes nothing.
* A device says by its own capability that it is elsewhere; when that shows is decided elsewhere.
* What a device offers is checked before it is admitted as a row of an import is, so that it can be
  listed afterwards; and the handlers that it wants run here, so that who pairs it learns at once
  which are missing. The code is not used up by a refusal.

Not handled here: the table (``pairing``), creating WooFs on the device and listing its services
(``device_setup``), transport (``link_server``, ``admin_pairing``).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.authority import Authority
from edgistry.codec import replace
from edgistry.envelope import Operation
from edgistry.errors import (
    AlreadyPairedError,
    BadRequestError,
    CorruptDatabaseError,
    DenySetFullError,
    LimitExceededError,
    NotFoundError,
    NotPairedError,
    PairingCodeError,
)
from edgistry.kv import Change, KeyValue
from edgistry.pairing import (
    CODE_SECRET_BYTES,
    FORGET,
    UNPAIR,
    PairingAnswer,
    PairingCode,
    PairingOffer,
    PairingRequest,
    check_offer,
    code_digest,
    decode_moved,
    device_object,
    position_of,
    wake_bucket,
)
from edgistry.policy import PolicyLimits, check_policy
from edgistry.position import check_told
from edgistry.region import cell_center
from edgistry.replay import Outcome
from edgistry.verifier import Checked

from .admin_api import DeviceRow
from .fleet import check_device
from .pairing import Paired, PairingTable, StoredCode, StoredPairing, node_capability, row_id
from .registration import NO_LIMITS, OwnNoise
from .told import MoveEpochs, told

logger = get_logger("edgistry.node.pairing")

MAX_OPEN_CODES = 20_000
MAX_CODE_TTL_S = 7 * 24 * 3600


class Followers(Protocol):
    """Who must hear of devices that come and go. ``DeviceSetup`` is one."""

    def admitted(self, device: str) -> None:
        """The device is paired, or has told something new about itself."""

    async def moved(self, paired: Paired) -> None:
        """The device is elsewhere now."""

    async def changed(self, known: Paired, paired: Paired) -> None:
        """The device, which was ``known`` under the same key, offers something else now."""

    async def left(self, paired: Paired, *, forget: bool = False) -> None:
        """The device is paired no longer; with ``forget`` nothing of it is to stay."""


class PairingDesk:
    """The pairings in ``store``, whose devices poll with capabilities of ``authority``.

    ``node_key`` is the node's registry key (public), ``draw`` gives that many random bytes. Whoever
    writes pairings holds ``writing``: what was decided must still hold when it is written.
    ``require_handler`` raises UnknownHandlerError unless devices may have that handler run here;
    ``limits`` bound what policies may show; ``moves`` says when a move shows that is told now.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        authority: Authority,
        followers: Followers,
        node_name: str,
        node_key: bytes,
        link_port: int,
        writing: asyncio.Lock,
        require_handler: Callable[[str], object],
        limits: PolicyLimits = NO_LIMITS,
        moves: Callable[[], MoveEpochs] = lambda: MoveEpochs(current=0, shows=1),
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.table = PairingTable(store)
        self._store = store
        self._authority = authority
        self._followers = followers
        self._node_name = node_name
        self._node_key = node_key
        self._link_port = link_port
        self._clock_us = clock_us
        self._draw = draw
        self._writing = writing
        self._require_handler = require_handler
        self._limits = limits
        self._moves = moves

    # --- codes ----------------------------------------------------------------------------------

    async def new_code(self, *, ttl_s: float, replace_key: bool = False) -> tuple[PairingCode, int]:
        """As ``new_codes``, for one device."""
        (code,), expires_us = await self.new_codes(1, ttl_s=ttl_s, replace_key=replace_key)
        return code, expires_us

    async def new_codes(
        self, count: int, *, ttl_s: float, replace_key: bool = False
    ) -> tuple[list[PairingCode], int]:
        """Codes for that many devices, one each, and until when they are good (µs since 1970).

        With ``replace_key`` they also let in devices whose ids are known with another key.

        Raises:
            LimitExceededError: too many codes are open, or ``ttl_s`` is not between 0 and 7 days.
        """
        if not 0 < ttl_s <= MAX_CODE_TTL_S:
            raise LimitExceededError(f"a code lives up to {MAX_CODE_TTL_S // 86400} days")
        async with self._writing:
            now_us = self._clock_us()
            codes = list(self.table.codes())
            old = [digest for digest, code in codes if code.expires_us < now_us]
            if len(codes) - len(old) + count > MAX_OPEN_CODES:
                raise LimitExceededError(f"at most {MAX_OPEN_CODES} codes are open at a time")
            stored = StoredCode(expires_us=now_us + round(ttl_s * 1e6), replace=replace_key)
            secrets_made = [self._draw(CODE_SECRET_BYTES) for _ in range(count)]
            changes = [
                change
                for secret in secrets_made
                for change in self.table.put_code(code_digest(secret), stored)
            ]
            for digest in old:
                changes += self.table.delete_code(digest)
            await self._write(changes)
        made = [
            PairingCode(node_key=self._node_key, port=self._link_port, secret=secret)
            for secret in secrets_made
        ]
        return made, stored.expires_us

    # --- pairing --------------------------------------------------------------------------------

    async def pair(self, request: PairingRequest) -> PairingAnswer:
        """Admit the device that sent ``request``; durable when this returns.

        Raises:
            PairingCodeError: no such code, too old, or used by another device.
            AlreadyPairedError: known with another key, and the code does not allow to replace it.
            InvalidValueError, MalformedError: what it offers cannot be listed.
            UnknownHandlerError: it wants a handler run that there is not, or not for devices.
            PolicyRefusedError: its policy shows more than this node allows.
        """
        digest = code_digest(request.secret)
        offer = request.offer
        async with self._writing:
            code = self.table.code(digest)
            if code is None or code.expires_us < self._clock_us():
                raise PairingCodeError("this node has no such code, or it is too old")
            if code.device:
                self._check_used(code, offer)
            used = self.table.put_code(digest, replace(code, device=offer.device))
            known, paired = await self._admit(offer, code.replace, used)
        return await self._admitted(known, paired)

    def _check_used(self, code: StoredCode, offer: PairingOffer) -> None:
        """A used code lets in who is let in already: the same device, under the same key."""
        if code.device != offer.device:
            raise PairingCodeError("another device has used this code")
        known = self.table.by_device(offer.device)
        if known is None or (known.epoch, known.offer.key) != (offer.epoch, offer.key):
            raise PairingCodeError("this code was used, and the pairing that it made is over")

    async def import_offer(self, offer: PairingOffer, *, replace_key: bool) -> PairingAnswer:
        """Admit the device whose offer came as a file; raises as ``pair``, but for codes."""
        async with self._writing:
            known, paired = await self._admit(offer, replace_key, [])
        return await self._admitted(known, paired)

    async def _admit(
        self, offer: PairingOffer, replace_key: bool, also: list[Change]
    ) -> tuple[Paired | None, Paired]:
        """The pairing as it was and as it is now, durably."""
        check_listable(check_offer(offer))
        check_policy(offer.policy, self._limits)
        for woof in offer.woofs if offer.role == "primary" else ():
            if woof.handler:
                self._require_handler(woof.handler)
        known = self.table.by_device(offer.device)
        changes: list[Change] = []
        if known is None or known.offer != offer:
            pairing, changed = self._decide(offer, known, replace_key)
            changes += changed + self.table.put(pairing)
        await self._write([*changes, *also])
        paired = self.table.by_device(offer.device)
        if paired is None:
            raise CorruptDatabaseError("queues.ldb: a pairing that was just written is not there")
        return known, paired

    async def _admitted(self, known: Paired | None, paired: Paired) -> PairingAnswer:
        """The answer, once those who follow know."""
        if known is not None and known.serial != paired.serial:
            await self._followers.left(known)
        elif known is not None and known.stored != paired.stored:
            await self._followers.changed(known, paired)
        if known is None or known.stored != paired.stored:
            logger.info("a device is paired", services=len(paired.services))
            self._followers.admitted(paired.device)
        return self._answer(paired)

    def _decide(
        self, offer: PairingOffer, known: Paired | None, replace_key: bool
    ) -> tuple[StoredPairing, list[Change]]:
        """The pairing to store, and what else changes with it."""
        places = told(known.stored.places if known else (), offer, self._moves())
        pairing = StoredPairing(offer=offer, serial=0, paired_us=self._clock_us(), places=places)
        if known is None:
            return replace(pairing, serial=self._new_serial()), self.table.forgotten(offer.device)
        if (known.epoch, known.offer.key) == (offer.epoch, offer.key):
            before = known.stored
            stands_in = before.stands_in and offer.role == "fallback"
            again = replace(
                pairing, serial=before.serial, attempt=before.attempt, stands_in=stands_in
            )
            return again, []
        if not replace_key:
            raise AlreadyPairedError(
                "the device is paired here with another key; revoke it first, or make the code"
                " with --replace if you know that it is the same device"
            )
        return replace(pairing, serial=self._new_serial()), self._denial(known)

    def _new_serial(self) -> int:
        while True:
            serial = int.from_bytes(self._draw(4), "big")
            if not self.table.serial_is_taken(serial):
                return serial

    def _answer(self, paired: Paired) -> PairingAnswer:
        return PairingAnswer(
            version=1,
            device=paired.device,
            epoch=paired.epoch,
            node_name=self._node_name,
            node_key=self._node_key,
            link_port=self._link_port,
            capability=node_capability(self._authority.issuer, paired).danger_bytes(),
            now_us=self._clock_us(),
        )

    # --- leaving --------------------------------------------------------------------------------

    async def revoke(self, device: str, *, forget: bool = False) -> None:
        """Forget the device and its key, and let it poll no more; it may be lost or stolen.

        With ``forget`` nothing of it stays: neither mirrors nor codes that it has used.

        Raises:
            NotFoundError: no such device is paired here.
        """
        async with self._writing:
            paired = self.table.by_device(device)
            if paired is None:
                raise NotFoundError("no device with that id is paired with this node")
            changes = [*self._denial(paired), *self._deletion(paired, forget=forget)]
            await self._write(changes)
        logger.info("a device was revoked")
        await self._followers.left(paired, forget=forget)

    async def unpair(self, data: bytes) -> bytes:
        """The reply to a device's envelope that asks to leave (``UNPAIR``) or to be forgotten
        (``FORGET``), whatever it is.

        What it raises is a bug.
        """
        leaving: list[tuple[Paired, bool]] = []

        def execute(checked: Checked) -> Outcome:
            paired = self._asking(checked, UNPAIR, FORGET)
            forget = checked.envelope.payload == FORGET
            leaving.append((paired, forget))
            # Its capability must still open the reply, so it is not denied: it is for an object
            # that has nothing in it, and the exchange knows the device no longer.
            return Outcome(changes=self._deletion(paired, forget=forget))

        reply = await self._answer_envelope(data, execute)
        for paired, forget in leaving:
            logger.info("a device has left")
            await self._followers.left(paired, forget=forget)
        return reply

    async def move(self, data: bytes) -> bytes:
        """The reply to a device's envelope that says where it is now (``Moved``), whatever it is.

        What it raises is a bug.
        """
        moving: list[str] = []

        def execute(checked: Checked) -> Outcome:
            paired = self._asking(checked)
            moved = decode_moved(checked.envelope.payload)
            where = {"lat": moved.lat, "lon": moved.lon, "cell": moved.cell, "moves": moved.moves}
            offer = replace(paired.offer, **where)
            if offer.moves < paired.offer.moves:
                raise BadRequestError("this node has heard of a later move of the device")
            check_listable(offer)
            moving.append(paired.device)
            places = told(paired.stored.places, offer, self._moves())
            stored = replace(paired.stored, offer=offer, places=places)
            return Outcome(changes=self.table.put(stored))

        reply = await self._answer_envelope(data, execute)
        for device in moving:
            paired = self.table.by_device(device)
            if paired is not None:
                await self._followers.moved(paired)
        return reply

    async def _answer_envelope(self, data: bytes, execute: Callable[[Checked], Outcome]) -> bytes:
        async with self._writing:
            return await in_thread(self._authority.answer, data, execute, now_us=self._clock_us())

    def _asking(self, checked: Checked, *payloads: bytes) -> Paired:
        """The device that puts something, one of ``payloads`` if any are given, into its object."""
        envelope = checked.envelope
        device = envelope.target.removeprefix("devices/")
        if (
            envelope.op != Operation.PUT
            or (payloads and envelope.payload not in payloads)
            or envelope.target != device_object(device)
        ):
            raise BadRequestError("not what a device asks of its node here")
        paired = self.table.by_device(device)
        if paired is None or paired.serial != checked.chain.serial:
            raise NotPairedError("the device is not paired with this node, or no longer")
        return paired

    def _deletion(self, paired: Paired, *, forget: bool) -> list[Change]:
        return [
            *self.table.delete(paired),
            *(self.table.forget(paired.device) if forget else ()),
        ]

    def _denial(self, paired: Paired) -> list[Change]:
        capability = node_capability(self._authority.issuer, paired)
        try:
            return self._authority.deny(capability.id)
        except DenySetFullError as error:
            # The exchange refuses it all the same: it goes by the serial in the pairing.
            logger.warning("a device's capability is not denied", reason=error.detail)
            return []

    async def _write(self, changes: Iterable[Change]) -> None:
        await in_thread(self._store.write, list(changes), sync=True)


def check_listable(offer: PairingOffer) -> None:
    """Raises what importing the services of ``offer`` would be refused with."""
    check_told(offer.policy, position_of(offer))
    for row in _rows(offer):
        check_device(row)


def rows_of(paired: Paired) -> list[DeviceRow]:
    """One row for each service of a device, as they are registered here."""
    return _rows(paired.offer) if paired.is_home else []


def noise_of(paired: Paired) -> OwnNoise:
    """What a device brings along for where its rows are published."""
    offer = paired.offer
    return OwnNoise(seed=offer.seed, moves=offer.moves, cell=offer.cell)


def _rows(offer: PairingOffer) -> list[DeviceRow]:
    position = position_of(offer)
    lat, lon = cell_center(position) if isinstance(position, int) else position
    policy = offer.policy
    return [
        DeviceRow(
            line=number,
            id=row_id(offer.device, service.type),
            name=offer.name,
            lat=lat,
            lon=lon,
            type=service.type,
            actions=tuple(sorted(action.name for action in service.actions)),
            resolution=policy.resolution,
            noise_m=policy.noise_m,
            crowd=policy.crowd,
            owner=offer.owner.hex(),
            wake=wake_bucket(offer.period_s),
        )
        for number, service in enumerate(offer.services, 1)
    ]
