"""What must not work, tried on a node and an agent that are connected: each is refused by name, and
the next good request is answered as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.envelope import Status, decode_reply
from edgistry.errors import (
    BadTagError,
    CaveatError,
    NoRightError,
    Refused,
    TooLargeError,
    TwoAgentsError,
    WrongEpochError,
)
from edgistry.handlers import handler
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.messages import RequestDown, RequestResult, ResultKind
from edgistry.rights import Right
from tests.abci_app.desk_world import (
    DEVICE,
    FETCH_KEY,
    GRANT,
    NODE,
    NOW,
    SECOND,
    Desks,
)

from .agent_world import Running
from .socket_world import connected
from .test_agent_and_node import calls

YEAR_US = 365 * 24 * 3600 * SECOND
HOME = bytes(20)


async def still_works(world: Desks, running: Running) -> None:
    """A good request is queued, executed and answered."""
    done = list(calls)
    request = world.bind(payload=b"good")
    number = await world.submit(request, idempotency_key=b"good")
    await running.wake_up()
    assert (await world.outcome(request, number)).payload == b"21.5 for good"
    assert calls == [*done, b"good"]


def narrowed(**how: Any) -> Capability:
    return GRANT.derive(**how)


def minted(issuer: Issuer) -> Capability:
    return issuer.mint(serial=77, entries=GRANT.entries)


@pytest.mark.parametrize(
    ("capability", "error", "status"),
    [
        pytest.param(
            minted(Issuer.from_secret(b"guessed" * 4 + b"....", epoch=1)),
            BadTagError,
            Status.REFUSED,
            id="forged",
        ),
        pytest.param(
            minted(Issuer.from_secret(b"d" * 32, epoch=2)),
            WrongEpochError,
            Status.REFUSED,
            id="of another epoch",
        ),
        pytest.param(minted(NODE), WrongEpochError, Status.REFUSED, id="of the node"),
        pytest.param(
            minted(Issuer.from_secret(b"other device's secret...........", epoch=1)),
            BadTagError,
            Status.REFUSED,
            id="of another device",
        ),
        pytest.param(narrowed(not_after_us=NOW - 1), CaveatError, Status.CAVEAT, id="expired"),
        pytest.param(
            narrowed(not_before_us=NOW + 3600 * SECOND), CaveatError, Status.CAVEAT, id="not yet"
        ),
        pytest.param(narrowed(client=b"somebody"), CaveatError, Status.CAVEAT, id="another's"),
        pytest.param(
            narrowed(handlers=["open"]), CaveatError, Status.CAVEAT, id="for another handler"
        ),
        pytest.param(narrowed(max_payload=1), CaveatError, Status.CAVEAT, id="for less data"),
        pytest.param(narrowed(allow=Right.GET), NoRightError, Status.NO_RIGHT, id="narrowed away"),
        pytest.param(
            narrowed(require=[bytes(16)]), CaveatError, Status.CAVEAT, id="lacking another"
        ),
    ],
)
async def test_capability_that_is_no_good_is_refused_by_the_node_and_by_the_device(
    capability: Capability, error: type[Refused], status: Status
) -> None:
    async with connected() as (world, _, running):
        await running.wake_up()
        request = world.bind(capability)
        with pytest.raises(error) as caught:
            await world.submit(request)
        assert caught.value.code
        assert caught.value.advice()
        # A node that passes it on all the same, say.
        executor, number = running.inner.executor, b"0123456789abcdef"
        down = RequestDown(request_id=number, priority=0, envelope=request.encoded)
        await executor.execute(HOME, [down], now_us=world.now_us)
        (told,) = executor.report(HOME, limit=1 << 20)
        assert (told.kind, decode_reply(told.reply).status) == (ResultKind.REJECTED, status)
        assert calls == []
        assert running.inner.elements("thermometer/read") == []
        await still_works(world, running)


@pytest.mark.parametrize("years", [-10, 10])
async def test_clock_that_is_ten_years_off_makes_no_difference(years: int) -> None:
    async with connected(off_us=years * YEAR_US) as (world, _, running):
        late = world.bind(payload=b"late", deadline=world.now_us + SECOND)
        number = await world.submit(late, idempotency_key=b"late")
        running.clock.s += 2
        wake = await running.wake_up()
        assert wake.failures == 0
        await world.writer.sweep()
        assert (await world.requests.fetch(number, FETCH_KEY)).state == "EXPIRED"
        assert calls == []
        await still_works(world, running)


async def test_node_with_another_key_gets_nothing_from_a_device_and_gives_it_nothing() -> None:
    """At the address of its node the device finds another one."""
    async with connected() as (world, _, running):
        await running.wake_up()
        authority = world.exchanges._authority
        world.exchanges._authority = Authority.from_secret(MemoryKeyValue(), b"x" * 32)
        wake = await running.wake_up()
        assert (wake.exchanges, wake.failures) == (0, 1)
        world.exchanges._authority = authority
        await still_works(world, running)


async def test_results_for_unknown_and_finished_requests_are_of_no_use_and_no_harm() -> None:
    async with connected() as (world, _, running):
        request = world.bind(payload=b"once")
        number = await world.submit(request, idempotency_key=b"once")
        await running.wake_up()
        before = await world.outcome(request, number)
        forged = RequestResult(request_id=number, kind=2, reply=b"odd")
        unknown = RequestResult(request_id=b"?" * 16, kind=1, reply=b"odd")
        world.now_us += SECOND
        device = world.device
        device.results = [forged, unknown]
        ignored = world.exchanges.ignored
        down = await device.exchange(want_count=0)
        assert sorted(down.confirmed) == sorted([number, b"?" * 16]), "it need not say so again"
        assert world.exchanges.ignored == ignored + 2
        assert await world.outcome(request, number) == before


def always_fails(limit: int) -> tuple[list[int], Callable[..., object]]:
    """A handler that is tried so many times, and fails each time; its tries."""
    tries: list[int] = []

    @handler("read", attempts=limit, first_wait_s=0.001, longest_wait_s=0.01)
    async def read(context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        if element == b"bad":
            tries.append(context.attempt)
            raise RuntimeError("the sensor is gone")
        calls.append(element)
        return b"21.5 for " + element

    return tries, read


async def test_handler_that_always_fails_is_tried_so_often_and_told() -> None:
    tries, read = always_fails(3)
    async with connected(read) as (world, _, running):
        bad = world.bind(payload=b"bad")
        number = await world.submit(bad, idempotency_key=b"bad")
        await running.wake_up()
        assert tries == [1, 2, 3]
        assert (await world.outcome(bad, number)).status == Status.HANDLER_FAILED
        assert (await world.requests.fetch(number, FETCH_KEY)).state == "FAILED"
        (letter,) = running.inner.runtime.letters.newest(10)
        assert "the sensor is gone" in letter.record.reason
        await still_works(world, running)


async def test_second_agent_with_one_identity_is_named_at_both_ends() -> None:
    async with connected() as (world, _, running):
        await running.wake_up()
        world.device.instance = b"the copy"
        world.device.counter = 0
        await world.device.exchange()
        with pytest.raises(TwoAgentsError) as caught:
            await running.wake_up()
        assert "edgistry-agent init" in caught.value.advice()
        assert world.exchanges.conflicts == {DEVICE: 1}


async def test_largest_payload_passes_and_a_larger_one_is_refused_before_it_is_sent() -> None:
    @handler("read")
    async def echo(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        return element

    async with connected(echo) as (world, _, running):
        largest = world.bind(payload=bytes(65536))
        number = await world.submit(largest, idempotency_key=b"largest")
        await running.wake_up()
        assert (await world.outcome(largest, number)).payload == bytes(65536)
        with pytest.raises(TooLargeError):
            world.bind(payload=bytes(65 * 1024))
