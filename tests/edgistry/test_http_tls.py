"""HTTP over TLS with pinned keys."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from edgistry.adapters.crypto import generate_signing_key, public_key_of
from edgistry.adapters.http import HttpClient, HttpServer, Request, Response, Route
from edgistry.adapters.tls import client_context, server_context
from edgistry.errors import CannotReachError, WrongNodeKeyError
from edgistry.transactions import node_id_of

NODE, MEMBER, STRANGER = (generate_signing_key() for _ in range(3))


class Echo:
    """A server that remembers the bodies it was sent and says who sent them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    async def answer(self, request: Request) -> Response:
        self.bodies.append(request.body)
        return Response(body=b"nobody" if request.peer_node is None else request.peer_node)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = HttpServer([Route(method="POST", template="/", handler=echo.answer)])
    context = server_context(NODE, members=[public_key_of(MEMBER)])
    port = await server.listen_tcp("127.0.0.1", 0, tls=context)
    echo.url = f"https://127.0.0.1:{port}"
    yield echo
    await server.stop(grace_s=0.1)


async def test_a_caller_who_trusts_the_right_key_is_answered(echo: Echo) -> None:
    async with HttpClient(echo.url, tls=client_context(public_key_of(NODE))) as client:
        answer = await client.request("POST", "/", body=b"hello")
    assert (answer.body, echo.bodies) == (b"nobody", [b"hello"])


async def test_the_server_knows_a_node_that_calls_it(echo: Echo) -> None:
    context = client_context(public_key_of(NODE), seed=MEMBER)
    async with HttpClient(echo.url, tls=context) as client:
        answer = await client.request("POST", "/", body=b"hello")
    assert answer.body == node_id_of(public_key_of(MEMBER))


async def test_nothing_is_sent_to_a_server_with_another_key(echo: Echo) -> None:
    async with HttpClient(echo.url, tls=client_context(public_key_of(STRANGER))) as client:
        with pytest.raises(WrongNodeKeyError):
            await client.request("POST", "/", body=b"a secret")
    assert echo.bodies == []


async def test_a_stranger_with_a_certificate_is_not_heard(echo: Echo) -> None:
    context = client_context(public_key_of(NODE), seed=STRANGER)
    async with HttpClient(echo.url, tls=context) as client:
        with pytest.raises(CannotReachError):
            await client.request("POST", "/", body=b"hello")
    assert echo.bodies == []


async def test_without_a_context_a_certificate_of_our_own_making_is_not_trusted(echo: Echo) -> None:
    async with HttpClient(echo.url) as client:
        with pytest.raises(WrongNodeKeyError):
            await client.request("POST", "/", body=b"a secret")
    assert echo.bodies == []


async def test_a_caller_who_does_not_speak_tls_is_not_heard(echo: Echo) -> None:
    async with HttpClient(echo.url.replace("https", "http")) as client:
        with pytest.raises(CannotReachError):
            await client.request("POST", "/", body=b"a secret")
    assert echo.bodies == []
