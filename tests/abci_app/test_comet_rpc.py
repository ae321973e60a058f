"""The engine's RPC, played by a server that answers what a test tells it to."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.comet_rpc import CometRpc, EnginePeer, EngineStatus
from edgistry.adapters.http import HttpServer, Request, Response, Route, run
from edgistry.errors import UnavailableError

STATUS = {
    "node_info": {"id": "ab" * 20, "moniker": "node0", "other": {}},
    "sync_info": {
        "latest_block_height": "7",
        "latest_app_hash": "ABCD",
        "latest_block_time": "2026-01-01T00:00:00Z",
        "catching_up": False,
        "earliest_block_height": "1",
    },
}


class Engine:
    """Answers every call with ``answer``, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: bytes = b""
        self.calls: list[dict[str, object]] = []
        self.server = HttpServer([Route(method="POST", template="/", handler=self._handle)])
        self.port = 0

    async def _handle(self, request: Request) -> Response:
        self.calls.append(json.loads(request.body))
        return Response(body=self.answer, headers={"Content-Type": "application/json"})

    def result(self, value: object) -> None:
        self.answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": value}).encode()

    def error(self, data: str) -> None:
        error = {"code": -32603, "message": "Internal error", "data": data}
        self.answer = json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    played = Engine()
    played.port = await played.server.listen_tcp("127.0.0.1", 0)
    yield played
    await played.server.stop()


@pytest.fixture
async def rpc(engine: Engine) -> AsyncIterator[CometRpc]:
    client = CometRpc(engine.port)
    yield client
    await client.close()


async def test_a_transaction_is_handed_over_without_waiting_for_a_block(
    engine: Engine, rpc: CometRpc
) -> None:
    engine.result({"code": 0, "hash": "00"})
    await rpc.submit(b"\x00\xff")
    assert engine.calls[0]["method"] == "broadcast_tx_async"
    assert engine.calls[0]["params"] == {"tx": base64.b64encode(b"\x00\xff").decode()}


async def test_a_transaction_that_the_engine_knows_is_no_error(
    engine: Engine, rpc: CometRpc
) -> None:
    engine.error("tx already exists in cache")
    await rpc.submit(b"x")
    assert len(engine.calls) == 1


async def test_a_full_mempool_asks_for_another_try(engine: Engine, rpc: CometRpc) -> None:
    engine.error("mempool is full: number of txs 2000 (max: 2000)")
    with pytest.raises(UnavailableError, match="mempool is full"):
        await rpc.submit(b"x")


async def test_an_engine_that_is_away_asks_for_another_try(engine: Engine, rpc: CometRpc) -> None:
    await engine.server.stop()
    with pytest.raises(UnavailableError, match="does not answer"):
        await rpc.submit(b"x")


async def test_status_tells_how_far_the_engine_is(engine: Engine, rpc: CometRpc) -> None:
    engine.result(STATUS)
    assert await rpc.status() == EngineStatus(
        height=7,
        app_hash="abcd",
        block_time="2026-01-01T00:00:00Z",
        catching_up=False,
        peer_id="ab" * 20,
    )


async def test_peers_are_named(engine: Engine, rpc: CometRpc) -> None:
    engine.result({"n_peers": "1", "peers": [{"node_info": {"id": "cd", "moniker": "node1"}}]})
    assert await rpc.peers() == (EnginePeer(peer_id="cd", name="node1"),)


@pytest.mark.parametrize(
    "result", [{}, {"sync_info": 1}, {**STATUS, "sync_info": {"latest_block_height": "x"}}, [], 1]
)
async def test_a_status_of_another_form_is_unavailable(
    engine: Engine, rpc: CometRpc, result: object
) -> None:
    engine.result(result)
    with pytest.raises(UnavailableError):
        await rpc.status()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["result", "error", "data", "peers", "node_info", "id"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=50) | _json.map(lambda v: json.dumps(v).encode()), min_size=1))
def test_any_answer_is_a_value_or_unavailable(answers: list[bytes]) -> None:
    async def ask_all() -> int:
        played = Engine()
        rpc = CometRpc(await played.server.listen_tcp("127.0.0.1", 0))
        done = 0
        for played.answer in answers:
            with contextlib.suppress(UnavailableError):
                await rpc.peers()
            done += 1
        await rpc.close()
        await played.server.stop()
        return done

    assert run(ask_all()) == len(answers)
