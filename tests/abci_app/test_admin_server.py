"""The operator's API: who may ask, and that nothing sent to it can break it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.admin_api import DevicePage, DeviceRow, RegisterAnswer, RegisterRequest
from abci_app.admin_server import admin_routes, admin_server
from edgistry.adapters.http import HttpClient, Request, Response, Route
from edgistry.codec import decode_json, encode_json
from edgistry.errors import PermissionRefusedError, Refused
from edgistry.kv import MemoryKeyValue

from .solo_node import SoloNode, open_solo, row

OWN = 1234


@pytest.fixture
async def node() -> SoloNode:
    return await open_solo(MemoryKeyValue(), MemoryKeyValue())


def route(node: SoloNode, method: str, path: str) -> Route:
    [found] = [
        each
        for each in admin_routes(node.service, own_uid=OWN)
        if (each.method, each.template) == (method, path)
    ]
    return found


async def ask(
    node: SoloNode, method: str, path: str, *, uid: int | None = OWN, **request: object
) -> Response:
    asked = Request(method=method, path=path, peer_uid=uid, **request)  # type: ignore[arg-type]
    return await route(node, method, path).handler(asked)


@pytest.mark.parametrize("uid", [None, 1, OWN + 1])
async def test_strangers_are_refused_on_every_route(node: SoloNode, uid: int | None) -> None:
    routes = admin_routes(node.service, own_uid=OWN)
    assert len(routes) >= 9
    for each in routes:
        with pytest.raises(PermissionRefusedError):
            await each.handler(Request(method=each.method, path=each.template, peer_uid=uid))


@pytest.mark.parametrize("uid", [OWN, 0])
async def test_owner_and_root_are_answered(node: SoloNode, uid: int) -> None:
    assert (await ask(node, "GET", "/admin/status", uid=uid)).status == 200


async def test_devices_are_registered_and_listed(node: SoloNode) -> None:
    body = encode_json(RegisterRequest(rows=(row(0), row(1, lat=99.0))))
    response = await ask(node, "POST", "/admin/devices", body=body)
    answer = decode_json(response.body, RegisterAnswer, limit=10_000)
    assert [outcome.outcome for outcome in answer.outcomes] == ["added", "rejected"]
    listed = await ask(node, "GET", "/admin/devices", query={"limit": "5"})
    [device] = decode_json(listed.body, DevicePage, limit=10_000).devices
    assert (device.name, device.state) == ("hut 0", "pending")


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/admin/devices", {"limit": "0"}),
        ("GET", "/admin/devices", {"limit": "1001"}),
        ("GET", "/admin/devices", {"limit": "²"}),
        ("GET", "/admin/devices", {"after": "x"}),
        ("GET", "/admin/devices", {"what": "1"}),
        ("GET", "/admin/settled", {"last": "-1"}),
        ("GET", "/admin/settled", {"timeout_s": "nan"}),
        ("GET", "/admin/settled", {"timeout_s": "31"}),
        ("GET", "/admin/settled", {"timeout_s": "soon"}),
        ("GET", "/admin/status", {"verbose": "1"}),
    ],
)
async def test_bad_parameters_are_refused(
    node: SoloNode, method: str, path: str, query: dict[str, str]
) -> None:
    with pytest.raises(Refused):
        await ask(node, method, path, query=query)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[asyncio.Runner, SoloNode]]:
    with asyncio.Runner() as runner:
        yield runner, runner.run(open_solo(MemoryKeyValue(), MemoryKeyValue()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["rows", "line", "lat", "lon", "name", "geojson", "type", "handles"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(
    path=st.sampled_from(["/admin/devices", "/admin/devices/withdraw", "/admin/regions"]),
    body=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_any_body_is_answered_or_refused(
    fuzzed: tuple[asyncio.Runner, SoloNode], path: str, body: bytes
) -> None:
    runner, node = fuzzed
    before = node.service.outbox.pending
    try:
        response = runner.run(ask(node, "POST", path, body=body))
    except Refused:
        assert node.service.outbox.pending == before
        return
    assert response.status == 200


device_rows = st.builds(
    DeviceRow,
    line=st.integers(-(1 << 63), (1 << 63) - 1),
    id=st.none() | st.text(max_size=4),
    name=st.text(max_size=4),
    lat=st.floats(-95, 95) | st.floats(),
    lon=st.floats(-185, 185) | st.floats(),
    type=st.sampled_from(["valve", "camera", "", "No", "é"]),
    actions=st.lists(st.sampled_from(["read", "write", "", "X"]), max_size=3).map(tuple),
    resolution=st.integers(4, 8),
)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(device_rows, max_size=6))
def test_every_row_gets_one_outcome_and_good_ones_are_committed(
    fuzzed: tuple[asyncio.Runner, SoloNode], rows: list[DeviceRow]
) -> None:
    runner, node = fuzzed
    outcomes = runner.run(node.service.register(rows)).outcomes
    assert [outcome.line for outcome in outcomes] == [each.line for each in rows]
    assert all(bool(outcome.reason) == (outcome.outcome == "rejected") for outcome in outcomes)
    runner.run(node.settle())
    assert len(node.service.outbox.dead_letters) == 0


async def test_answers_over_the_real_socket_go_to_its_owner(node: SoloNode) -> None:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        path = Path(directory) / "admin.sock"
        server = admin_server(node.service)
        await server.listen_unix(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_uid == os.getuid()
        client = HttpClient(path, timeout_s=10.0)
        try:
            assert (await client.request("GET", "/admin/status")).status == 200
            huge = await client.request("POST", "/admin/devices", body=b"x" * (5 << 20))
            assert huge.status == 413
        finally:
            await client.close()
            await server.stop()


async def test_same_routes_over_tcp_refuse_everybody(node: SoloNode) -> None:
    server = admin_server(node.service)
    port = await server.listen_tcp("127.0.0.1", 0)
    client = HttpClient(f"http://127.0.0.1:{port}", timeout_s=10.0)
    try:
        assert (await client.request("GET", "/admin/status")).status == 403
    finally:
        await client.close()
        await server.stop()
