"""The public HTTP API over real sockets: what it answers, and that nothing makes it fail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from abci_app.http_server import public_routes, public_server
from abci_app.metrics import NodeMetrics
from edgistry.adapters.http import HttpClient, HttpServer, Request, Response
from edgistry.api import ENVELOPE_CONTENT_TYPE, METRICS_CONTENT_TYPE, DiscoverQuery, RegionArea
from edgistry.codec import encode_json
from edgistry.openapi import openapi_document
from edgistry.routes import OPERATIONS
from tests.fake_node import FakeNode, FakeWoofs, entry, serving, serving_from_a_thread

DOCUMENT = json.loads(encode_json(openapi_document("0.1.0")))
schemathesis.openapi.media_type(ENVELOPE_CONTENT_TYPE, st.binary())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
)
PLAIN = [(each.method, each.path) for each in OPERATIONS if not each.parameters and not each.body]
PLAIN += [("POST", "/v1/woof"), ("POST", "/v1/woof/stream")]
DISCOVER_STATUSES = {200, 400, 401, 404, 422, 503}


@pytest.fixture
def fake() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def client(fake: FakeNode) -> AsyncIterator[HttpClient]:
    async with serving(fake) as url, HttpClient(url) as client:
        yield client


@pytest.fixture(scope="module")
def node_url() -> Iterator[str]:
    with serving_from_a_thread(FakeNode()) as url:
        yield url


# --- fuzzing ------------------------------------------------------------------------------------


@SCHEMA.parametrize()
@settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_server_keeps_to_its_own_description(case: schemathesis.Case[Any], node_url: str) -> None:
    case.call_and_validate(base_url=node_url, checks=list(CHECKS))


async def answer(request: Request) -> Response:
    """The server's answer without sockets, which makes many examples cheap."""
    return await SERVER.answer(request)


SERVER = HttpServer(public_routes(FakeNode(), FakeWoofs(), version="0.1.0", metrics=NodeMetrics()))

words = st.sampled_from(
    ["bay", "atlantis", "87283082effffff", "37.7,-122.4", "20", "-1", "nan", "", "1e400", "valve"]
)
parameter_names = st.sampled_from(
    ["region", "cell", "near", "radius_km", "type", "limit", "cursor", "min_height", "polygon"]
)


@settings(deadline=None, max_examples=180)
@given(st.dictionaries(parameter_names, words | st.text(max_size=20), max_size=5))
async def test_any_parameters_get_a_documented_status(query: dict[str, str]) -> None:
    response = await answer(Request(method="GET", path="/v1/discover", query=query))
    assert response.status in DISCOVER_STATUSES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=180)
@given(
    st.binary(max_size=60)
    | json_values.map(encode_json)
    | st.dictionaries(parameter_names, json_values, max_size=4).map(encode_json)
)
async def test_any_body_gets_a_documented_status(body: bytes) -> None:
    response = await answer(Request(method="POST", path="/v1/discover", body=body))
    assert response.status in DISCOVER_STATUSES


@settings(deadline=None, max_examples=120)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "", "get", "\x00"]),
    path=st.sampled_from([each.path for each in OPERATIONS]) | st.text(max_size=30),
    query=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
async def test_any_method_and_path_get_an_answer(
    method: str, path: str, query: dict[str, str]
) -> None:
    response = await answer(Request(method=method, path=path, query=query))
    assert response.status in DISCOVER_STATUSES | {405}


# --- what is answered ---------------------------------------------------------------------------


async def test_discover_by_get_and_by_post_is_one_query(client: HttpClient, fake: FakeNode) -> None:
    fields = {"region": "bay", "type": "valve", "limit": 5, "min_height": 3}
    got = await client.request(
        "GET", "/v1/discover", query={name: str(value) for name, value in fields.items()}
    )
    posted = await client.request("POST", "/v1/discover", body=encode_json(fields))
    assert got.status == 200
    assert got.body == posted.body
    expected = DiscoverQuery(area=RegionArea(name="bay"), type="valve", limit=5, min_height=3)
    assert fake.queries == [expected, expected]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "malformed"),
        ({"region": "bay", "unknown": "1"}, 400, "malformed"),
        ({"region": "atlantis"}, 404, "unknown-region"),
        ({"region": "everything"}, 422, "limit-exceeded"),
        ({"region": "bay", "limit": "1001"}, 422, "limit-exceeded"),
        ({"near": "91,0", "radius_km": "1"}, 422, "invalid-value"),
        ({"region": "bay", "cursor": "zzz"}, 400, "malformed"),
        ({"region": "bay", "min_height": "99"}, 503, "not-yet"),
        ({"region": "broken"}, 500, "internal"),
    ],
)
async def test_refusal_has_its_status_code_and_help(
    client: HttpClient, query: dict[str, str], status: int, code: str
) -> None:
    response = await client.request("GET", "/v1/discover", query=query)
    problem: dict[str, Any] = json.loads(response.body)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status, problem["status"], problem["code"]) == (status, status, code)
    assert problem["help"]


async def test_height_not_reached_says_when_to_ask_again(client: HttpClient) -> None:
    query = {"region": "bay", "min_height": "99"}
    response = await client.request("GET", "/v1/discover", query=query)
    assert response.headers["Retry-After"] == "5"


async def test_repeated_parameter_is_refused(client: HttpClient) -> None:
    response = await client.request("GET", "/v1/discover?region=bay&region=bay")
    assert response.status == 400


async def test_fifty_megabytes_are_refused(client: HttpClient, fake: FakeNode) -> None:
    response = await client.request("POST", "/v1/discover", body=bytes(50_000_000))
    assert (response.status, json.loads(response.body)["code"]) == (413, "too-large")
    assert fake.queries == []


@pytest.mark.parametrize(("method", "path"), PLAIN)
async def test_paths_without_parameters_refuse_every_parameter(
    client: HttpClient, method: str, path: str
) -> None:
    assert (await client.request(method, path)).status == 200
    assert (await client.request(method, path, query={"x": "1"})).status == 400


async def test_writes_are_not_part_of_the_public_api(client: HttpClient) -> None:
    for path in ("/v1/regions", "/v1/status", "/v1/discover"):
        for method in ("PUT", "DELETE", "PATCH"):
            response = await client.request(method, path)
            assert response.status == 405
            assert "GET" in response.headers["Allow"]


async def test_ready_is_503_with_reasons_while_the_node_is_not(
    client: HttpClient, fake: FakeNode
) -> None:
    assert json.loads((await client.request("GET", "/readyz")).body) == {
        "ready": True,
        "writes": True,
        "reasons": [],
        "warnings": [],
    }
    fake.is_ready = False
    response = await client.request("GET", "/readyz")
    assert response.status == 503
    assert json.loads(response.body)["reasons"] == ["the registry is being rebuilt"]
    assert (await client.request("GET", "/healthz")).status == 200


async def test_served_description_is_the_one_that_was_built(client: HttpClient) -> None:
    response = await client.request("GET", "/openapi.json")
    assert json.loads(response.body) == DOCUMENT


def test_every_operation_has_exactly_one_route() -> None:
    routes = public_routes(FakeNode(), FakeWoofs(), version="0.1.0", metrics=NodeMetrics())
    assert [(each.method, each.template) for each in routes] == [
        (each.method, each.path) for each in OPERATIONS
    ]


# --- metrics ------------------------------------------------------------------------------------


async def scrape(client: HttpClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = await client.request("GET", "/metrics")
    assert response.headers["Content-Type"] == METRICS_CONTENT_TYPE
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }


async def test_metrics_count_requests_by_route_template_and_status(client: HttpClient) -> None:
    for region in ("bay", "bay", "atlantis"):
        await client.request("GET", "/v1/discover", query={"region": region})
    await client.request("GET", "/no/such/path")
    found = await scrape(client)

    def requests(route: str, status: str) -> float:
        labels = (("method", "GET"), ("route", route), ("status", status))
        return found["edgistry_http_requests_total", labels]

    assert requests("/v1/discover", "200") == 2
    assert requests("/v1/discover", "404") == 1
    assert requests("none", "404") == 1
    assert found["edgistry_http_request_seconds_count", (("route", "/v1/discover"),)] == 3


async def test_metrics_show_the_node_as_it_is_now(client: HttpClient, fake: FakeNode) -> None:
    fake.services = [entry(number) for number in range(5)]
    fake.is_ready = False
    found = await scrape(client)
    names = ("height", "services", "regions", "outbox_depth", "peers", "ready", "writes")
    assert [found[f"edgistry_{name}", ()] for name in names] == [7, 5, 1, 0, 3, 0, 0]


async def test_metrics_name_no_place_type_or_id(client: HttpClient) -> None:
    await client.request("GET", "/v1/discover", query={"region": "bay", "type": "valve"})
    await client.request("GET", "/v1/discover", query={"near": "37.77,-122.42", "radius_km": "3"})
    await client.request("INVENTED", "/v1/discover/87283082effffff")
    text = (await client.request("GET", "/metrics")).body.decode()
    for secret in ("bay", "valve", "37.77", "122.42", "87283082effffff", "INVENTED", "node0"):
        assert secret not in text


async def test_two_nodes_in_one_process_count_apart() -> None:
    first, second = NodeMetrics(), NodeMetrics()
    servers = [
        public_server(FakeNode(), FakeWoofs(), version="1", metrics=each)
        for each in (first, second)
    ]
    await servers[0].answer(Request(method="GET", path="/healthz"))
    texts = [
        each.render(FakeNode().status(), FakeNode().ready()[1]).decode() for each in (first, second)
    ]
    assert '"/healthz"' in texts[0]
    assert '"/healthz"' not in texts[1]
