"""Signed discovery over HTTP: who gets handles, who gets counts, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from abci_app.http_server import public_routes
from abci_app.metrics import NodeMetrics
from abci_app.schema import EpochStates
from edgistry.adapters.http import HttpServer, Request, Response
from edgistry.codec import encode_json
from edgistry.kv import MemoryKeyValue
from tests.fake_node import FakeWoofs
from tests.handle_world import begin_epoch, client, client_keys

from .solo_node import SoloNode, open_solo, row

WHERE = "near=46.0,8.0&radius_km=20"
BODY = {"near": [46.0, 8.0], "radius_km": 20.0}


@contextlib.asynccontextmanager
async def served(services: int = 3) -> AsyncIterator[tuple[SoloNode, HttpServer]]:
    node = await open_solo(MemoryKeyValue(), MemoryKeyValue())
    await node.service.register([row(number) for number in range(services)])
    await node.settle()
    routes = public_routes(node.service, FakeWoofs(), version="1", metrics=NodeMetrics())
    yield node, HttpServer(routes)


def asking(query: str, *, path: str = "/v1/discover", number: int | None = 1) -> Request:
    headers = {}
    if number is not None:
        headers = client_keys(number).signed_headers("GET", f"{path}?{query}")
    fields = dict(parse_qsl(query, keep_blank_values=True))
    return Request(method="GET", path=path, raw_query=query, query=fields, headers=headers)


def posting(body: object, *, path: str = "/v1/discover", number: int | None = 1) -> Request:
    data = encode_json(body)
    headers = {} if number is None else client_keys(number).signed_headers("POST", path, data)
    return Request(method="POST", path=path, body=data, headers=headers)


def answer_in(response: Response) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(response.body)
    return answer


def refused(response: Response) -> tuple[int, str]:
    return response.status, answer_in(response)["code"]


@pytest.mark.parametrize("asked", [asking(WHERE), posting(BODY)], ids=["GET", "POST"])
async def test_who_signs_gets_services_under_handles_of_its_own(asked: Request) -> None:
    async with served() as (_, server):
        answer = answer_in(await server.answer(asked))
        other = answer_in(await server.answer(asking(WHERE, number=2)))
        mine, theirs = ({each["handle"] for each in one["services"]} for one in (answer, other))
        assert len(mine) == len(theirs) == 3
        assert not mine & theirs
        assert (answer["counts"], answer["epoch"]) == ([], 1)
        assert answer["epoch_ends"] > answer["block_time"]


@pytest.mark.parametrize(
    "asked", [asking(WHERE, number=None), posting(BODY, number=None)], ids=["GET", "POST"]
)
async def test_who_does_not_sign_gets_counts_and_no_handle(asked: Request) -> None:
    async with served() as (_, server):
        answer = answer_in(await server.answer(asked))
        assert answer["services"] == []
        assert sum(each["services"] for each in answer["counts"]) == 3
        assert {each["owners"] for each in answer["counts"]} == {1}
        assert "handle" not in json.dumps(answer)


@pytest.mark.parametrize("part", ["query", "body", "headers"])
async def test_request_that_was_changed_on_the_way_is_refused(part: str) -> None:
    async with served() as (_, server):
        asked = asking(WHERE) if part == "query" else posting(BODY)
        changed: dict[str, Any] = {
            "query": {"raw_query": WHERE.replace("20", "30")},
            "body": {"body": asked.body.replace(b"20", b"30")},
            "headers": {"headers": dict(list(asked.headers.items())[:3])},
        }
        request = dataclasses.replace(asked, **changed[part])
        assert refused(await server.answer(request)) == (401, "client-signature")


async def test_pages_lead_their_own_client_on_until_the_epoch_ends() -> None:
    async with served(6) as (node, server):
        seen: list[str] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            cursor = f"&cursor={page['next']}" if page["next"] else ""
            page = answer_in(await server.answer(asking(f"{WHERE}&limit=2{cursor}")))
            seen += [each["handle"] for each in page["services"]]
            if page["next"] is not None:
                last = f"{WHERE}&cursor={page['next']}"
        assert len(set(seen)) == 6
        assert refused(await server.answer(asking(last, number=2))) == (404, "unknown-cursor")
        assert refused(await server.answer(asking(last, number=None))) == (400, "malformed")
        begin_epoch(node.service.epochs.keys, 2)
        assert refused(await server.answer(asking(last))) == (404, "unknown-cursor")
        anew = answer_in(await server.answer(asking(WHERE)))
        assert not {each["handle"] for each in anew["services"]} & set(seen)


async def test_counts_come_in_pages_too() -> None:
    async with served(6) as (_, server):
        whole = answer_in(await server.answer(asking(WHERE, number=None)))["counts"]
        found: list[Any] = []
        cursor = ""
        while True:
            page = answer_in(await server.answer(asking(f"{WHERE}&limit=1{cursor}", number=None)))
            found += page["counts"]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert found == whole
        assert len(found) > 1


async def test_without_an_epoch_key_there_are_counts_only() -> None:
    async with served() as (node, server):
        node.service.epochs.keys.put({}, EpochStates(0, None, None, None), epoch_us=1)
        for asked in (asking(WHERE), asking(WHERE, path="/v1/watch")):
            assert refused(await server.answer(asked)) == (503, "no-epoch-key")
        answer = answer_in(await server.answer(asking(WHERE, number=None)))
        assert (sum(each["services"] for each in answer["counts"]), answer["epoch"]) == (3, 0)


async def test_stream_has_to_be_signed() -> None:
    async with served() as (_, server):
        path = "/v1/watch"
        for asked in (asking(WHERE, path=path, number=None), posting(BODY, path=path, number=None)):
            assert refused(await server.answer(asked)) == (401, "client-signature")
        for asked in (asking(WHERE, path=path), posting(BODY, path=path)):
            response = await server.answer(asked)
            assert response.stream is not None
            assert b'"epoch":1' in await anext(response.stream)
            await response.stream.aclose()


async def test_state_tells_of_the_client_s_own_requests_and_of_nobody_else_s() -> None:
    async with served(1) as (node, server):
        (record,) = [each for each, _ in node.app.reader.listed()]
        under_way: Counter[tuple[bytes, bytes]] = Counter()
        node.service.discoverer.outstanding = lambda service, who: under_way[service, who]
        told = []
        for count in (0, 7, 8, 15, 16):
            under_way[record, client(1).id] = count
            answers = [
                answer_in(await server.answer(asking(WHERE, number=number))) for number in (1, 2)
            ]
            told.append(tuple(each["services"][0]["state"] for each in answers))
        assert [mine for mine, _ in told] == ["open", "open", "busy", "busy", "full"]
        assert {other for _, other in told} == {"open"}
