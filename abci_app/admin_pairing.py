"""The part of the operator's API that is about pairing devices.

Not handled here: who may ask (``admin_server``), and the use cases (``pairing_desk``).
"""

from __future__ import annotations

from itertools import islice
from typing import Literal

from edgistry.adapters.http import Request
from edgistry.api import block_time_text
from edgistry.codec import Document, encode
from edgistry.handlers import HandlerTable
from edgistry.pairing import WoofOffer, decode_offer

from .admin_api import MAX_LIST
from .admin_requests import AdminRoute, body_of, integer, parameters_of
from .devices import parse_handle
from .mirror import MirrorRecord, mirror_name
from .mirror_keeper import MirrorKeeper
from .pairing import Paired
from .pairing_api import (
    CodeAnswer,
    CodeRequest,
    DeviceOfAnswer,
    ForgetRequest,
    ImportAnswer,
    ImportRequest,
    MirrorEntry,
    MirrorList,
    PairedEntry,
    PairedList,
)
from .pairing_desk import PairingDesk


def pairing_admin_routes(
    desk: PairingDesk, mirrors: MirrorKeeper, handlers: HandlerTable
) -> list[AdminRoute]:
    """Method, path and what answers it."""
    admin = _AdminPairing(desk, mirrors, handlers)
    return [
        ("POST", "/admin/pairing/codes", admin.code),
        ("POST", "/admin/pairing/devices", admin.import_offer),
        ("GET", "/admin/pairing/devices", admin.devices),
        ("POST", "/admin/pairing/revoke", admin.revoke),
        ("GET", "/admin/pairing/device-of", admin.device_of),
        ("GET", "/admin/mirrors", admin.mirrors),
    ]


class _AdminPairing:
    """From requests to use cases."""

    def __init__(self, desk: PairingDesk, mirrors: MirrorKeeper, handlers: HandlerTable) -> None:
        self._desk = desk
        self._mirrors = mirrors
        self._handlers = handlers

    async def code(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, CodeRequest)
        made, expires_us = await self._desk.new_codes(
            asked.count, ttl_s=asked.ttl_s, replace_key=asked.replace
        )
        codes = tuple(each.text() for each in made)
        return CodeAnswer(codes=codes, expires=block_time_text(expires_us))

    async def import_offer(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, ImportRequest)
        offer = decode_offer(asked.offer)
        answer = await self._desk.import_offer(offer, replace_key=asked.replace)
        return ImportAnswer(device=offer.device, answer=encode(answer))

    async def devices(self, request: Request) -> Document:
        given = parameters_of(request, "limit")
        limit = integer(given, "limit", default=100, low=1, high=MAX_LIST)
        found = list(islice(self._desk.table.scan(), limit + 1))
        entries = tuple(map(_entry, found[:limit]))
        return PairedList(devices=entries, more=len(found) > limit)

    async def revoke(self, request: Request) -> Document:
        parameters_of(request)
        asked = body_of(request, ForgetRequest)
        await self._desk.revoke(asked.device, forget=asked.forget)
        return asked

    async def device_of(self, request: Request) -> Document:
        handle = parameters_of(request, "handle").get("handle", "")
        return DeviceOfAnswer(device=self._desk.table.device_of(parse_handle(handle)) or "")

    async def mirrors(self, request: Request) -> Document:
        given = parameters_of(request, "limit")
        limit = integer(given, "limit", default=100, low=1, high=MAX_LIST)
        found = list(islice(self._mirrors.mirrors(), limit + 1))
        entries = tuple(self._mirror(*each) for each in found[:limit])
        return MirrorList(mirrors=entries, more=len(found) > limit)

    def _mirror(self, paired: Paired, woof: WoofOffer, record: MirrorRecord | None) -> MirrorEntry:
        return MirrorEntry(
            device=paired.device,
            woof=woof.name,
            mirror=mirror_name(paired.device, woof.name),
            through=0 if record is None else record.next - 1,
            lost=0 if record is None else record.lost,
            gaps=() if record is None else record.gaps,
            begun=0 if record is None else record.begun,
            handler=woof.handler,
            handler_state=self._state_of(woof.handler),
        )

    def _state_of(self, handler: str) -> Literal["", "ok", "missing", "refused"]:
        if not handler:
            return ""
        if handler not in self._handlers:
            return "missing"
        return "ok" if self._handlers.require(handler).for_devices else "refused"


def _entry(paired: Paired) -> PairedEntry:
    offer, stored = paired.offer, paired.stored
    return PairedEntry(
        device=paired.device,
        name=offer.name,
        role=offer.role,
        stands_in=stored.stands_in,
        epoch=paired.epoch,
        period_s=offer.period_s,
        types=tuple(service.type for service in offer.services),
        stage=stored.stage,
        waiting=len(stored.requests),
        paired=block_time_text(stored.paired_us),
    )
