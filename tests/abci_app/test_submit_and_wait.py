"""Submissions that wait for the end, and take along which outcomes are known."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from abci_app.asked import NO_FETCH_KEY
from abci_app.http_requests import device_handlers
from abci_app.http_server import public_routes
from abci_app.metrics import NodeMetrics
from abci_app.request_desk import RequestDesk
from edgistry.adapters.http import HttpServer, Request, Response
from edgistry.codec import encode_json
from edgistry.envelope import Status
from edgistry.errors import StorageError
from edgistry.kv import Change, MemoryKeyValue
from edgistry.requests_api import to_text
from tests.fake_node import FakeNode, FakeWoofs
from tests.handle_world import epoch_keys

from .desk_world import FETCH_KEY, HOUR, Desks, desks, text_bytes
from .peer_world import nodes
from .test_http_requests import body_for
from .test_request_desk import Disk

LIMIT_S = 20.0
WAIT = {"wait": "20"}


def server_of(world: Desks, requests: Any = None) -> HttpServer:
    handlers = device_handlers(requests or world.requests, world.exchanges, epoch_keys())
    return HttpServer(
        public_routes(FakeNode(), FakeWoofs(), version="1", metrics=NodeMetrics(), devices=handlers)
    )


@contextlib.asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[tuple[Desks, HttpServer]]:
    async with desks(**limits) as world:
        yield world, server_of(world)


def posting(server: HttpServer, body: object, query: dict[str, str]) -> asyncio.Task[Response]:
    request = Request(method="POST", path="/v1/requests", query=query, body=encode_json(body))
    return asyncio.create_task(server.answer(request))


async def queued(world: Desks, count: int = 1) -> None:
    """Return when so many requests wait, durably."""
    async with asyncio.timeout(LIMIT_S):
        while len(world.writer.boxes.live) < count or world.writer.boxes.unwritten:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def answer_in(response: Response) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(response.body)
    return answer


async def test_submission_that_waits_is_answered_with_the_outcome() -> None:
    async with served() as (world, server):
        request = world.bind()
        waiting = posting(server, body_for(request.encoded), WAIT)
        await queued(world)
        assert not waiting.done()
        await world.device.wake()
        response = await waiting
        answer = answer_in(response)
        assert (response.status, answer["state"], answer["final"]) == (202, "RESPONDED", True)
        reply = request.open_reply(text_bytes(answer["reply"]))
        assert (reply.status, reply.payload) == (Status.OK, b"21.5")


async def test_submission_says_how_it_is_when_its_time_is_over() -> None:
    async with served() as (world, server):
        response = await posting(server, body_for(world.bind().encoded), {"wait": "0.01"})
        answer = answer_in(response)
        assert (response.status, answer["state"], answer["final"]) == (202, "QUEUED", False)
        assert world.writer._waiting == {}


async def test_submission_that_waits_hears_of_its_expiry() -> None:
    async with served() as (world, server):
        request = world.bind()
        waiting = posting(server, body_for(request.encoded), WAIT)
        await queued(world)
        world.now_us += 2 * HOUR
        await world.writer.sweep()
        answer = answer_in(await waiting)
        assert answer["state"] == "EXPIRED"
        assert request.open_reply(text_bytes(answer["reply"])).status & 0x7FFF == Status.EXPIRED
        await world.device.wake()
        assert world.device.executed == []


async def test_all_who_wait_for_one_request_get_its_outcome_and_it_runs_once() -> None:
    async with served() as (world, server):
        body = body_for(world.bind().encoded)
        waiting = [posting(server, body, WAIT) for _ in range(3)]
        await queued(world)
        await world.device.wake()
        responses = await asyncio.gather(*waiting)
        assert sorted(each.status for each in responses) == [200, 200, 202]
        assert len({each.body for each in responses}) == 1
        assert world.device.executed == [b"please"]


async def test_known_request_that_has_ended_is_answered_at_once() -> None:
    async with served() as (world, server):
        body = body_for(world.bind().encoded)
        await posting(server, body, {})
        await world.device.wake()
        response = await posting(server, body, WAIT)
        assert (response.status, answer_in(response)["state"]) == (200, "RESPONDED")


async def test_request_outlives_a_client_that_goes_away_while_it_waits() -> None:
    async with served() as (world, server):
        body = body_for(world.bind().encoded)
        data = encode_json(body)
        port = await server.listen_tcp("127.0.0.1", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/requests?wait=20 HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b"
            % (len(data), data)
        )
        await queued(world)
        writer.close()
        await writer.wait_closed()
        await world.device.wake()
        response = await posting(server, body, WAIT)
        assert (response.status, answer_in(response)["state"]) == (200, "RESPONDED")
        assert world.device.executed == [b"please"]
        await server.stop(grace_s=0)


async def test_request_that_was_taken_is_not_refused_for_what_happens_to_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(*_args: object, **_more: object) -> None:
        raise StorageError("the disk is gone")

    async with served() as (world, server):
        monkeypatch.setattr(RequestDesk, "fetch", fails)
        response = await posting(server, body_for(world.bind().encoded), WAIT)
        assert (response.status, answer_in(response)["state"]) == (202, "QUEUED")


async def test_hash_that_no_key_has_waits_for_nothing() -> None:
    async with served() as (world, server):
        body = body_for(world.bind().encoded, fetch_hash=to_text(NO_FETCH_KEY))
        response = await posting(server, body, WAIT)
        assert (response.status, answer_in(response)["state"]) == (202, "QUEUED")


@pytest.mark.parametrize("query", [{"wait": "31"}, {"wait": "nan"}, {"known": "QUEUED"}])
async def test_wait_of_a_submission_has_a_limit(query: dict[str, str]) -> None:
    async with served() as (world, server):
        response = await posting(server, body_for(world.bind().encoded), query)
        assert response.status in (400, 422)
        assert world.writer.boxes.live == {}


async def test_submission_through_another_node_waits_for_the_outcome_too() -> None:
    async with nodes() as world:
        server = server_of(world.home, world.entry)
        request = world.home.bind()
        waiting = posting(server, body_for(request.encoded), WAIT)
        await queued(world.home)
        await world.home.device.wake()
        answer = answer_in(await waiting)
        assert answer["state"] == "RESPONDED"
        assert request.open_reply(text_bytes(answer["reply"])).payload == b"21.5"


async def test_submission_waits_at_its_entry_node_while_the_home_node_is_away() -> None:
    async with nodes() as world:
        world.way.is_cut = True
        server = server_of(world.home, world.entry)
        response = await posting(server, body_for(world.home.bind().encoded), {"wait": "0.01"})
        assert (response.status, answer_in(response)["state"]) == (202, "QUEUED")


# --- outcomes that are known --------------------------------------------------------------------


def known(answer: dict[str, Any], key: bytes = FETCH_KEY) -> dict[str, str]:
    return {"id": answer["id"], "fetch_key": to_text(key)}


async def outcome(world: Desks, server: HttpServer, name: bytes) -> dict[str, Any]:
    """A request that has ended; what the node says of it."""
    body = body_for(world.bind().encoded, idempotency_key=to_text(name))
    await posting(server, body, {})
    await world.device.wake()
    return answer_in(await posting(server, body, WAIT))


async def state_of(world: Desks, answer: dict[str, Any]) -> str:
    return (await world.requests.fetch(text_bytes(answer["id"]), FETCH_KEY)).state


async def test_submission_takes_along_which_outcomes_are_known() -> None:
    async with served() as (world, server):
        first = await outcome(world, server, b"first")
        second = await outcome(world, server, b"second")
        body = body_for(world.bind().encoded, acknowledged=[known(first), known(second)])
        assert (await posting(server, body, {})).status == 202
        assert await state_of(world, first) == await state_of(world, second) == "DELIVERED"


async def test_outcomes_that_are_known_make_room_for_the_submission() -> None:
    async with served(unfetched=1) as (world, server):
        first = await outcome(world, server, b"first")
        body = body_for(world.bind().encoded)
        assert (await posting(server, body, {})).status == 429
        assert (await posting(server, {**body, "acknowledged": [known(first)]}, {})).status == 202


async def test_what_cannot_be_acknowledged_does_not_hinder_a_submission() -> None:
    async with served() as (world, server):
        first = await outcome(world, server, b"first")
        waits = answer_in(await posting(server, body_for(world.bind().encoded), {}))
        nonsense = [
            known(first, b"another key"),
            known(waits),
            {"id": to_text(bytes(16)), "fetch_key": to_text(FETCH_KEY)},
            {"id": "!", "fetch_key": "!"},
        ]
        body = body_for(
            world.bind().encoded, idempotency_key=to_text(b"last"), acknowledged=nonsense
        )
        assert (await posting(server, body, {})).status == 202
        assert await state_of(world, first) == "RESPONDED"
        assert await state_of(world, waits) == "QUEUED"


async def test_request_that_is_sent_again_after_its_deadline_takes_them_along_too() -> None:
    async with served() as (world, server):
        first = await outcome(world, server, b"first")
        body = body_for(world.bind().encoded)
        await posting(server, body, {})
        world.now_us += 2 * HOUR
        await world.writer.sweep()
        response = await posting(server, {**body, "acknowledged": [known(first)]}, WAIT)
        assert (response.status, answer_in(response)["state"]) == (200, "EXPIRED")
        assert await state_of(world, first) == "DELIVERED"


async def test_submission_takes_along_a_limited_number() -> None:
    async with served() as (world, server):
        one = {"id": to_text(bytes(16)), "fetch_key": to_text(bytes(32))}
        body = body_for(world.bind().encoded, acknowledged=[one] * 33)
        assert (await posting(server, body, {})).status == 400
        assert world.writer.boxes.live == {}


async def test_acknowledgement_through_another_node_reaches_it() -> None:
    async with nodes() as world:
        server = server_of(world.home, world.entry)
        first = await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.fetch(first)
        again = body_for(
            world.home.bind().encoded,
            idempotency_key=to_text(b"again"),
            acknowledged=[{"id": first.id, "fetch_key": to_text(FETCH_KEY)}],
        )
        await posting(server, again, {})
        assert (await world.fetch(first)).state == "DELIVERED"


class Counting(MemoryKeyValue):
    """Counts its writes."""

    writes = 0

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        self.writes += 1
        super().write(changes, sync=sync)


async def test_acknowledgements_through_another_node_do_not_wait_for_one_another() -> None:
    store = Counting()
    async with nodes(store) as world:
        server = server_of(world.home, world.entry)
        answers = [await world.submit(world.home.bind()) for _ in range(16)]
        await world.home.device.wake()
        for each in answers:
            await world.fetch(each)
        body = body_for(
            world.home.bind().encoded,
            idempotency_key=to_text(b"again"),
            acknowledged=[{"id": each.id, "fetch_key": to_text(FETCH_KEY)} for each in answers],
        )
        store.writes = 0
        await posting(server, body, {})
        assert store.writes < len(answers)
        for each in answers:
            assert (await world.fetch(each)).state == "DELIVERED"


@pytest.mark.parametrize("is_passed_on", [False, True])
async def test_full_disk_makes_no_known_request_look_refused_for_what_it_takes_along(
    is_passed_on: bool,
) -> None:
    disk = Disk()
    stores = (disk, None) if is_passed_on else (None, disk)
    async with nodes(stores[0], home_store=stores[1]) as world:
        desk = world.entry if is_passed_on else world.home.requests
        server = server_of(world.home, desk)
        first = body_for(world.home.bind().encoded)
        earlier = answer_in(await posting(server, first, {}))
        body = body_for(world.home.bind().encoded, idempotency_key=to_text(b"again"))
        await posting(server, body, {})
        await world.home.device.wake()
        for each in (earlier, answer_in(await posting(server, body, {}))):
            await desk.fetch(text_bytes(each["id"]), FETCH_KEY)
        disk.full = True
        response = await posting(server, {**body, "acknowledged": [known(earlier)]}, {})
        assert (response.status, answer_in(response)["state"]) == (200, "RESPONDED")
