"""Answers of the home node in its devices' place: to whom, how old, and never by a trick."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from abci_app.mailbox_exchange import UNREADABLE
from abci_app.mailbox_records import digest_of
from abci_app.offload import Content, ContentCache, content_key
from abci_app.pairing import Paired
from edgistry.capability import BoundRequest
from edgistry.capability_chain import Entry
from edgistry.caveats import VEIL, not_after
from edgistry.codec import replace
from edgistry.envelope import (
    BY_NODE,
    MAX_PAYLOAD,
    Flag,
    Operation,
    Reply,
    Status,
    decode_reply,
)
from edgistry.errors import RevokedError, SentBeforeError
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.messages import RequestResult
from edgistry.operations import encode_get
from edgistry.requests_api import to_bytes
from edgistry.rights import Right
from edgistry.verifier import Checked

from .desk_world import (
    CLIENT,
    DEVICE_ISSUER,
    FETCH_KEY,
    GRANT,
    HOUR,
    PAIRED,
    SECOND,
    SERVICE,
    Desks,
    desks,
)
from .mail_world import reply as reply_of_device

MINUTE = 60 * SECOND


async def ask(world: Desks, request: BoundRequest, **more: Any) -> Reply | None:
    """The proven reply that a request gets at once, if it gets one."""
    asked = world.asked(request, **{"max_age_s": 600, **more})
    answer, _ = await world.requests.submit(asked)
    if answer.reply is None:
        return None
    return request.open_reply(to_bytes(answer.reply, "reply"))


async def fill(world: Desks, **more: Any) -> None:
    """Let the device answer once."""
    assert await ask(world, world.bind(**more)) is None
    await world.device.wake()


async def test_answer_that_is_young_enough_is_given_at_once() -> None:
    async with desks() as world:
        await fill(world)
        world.now_us += 90 * SECOND
        reply = await ask(world, world.bind())
        assert reply is not None
        assert (reply.status, reply.payload) == (Status.OK | BY_NODE, b"21.5")
        assert reply.result == 90_000, "its age in milliseconds"
        assert len(world.device.executed) == 1


async def test_cached_answer_is_there_after_a_restart_like_any_other() -> None:
    store = MemoryKeyValue()
    async with desks(store) as world:
        await fill(world)
        request = world.bind()
        answer, is_new = await world.requests.submit(world.asked(request, max_age_s=600))
        again, is_new_again = await world.requests.submit(world.asked(request, max_age_s=600))
        assert (is_new, is_new_again, again) == (True, False, answer)
    async with desks(store) as world:
        found = await world.requests.fetch(to_bytes(answer.id, "id"), FETCH_KEY)
        assert found == answer


@pytest.mark.parametrize(
    ("bound", "asked"),
    [
        ({}, {"max_age_s": 0}),
        ({}, {"max_age_s": 59}),
        ({"flags": int(Flag.DEVICE_ONLY)}, {}),
        ({"flags": int(Flag.FLATTEN)}, {}),
        ({"payload": b"something else"}, {}),
        ({"handler": ""}, {}),
    ],
)
async def test_client_that_wants_something_else_gets_it_from_the_device(
    bound: dict[str, Any], asked: dict[str, Any]
) -> None:
    async with desks() as world:
        await fill(world)
        world.now_us += MINUTE
        assert await ask(world, world.bind(**bound), **asked) is None


async def test_answer_is_reused_no_longer_than_the_device_lets_it() -> None:
    async with desks() as world:
        await fill(world)
        world.now_us += 600 * SECOND
        assert await ask(world, world.bind(), max_age_s=3600) is not None
        world.now_us += SECOND
        assert await ask(world, world.bind(), max_age_s=3600) is None


@pytest.mark.parametrize("action", [{"read": False}, {"fresh_s": 0}, {"name": "other"}])
async def test_action_that_is_not_declared_so_is_never_answered_here(
    action: dict[str, Any],
) -> None:
    async with desks() as world:
        offered = replace(SERVICE.actions[0], **action)
        world.pairings.service = replace(SERVICE, actions=(offered,))
        await fill(world)
        assert await ask(world, world.bind()) is None


async def test_callers_under_a_veil_share_what_the_owner_lets_be_shared() -> None:
    async with desks() as world:
        await fill(world)
        veiled = GRANT.derive(caveats=[VEIL])
        world.now_us += MINUTE
        reply = await ask(world, world.bind(veiled))
        assert reply is not None
        assert (reply.status, reply.result) == (Status.OK | BY_NODE, 0)


async def test_new_key_of_the_device_makes_old_answers_void() -> None:
    async with desks() as world:
        await fill(world)
        issuer = dataclasses.replace(DEVICE_ISSUER, epoch=2)
        world.pairings.paired = dataclasses.replace(PAIRED, issuer=issuer)
        capability = issuer.mint(serial=9)
        assert await ask(world, world.bind(capability)) is None


async def test_device_with_a_new_secret_is_served_though_its_epochs_began_anew() -> None:
    async with desks() as world:
        await fill(world)
        for epoch in (0, 1):
            offer = replace(PAIRED.offer, epoch=epoch, key=bytes((epoch,)) * 32)
            issuer = Issuer(epoch, offer.key)
            world.pairings.paired = dataclasses.replace(
                PAIRED, serial=6 + epoch, issuer=issuer, stored=replace(PAIRED.stored, offer=offer)
            )
            capability = issuer.mint(serial=epoch)
            assert await ask(world, world.bind(capability)) is None
            revocation = capability.bind(
                Operation.REVOKE, "", payload=issuer.mint(serial=9).public, client=CLIENT,
                sequence=world.now_us, deadline=world.now_us + HOUR,
            )  # fmt: skip
            await world.submit(revocation, idempotency_key=b"revoke %d" % epoch)
            with pytest.raises(RevokedError):
                await ask(world, world.bind(issuer.mint(serial=9)))


async def test_get_is_answered_from_an_earlier_get() -> None:
    def get(world: Desks) -> BoundRequest:
        world._asked += 1
        return GRANT.bind(
            Operation.GET, "thermometer/read", payload=encode_get(), client=CLIENT,
            sequence=world.now_us + world._asked, deadline=world.now_us + HOUR,
        )  # fmt: skip

    async with desks() as world:
        assert await ask(world, get(world)) is None
        await world.device.wake()
        reply = await ask(world, get(world))
        assert reply is not None
        assert reply.payload == b"21.5"


class Mirror:
    """Implements ``Mirrors``: one element, as of a time."""

    def __init__(self, made_us: int) -> None:
        self.made_us = made_us

    def read(self, paired: Paired, checked: Checked) -> Content | None:
        return Content(b"mirrored", self.made_us)


async def test_mirrored_element_is_given_at_once_if_it_is_young_enough() -> None:
    async with desks() as world:
        world.requests._mirrors = Mirror(world.now_us - 90 * SECOND)
        request = world.bind(handler="")
        reply = await ask(world, request, max_age_s=90)
        assert reply is not None
        assert (reply.status, reply.result, reply.payload) == (BY_NODE, 90_000, b"mirrored")
        assert await ask(world, world.bind(handler=""), max_age_s=89) is None
        world.requests._mirrors = Mirror(world.now_us)
        assert await ask(world, world.bind(handler=""), max_age_s=0) is None


@pytest.mark.parametrize("answered_by", ["the node", "the device", "another's answer", "nobody"])
async def test_who_sends_a_recorded_request_gets_no_answer(answered_by: str) -> None:
    """Neither one that the device has given since, nor a new one of the device."""
    async with desks() as world:
        if answered_by == "the node":
            await fill(world)
        elif answered_by == "another's answer":
            await ask(world, world.bind())
        request = world.bind()
        await ask(world, request, max_age_s=0 if answered_by == "the device" else 600)
        if answered_by == "nobody":
            number = world.writer.boxes.sent_as(digest_of(request.encoded))
            await world.requests.cancel(number or b"", FETCH_KEY)
        await world.device.wake()
        executed = list(world.device.executed)
        newer = content_key(PAIRED, request.envelope)
        world.requests.answers.cache.put(newer, Content(b"99.9", world.now_us + SECOND))
        world.now_us += 2 * SECOND
        for max_age_s in (0, 600):
            with pytest.raises(SentBeforeError):
                await ask(world, request, max_age_s=max_age_s, idempotency_key=b"theirs")
        await world.device.wake()
        assert world.device.executed == executed


async def test_who_sends_a_recorded_look_at_a_mirror_gets_no_answer() -> None:
    store = MemoryKeyValue()
    async with desks(store) as world:
        world.requests._mirrors = Mirror(world.now_us)
        request = GRANT.bind(
            Operation.GET, "thermometer/read", payload=encode_get(), client=CLIENT,
            sequence=world.now_us, deadline=world.now_us + HOUR,
        )  # fmt: skip
        assert await ask(world, request, max_age_s=60) is not None
    async with desks(store) as world:
        world.now_us += MINUTE + SECOND
        with pytest.raises(SentBeforeError):
            await ask(world, request, max_age_s=60, idempotency_key=b"another")


async def test_requests_that_wait_for_the_same_are_answered_together() -> None:
    async with desks() as world:
        requests = [world.bind() for _ in range(3)]
        numbers = [
            await world.submit(each, max_age_s=60, idempotency_key=b"%d" % position)
            for position, each in enumerate(requests)
        ]
        await world.device.wake()
        replies = [
            await world.outcome(each, number)
            for each, number in zip(requests, numbers, strict=True)
        ]
        assert [each.payload for each in replies] == [b"21.5"] * 3
        assert [each.status for each in replies] == [0, BY_NODE, BY_NODE]
        assert len({each.rtag for each in replies}) == 3, "each has a tag of its own"
        assert len(world.device.executed) == 1
        assert world.requests.answers.merged == 2


@pytest.mark.parametrize("end", ["revoked", "not_after"])
async def test_who_may_ask_no_longer_is_not_given_the_answer_to_another(end: str) -> None:
    async with desks() as world:
        await world.submit(world.bind(), max_age_s=60)
        entries = (Entry(Right.PUT | Right.INVOKE, "thermometer/read"),)
        caveats = [not_after(world.now_us + SECOND)] if end == "not_after" else []
        ending = DEVICE_ISSUER.mint(serial=88, entries=entries, caveats=caveats)
        request = world.bind(ending)
        number = await world.submit(request, max_age_s=60)
        if end == "revoked":
            revocation = DEVICE_ISSUER.mint(serial=1).bind(
                Operation.REVOKE, "", payload=ending.public, client=CLIENT,
                sequence=world.now_us, deadline=world.now_us + HOUR,
            )  # fmt: skip
            await world.submit(revocation, idempotency_key=b"revoke")
        world.device.execute(await world.device.exchange())
        world.now_us += 2 * SECOND
        world.device.execute(await world.device.exchange())
        await world.device.exchange()
        status = Status.REVOKED if end == "revoked" else Status.CAVEAT
        assert (await world.outcome(request, number)).status == status, "says the device"
        assert len(world.device.executed) == 1


async def test_answer_that_is_larger_than_any_may_be_holds_up_nothing() -> None:
    """It cannot be given to another; the device must be able to go on all the same."""
    async with desks() as world:
        first = await world.submit(world.bind(), max_age_s=60)
        second = await world.submit(world.bind(), max_age_s=60)
        await world.device.exchange()
        odd = reply_of_device(payload=bytes(MAX_PAYLOAD + 1))
        world.device.results = [RequestResult(request_id=first, kind=1, reply=odd)]
        down = await world.device.exchange()
        assert down.confirmed == (first,)
        assert [each.request_id for each in down.requests] == [second]
        answer = await world.requests.fetch(first, FETCH_KEY)
        assert (answer.state, answer.reason) == ("FAILED", UNREADABLE)


async def test_revoked_capability_is_refused_here_before_the_device_wakes() -> None:
    async with desks() as world:
        await fill(world)
        root = DEVICE_ISSUER.mint(serial=1)
        revocation = root.bind(
            Operation.REVOKE, "", payload=GRANT.public, client=CLIENT,
            sequence=world.now_us, deadline=world.now_us + HOUR,
        )  # fmt: skip
        number = await world.submit(revocation, idempotency_key=b"revoke")
        with pytest.raises(RevokedError):
            await ask(world, world.bind(), idempotency_key=b"late")
        await world.device.wake()
        assert (await world.outcome(revocation, number)).status == Status.OK
        reply = world.device.authority.answer(
            world.bind().encoded, world.device._read, now_us=world.now_us
        )
        assert decode_reply(reply).status == Status.REVOKED


def test_cache_keeps_what_was_asked_for_last_within_its_bytes() -> None:
    cache = ContentCache(limit=3 * (256 + 10))
    for key in (b"a", b"b", b"c"):
        cache.put(key, Content(bytes(10), 0))
    assert cache.get(b"a", max_age_us=1, now_us=0) is not None
    cache.put(b"d", Content(bytes(10), 0))
    assert cache.get(b"b", max_age_us=1, now_us=0) is None
    assert cache.get(b"a", max_age_us=1, now_us=0) is not None
    cache.put(b"e", Content(bytes(3 * 266), 0))
    assert len(cache) == 0, "what is too large for it pushes out the rest, and goes, too"


def test_cache_keeps_the_newest() -> None:
    cache = ContentCache()
    cache.put(b"a", Content(b"new", 10))
    cache.put(b"a", Content(b"old", 5))
    content = cache.get(b"a", max_age_us=1, now_us=11)
    assert content is not None
    assert content.payload == b"new"
    assert cache.get(b"a", max_age_us=1, now_us=12) is None
    assert cache.get(b"a", max_age_us=0, now_us=10) is None, "nobody asked for shared content"
    assert Content(b"", 10).age_us(5) == 0, "a clock that was set back makes nothing negative"
