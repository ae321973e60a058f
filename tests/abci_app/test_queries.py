"""ABCI queries: proofs that an independent reader of RFC 6962 accepts, and the peer filter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app import abci_pb2 as pb
from abci_app.schema import StoredService, service_key, unpack
from edgistry.errors import (
    InvalidValueError,
    NotFoundError,
    PermissionRefusedError,
    UnavailableError,
)
from edgistry.kv import MemoryKeyValue

from . import rfc6962
from .chain_world import ANN, LEASE, World, key, put, started, withdraw


@pytest.fixture
def world() -> World:
    return started(MemoryKeyValue())


def ask(world: World, path: str, data: bytes = b"", height: int = 0) -> pb.ResponseQuery:
    return world.app.query(pb.RequestQuery(path=path, data=data, height=height, prove=True))


def verified_root(answer: pb.ResponseQuery) -> bytes | None:
    """What two ``simple:v`` operators lead to, as CometBFT runs them: value in, root out."""
    result: bytes | None = answer.value
    keys = []
    for operator in answer.proof_ops.ops:
        assert operator.type == "simple:v"
        step = pb.ValueOp.FromString(operator.data)
        assert step.key == operator.key
        keys.append(step.key)
        assert result is not None
        leaf = rfc6962.map_leaf(step.key, result)
        assert step.proof.leaf_hash == rfc6962.sha256(b"\x00" + leaf)
        result = rfc6962.root_from_path(
            leaf, step.proof.index, step.proof.total, list(step.proof.aunts)
        )
    bucket = rfc6962.bucket_number(answer.key)
    assert keys == [answer.key, bytes([bucket >> 8, bucket & 255])]
    return result


async def test_a_proof_leads_to_the_app_hash_by_the_text_of_rfc_6962(world: World) -> None:
    await world.do(ANN, put(*range(300)))
    await world.block()
    for number in range(0, 300, 7):
        answer = ask(world, "/proof", service_key(key(number)))
        assert answer.code == 0
        assert unpack(answer.value, StoredService).home == ANN.id
        assert verified_root(answer) == world.app_hash


async def test_a_proof_fails_for_any_other_value(world: World) -> None:
    await world.do(ANN, put(*range(50)))
    await world.block()
    answer = ask(world, "/proof", service_key(key(1)))
    answer.value += b"\0"
    with pytest.raises(AssertionError):
        verified_root(answer)


async def test_an_idle_chain_proves_the_newest_state_that_has_a_header(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.block()
    answer = ask(world, "/proof", service_key(key("a")))
    # The header of height 2 exists and shows the hash after block 1.
    assert answer.height == 1
    assert verified_root(answer) == world.app.reader.head.previous_app_hash


async def test_right_after_a_change_the_state_before_it_is_proven(world: World) -> None:
    await world.do(ANN, put("a"))
    before = world.app_hash
    await world.do(ANN, withdraw("a"))
    answer = ask(world, "/proof", service_key(key("a")))
    assert answer.height == 1
    assert unpack(answer.value, StoredService).home == ANN.id
    assert verified_root(answer) == before


async def test_the_last_height_is_proven_when_asked_for(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.do(ANN, put("b"))
    answer = ask(world, "/proof", service_key(key("b")), height=2)
    assert answer.height == 2
    assert verified_root(answer) == world.app_hash


async def test_a_missing_key_has_no_value_and_proven_neighbours(world: World) -> None:
    await world.do(ANN, put("a"))
    await world.block()
    answer = ask(world, "/proof", service_key(key("missing")))
    assert (answer.code, answer.value) == (0, b"")
    assert [operator.type for operator in answer.proof_ops.ops] == ["edgistry:absent", "simple:v"]


@pytest.mark.parametrize("height", [-1, 1, 4, 1 << 60])
async def test_other_heights_cannot_be_proven(world: World, height: int) -> None:
    for name in ("a", "b", "c"):
        await world.do(ANN, put(name))
    assert ask(world, "/proof", service_key(key("a")), height).code == UnavailableError.number


async def test_after_a_restart_only_known_states_are_proven() -> None:
    store = MemoryKeyValue()
    world = started(store)
    await world.do(ANN, put("a"))
    await world.do(ANN, put("b"))
    again = World(store)
    answer = ask(again, "/proof", service_key(key("b")))
    assert answer.height == 2
    assert verified_root(answer) == again.app_hash
    before = ask(again, "/proof", service_key(key("b")), height=1)
    assert before.code == UnavailableError.number
    again.now_us = world.now_us
    await again.block()
    assert ask(World(store), "/proof", service_key(key("b"))).height == 2


def test_nothing_is_proven_before_genesis() -> None:
    world = World(MemoryKeyValue())
    assert ask(world, "/proof", service_key(key("a"))).code == UnavailableError.number


@pytest.mark.parametrize("data", [b"", b"!head", b"Hxx", b"\xff", b"s" * 1000])
async def test_bookkeeping_is_not_proven(world: World, data: bytes) -> None:
    await world.do(ANN, LEASE)
    answer = ask(world, "/proof", data)
    assert answer.code == InvalidValueError.number
    assert answer.value == b""


def test_only_configured_peers_may_connect_where_members_have_none(world: World) -> None:
    assert ask(world, "/p2p/filter/id/friend").code == 0
    assert ask(world, "/p2p/filter/id/stranger").code == PermissionRefusedError.number
    assert ask(world, "/p2p/filter/id/").code == PermissionRefusedError.number


def test_any_address_may_connect(world: World) -> None:
    assert ask(world, "/p2p/filter/addr/127.0.0.1:27011").code == 0


@settings(deadline=None, max_examples=200)
@given(
    path=st.text(max_size=30) | st.sampled_from(["/proof", "/proof/", "/p2p/filter/id/x"]),
    data=st.binary(max_size=200),
    height=st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_any_query_is_answered_with_a_code(path: str, data: bytes, height: int) -> None:
    answer = ask(_WORLD, path, data, height)
    assert answer.code in {
        0,
        NotFoundError.number,
        InvalidValueError.number,
        PermissionRefusedError.number,
        UnavailableError.number,
    }


_WORLD = started(MemoryKeyValue())
