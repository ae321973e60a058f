"""TLS that trusts registry keys, and nothing else."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from edgistry.adapters import tls
from edgistry.adapters.crypto import generate_signing_key, public_key_of
from edgistry.errors import InvalidValueError
from edgistry.transactions import NodeId, node_id_of

NODE, MEMBER, STRANGER = (generate_signing_key() for _ in range(3))


async def call(server: tls.TLSContext, client: tls.TLSContext) -> NodeId | None:
    """Who ``client`` is to ``server`` once both have said something."""
    seen: list[NodeId | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(tls.peer_node(writer.transport))
        writer.write(await reader.read(1))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            writer.write(b"x")
            if await reader.read(1) != b"x":
                raise ConnectionError("closed")
        finally:
            writer.transport.abort()
    return seen[0]


def members() -> tls.TLSContext:
    return tls.server_context(NODE, members=[public_key_of(NODE), public_key_of(MEMBER)])


async def test_a_device_reaches_the_node_whose_key_it_was_told() -> None:
    client = tls.client_context(public_key_of(NODE))
    assert await call(tls.server_context(NODE), client) is None


async def test_a_server_with_another_key_is_not_spoken_to() -> None:
    client = tls.client_context(public_key_of(MEMBER))
    with pytest.raises(ssl.SSLCertVerificationError):
        await call(tls.server_context(NODE), client)


async def test_a_server_that_claims_the_name_of_another_key_is_not_spoken_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The forger's certificate carries the name that the client expects, with its own signature.
    monkeypatch.setattr("edgistry.adapters.crypto.node_id_of", lambda key: node_id_of(b"one"))
    forger = tls.server_context(STRANGER)
    client = tls.client_context(public_key_of(NODE))
    with pytest.raises(ssl.SSLCertVerificationError):
        await call(forger, client)


async def test_a_member_is_known_by_its_node_id() -> None:
    client = tls.client_context(public_key_of(NODE), seed=MEMBER)
    assert await call(members(), client) == node_id_of(public_key_of(MEMBER))


async def test_a_caller_without_a_certificate_is_let_in_as_nobody() -> None:
    assert await call(members(), tls.client_context(public_key_of(NODE))) is None


async def test_a_stranger_with_a_certificate_is_turned_away() -> None:
    client = tls.client_context(public_key_of(NODE), seed=STRANGER)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call(members(), client)


async def test_a_stranger_under_a_members_name_is_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = members()
    monkeypatch.setattr(
        "edgistry.adapters.crypto.node_id_of", lambda key: node_id_of(public_key_of(MEMBER))
    )
    client = tls.client_context(public_key_of(NODE), seed=STRANGER)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call(server, client)


async def test_a_server_that_follows_turns_away_who_is_a_member_no_more() -> None:
    server = members()
    now = [server]
    tls.follow(server, lambda: now[0])
    client = tls.client_context(public_key_of(NODE), seed=MEMBER)
    assert await call(server, client) == node_id_of(public_key_of(MEMBER))
    now[0] = tls.server_context(NODE, members=[public_key_of(NODE), public_key_of(STRANGER)])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call(server, client)
    joined = tls.client_context(public_key_of(NODE), seed=STRANGER)
    assert await call(server, joined) == node_id_of(public_key_of(STRANGER))
    assert await call(server, tls.client_context(public_key_of(NODE))) is None


async def test_older_tls_is_refused() -> None:
    client = tls.client_context(public_key_of(NODE))
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call(tls.server_context(NODE), client)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        tls.client_context(bytes(31))
    with pytest.raises(InvalidValueError):
        tls.server_context(bytes(31))
