"""Clients and their requests to this node's devices: what is queued, seen, awaited and told."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import abci_app.mailbox_writer as writer_module
from abci_app.asked import FetchHash
from abci_app.mailbox_states import State
from abci_app.parties import party_of_client
from abci_app.queueing import WAKE_LIMITS_S
from edgistry import caveats
from edgistry.api import SHARE, state_of
from edgistry.capability import Capability
from edgistry.capability_chain import Entry
from edgistry.envelope import BY_NODE, Operation, Status
from edgistry.errors import (
    BadReplyError,
    BadRequestError,
    BadTagError,
    CaveatError,
    DiskFullError,
    ExpiredError,
    FutureError,
    KeyReusedError,
    MailboxFullError,
    MalformedError,
    NoRightError,
    NotFoundError,
    NotPairedError,
    UnknownRequestError,
    WrongEpochError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.rights import Right

from .desk_world import (
    CLIENT,
    DEVICE,
    DEVICE_ISSUER,
    FETCH_KEY,
    GRANT,
    HOUR,
    SECOND,
    SERVICE_KEY,
    Desks,
    desks,
    text_bytes,
)


async def test_call_to_a_sleeping_device_is_answered_end_to_end() -> None:
    async with desks() as world:
        request = world.bind()
        answer, is_new = await world.requests.submit(world.asked(request))
        assert (answer.state, answer.final, answer.reply, is_new) == ("QUEUED", False, None, True)
        assert answer.wake == "15m"
        await world.device.wake()
        reply = await world.outcome(request, text_bytes(answer.id))
        assert (reply.status, reply.payload) == (Status.OK, b"21.5")
        done = await world.requests.acknowledge(text_bytes(answer.id), FETCH_KEY)
        assert (done.state, done.reply) == ("DELIVERED", None)


async def test_request_sent_again_is_the_same_one_and_runs_once() -> None:
    async with desks() as world:
        request = world.bind()
        first, _ = await world.requests.submit(world.asked(request))
        await world.device.wake()
        again, is_new = await world.requests.submit(world.asked(request))
        assert (again.id, again.state, is_new) == (first.id, "RESPONDED", False)
        assert world.device.executed == [b"please"]


async def test_request_sent_again_when_its_capability_has_ended_is_answered_as_it_ended() -> None:
    async with desks() as world:
        grant = GRANT.derive(not_after_us=world.now_us + SECOND)
        request = world.bind(grant)
        asked = world.asked(request)
        await world.requests.submit(asked)
        await world.device.wake()
        world.now_us += 2 * HOUR
        answer, is_new = await world.requests.submit(asked)
        assert (answer.state, is_new) == ("RESPONDED", False)
        for other in (
            replace(asked, fetch_hash=hashlib.sha256(b"other").digest()),
            replace(asked, idempotency_key=b"other"),
        ):
            with pytest.raises(CaveatError):
                await world.requests.submit(other)


async def test_request_sent_again_when_its_service_is_withdrawn_is_answered_as_it_ended() -> None:
    async with desks() as world:
        asked = world.asked(world.bind())
        await world.requests.submit(asked)
        await world.device.wake()
        world.pairings.is_listed = False
        answer, is_new = await world.requests.submit(asked)
        assert (answer.state, is_new) == ("RESPONDED", False)
        assert answer.reply is not None
        for other in (
            replace(asked, fetch_hash=hashlib.sha256(b"other").digest()),
            replace(asked, idempotency_key=b"other"),
            replace(asked, envelope=b"none"),
        ):
            with pytest.raises(NotFoundError):
                await world.requests.submit(other)


async def test_same_request_from_two_connections_is_queued_once() -> None:
    async with desks() as world:
        asked = world.asked(world.bind())
        answers = await asyncio.gather(*(world.requests.submit(asked) for _ in range(5)))
        assert len({answer.id for answer, _ in answers}) == 1
        assert [is_new for _, is_new in answers].count(True) == 1


async def test_fetch_waits_for_the_outcome() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        waiting = asyncio.create_task(world.requests.fetch(number, FETCH_KEY, wait_s=30))
        await world.device.wake()
        assert (await waiting).state == "RESPONDED"


async def test_fetch_waits_for_any_other_state_than_the_known_one() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        waiting = asyncio.create_task(
            world.requests.fetch(number, FETCH_KEY, wait_s=30, known="QUEUED")
        )
        await asyncio.sleep(0)
        await world.device.exchange()
        assert (await waiting).state == "LEASED"
        answer = await world.requests.fetch(number, FETCH_KEY, wait_s=30, known="QUEUED")
        assert answer.state == "LEASED"


async def test_fetch_says_how_it_is_when_the_time_is_over() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        assert (await world.requests.fetch(number, FETCH_KEY, wait_s=0.01)).state == "QUEUED"
        assert world.writer._waiting == {}


async def test_request_is_seen_only_with_its_key() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        errors = []
        for request, key in (
            (number, b"another key"), (number, b""), (number, bytes(65)), (b"?" * 16, FETCH_KEY),
        ):  # fmt: skip
            for use in (
                world.requests.fetch, world.requests.acknowledge, world.requests.cancel,
            ):  # fmt: skip
                with pytest.raises(UnknownRequestError) as caught:
                    await use(request, key)
                errors.append(str(caught.value))
        assert len(set(errors)) == 1, "one cannot tell a wrong key from a wrong id"


def tampered(world: Desks) -> bytes:
    data = bytearray(world.bind().encoded)
    data[-20] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        (tampered, BadTagError),
        (lambda world: world.bind().encoded[:-1], MalformedError),
        (lambda world: bytes(80_000), MalformedError),
        (lambda world: world.bind(deadline=world.now_us).encoded, ExpiredError),
        (
            lambda world: world.bind(
                sequence=world.now_us + 301 * SECOND, deadline=world.now_us + HOUR
            ).encoded,
            FutureError,
        ),
        (
            lambda world: GRANT.bind(
                Operation.DELETE, "thermometer/read", client=CLIENT,
                sequence=world.now_us, deadline=world.now_us + HOUR,
            ).encoded,
            NoRightError,
        ),
        (lambda world: world.device.request().encoded, WrongEpochError),
    ],
)  # fmt: skip
async def test_request_that_the_device_would_refuse_is_not_queued(
    envelope: Callable[[Desks], bytes], error: type[Exception]
) -> None:
    async with desks() as world:
        with pytest.raises(error):
            await world.requests.submit(world.asked(world.bind(), envelope=envelope(world)))
        assert world.writer.boxes.live == {}
        assert (await world.device.exchange()).requests == ()


async def test_exchange_is_not_passed_on_to_a_device() -> None:
    async with desks() as world:
        root = world.pairings.paired.issuer.mint(serial=1)  # type: ignore[union-attr]
        request = root.bind(
            Operation.EXCHANGE, "", client=CLIENT, sequence=world.now_us,
            deadline=world.now_us + HOUR,
        )  # fmt: skip
        with pytest.raises(BadRequestError):
            await world.requests.submit(world.asked(request))


async def test_handle_of_nothing_here_is_not_found() -> None:
    async with desks() as world:
        with pytest.raises(NotFoundError):
            await world.requests.submit(world.asked(world.bind(), service=bytes(16)))


async def test_tampering_node_on_the_way_back_is_noticed_by_the_client() -> None:
    async with desks() as world:
        request = world.bind()
        number = await world.submit(request)
        await world.device.wake()
        answer = await world.requests.fetch(number, FETCH_KEY)
        assert answer.reply is not None
        changed = text_bytes(answer.reply).replace(b"21.5", b"91.5")
        with pytest.raises(BadReplyError):
            request.open_reply(changed)


@pytest.mark.parametrize(
    ("end", "status"),
    [("expires", Status.EXPIRED), ("cancelled", Status.CANCELLED), ("dead", Status.DEAD)],
)
async def test_end_that_the_device_does_not_tell_is_proven_by_its_home_node(
    end: str, status: Status
) -> None:
    async with desks(attempts=1) as world:
        request = world.bind()
        number = await world.submit(request)
        if end == "expires":
            world.now_us += HOUR
            await world.writer.sweep()
        elif end == "cancelled":
            await world.requests.cancel(number, FETCH_KEY)
        else:
            await world.device.exchange()
            await world.device.exchange()
        reply = await world.outcome(request, number)
        assert reply.status == status | BY_NODE


async def test_end_is_told_without_a_reply_when_the_node_has_no_key_any_more() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        assert await world.own.forget_device(DEVICE) == 1
        world.pairings.paired = None
        answer = await world.requests.fetch(number, FETCH_KEY)
        assert (answer.state, answer.reply) == ("CANCELLED", None)
        assert "not paired" in answer.reason


async def test_waiting_client_hears_of_an_expiry() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        waiting = asyncio.create_task(world.requests.fetch(number, FETCH_KEY, wait_s=30))
        await asyncio.sleep(0)
        world.now_us += HOUR
        await world.writer.sweep()
        assert (await waiting).state == "EXPIRED"


async def test_outcome_survives_a_restart() -> None:
    store = MemoryKeyValue()
    async with desks(store) as world:
        request = world.bind()
        number = await world.submit(request)
        await world.device.wake()
    async with desks(store) as world:
        assert (await world.outcome(request, number)).payload == b"21.5"


class Disk(MemoryKeyValue):
    """Takes no more writes once it is ``full``."""

    full = False
    refused = 0

    def write(self, changes: Any, *, sync: bool) -> None:
        if self.full:
            self.refused += 1
            raise DiskFullError("no space")
        super().write(changes, sync=sync)


async def test_full_disk_does_not_stop_the_node_when_a_deadline_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_module, "SWEEP_EVERY_S", 0.001)
    disk = Disk()
    async with desks(disk) as world:
        number = await world.submit(world.bind())
        disk.full = True
        world.now_us += HOUR
        running = asyncio.create_task(world.writer.run())
        async with asyncio.timeout(10):
            while disk.refused < 3 and not running.done():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert (await world.requests.fetch(number, FETCH_KEY)).state == "QUEUED"
        disk.full = False
        async with asyncio.timeout(10):
            while (await world.requests.fetch(number, FETCH_KEY)).state != "EXPIRED":  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_request_that_could_not_be_written_is_not_there() -> None:
    disk = Disk()
    async with desks(disk) as world:
        kept = await world.submit(world.bind())
        disk.full = True
        lost = world.asked(world.bind())
        with pytest.raises(DiskFullError):
            await world.requests.submit(lost)
        with pytest.raises(DiskFullError):
            await world.requests.cancel(kept, FETCH_KEY)
        assert list(world.writer.boxes.live) == [kept]
        assert (await world.requests.fetch(kept, FETCH_KEY)).state == "QUEUED"
        disk.full = False


async def test_request_of_the_node_itself_is_answered_to_the_node() -> None:
    async with desks() as world:
        envelope = world.bind().encoded
        number = await world.own.submit_own(DEVICE, envelope, idempotency_key=b"setup 1")
        again = await world.own.submit_own(DEVICE, envelope, idempotency_key=b"setup 1")
        assert number == again
        assert world.own.outcome_of(number) == (State.QUEUED, None)
        await world.device.wake()
        state, reply = world.own.outcome_of(number)
        assert (state, reply is not None) == (State.RESPONDED, True)
        with pytest.raises(UnknownRequestError):
            await world.requests.fetch(number, bytes(32))
        with pytest.raises(UnknownRequestError):
            world.own.outcome_of(b"?" * 16)
        with pytest.raises(NotPairedError):
            await world.own.submit_own("b" * 26, envelope, idempotency_key=b"setup 1")


async def test_nobody_sees_the_request_of_another_client_by_its_idempotency_key() -> None:
    async with desks() as world:
        asked = world.asked(world.bind())
        await world.requests.submit(asked)
        other = world.asked(
            world.bind(client=b"client-2"),
            idempotency_key=asked.idempotency_key,
            fetch_hash=hashlib.sha256(b"other").digest(),
        )
        _, is_new = await world.requests.submit(other)
        assert is_new


async def test_request_is_seen_by_the_hash_of_its_fetch_key_too() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        right, wrong = (FetchHash(hashlib.sha256(key).digest()) for key in (FETCH_KEY, b"other"))
        assert (await world.requests.fetch(number, right)).state == "QUEUED"
        with pytest.raises(UnknownRequestError):
            await world.requests.fetch(number, wrong)


async def test_node_s_own_request_is_seen_by_no_hash() -> None:
    async with desks() as world:
        number = await world.own.submit_own(DEVICE, world.bind().encoded, idempotency_key=b"own")
        with pytest.raises(UnknownRequestError):
            await world.requests.fetch(number, FetchHash(bytes(32)))


class Paid:
    """Implements ``RequestBudget`` without end, and knows who has paid how much."""

    def __init__(self) -> None:
        self.by: Counter[bytes] = Counter()

    def spend(self, party: bytes) -> None:
        self.by[party] += 1

    def give_back(self, party: bytes) -> None:
        self.by[party] -= 1


def granted_to(client: bytes, *, serial: int) -> Capability:
    return DEVICE_ISSUER.mint(
        serial=serial,
        entries=(Entry(Right.PUT | Right.INVOKE, "thermometer/read"),),
        caveats=(caveats.client(client),),
    )


async def test_client_that_grants_name_pays_from_one_budget_whatever_it_was_granted() -> None:
    async with desks() as world:
        paid = world.requests.budget = Paid()
        for serial in (901, 902):
            await world.submit(world.bind(granted_to(CLIENT, serial=serial)))
        assert paid.by == {party_of_client(CLIENT): 2}


async def test_who_adds_a_client_to_a_capability_pays_and_not_that_client() -> None:
    async with desks() as world:
        paid = world.requests.budget = Paid()
        await world.submit(world.bind(GRANT.derive(client=CLIENT)))
        await world.submit(world.bind())
        assert list(paid.by.values()) == [2]
        assert party_of_client(CLIENT) not in paid.by


async def test_what_is_refused_costs_nothing() -> None:
    async with desks(share=1) as world:
        paid = world.requests.budget = Paid()
        asked = world.asked(world.bind())
        await world.requests.submit(asked)
        bound = world.bind()
        with pytest.raises(MailboxFullError):
            await world.requests.submit(world.asked(bound))
        with pytest.raises(KeyReusedError):
            await world.requests.submit(replace(asked, fetch_hash=bytes(32)))
        assert list(paid.by.values()) == [1]


async def test_what_cannot_be_written_costs_nothing() -> None:
    disk = Disk()
    async with desks(disk) as world:
        paid = world.requests.budget = Paid()
        disk.full = True
        with pytest.raises(DiskFullError):
            await world.submit(world.bind())
        assert +paid.by == {}


async def test_another_grant_brings_no_other_share_and_the_state_says_what_is_refused() -> None:
    async with desks() as world:
        under_way = world.writer.boxes.count

        def state() -> str:
            return state_of(under_way(SERVICE_KEY, party_of_client(CLIENT)).outstanding)

        for number in range(SHARE):
            assert state() == ("open" if number < SHARE // 2 else "busy")
            await world.submit(world.bind(granted_to(CLIENT, serial=900 + number % 3)))
        assert state() == "full"
        with pytest.raises(MailboxFullError) as refused:
            await world.submit(world.bind(granted_to(CLIENT, serial=990)))
        assert refused.value.retry_after_s == WAKE_LIMITS_S[1]


async def test_nobody_else_changes_the_state_or_the_share_of_a_client() -> None:
    async with desks() as world:
        stranger = GRANT.derive(client=CLIENT)
        for _ in range(SHARE):
            await world.submit(world.bind(stranger))
        bound = world.bind(stranger)
        with pytest.raises(MailboxFullError):
            await world.submit(bound)
        assert world.writer.boxes.count(SERVICE_KEY, party_of_client(CLIENT)).outstanding == 0
        await world.submit(world.bind(granted_to(CLIENT, serial=901)))
