"""A device's exchange with its home node: who is heard, what waits, what is said twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.exchange_desk import ExchangeDesk
from abci_app.pairing import node_capability
from edgistry.envelope import GENERIC_REFUSAL, Operation, Status, decode_reply
from edgistry.errors import StorageError
from edgistry.kv import Change, MemoryKeyValue
from edgistry.messages import RequestResult, decode_down
from edgistry.pairing import device_object
from edgistry.requests_api import to_bytes

from .desk_world import DEVICE, FETCH_KEY, HOUR, NODE, PAIRED, SECOND, RealDevice, desks


class CountingStore(MemoryKeyValue):
    """Counts writes, and refuses them, or waits before them, when told."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        assert self.gate.wait(10)
        if self.fails:
            raise StorageError("told to")
        self.writes += 1
        super().write(changes, sync=sync)


async def until_waiting(exchanges: ExchangeDesk, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while exchanges.waiting < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_exchange_without_work_tells_the_time() -> None:
    async with desks() as world:
        down = await world.device.exchange()
        assert (down.now_us, down.requests, down.more) == (world.now_us, (), False)


async def test_exchange_tells_when_the_privacy_epoch_ends() -> None:
    async with desks() as world:
        assert (await world.device.exchange()).epoch_ends_us == 0, "the node knows of none"
        world.exchanges.epoch_ends_us = lambda: world.now_us + HOUR
        assert (await world.device.exchange()).epoch_ends_us == world.now_us + HOUR
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        world.exchanges.epoch_ends_us = lambda: 2 * HOUR
        await world.submit(world.bind())
        assert (await waiting).epoch_ends_us == 2 * HOUR, "as it is when it is answered"


async def test_exchange_that_waits_is_answered_when_a_request_comes() -> None:
    async with desks() as world:
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        number = await world.submit(world.bind())
        assert [each.request_id for each in (await waiting).requests] == [number]
        assert world.exchanges.waiting == 0


async def test_request_for_a_device_that_waits_is_leased_in_its_own_write() -> None:
    store = CountingStore()
    async with desks(store) as world:
        await world.submit(world.bind())
        world.device.execute(await world.device.exchange())
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        await world.device.exchange(settled=1)
        before = store.writes
        answer, _ = await world.requests.submit(world.asked(world.bind()))
        assert answer.state == "LEASED"
        assert len((await waiting).requests) == 1
        assert store.writes == before + 1


async def test_write_that_fails_leaves_the_exchange_and_the_request_undone() -> None:
    store = CountingStore()
    async with desks(store) as world:
        await world.requests.cancel(await world.submit(world.bind()), FETCH_KEY)
        request = world.device.request()
        waiting = asyncio.create_task(world.exchanges.answer(request.encoded, wait_s=30))
        await until_waiting(world.exchanges)
        store.fails = True
        with pytest.raises(StorageError):
            await world.submit(world.bind())
        assert request.open_reply(await waiting).status == Status.STORAGE
        store.fails = False
        assert world.writer.boxes.live == {}
        reply = request.open_reply(await world.exchanges.answer(request.encoded))
        assert reply.status == Status.OK, "the same envelope is taken, since nothing was done"


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_exchange_that_is_cut_off_when_it_was_served_is_answered_to_who_repeats_it(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CountingStore()
    async with desks(store) as world:
        await world.requests.cancel(await world.submit(world.bind()), FETCH_KEY)
        request = world.device.request()
        waiting = asyncio.create_task(world.exchanges.answer(request.encoded, wait_s=30))
        await until_waiting(world.exchanges)
        await world.device.exchange(settled=0)  # what the first one said is durable
        store.gate.clear()
        served = world.exchanges._served

        def serve_and_cut(*arguments: Any) -> None:
            served(*arguments)
            if turns == 0:
                waiting.cancel()
            else:
                cuts.append(asyncio.create_task(cut()))

        async def cut() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()

        cuts: list[asyncio.Task[None]] = []
        monkeypatch.setattr(world.exchanges, "_served", serve_and_cut)
        submitting = asyncio.create_task(world.requests.submit(world.asked(world.bind())))
        await asyncio.wait([waiting])
        store.gate.set()
        answer, _ = await submitting
        reply = request.open_reply(await world.exchanges.answer(request.encoded))
        [handed] = decode_down(reply.payload).requests
        assert handed.request_id == to_bytes(answer.id, "id")


async def test_exchange_that_is_served_is_answered_though_the_client_has_left() -> None:
    store = CountingStore()
    async with desks(store) as world:
        await world.requests.cancel(await world.submit(world.bind()), FETCH_KEY)
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        await world.device.exchange(settled=0)  # what the first one said is durable
        store.gate.clear()
        submitting = asyncio.create_task(world.requests.submit(world.asked(world.bind())))
        await asyncio.sleep(0)
        submitting.cancel()
        await asyncio.wait([submitting])
        store.gate.set()
        async with asyncio.timeout(10):
            assert len((await waiting).requests) == 1


async def test_exchange_is_served_once() -> None:
    async with desks() as world:
        await world.requests.cancel(await world.submit(world.bind()), FETCH_KEY)
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        first, second = await asyncio.gather(
            *(world.submit(world.bind(), idempotency_key=b"%d" % number) for number in range(2))
        )
        assert [each.request_id for each in (await waiting).requests] == [first]
        down = await world.device.exchange(settled=0)
        assert [each.request_id for each in down.requests] == [second]


async def test_exchange_that_is_given_up_does_not_stand_before_another() -> None:
    async with desks() as world:
        await world.requests.cancel(await world.submit(world.bind()), FETCH_KEY)
        lost = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        down, (answer, _) = await asyncio.gather(
            world.device.exchange(wait_s=30),
            world.requests.submit(world.asked(world.bind(), idempotency_key=b"new")),
        )
        assert answer.state == "LEASED"
        assert len(down.requests) == 1
        assert (await lost).requests == ()


async def test_exchange_that_waits_tells_its_results_first() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        world.device.execute(await world.device.exchange())
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        answer = await world.requests.fetch(number, FETCH_KEY, wait_s=30)
        assert answer.state == "RESPONDED"
        assert not waiting.done()
        other = await world.submit(world.bind())
        down = await waiting
        assert [each.request_id for each in down.requests] == [other]
        assert down.confirmed == (number,)


async def test_exchange_that_waits_ends_when_its_time_is_over() -> None:
    async with desks() as world:
        assert (await world.device.exchange(wait_s=0.01)).requests == ()
        assert world.writer._waiting == {}


async def test_exchange_that_waits_hears_of_a_cancelled_request() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        await world.device.exchange()
        world.device.results = [RequestResult(request_id=number, kind=0)]
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        await world.requests.cancel(number, FETCH_KEY)
        assert (await waiting).cancelled == (number,)


async def test_exchange_that_waits_gets_what_had_to_wait_for_a_request_that_is_taken_back() -> None:
    async with desks(overtakes=1) as world:
        early = await world.submit(world.bind(), not_before_us=world.now_us + HOUR // 2)
        await world.submit(world.bind())
        world.device.execute(await world.device.exchange())
        behind = await world.submit(world.bind())
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        await world.requests.cancel(early, FETCH_KEY)
        async with asyncio.timeout(10):
            assert [each.request_id for each in (await waiting).requests] == [behind]


async def test_exchange_that_waits_gets_what_had_to_wait_for_one_to_be_acknowledged() -> None:
    async with desks(overtakes=1) as world:
        first = await world.submit(world.bind())
        await world.device.exchange()
        second = await world.submit(world.bind())
        await world.device.exchange(settled=0)
        third = await world.submit(world.bind())
        waiting = asyncio.create_task(world.device.exchange(wait_s=30, settled=0))
        await until_waiting(world.exchanges)
        acknowledged = [RequestResult(request_id=each, kind=0) for each in (first, second)]
        await world.device.exchange(settled=0, want_count=0, results=tuple(acknowledged))
        async with asyncio.timeout(10):
            assert [each.request_id for each in (await waiting).requests] == [third]


async def test_exchange_that_waits_gets_what_waited_for_an_answer_that_is_of_no_use() -> None:
    async with desks() as world:
        first = await world.submit(world.bind(), max_age_s=60)
        second = await world.submit(world.bind(), max_age_s=60)
        await world.device.exchange()
        waiting = asyncio.create_task(world.device.exchange(wait_s=30, settled=0))
        await until_waiting(world.exchanges)
        odd = RequestResult(request_id=first, kind=1, reply=b"odd")
        await world.device.exchange(settled=0, want_count=0, results=(odd,))
        async with asyncio.timeout(10):
            assert [each.request_id for each in (await waiting).requests] == [second]


async def test_who_looks_when_something_begins_holds_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a write that fails could have the memory made anew under its eyes."""
    async with desks() as world:
        held: list[bool] = []

        def begins_s(_device: str, *, now_us: int) -> int:
            held.append(world.writer.lock.locked())
            return 0

        monkeypatch.setattr(world.writer.exchange, "begins_s", begins_s)
        await world.device.exchange(wait_s=0.01)
        assert held
        assert all(held)


async def test_recalled_request_is_not_told_to_an_exchange_that_nobody_listens_to() -> None:
    async with desks() as world:
        number = await world.submit(world.bind())
        await world.device.exchange()
        world.device.results = [RequestResult(request_id=number, kind=0)]
        lost = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        # It is given up, and the request recalled, before it has its turn.
        listening, _ = await asyncio.gather(
            world.device.exchange(want_count=0), world.requests.cancel(number, FETCH_KEY)
        )
        await lost
        assert listening.cancelled == ()
        async with asyncio.timeout(10):
            assert (await world.device.exchange(wait_s=30)).cancelled == (number,)


async def test_exchange_that_the_device_gave_up_gets_nothing() -> None:
    async with desks() as world:
        lost = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        assert (await lost).requests == ()
        number = await world.submit(world.bind())
        assert [each.request_id for each in (await waiting).requests] == [number]


async def test_request_is_not_handed_to_an_exchange_that_was_just_given_up() -> None:
    async with desks() as world:
        lost = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        # Both become durable together, before the exchange that waits has its turn.
        _, number = await asyncio.gather(
            world.device.exchange(want_count=0), world.submit(world.bind())
        )
        assert (await lost).requests == ()
        down = await world.device.exchange()
        assert [each.request_id for each in down.requests] == [number]
        assert (await world.requests.fetch(number, FETCH_KEY)).attempts == 1


async def test_device_that_leaves_many_exchanges_open_gets_answers_to_the_oldest() -> None:
    async with desks() as world:
        waiting = []
        for number in range(3):
            waiting.append(asyncio.create_task(world.device.exchange(wait_s=30, settled=0)))
            await until_waiting(world.exchanges, min(number + 1, 2))
        assert (await waiting[0]).requests == ()
        await world.device.exchange()
        await asyncio.gather(*waiting)


async def test_two_exchanges_may_be_under_way_at_once() -> None:
    async with desks() as world:
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        await world.device.exchange(settled=0)
        assert world.exchanges.waiting == 1
        number = await world.submit(world.bind())
        assert [each.request_id for each in (await waiting).requests] == [number]


async def test_exchange_that_waits_gets_a_request_whose_time_has_come() -> None:
    async with desks() as world:
        await world.submit(world.bind(), not_before_us=world.now_us + 1)
        waiting = asyncio.create_task(world.device.exchange(wait_s=30))
        await until_waiting(world.exchanges)
        world.now_us += SECOND
        world.writer.ring([DEVICE])
        assert len((await waiting).requests) == 1


async def test_same_envelope_gets_the_same_reply() -> None:
    async with desks() as world:
        await world.submit(world.bind())
        request = world.device.request()
        first = await world.exchanges.answer(request.encoded)
        again = await world.exchanges.answer(request.encoded)
        assert again == first
        assert len(decode_down(decode_reply(first).payload).requests) == 1
        assert world.exchanges.exchanges == 1


async def test_large_requests_are_not_remembered_but_handed_down_again() -> None:
    async with desks() as world:
        number = await world.submit(world.bind(payload=bytes(10_000)))
        request = world.device.request()
        first = await world.exchanges.answer(request.encoded)
        again = request.open_reply(await world.exchanges.answer(request.encoded))
        assert len(first) > 10_000
        assert len(again.payload) < 100
        assert decode_down(again.payload).more
        down = await world.device.exchange()
        assert [each.request_id for each in down.requests] == [number]


async def test_same_envelope_at_the_same_time_is_one_exchange() -> None:
    async with desks() as world:
        await world.submit(world.bind())
        request = world.device.request()
        replies = await asyncio.gather(*(world.exchanges.answer(request.encoded) for _ in range(3)))
        assert len(set(replies)) == 1
        assert world.exchanges.exchanges == 1


async def refused(device: RealDevice, data: bytes) -> int:
    return decode_reply(await device.desks.exchanges.answer(data)).status


async def test_who_listens_hears_of_each_exchange_of_the_device_once() -> None:
    async with desks() as world:
        heard: list[tuple[str, bool]] = []
        world.exchanges.on_exchange = lambda paired, up: heard.append(
            (paired.device, up.is_home_away)
        )
        await world.device.exchange()
        request = world.device.request(is_home_away=True)
        for _ in range(2):
            await world.exchanges.answer(request.encoded)
        forged = bytearray(world.device.request(is_home_away=True).encoded)
        forged[-1] ^= 1
        await world.exchanges.answer(bytes(forged))
        assert heard == [(DEVICE, False), (DEVICE, True)]


async def test_device_that_is_not_paired_is_refused_with_proof() -> None:
    async with desks() as world:
        request = world.device.request()
        world.pairings.paired = None
        reply = request.open_reply(await world.exchanges.answer(request.encoded))
        assert reply.status == Status.REJECTED


async def test_capability_of_an_earlier_pairing_is_void() -> None:
    async with desks() as world:
        world.device.capability = node_capability(NODE, replace(PAIRED, serial=4))
        assert await refused(world.device, world.device.request().encoded) == Status.REJECTED


async def test_exchange_on_another_object_is_nobodys() -> None:
    async with desks() as world:
        everything = NODE.mint(serial=PAIRED.serial)
        for target in (f"other/{DEVICE}", DEVICE, "devices", ""):
            request = everything.bind(
                Operation.EXCHANGE, target, payload=world.device.request().envelope.payload,
                client=bytes(8), sequence=world.now_us, deadline=world.now_us + SECOND,
            )  # fmt: skip
            assert await refused(world.device, request.encoded) == Status.REJECTED


async def test_agent_that_was_replaced_is_told() -> None:
    async with desks() as world:
        first, second = world.device, RealDevice(world, instance=b"agent..2")
        await first.exchange()
        second.counter = 10
        await second.exchange()
        request = first.request()
        reply = request.open_reply(await world.exchanges.answer(request.encoded))
        assert reply.status == Status.BUSY
        assert world.exchanges.refused == 1


@pytest.mark.parametrize(
    "payload", [b"", b"\xc0", b"\x99", bytes(100)], ids=["empty", "nil", "cut", "zeros"]
)
async def test_exchange_that_makes_no_sense_is_refused_and_changes_nothing(payload: bytes) -> None:
    async with desks() as world:
        await world.submit(world.bind())
        assert await refused(world.device, world.device.request(payload=payload).encoded) == (
            Status.MALFORMED
        )
        assert len((await world.device.exchange()).requests) == 1


async def test_other_operation_is_not_answered_here() -> None:
    async with desks() as world:
        request = world.device.capability.bind(
            Operation.GET, device_object(DEVICE), client=bytes(8),
            sequence=world.now_us, deadline=world.now_us + SECOND,
        )  # fmt: skip
        assert await refused(world.device, request.encoded) == Status.MALFORMED


async def test_cut_exchange_gets_the_generic_refusal() -> None:
    async with desks() as world:
        encoded = world.device.request().encoded
        for cut in range(len(encoded)):
            assert await world.exchanges.answer(encoded[:cut]) == GENERIC_REFUSAL
        assert world.exchanges.exchanges == 0


async def test_recorded_exchange_is_of_no_use_after_its_deadline() -> None:
    async with desks() as world:
        request = world.device.request()
        world.now_us += 61 * SECOND
        assert await refused(world.device, request.encoded) == Status.EXPIRED


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_get_a_reply(data: bytes) -> None:
    async def answer() -> bytes:
        async with desks() as world:
            return await world.exchanges.answer(data)

    assert asyncio.run(answer()) == GENERIC_REFUSAL


async def test_hundred_queued_requests_of_mixed_priorities_pass_the_replay_window() -> None:
    async with desks(share=100) as world:
        requests = [world.bind(payload=b"%d" % number) for number in range(100)]
        numbers = [
            await world.submit(
                request, priority=(7 * position) % 10, idempotency_key=b"%d" % position
            )
            for position, request in enumerate(requests)
        ]
        for _ in range(30):
            await world.device.wake(want_count=4)
        replies = [
            await world.outcome(request, number)
            for request, number in zip(requests, numbers, strict=True)
        ]
        assert {reply.status for reply in replies} == {Status.OK}
        assert sorted(map(int, world.device.executed)) == list(range(100))
        assert list(map(int, world.device.executed)) != list(range(100)), "by priority"


async def test_request_captured_and_withheld_past_its_deadline_never_runs() -> None:
    async with desks() as world:
        request = world.bind()
        number = await world.submit(request)
        down = await world.device.exchange(back_in_s=600)
        world.now_us += HOUR + SECOND
        world.device.execute(down)
        assert world.device.executed == []
        assert decode_reply(world.device.results[0].reply).status == Status.EXPIRED
        world.device.results = [
            RequestResult(request_id=number, kind=2, reply=world.device.results[0].reply)
        ]
        await world.device.exchange()
        assert (await world.outcome(request, number)).status == Status.EXPIRED
        assert (await world.requests.fetch(number, FETCH_KEY)).state == "EXPIRED"


async def test_twenty_requests_and_twenty_answers_travel_in_one_exchange() -> None:
    async with desks(share=100) as world:
        requests = [world.bind() for _ in range(40)]
        for position, request in enumerate(requests[:20]):
            await world.submit(request, idempotency_key=b"%d" % position)
        world.device.execute(await world.device.exchange(want_count=20))
        numbers = [
            await world.submit(request, idempotency_key=b"%d" % position)
            for position, request in enumerate(requests[20:], 20)
        ]
        down = await world.device.exchange(want_count=20)
        assert [each.request_id for each in down.requests] == numbers
        assert len(down.confirmed) == 20
