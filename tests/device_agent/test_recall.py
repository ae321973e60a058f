"""Requests that were taken back while they wait on the device for their handler's turn."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edgistry.envelope import Operation, Status
from edgistry.handlers import handler
from edgistry.kv import MemoryKeyValue
from edgistry.messages import ResultKind
from tests.abci_app.desk_world import desks
from tests.edgistry.faas_world import Gate, until

from .device_world import HOME, OTHER_HOME, Inside, Requests, down, inside, request_id
from .test_agent_and_node import CutLink, agent_at, clock_of


def one_at_a_time() -> tuple[Gate, list[bytes], Callable[..., object]]:
    """A handler that serves one request after the other; the first waits for the gate."""
    gate = Gate()
    ran: list[bytes] = []

    @handler("read", concurrency=1)
    async def slow(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        ran.append(element)
        await gate.wait_async()
        return b"did " + element

    return gate, ran, slow


@contextlib.asynccontextmanager
async def started(
    slow: Callable[..., object], store: MemoryKeyValue | None = None
) -> AsyncIterator[Inside]:
    """A device whose handlers wait for requests: what comes now was not there before."""
    async with inside(slow, store=store) as device:
        await until(lambda: device.runtime._started)
        yield device


async def test_recalled_request_whose_handler_has_not_begun_never_runs() -> None:
    gate, ran, slow = one_at_a_time()
    requests = Requests()
    first, second, third = (
        requests.bind(payload=b"%d" % each, handler="read") for each in (1, 2, 3)
    )
    async with started(slow) as device:
        await device.execute(down(first, 1), down(second, 2), down(third, 3))
        await until(lambda: gate.entered)
        await device.executor.recall(HOME, [request_id(2)])
        told = device.report()
        assert told[2].kind == ResultKind.REJECTED
        reply = device.reply(second, 2)
        assert (reply.status, reply.result) == (Status.CANCELLED, 2)
        gate.open()
        await device.settled()
        assert ran == [b"1", b"3"]
        assert device.reply(third, 3).payload == b"did 3"
        assert device.elements() == [b"1", b"2", b"3"], "what was put stays in the log"


async def test_recalled_request_that_comes_again_is_answered_alike_and_never_runs() -> None:
    gate, ran, slow = one_at_a_time()
    requests = Requests()
    first, second = (requests.bind(payload=each, handler="read") for each in (b"1", b"2"))
    async with started(slow) as device:
        await device.execute(down(first, 1), down(second, 2))
        await until(lambda: gate.entered)
        await device.executor.recall(HOME, [request_id(2)])
        await device.execute(down(second, 22))
        assert device.reply(second, 22) == device.reply(second, 2)
        gate.open()
        await device.settled()
        assert ran == [b"1"]


async def test_recalled_request_stays_so_after_a_restart() -> None:
    store = MemoryKeyValue()
    gate, ran, slow = one_at_a_time()
    requests = Requests()
    first, second = (requests.bind(payload=each, handler="read") for each in (b"1", b"2"))
    async with started(slow, store=store) as device:
        await device.execute(down(first, 1), down(second, 2))
        await until(lambda: gate.entered)
        await device.executor.recall(HOME, [request_id(2)])
    gate.open()
    async with started(slow, store=store) as device:
        await device.settled()
        assert device.reply(second, 2).status == Status.CANCELLED
        assert ran == [b"1", b"1"], "the first was interrupted, and tried again"


async def test_recalled_request_whose_handler_has_begun_is_answered_as_it_ends() -> None:
    gate, _ran, slow = one_at_a_time()
    request = Requests().bind(payload=b"1", handler="read")
    async with started(slow) as device:
        await device.execute(down(request, 1))
        await until(lambda: gate.entered)
        await device.executor.recall(HOME, [request_id(1)])
        assert device.report()[1].kind == ResultKind.ACKNOWLEDGED
        gate.open()
        await device.settled()
        assert device.reply(request, 1).payload == b"did 1"


async def test_recalled_request_from_before_a_restart_runs_since_it_may_have_begun() -> None:
    store = MemoryKeyValue()
    gate, _ran, slow = one_at_a_time()
    requests = Requests()
    first, second = (requests.bind(payload=each, handler="read") for each in (b"1", b"2"))
    async with started(slow, store=store) as device:
        await device.execute(down(first, 1), down(second, 2))
        await until(lambda: gate.entered)
    async with started(slow, store=store) as device:
        await device.executor.recall(HOME, [request_id(1), request_id(2)])
        assert {each.kind for each in device.report().values()} == {ResultKind.ACKNOWLEDGED}
        gate.open()
        await device.settled()
        assert device.reply(second, 2).payload == b"did 2"


@pytest.mark.parametrize("other", [(HOME, 3), (OTHER_HOME, 2)])
async def test_request_is_recalled_only_under_all_its_ids(other: tuple[bytes, int]) -> None:
    """Who has recorded a request, and sends it under an id of his own, cannot take it back."""
    home, number = other
    gate, ran, slow = one_at_a_time()
    requests = Requests()
    first, second = (requests.bind(payload=each, handler="read") for each in (b"1", b"2"))
    async with started(slow) as device:
        await device.execute(down(first, 1), down(second, 2))
        await device.execute(down(second, number), home=home)
        await until(lambda: gate.entered)
        await device.executor.recall(home, [request_id(number)])
        gate.open()
        await device.settled()
        assert ran == [b"1", b"2"]
        assert device.reply(second, 2).payload == b"did 2"


async def test_recalling_what_is_not_there_changes_nothing() -> None:
    gate, _ran, slow = one_at_a_time()
    gate.open()
    request = Requests().bind(payload=b"1", handler="read")
    plain = Requests(request.envelope.sequence).bind(Operation.PUT, payload=b"plain")
    async with started(slow) as device:
        await device.executor.recall(HOME, [request_id(1)])
        await device.execute(down(request, 1), down(plain, 2))
        await device.settled()
        await device.executor.recall(HOME, [request_id(1), request_id(2), request_id(3)])
        assert device.reply(request, 1).payload == b"did 1"
        assert device.reply(plain, 2).status == Status.OK


async def test_client_that_cancels_in_time_is_told_so_and_the_handler_never_ran() -> None:
    gate, ran, slow = one_at_a_time()
    async with desks() as world:
        link = CutLink(world, clock_of(world))
        async with agent_at(world, link, handlers=(slow,)) as running:
            await until(lambda: running.inner.runtime._started)
            running.clock.patience_s = 0.2
            busy, waiting = world.bind(payload=b"1"), world.bind(payload=b"2")
            await world.submit(busy, idempotency_key=b"1")
            number = await world.submit(waiting, idempotency_key=b"2")
            await running.wake_up()
            await until(lambda: gate.entered)
            answer = await world.requests.cancel(number, b"fetch key")
            assert (answer.final, answer.recalled) == (False, True), "the device has it"
            await running.wake_up()
            await running.wake_up()
            assert (await world.outcome(waiting, number)).status == Status.CANCELLED
            assert (await world.requests.fetch(number, b"fetch key")).state == "CANCELLED"
            gate.open()
            await running.inner.settled()
            assert ran == [b"1"]
