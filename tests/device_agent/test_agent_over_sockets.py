"""The agent and a node's real desks over HTTP: what is recorded, withheld or cut gains nothing."""

from __future__ import annotations

import pytest

from edgistry.envelope import Status
from edgistry.errors import ExpiredError, SentBeforeError
from tests.abci_app.desk_world import FETCH_KEY, HOUR, SECOND

from .socket_world import connected
from .test_agent_and_node import calls


async def test_request_that_is_withheld_past_its_deadline_never_runs() -> None:
    async with connected() as (world, link, running):
        await running.wake_up()
        late = world.bind(payload=b"late", deadline=world.now_us + 90 * SECOND)
        kept = world.bind(payload=b"kept")
        late_number = await world.submit(late, idempotency_key=b"late")
        kept_number = await world.submit(kept, idempotency_key=b"kept")
        link.withhold_s = 40.0
        await running.wake_up()
        link.withhold_s = 0.0
        await running.wake_up()
        assert calls == [b"kept"]
        assert (await world.outcome(late, late_number)).status == Status.EXPIRED
        assert (await world.requests.fetch(late_number, FETCH_KEY)).state == "EXPIRED"
        assert (await world.outcome(kept, kept_number)).payload == b"21.5 for kept"


async def test_answer_of_the_node_that_was_recorded_brings_no_request_a_second_time() -> None:
    async with connected() as (world, link, running):
        request = world.bind(payload=b"once")
        number = await world.submit(request)
        await running.wake_up()
        [brought, *_] = [each for each in link.recorded if request.encoded in each.reply]
        link.replay = brought
        wake = await running.wake_up()
        assert (wake.exchanges, wake.failures) == (0, 1), "it proves nothing to a later exchange"
        link.replay = None
        await running.wake_up()
        assert calls == [b"once"]
        assert (await world.outcome(request, number)).payload == b"21.5 for once"


@pytest.mark.parametrize("fate", ["cancelled", "expired", "answered"])
async def test_recorded_request_that_is_sent_again_never_runs(fate: str) -> None:
    async with connected() as (world, _, running):
        await running.wake_up()
        request = world.bind(payload=b"recorded")
        number = await world.submit(request, idempotency_key=b"mine")
        if fate == "cancelled":
            await world.requests.cancel(number, FETCH_KEY)
        elif fate == "expired":
            running.clock.s += 3601
            world.now_us = running.clock.wall_us()
            await world.writer.sweep()
        await running.wake_up()
        done = list(calls)
        assert done == ([b"recorded"] if fate == "answered" else [])
        refusal = ExpiredError if fate == "expired" else SentBeforeError
        with pytest.raises(refusal):
            await world.submit(request, idempotency_key=b"theirs")
        await running.wake_up()
        assert calls == done
        wanted = {"cancelled": "CANCELLED", "expired": "EXPIRED", "answered": "RESPONDED"}
        assert (await world.requests.fetch(number, FETCH_KEY)).state == wanted[fate]


async def test_hundred_queued_requests_of_mixed_priorities_all_run_once() -> None:
    async with connected(share=100) as (world, _, running):
        requests = [world.bind(payload=b"%d" % number) for number in range(100)]
        numbers = [
            await world.submit(
                request, priority=(7 * position) % 10, idempotency_key=b"%d" % position
            )
            for position, request in enumerate(requests)
        ]
        while world.writer.boxes.live:
            await running.wake_up()
        answers = [
            (await world.outcome(request, number)).payload
            for request, number in zip(requests, numbers, strict=True)
        ]
        assert answers == [b"21.5 for %d" % number for number in range(100)]
        assert sorted(calls, key=int) == [b"%d" % number for number in range(100)]
        assert calls != sorted(calls, key=int), "by priority"
        assert world.now_us < requests[0].envelope.sequence + HOUR


@pytest.mark.parametrize("is_answer", [False, True], ids=["requests", "answers"])
@pytest.mark.parametrize(
    "step",
    [pytest.param(29, id="some"), pytest.param(1, id="every", marks=pytest.mark.soak)],
)
async def test_connection_cut_at_any_byte_loses_nothing_and_does_nothing_twice(
    is_answer: bool, step: int
) -> None:
    """Both exchanges of a wake: the one that brings a request down, and that with the answer."""
    async with connected() as (world, link, running):
        await running.wake_up()
        given: list[bytes] = []

        async def call() -> None:
            data = b"call %04d" % len(given)
            given.append(data)
            request = world.bind(payload=data)
            number = await world.submit(request, idempotency_key=data)
            for _ in range(3):
                await running.wake_up()
                if (await world.requests.fetch(number, FETCH_KEY)).final:
                    break
            assert (await world.outcome(request, number)).payload == b"21.5 for " + data
            await world.requests.acknowledge(number, FETCH_KEY)

        await call()
        size = link.knife.passed[is_answer]
        assert size > 500, "two exchanges"
        for after in range(0, size, step):
            link.knife.cut(after, is_answer=is_answer)
            await call()
        assert calls == given
