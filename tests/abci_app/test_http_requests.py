"""Requests and exchanges over HTTP: the documents, the statuses, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from abci_app.asked import Asked
from abci_app.http_server import public_routes
from abci_app.metrics import NodeMetrics
from edgistry.adapters.http import HttpServer, Request, Response
from edgistry.codec import encode_json
from edgistry.envelope import GENERIC_REFUSAL, Status
from edgistry.errors import MalformedError
from edgistry.handles import Target
from edgistry.messages import decode_down
from edgistry.requests_api import FETCH_KEY_HEADER, RequestAnswer, to_bytes, to_text
from edgistry.transactions import RecordKey
from tests.fake_node import FakeNode, FakeWoofs
from tests.handle_world import HOME, begin_epoch, epoch_keys, handle_for

from .desk_world import CLIENT, FETCH_KEY, SERVICE_KEY, Desks, desks, server_of

KEY = {FETCH_KEY_HEADER: to_text(FETCH_KEY)}


@contextlib.asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[tuple[Desks, HttpServer]]:
    async with desks(**limits) as world:
        yield world, server_of(world.requests, world.exchanges)


def body_for(envelope: bytes, /, **more: Any) -> dict[str, Any]:
    return {
        "handle": handle_for(SERVICE_KEY, client_id=CLIENT),
        "envelope": to_text(envelope),
        "idempotency_key": to_text(b"key"),
        "fetch_hash": to_text(hashlib.sha256(FETCH_KEY).digest()),
        **more,
    }


async def post(server: HttpServer, body: object) -> Response:
    return await server.answer(Request(method="POST", path="/v1/requests", body=encode_json(body)))


def code_of(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["code"]


async def test_call_over_http_from_submission_to_acknowledgement() -> None:
    async with served() as (world, server):
        request = world.bind()
        body = body_for(request.encoded, priority=3)
        first = await post(server, body)
        again = await post(server, body)
        assert (first.status, again.status) == (202, 200)
        path = f"/v1/requests/{json.loads(first.body)['id']}"
        for _ in range(2):
            exchange = world.device.request()
            raw = await server.answer(
                Request(method="POST", path="/v1/exchange", body=exchange.encoded)
            )
            world.device.execute(decode_down(exchange.open_reply(raw.body).payload))
        got = await server.answer(
            Request(method="GET", path=path, headers=KEY, query={"wait": "5", "known": "QUEUED"})
        )
        answer = json.loads(got.body)
        assert (answer["state"], answer["final"]) == ("RESPONDED", True)
        reply = request.open_reply(to_bytes(answer["reply"], "reply"))
        assert (reply.status, reply.payload) == (Status.OK, b"21.5")
        done = await server.answer(Request(method="POST", path=f"{path}/ack", headers=KEY))
        assert json.loads(done.body)["state"] == "DELIVERED"


async def test_request_is_cancelled_over_http() -> None:
    async with served() as (world, server):
        made = json.loads((await post(server, body_for(world.bind().encoded))).body)
        path = f"/v1/requests/{made['id']}"
        response = await server.answer(Request(method="DELETE", path=path, headers=KEY))
        assert json.loads(response.body)["state"] == "CANCELLED"


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"handle": handle_for(bytes(16), client_id=CLIENT)}, (404, "not-found")),
        ({"envelope": "!"}, (400, "malformed")),
        ({"envelope": to_text(bytes(70))}, (400, "malformed")),
        ({"envelope": "A" * 200_000}, (413, "too-large")),
        ({"idempotency_key": ""}, (422, "invalid-value")),
        ({"idempotency_key": to_text(bytes(65))}, (422, "invalid-value")),
        ({"fetch_hash": to_text(bytes(31))}, (422, "invalid-value")),
        ({"priority": 10}, (400, "malformed")),
        ({"not_before_us": -1}, (400, "malformed")),
        ({"unknown": 1}, (400, "malformed")),
    ],
)
async def test_submission_that_makes_no_sense_is_refused(
    fields: dict[str, Any], refusal: tuple[int, str]
) -> None:
    async with served() as (world, server):
        response = await post(server, body_for(world.bind().encoded, **fields))
        assert code_of(response) == refusal
        assert world.writer.boxes.live == {}


async def test_request_waits_a_moment_for_the_key_of_an_epoch_that_begins() -> None:
    async with desks() as world:
        keys = epoch_keys(1)
        server = server_of(world.requests, world.exchanges, keys)
        handle = handle_for(SERVICE_KEY, client_id=CLIENT, epoch=2)
        asking = asyncio.create_task(post(server, body_for(world.bind().encoded, handle=handle)))
        for _turn in range(20):
            await asyncio.sleep(0)
        assert not asking.done()
        begin_epoch(keys, 2)
        assert (await asking).status == 202


async def test_request_by_an_alias_is_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (world, server):
        asked: list[Asked] = []
        submit = world.requests.submit

        async def noting(each: Asked) -> tuple[RequestAnswer, bool]:
            asked.append(each)
            return await submit(each)

        monkeypatch.setattr(world.requests, "submit", noting)
        target = Target(HOME, RecordKey(SERVICE_KEY))
        alias = epoch_keys().handles().alias(b"x" * 16, target).text
        for handle in (alias, handle_for(SERVICE_KEY, client_id=CLIENT)):
            body = body_for(world.bind().encoded, handle=handle, idempotency_key=handle[:40])
            assert (await post(server, body)).status == 202
        assert [each.alias for each in asked] == [b"x" * 16, b""]


async def test_full_queue_says_when_to_come_back() -> None:
    async with served(share=1) as (world, server):
        await post(server, body_for(world.bind().encoded))
        response = await post(
            server, body_for(world.bind().encoded, idempotency_key=to_text(b"other"))
        )
        assert code_of(response) == (429, "mailbox-full")
        assert response.headers["Retry-After"] == "900"


async def test_unknown_id_and_wrong_key_are_answered_alike() -> None:
    async with served() as (world, server):
        made = json.loads((await post(server, body_for(world.bind().encoded))).body)
        answers = set()
        for number, headers in (
            (made["id"], {}),
            (made["id"], {FETCH_KEY_HEADER: to_text(b"other")}),
            (made["id"], {FETCH_KEY_HEADER: "!"}),
            (to_text(bytes(16)), KEY),
            ("short", KEY),
            ("%2F", KEY),
        ):
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/ack")):
                response = await server.answer(
                    Request(method=method, path=f"/v1/requests/{number}{path}", headers=headers)
                )
                answers.add((response.status, response.body))
        assert {status for status, _ in answers} == {404}
        assert len(answers) == 1


@pytest.mark.parametrize("query", [{"wait": "31"}, {"wait": "-1"}, {"wait": "x"}, {"other": "1"}])
async def test_wait_has_a_limit(query: dict[str, str]) -> None:
    async with served() as (_, server):
        for method, path in (("POST", "/v1/exchange"), ("GET", f"/v1/requests/{'A' * 22}")):
            response = await server.answer(
                Request(method=method, path=path, query=query, headers=KEY)
            )
            assert response.status in (400, 422)


async def test_known_state_must_be_one() -> None:
    async with served() as (_, server):
        response = await server.answer(
            Request(
                method="GET", path=f"/v1/requests/{'A' * 22}", query={"known": "LOST"}, headers=KEY
            )
        )
        assert code_of(response) == (422, "invalid-value")


async def test_any_exchange_gets_a_reply() -> None:
    async with served() as (_, server):
        response = await server.answer(Request(method="POST", path="/v1/exchange", body=b"?"))
        assert (response.status, response.body) == (200, GENERIC_REFUSAL)


async def test_without_devices_nobody_is_asked() -> None:
    routes = public_routes(FakeNode(), FakeWoofs(), version="1", metrics=NodeMetrics())
    response = await HttpServer(routes).answer(Request(method="POST", path="/v1/exchange"))
    assert code_of(response) == (404, "no-registry")


@pytest.mark.parametrize("text", ["=", "AA==", "AB", "A", "A+A", "é", "AAAA\n"])
def test_base64url_has_one_spelling(text: str) -> None:
    with pytest.raises(MalformedError):
        to_bytes(text, "it")
