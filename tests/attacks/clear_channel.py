"""A client, its entry node, the home node and a device, and somebody who hears every byte between.

Client and device talk over sockets, through a recorder each. What the two nodes say to each other
is recorded as it is before TLS, so the attacker hears as much as a dishonest entry node would.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from abci_app.exchange_desk import ExchangeDesk
from abci_app.http_requests import PublicExchange, PublicRequests
from device_agent.link import Answer, HttpLink, parse_head
from edgistry.authority import Authority
from edgistry.capability import BoundRequest, Capability
from edgistry.codec import encode_json
from edgistry.handlers import handler
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.requests_api import FETCH_KEY_HEADER, to_bytes, to_text
from tests.abci_app.desk_world import CLIENT, GRANT, SERVICE_KEY, desks, server_of
from tests.abci_app.peer_world import Nodes, nodes
from tests.device_agent.agent_world import HandClock, Running
from tests.device_agent.socket_world import Listener
from tests.device_agent.test_agent_and_node import agent_at
from tests.handle_world import handle_for

ENTRY_ISSUER = Issuer.from_secret(b"e" * 32, epoch=0)
HANDLE = handle_for(SERVICE_KEY, client_id=CLIENT)


@dataclass(frozen=True)
class Heard:
    """A request as it went over one stretch, and its answer: whole HTTP messages, or the bodies
    that nodes send each other."""

    request: bytes
    answer: bytes

    @property
    def body(self) -> bytes:
        return self.request.partition(b"\r\n\r\n")[2]

    @property
    def answer_body(self) -> bytes:
        return self.answer.partition(b"\r\n\r\n")[2]


class Recorder:
    """Passes connections on to ``port`` and keeps what went to and fro."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.heard: list[Heard] = []

    async def serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        far, forth = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            while (request := await read_message(near)) is not None:
                forth.write(request)
                answer = await read_message(far)
                if answer is None:
                    return
                self.heard.append(Heard(request, answer))
                back.write(answer)
                await back.drain()
        finally:
            forth.close()
            back.close()


async def read_message(source: asyncio.StreamReader) -> bytes | None:
    """One HTTP message with a Content-Length, or none where the stream ends."""
    try:
        head = await source.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    lines = b"HTTP/1.1 200 x\r\n" + head.partition(b"\r\n")[2]
    _, fields = parse_head(lines)
    return head + await source.readexactly(int(fields.get(b"content-length", b"0")))


@dataclass(frozen=True)
class Said:
    """What a server answered to bytes that were sent to it."""

    status: int
    body: bytes

    @property
    def is_json(self) -> bool:
        return self.body.startswith(b"{")

    @property
    def reply(self) -> bytes:
        """The device's reply in an answer about a request; empty where there is none."""
        found = json.loads(self.body).get("reply")
        return to_bytes(found, "reply") if found else b""


async def send(port: int, message: bytes) -> Said:
    """Send an HTTP message over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(message)
        answer = await read_message(reader)
    finally:
        writer.close()
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    return Said(int(head.split(b" ")[1]), body)


def http(method: str, path: str, body: bytes = b"", fetch_key: bytes = b"") -> bytes:
    """An HTTP message as a client sends it."""
    key = f"{FETCH_KEY_HEADER}: {to_text(fetch_key)}\r\n" if fetch_key else ""
    kind = "Content-Type: application/json\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: node\r\n{key}{kind}Content-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


@dataclass
class Call:
    """A call as its client knows it."""

    request: BoundRequest
    number: str
    fetch_key: bytes
    reply: bytes = b""


@dataclass
class Channel:
    """All of them, and what was heard."""

    nodes: Nodes
    agent: Running
    device_link: Listener
    entry_port: int
    home_port: int
    near_client: Recorder
    near_device: Recorder
    client_port: int
    between_nodes: list[tuple[str, Heard]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    executed: list[tuple[str, bytes]] = field(default_factory=list)
    """Action and payload of what the device has executed."""

    async def call(self, payload: bytes, capability: Capability = GRANT) -> Call:
        """The client asks for a reading at its entry node."""
        request = self.nodes.home.bind(capability, payload=payload)
        fetch_key = b"fetch " + payload
        body = {
            "handle": HANDLE,
            "envelope": to_text(request.encoded),
            "idempotency_key": to_text(b"key of " + payload),
            "fetch_hash": to_text(hashlib.sha256(fetch_key).digest()),
        }
        said = await send(self.client_port, http("POST", "/v1/requests", encode_json(body)))
        assert said.status == 202, said
        call = Call(request, json.loads(said.body)["id"], fetch_key)
        self.calls.append(call)
        return call

    async def cancel(self, call: Call) -> None:
        message = http("DELETE", f"/v1/requests/{call.number}", fetch_key=call.fetch_key)
        assert (await send(self.client_port, message)).status == 200

    async def fetch(self, call: Call) -> None:
        """The client gets the outcome, and checks that it is the device's or its node's."""
        message = http("GET", f"/v1/requests/{call.number}", fetch_key=call.fetch_key)
        call.reply = (await send(self.client_port, message)).reply
        call.request.open_reply(call.reply)

    async def device_wakes(self) -> None:
        """Twice: what it fetches in the first is told in the second at the latest."""
        for _ in range(2):
            await self.agent.wake_up()
        while await self.nodes.step():
            pass

    @property
    def kept(self) -> int:
        """Requests that a node has or knows of."""
        return len(self.nodes.home.writer.boxes.live) + len(self.nodes.book)


@contextlib.asynccontextmanager
async def clear_channel() -> AsyncIterator[Channel]:
    """The world, before the first call."""
    executed: list[tuple[str, bytes]] = []

    @handler
    async def read(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        executed.append(("read", element))
        return b"21.5 for " + element

    @handler
    async def zero(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        executed.append(("zero", element))
        return b""

    async with nodes() as world, desks() as nobody, contextlib.AsyncExitStack() as stack:
        nobody.pairings.paired = None
        home_port = await stack.enter_async_context(
            _served(world.home.requests, world.home.exchanges)
        )
        authority = Authority(MemoryKeyValue(), ENTRY_ISSUER)
        exchanges = ExchangeDesk(nobody.writer, nobody.pairings, authority)
        entry_port = await stack.enter_async_context(_served(world.entry, exchanges))
        near_client, near_device = Recorder(entry_port), Recorder(home_port)
        client_port = await stack.enter_async_context(_listening(near_client))
        device_port = await stack.enter_async_context(_listening(near_device))
        clock = HandClock(wall_us=world.home.now_us)
        link = Listener(world.home, clock, http=HttpLink(f"http://127.0.0.1:{device_port}"))
        stack.push_async_callback(link.close)
        running = await stack.enter_async_context(agent_at(world.home, link, handlers=(read, zero)))
        channel = Channel(
            nodes=world,
            agent=running,
            device_link=link,
            entry_port=entry_port,
            home_port=home_port,
            near_client=near_client,
            near_device=near_device,
            client_port=client_port,
            executed=executed,
        )
        _listen_between(channel)
        yield channel


def _listen_between(channel: Channel) -> None:
    """Hear what the entry node asks the home node, and the answers."""
    asked: list[bytes] = []

    def hear_request(_path: str, body: bytes) -> bytes:
        asked.append(body)
        return body

    def hear_answer(path: str, body: bytes) -> bytes:
        heard = Heard(b"\r\n\r\n" + asked[-1], b"\r\n\r\n" + body)
        channel.between_nodes.append((path, heard))
        return body

    channel.nodes.way.tamper_request = hear_request
    channel.nodes.way.tamper_answer = hear_answer


@contextlib.asynccontextmanager
async def _served(requests: PublicRequests, exchange: PublicExchange) -> AsyncIterator[int]:
    """The port of a node that has these desks."""
    server = server_of(requests, exchange)
    try:
        yield await server.listen_tcp("127.0.0.1", 0)
    finally:
        await server.stop(grace_s=0)


@contextlib.asynccontextmanager
async def _listening(recorder: Recorder) -> AsyncIterator[int]:
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def replayed(reply: bytes) -> Answer:
    """What a device gets that somebody else answers."""
    return Answer(reply=reply, sent=0, received=len(reply))
