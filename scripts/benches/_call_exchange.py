"""One exchange: how long a full one takes, and how many bytes an idle one.

Rules kept here:

* The device of the timed exchanges is played by hand, with the device's keys and the codec of the
  real one, so that the clock runs from the first byte sent to the last one received and no longer.
* The bytes are those of the real program, counted by a proxy between it and the node.

Not handled here: what they are compared with (``call.py``).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import _call_world as world
from _clusters import BIN
from _http_load import _Connection
from _tcp_counter import counter
from edgistry_device_agent.directory import (
    open_directory,
    read_device_id,
    read_device_secret,
    read_epoch,
)
from edgistry_device_agent.pairing import read_pairings
from edgistry_device_agent.talk import Talk, Wish

from edgistry.adapters.clock import wall_us
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker, ServiceCaller
from edgistry.api import ENVELOPE_CONTENT_TYPE
from edgistry.envelope import Status
from edgistry.issuer import Issuer
from edgistry.messages import Account, ExchangeDown, RequestDown, RequestResult, ResultKind
from edgistry.verifier import Verifier

FULL: Final = 20
CALLERS: Final = 4
"""Clients: none of them may have so many requests outstanding."""


class HandPlayed:
    """The device in ``directory``, which does nothing by itself."""

    def __init__(self, directory: Path, port: int) -> None:
        layout, _ = open_directory(directory)
        epoch = read_epoch(layout)
        (pairing,) = read_pairings(layout.root, epoch=epoch)
        issuer = Issuer.from_secret(read_device_secret(layout), epoch=epoch)
        self._verifier = Verifier(issuer)
        self._talk = Talk(pairing.home, read_device_id(layout), instance=secrets.token_bytes(8))
        self._connection = _Connection("127.0.0.1", port)
        self._head = (
            f"POST /v1/exchange HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: {ENVELOPE_CONTENT_TYPE}\r\nContent-Length: "
        )

    def answers_to(self, requests: Sequence[RequestDown]) -> list[RequestResult]:
        """What a device answers that has executed ``requests``."""
        found = []
        for request in requests:
            checked = self._verifier.check(request.envelope, now_us=wall_us())
            reply = checked.reply(Status.OK, result=1, payload=checked.envelope.payload)
            found.append(
                RequestResult(request_id=request.request_id, kind=ResultKind.RESPONDED, reply=reply)
            )
        return found

    def exchange(self, results: Sequence[RequestResult] = ()) -> tuple[float, ExchangeDown]:
        """One exchange; how many seconds it took, and what came down."""
        wish = Wish(count=FULL, size=256 * 1024)
        request = self._talk.request(wish, results, Account(), now_us=wall_us())
        data = f"{self._head}{len(request.encoded)}\r\n\r\n".encode() + request.encoded
        connection = self._connection
        began = time.perf_counter()
        connection.send(data)
        while not connection.complete():
            pass
        seconds = time.perf_counter() - began
        down = self._talk.understood(request, connection.buffer.partition(b"\r\n\r\n")[2])
        self._talk.ended(request)
        if not isinstance(down, ExchangeDown):
            raise SystemExit(f"bench: {down}")
        return seconds, down

    def close(self) -> None:
        self._connection.socket.shutdown(socket.SHUT_RDWR)
        self._connection.socket.close()


async def ready_device(directory: Path, home: world.Node) -> str:
    """A device in ``directory``, set up by its own program, which has ended; its handle."""
    await asyncio.to_thread(world.new_device, directory, home)
    with world.device(directory):
        (handle,) = await world.handles(home)
    return handle


async def full_and_empty(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of exchanges in turns: empty ones, and those with 20 answers up, 20 requests down."""
    found: dict[str, list[float]] = {"empty": [], "full": []}
    with world.node(directory / "node") as home:
        await ready_device(directory / "device", home)
        device = HandPlayed(directory / "device", home.port)
        async with HttpClient(home.url) as http:
            callers = [await _caller(home, http) for _ in range(CALLERS)]
            given_before = await _give(callers, http)
            _, down = device.exchange()
            for number in range(-2, rounds):
                given_now = await _give(callers, http)
                full_s, following = device.exchange(device.answers_to(down.requests))
                if not len(down.requests) == len(following.requests) == FULL:
                    raise SystemExit("bench: an exchange that was to be full is not")
                device.exchange(_taken(following.requests))
                empty_s, idle = device.exchange()
                if idle.requests or idle.confirmed:
                    raise SystemExit("bench: an exchange that was to be empty is not")
                if number >= 0:
                    found["full"].append(full_s)
                    found["empty"].append(empty_s)
                for tracker in given_before:
                    await tracker.acknowledge()
                down, given_before = following, given_now
        device.close()
    return found


def _taken(requests: Sequence[RequestDown]) -> list[RequestResult]:
    return [
        RequestResult(request_id=each.request_id, kind=ResultKind.ACKNOWLEDGED) for each in requests
    ]


async def _caller(home: world.Node, http: HttpClient) -> tuple[ServiceCaller, str]:
    """A new client, and its handle of the service."""
    keys = ClientKeys.generate()
    (handle,) = await world.handles(home, keys=keys)
    return ServiceCaller(http, (await world.grants(home, handle, keys))["echo"]), handle


async def _give(
    callers: Sequence[tuple[ServiceCaller, str]], http: HttpClient
) -> list[CallTracker]:
    """Queue as many calls as a full exchange takes."""
    trackers = []
    for caller, handle in itertools.islice(itertools.cycle(callers), FULL):
        tracker = CallTracker(http, caller.ticket(handle, "echo", b"x" * 64))
        await tracker.submit()
        trackers.append(tracker)
    return trackers


async def idle_wake(directory: Path, wakes: int) -> list[tuple[int, int]]:
    """Bytes up and down of wakes of the real program for which nothing waits."""
    found = []
    with world.node(directory / "node") as home:
        async with counter() as through:
            through.lead_to(home.port)
            await asyncio.to_thread(
                world.new_device,
                directory / "device",
                home,
                period_s=600,
                url=f"http://127.0.0.1:{through.port}",
            )
            with world.device(directory / "device"):
                await world.handles(home)
            for _ in range(wakes):
                through.reset()
                process = await asyncio.create_subprocess_exec(
                    BIN / "edgistry-agent", "run", directory / "device", "--once"
                )
                if await process.wait():
                    raise SystemExit("bench: the device did not reach its node")
                if through.connections != 1:
                    raise SystemExit(f"bench: {through.connections} connections in one wake")
                found.append((through.up, through.down))
    return found
