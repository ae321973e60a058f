"""Calls as applications make them, over real connections: one request each, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from abci_app.mailbox_records import RECORDS, RequestRecord, read_request
from edgistry.adapters import acknowledging, service_caller
from edgistry.adapters.http import HttpClient, HttpServer, Response
from edgistry.adapters.service_caller import ServiceCaller
from edgistry.calls import CallResult
from edgistry.errors import CallPendingError, CannotReachError
from edgistry.kv import prefix_end
from edgistry.requests_api import KnownOutcome, RequestAnswer
from edgistry.sequence import Sequencer
from tests.abci_app.desk_world import CLIENT, GRANT, SERVICE_KEY, Desks, desks
from tests.abci_app.test_submit_and_wait import server_of
from tests.handle_world import handle_for
from tests.ports import reserve_ports

LIMIT_S = 20.0
HANDLE = handle_for(SERVICE_KEY, client_id=CLIENT)


class Counting:
    """What was asked of a server, by method and path with ids left out."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def watch(self, server: HttpServer) -> None:
        def observe(method: str, route: str, _status: int, _seconds: float) -> None:
            if route != "/v1/exchange":
                self.asked.append(f"{method} {route}")

        server._observe = observe


@contextlib.asynccontextmanager
async def called() -> AsyncIterator[tuple[Desks, HttpServer, int, Counting]]:
    with reserve_ports() as ports:
        async with desks() as world:
            server, counting = server_of(world), Counting()
            counting.watch(server)
            port = await server.listen_tcp("127.0.0.1", ports.base)
            try:
                yield world, server, port, counting
            finally:
                await server.stop(grace_s=0)


def caller_of(world: Desks, http: HttpClient) -> ServiceCaller:
    def clock_us() -> int:
        world.now_us += 1
        return world.now_us

    return ServiceCaller(http, GRANT, clock_us=clock_us)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def answered(world: Desks, calling: asyncio.Task[CallResult]) -> CallResult:
    """What ``calling`` comes to; the device is awake meanwhile."""
    async with asyncio.timeout(LIMIT_S):
        while not calling.done():
            await world.device.wake()
            await asyncio.sleep(0.001)
    return await calling


def states(world: Desks) -> list[str]:
    return sorted(each.outcome.name for each in records(world))


def records(world: Desks) -> list[RequestRecord]:
    return [read_request(value) for _, value in world.store.scan(RECORDS, prefix_end(RECORDS))]


async def test_call_is_one_request_and_acknowledged_with_the_next() -> None:
    async with called() as (world, _, port, counting):
        async with HttpClient(f"http://127.0.0.1:{port}") as http:
            caller = caller_of(world, http)
            for _ in range(3):
                calling = asyncio.create_task(caller.call(HANDLE, "read", b"please"))
                result = await answered(world, calling)
                assert result.payload == b"21.5"
            assert counting.asked == ["POST /v1/requests"] * 3
            assert states(world) == ["DELIVERED", "DELIVERED", "RESPONDED"]
        # To close the connections told the last one.
        assert states(world) == ["DELIVERED"] * 3
        assert counting.asked[3:] == ["POST /v1/requests/{id}/ack"]


async def test_acknowledgement_goes_by_itself_when_no_call_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acknowledging, "LINGER_S", 0.0)
    async with called() as (world, _, port, _), HttpClient(f"http://127.0.0.1:{port}") as http:
        caller = caller_of(world, http)
        await answered(world, asyncio.create_task(caller.call(HANDLE, "read")))
        await until(lambda: states(world) == ["DELIVERED"])


async def test_outcome_that_is_to_be_kept_is_not_acknowledged() -> None:
    async with called() as (world, _, port, _):
        async with HttpClient(f"http://127.0.0.1:{port}") as http:
            calling = caller_of(world, http).call(HANDLE, "read", acknowledge=False)
            await answered(world, asyncio.create_task(calling))
        assert states(world) == ["RESPONDED"]


async def test_who_asks_for_news_hears_of_the_states_in_between() -> None:
    async with called() as (world, _, port, _):
        heard: list[RequestAnswer] = []
        async with HttpClient(f"http://127.0.0.1:{port}") as http:
            calling = caller_of(world, http).call(HANDLE, "read", news=heard.append)
            task = asyncio.create_task(calling)
            await until(lambda: heard)
            await answered(world, task)
        assert [heard[0].state, heard[-1].state] == ["QUEUED", "RESPONDED"]


async def test_call_that_takes_too_long_is_pending_and_goes_on() -> None:
    async with called() as (world, _, port, counting):
        async with HttpClient(f"http://127.0.0.1:{port}") as http:
            caller = caller_of(world, http)
            with pytest.raises(CallPendingError):
                await caller.call(HANDLE, "read", wait_s=0.05)
            assert counting.asked[0] == "POST /v1/requests"
        assert states(world) == ["QUEUED"]


async def test_call_survives_a_node_that_stops_while_it_waits() -> None:
    async with (
        called() as (world, server, port, _),
        HttpClient(f"http://127.0.0.1:{port}") as http,
    ):
        caller = caller_of(world, http)
        calling = asyncio.create_task(caller.call(HANDLE, "read", b"please"))
        await until(lambda: world.writer.boxes.live and not world.writer.boxes.unwritten)
        await server.stop(grace_s=0)
        await server.listen_tcp("127.0.0.1", port)
        result = await answered(world, calling)
        assert result.payload == b"21.5"
        assert world.device.executed == [b"please"]


@pytest.mark.parametrize("had_it", [True, False])
async def test_node_that_may_have_the_call_is_waited_for_also_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, had_it: bool
) -> None:
    monkeypatch.setattr(service_caller, "_PAUSES_S", (0.001, 0.001, 0.001))
    async with (
        called() as (world, server, port, _),
        HttpClient(f"http://127.0.0.1:{port}") as http,
    ):
        tries = 0
        send = http.request

        async def request(*how: Any, **more: Any) -> Response:
            nonlocal tries
            tries += 1
            return await send(*how, **more)

        monkeypatch.setattr(http, "request", request)
        if not had_it:
            await server.stop(grace_s=0)
        calling = asyncio.create_task(caller_of(world, http).call(HANDLE, "read", b"please"))
        if not had_it:
            with pytest.raises(CannotReachError):
                await calling
            assert tries == 4
            return
        await until(lambda: world.writer.boxes.live and not world.writer.boxes.unwritten)
        await server.stop(grace_s=0)
        await until(lambda: tries > 9 or calling.done())
        assert not calling.done()
        await server.listen_tcp("127.0.0.1", port)
        assert (await answered(world, calling)).payload == b"21.5"
        assert world.device.executed == [b"please"]


async def test_call_that_is_bound_anew_lets_the_first_go_once_its_own_ticket_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stale = iter([True, False])
    monkeypatch.setattr(Sequencer, "follow", lambda _self, _reply, *, now_us: next(stale))
    async with called() as (world, _, port, _), HttpClient(f"http://127.0.0.1:{port}") as http:
        known: list[list[str]] = []
        calling = caller_of(world, http).call(
            HANDLE, "read", keep=lambda ticket: known.append(states(world))
        )
        await answered(world, asyncio.create_task(calling))
        assert known == [[], ["RESPONDED"]]
        assert states(world) == ["DELIVERED", "RESPONDED"]


class GoneAway:
    """The first request arrives, and then nothing is heard of the node for eight tries."""

    def __init__(self, http: HttpClient) -> None:
        self.tries = 0
        self._send = http.request

    async def request(self, *how: Any, **more: Any) -> Response:
        self.tries += 1
        error = CannotReachError("away")
        if self.tries == 1:
            await self._send(*how, **more)
            error.may_have_arrived = True
        if self.tries <= 9:
            raise error
        return await self._send(*how, **more)


async def test_who_asks_for_news_waits_as_long_for_a_node_that_may_have_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_caller, "_PAUSES_S", (0.001, 0.001, 0.001))
    async with called() as (world, _, port, _), HttpClient(f"http://127.0.0.1:{port}") as http:
        monkeypatch.setattr(http, "request", GoneAway(http).request)
        calling = caller_of(world, http).call(HANDLE, "read", b"please", news=lambda answer: None)
        assert (await answered(world, asyncio.create_task(calling))).payload == b"21.5"
        assert world.device.executed == [b"please"]


async def test_who_does_not_wait_for_the_answer_may_wait_for_the_call_to_be_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_caller, "_PAUSES_S", (0.001, 0.001, 0.001))
    async with called() as (world, _, port, _), HttpClient(f"http://127.0.0.1:{port}") as http:
        away = GoneAway(http)
        monkeypatch.setattr(http, "request", away.request)
        with pytest.raises(CallPendingError):
            await caller_of(world, http).call(HANDLE, "read", wait_s=0.0, submit_s=LIMIT_S)
        assert away.tries == 10
        assert states(world) == ["QUEUED"]


async def test_acknowledgement_that_did_not_arrive_goes_with_the_call_after_it() -> None:
    async with (
        called() as (world, server, port, _),
        HttpClient(f"http://127.0.0.1:{port}") as http,
    ):
        caller = caller_of(world, http)
        await answered(world, asyncio.create_task(caller.call(HANDLE, "read")))
        await server.stop(grace_s=0)
        calling = asyncio.create_task(caller.call(HANDLE, "read"))
        await asyncio.sleep(0)
        await server.listen_tcp("127.0.0.1", port)
        await answered(world, calling)
        assert states(world) == ["DELIVERED", "RESPONDED"]


async def test_acknowledgement_that_went_by_itself_in_vain_goes_with_the_next_call() -> None:
    async with (
        called() as (world, server, port, _),
        HttpClient(f"http://127.0.0.1:{port}") as http,
    ):
        caller = caller_of(world, http)
        await answered(world, asyncio.create_task(caller.call(HANDLE, "read")))
        await server.stop(grace_s=0)
        await caller._acknowledger._tell_known()
        await server.listen_tcp("127.0.0.1", port)
        await answered(world, asyncio.create_task(caller.call(HANDLE, "read")))
        assert states(world) == ["DELIVERED", "RESPONDED"]


async def test_closing_waits_for_what_is_being_told_and_tells_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    goes_on = asyncio.Event()

    async def request(_method: str, path: str, **_: object) -> Response:
        if path.endswith("/0/ack"):
            await goes_on.wait()
        told.append(path)
        return Response()

    http = HttpClient("http://127.0.0.1:1")
    monkeypatch.setattr(http, "request", request)
    monkeypatch.setattr(acknowledging, "LINGER_S", 0.0)
    acknowledger = acknowledging.Acknowledger(http)
    for number in range(3):
        acknowledger.add(KnownOutcome(id=str(number), fetch_key=""))
        for _ in range(5):
            await asyncio.sleep(0)
    closing = asyncio.create_task(http.close())
    for _ in range(9):
        await asyncio.sleep(0)
    assert not closing.done()
    goes_on.set()
    await closing
    assert sorted(told) == [f"/v1/requests/{number}/ack" for number in range(3)]
    assert len(acknowledger) == 0


async def test_who_does_not_wait_for_the_last_acknowledgement_leaves_no_connection() -> None:
    async with called() as (world, _, port, _):
        http = HttpClient(f"http://127.0.0.1:{port}")
        await answered(world, asyncio.create_task(caller_of(world, http).call(HANDLE, "read")))
        session = http._session
        assert session is not None
        closing = asyncio.create_task(http.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert session.closed


async def test_closing_without_a_node_does_not_hang_or_fail() -> None:
    async with called() as (world, server, port, _):
        async with HttpClient(f"http://127.0.0.1:{port}") as http:
            caller = caller_of(world, http)
            await answered(world, asyncio.create_task(caller.call(HANDLE, "read")))
            await server.stop(grace_s=0)
        assert states(world) == ["RESPONDED"], "the node keeps it for a day"
