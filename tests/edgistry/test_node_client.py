"""The node client: typed answers, the node's own refusals, and distrust of everything else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry import BlockingNodeClient, NodeClient
from edgistry.adapters.http import HttpServer, Request, Response, Route
from edgistry.adapters.node_client import MAX_STARTS
from edgistry.adapters.problems import refusal_of
from edgistry.api import (
    CellArea,
    DiscoverAnswer,
    DiscoverQuery,
    NearArea,
    PolygonArea,
    Problem,
    RegionArea,
    ServiceEntry,
    problem_of,
)
from edgistry.codec import encode_json
from edgistry.errors import (
    CannotReachError,
    EpochEndedError,
    InvalidValueError,
    LimitExceededError,
    MalformedError,
    MethodNotAllowedError,
    NodeProblemError,
    NotYetError,
    Refused,
    UnexpectedAnswerError,
    UnknownCursorError,
    UnknownRegionError,
    every_refusal,
)
from edgistry.signed_request import Client
from tests.fake_node import BLOCK_TIME, HEIGHT, FakeNode, entry, serving, serving_from_a_thread

TRIANGLE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}


async def test_discover_gives_typed_services() -> None:
    async with serving(FakeNode()) as url, NodeClient(url) as node:
        answer = await node.discover(region="bay", type="valve")
    assert (answer.height, answer.block_time) == (HEIGHT, BLOCK_TIME)
    assert answer.services == (entry(3, "valve"),)
    assert answer.next is None


async def test_every_argument_reaches_the_node() -> None:
    fake = FakeNode()
    async with serving(fake) as url, NodeClient(url) as node:
        await node.discover(near=(37.5, -122.25), radius_km=20, limit=7, cursor="0", min_height=3)
        await node.discover(cell="87283082effffff")
        await node.discover(polygon=TRIANGLE, type="valve")
    assert fake.queries == [
        DiscoverQuery(
            area=NearArea(latitude=37.5, longitude=-122.25, radius_km=20.0),
            limit=7,
            cursor="0",
            min_height=3,
        ),
        DiscoverQuery(area=CellArea(cell="87283082effffff")),
        DiscoverQuery(area=PolygonArea(geojson=TRIANGLE), type="valve"),
    ]


async def test_services_follows_the_cursor_to_the_end() -> None:
    fake = FakeNode(services=[entry(number) for number in range(7)])
    async with serving(fake) as url, NodeClient(url) as node:
        found = [each async for each in node.services(region="bay", limit=3)]
    assert found == fake.services
    assert len(fake.queries) == 3


class EpochEnds(FakeNode):
    """Begins a new epoch behind the second page that it gives: all handles are new."""

    async def discover(self, query: DiscoverQuery, client: Client | None) -> DiscoverAnswer:
        if query.cursor is not None and len(self.queries) == 2:
            self.queries.append(query)
            self.services = [entry(100 + number) for number in range(len(self.services))]
            raise UnknownCursorError("the cursor is of another epoch")
        return await super().discover(query, client)


async def collect(listing: AsyncIterator[ServiceEntry], found: list[ServiceEntry]) -> None:
    async for each in listing:
        found.append(each)


async def test_listing_never_goes_on_unnoticed_with_the_handles_of_another_epoch() -> None:
    fake = EpochEnds(services=[entry(number) for number in range(5)])
    before = fake.services
    found: list[ServiceEntry] = []
    async with serving(fake) as url, NodeClient(url) as node:
        listing = node.services(region="bay", limit=2)
        with pytest.raises(EpochEndedError, match="behind page 2"):
            await collect(listing, found)
    assert found == before[:4]


async def test_listing_starts_over_when_an_epoch_ends_and_says_so() -> None:
    fake = EpochEnds(services=[entry(number) for number in range(5)])
    found: list[ServiceEntry] = []
    async with serving(fake) as url, NodeClient(url) as node:
        await collect(node.services(region="bay", limit=2, start_over=found.clear), found)
    assert found == fake.services
    assert [each.cursor for each in fake.queries] == [None, "2", "4", None, "2", "4"]


class EpochAlwaysEnds(FakeNode):
    """No cursor leads anywhere."""

    async def discover(self, query: DiscoverQuery, client: Client | None) -> DiscoverAnswer:
        assert len(self.queries) < 20, "there is no end to it"
        if query.cursor is not None:
            raise UnknownCursorError("the cursor is of another epoch")
        return await super().discover(query, client)


async def test_listing_does_not_start_over_for_ever() -> None:
    fake = EpochAlwaysEnds(services=[entry(number) for number in range(5)])
    found: list[ServiceEntry] = []
    async with serving(fake) as url, NodeClient(url) as node:
        with pytest.raises(EpochEndedError):
            await collect(node.services(region="bay", limit=2, start_over=found.clear), found)
    assert len(fake.queries) == MAX_STARTS
    assert found == fake.services[:2]


async def test_listing_behind_a_cursor_of_its_own_does_not_start_over() -> None:
    fake = EpochEnds(services=[entry(number) for number in range(5)])
    async with serving(fake) as url, NodeClient(url) as node:
        listing = node.services(region="bay", limit=1, cursor="1", start_over=lambda: None)
        with pytest.raises(EpochEndedError):
            _ = [each async for each in listing]
        fake.queries[:] = fake.queries[:2]
        with pytest.raises(UnknownCursorError) as refused:
            _ = [each async for each in node.services(region="bay", cursor="1")]
        assert type(refused.value) is UnknownCursorError


def test_blocking_listing_starts_over_too() -> None:
    fake = EpochEnds(services=[entry(number) for number in range(5)])
    found: list[ServiceEntry] = []
    with serving_from_a_thread(fake) as url, BlockingNodeClient(url) as node:
        for each in node.services(region="bay", limit=2, start_over=found.clear):
            found.append(each)
        assert found == fake.services
        fake.queries.clear()
        with pytest.raises(EpochEndedError):
            list(node.services(region="bay", limit=2))


async def test_bad_argument_is_refused_before_anything_is_sent() -> None:
    fake = FakeNode()
    async with serving(fake) as url, NodeClient(url) as node:
        with pytest.raises(InvalidValueError, match="latitude"):
            await node.discover(near=(91.0, 0.0), radius_km=1)
        with pytest.raises(MalformedError, match="exactly one"):
            await node.discover(region="bay", cell="87283082effffff")
    assert fake.queries == []


@pytest.mark.parametrize(
    ("region", "refusal"),
    [("atlantis", UnknownRegionError), ("everything", LimitExceededError)],
)
async def test_refusal_of_the_node_is_raised_as_its_own_class(
    region: str, refusal: type[Refused]
) -> None:
    async with serving(FakeNode()) as url, NodeClient(url) as node:
        with pytest.raises(refusal):
            await node.discover(region=region)


async def test_height_not_reached_says_when_to_ask_again() -> None:
    async with serving(FakeNode()) as url, NodeClient(url) as node:
        with pytest.raises(NotYetError) as caught:
            await node.discover(region="bay", min_height=HEIGHT + 1)
    assert caught.value.retry_after_s == 5


async def test_failure_inside_the_node_is_reported_without_details() -> None:
    async with serving(FakeNode()) as url, NodeClient(url) as node:
        with pytest.raises(NodeProblemError, match="internal") as caught:
            await node.discover(region="broken")
    assert caught.value.problem_code == "internal"
    assert "another node" in caught.value.advice()


async def test_regions_and_status_are_typed() -> None:
    fake = FakeNode()
    async with serving(fake) as url, NodeClient(url) as node:
        assert await node.regions() == fake.regions()
        assert await node.status() == fake.status()


@pytest.mark.parametrize("is_ready", [True, False])
async def test_ready_is_an_answer_in_both_cases(is_ready: bool) -> None:
    fake = FakeNode(is_ready=is_ready)
    async with serving(fake) as url, NodeClient(url) as node:
        assert (await node.ready()).ready is is_ready


async def test_nobody_there_is_cannot_reach() -> None:
    async with serving(FakeNode()) as url:
        pass
    async with NodeClient(url) as node:
        with pytest.raises(CannotReachError):
            await node.status()


@pytest.mark.parametrize(
    "response",
    [
        Response(headers={"Content-Type": "text/html"}, body=b"<html>welcome</html>"),
        Response(headers={"Content-Type": "application/json"}, body=b'{"height":"seven"}'),
        Response(status=404, headers={"Content-Type": "text/html"}, body=b"not here"),
        Response(status=503, headers={"Content-Type": "application/json"}, body=b"[]"),
        Response(status=400, headers={"Content-Type": "application/problem+json"}, body=b"{}"),
        Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
)
async def test_answer_of_another_program_is_refused(response: Response) -> None:
    async def other(_: Request) -> Response:
        return response

    paths = ("/v1/status", "/readyz")
    server = HttpServer([Route(method="GET", template=path, handler=other) for path in paths])
    port = await server.listen_tcp("127.0.0.1", 0)
    async with NodeClient(f"http://127.0.0.1:{port}") as node:
        with pytest.raises(UnexpectedAnswerError):
            await node.status()
        with pytest.raises(UnexpectedAnswerError):
            await node.ready()
    await server.stop()


async def test_fields_of_a_newer_node_are_skipped() -> None:
    async def newer(_: Request) -> Response:
        body = encode_json(FakeNode().status())[:-1] + b',"mood":"good"}'
        return Response(headers={"Content-Type": "application/json"}, body=body)

    server = HttpServer([Route(method="GET", template="/v1/status", handler=newer)])
    port = await server.listen_tcp("127.0.0.1", 0)
    async with NodeClient(f"http://127.0.0.1:{port}") as node:
        assert await node.status() == FakeNode().status()
    await server.stop()


def test_blocking_client_has_the_same_answers() -> None:
    fake = FakeNode(services=[entry(number) for number in range(5)])
    with serving_from_a_thread(fake) as url, BlockingNodeClient(url) as node:
        assert list(node.services(region="bay", limit=2)) == fake.services
        assert node.status() == fake.status()
        assert node.regions() == fake.regions()
        assert node.ready().ready
        with pytest.raises(UnknownRegionError):
            node.discover(region="atlantis")
        node.close()


def test_simple_refusals_survive_the_wire() -> None:
    simple = [kind for kind in every_refusal() if kind.__init__ is Refused.__init__]
    for kind in simple:
        returned = refusal_of(problem_of(kind("what was wrong")))
        assert type(returned) is kind
        assert str(returned) == "what was wrong"


def test_refusal_with_evidence_keeps_its_code_and_advice() -> None:
    returned = refusal_of(problem_of(MethodNotAllowedError("no", allowed=("GET",))))
    assert isinstance(returned, NodeProblemError)
    assert returned.problem_code == "method-not-allowed"
    assert returned.advice() == MethodNotAllowedError.help


@settings(deadline=None, max_examples=100)
@given(code=st.text(), detail=st.text(), retry_after=st.none() | st.text())
def test_any_problem_document_becomes_a_refusal(
    code: str, detail: str, retry_after: str | None
) -> None:
    problem = Problem(type="x", title="x", status=400, detail=detail, code=code, help="")
    assert isinstance(refusal_of(problem, retry_after=retry_after), Refused)


async def test_checked_query_is_answered_as_it_is() -> None:
    query = DiscoverQuery(area=RegionArea(name="bay"), limit=1)
    async with serving(FakeNode()) as url, NodeClient(url) as node:
        assert len((await node.answer_query(query)).services) == 1


def test_package_needs_no_database_and_no_cells() -> None:
    code = (
        "import sys, edgistry; from edgistry import *; "
        "sys.exit(any(name in sys.modules for name in ('plyvel', 'h3', 'google.protobuf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
