"""Batches under way together: order, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.admin_api import DeviceRow, RegisterAnswer, RegisterRequest, RowOutcome
from abci_app.admin_client import MAX_UNDER_WAY, AdminClient
from abci_app.directory import NodeDirectory
from edgistry.adapters.http import HttpServer, Request, Response, Route
from edgistry.codec import decode_json, encode_json, replace
from edgistry.errors import UnavailableError
from edgistry.transactions import MAX_BATCH_RECORDS

from .solo_node import row


class Desk:
    """A node that takes batches over a real socket; it answers when as many as told are there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: list[int] = []
        self.refuses: set[int] = set()
        self.gathers = 1
        (root / "run").mkdir(mode=0o700)
        self._socket = NodeDirectory(root).admin_socket
        self._here = asyncio.Event()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _serve(self) -> None:
        server = HttpServer(
            [Route(method="POST", template="/admin/devices", handler=self._register)]
        )
        self._loop.run_until_complete(server.listen_unix(self._socket))
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(server.stop(grace_s=0))
        self._loop.close()

    async def _register(self, request: Request) -> Response:
        rows = decode_json(request.body, RegisterRequest, limit=1_000_000).rows
        number = rows[0].line - row(0).line
        self.taken.append(number)
        if len(self.taken) >= self.gathers:
            self._here.set()
        await self._here.wait()
        if number in self.refuses:
            raise UnavailableError("full")
        outcomes = tuple(RowOutcome(line=each.line, outcome="added") for each in rows)
        return Response(body=encode_json(RegisterAnswer(outcomes=outcomes, height=number)))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        desk = Desk(Path(directory))
        yield desk
        desk.stop()


def batches(count: int) -> Iterator[list[DeviceRow]]:
    return ([row(number)] for number in range(count))


def client(desk: Desk) -> AdminClient:
    return AdminClient(NodeDirectory(desk.root))


def test_answers_come_in_the_order_of_the_batches(desk: Desk) -> None:
    with client(desk) as node:
        heights = [answer.height for answer in node.register_all(batches(20))]
    assert heights == list(range(20))
    assert sorted(desk.taken) == heights


def test_several_batches_are_under_way_together(desk: Desk) -> None:
    # The desk answers none before it has all of these.
    desk.gathers = MAX_UNDER_WAY
    with client(desk) as node:
        assert len(list(node.register_all(batches(MAX_UNDER_WAY + 3)))) == MAX_UNDER_WAY + 3


def test_device_that_is_named_again_is_not_overtaken_by_its_own_later_row(desk: Desk) -> None:
    # A large batch takes longer to arrive than the small one behind it.
    large = [row(number) for number in range(MAX_BATCH_RECORDS)]
    again = [replace(row(7), line=row(MAX_BATCH_RECORDS).line)]
    with client(desk) as node:
        assert len(list(node.register_all([large, again] * 10))) == 20
    assert desk.taken == [0, MAX_BATCH_RECORDS] * 10


def test_what_succeeded_is_answered_before_a_failure_is_raised(desk: Desk) -> None:
    desk.refuses = {2}
    heights: list[int] = []
    with client(desk) as node, pytest.raises(UnavailableError):
        heights.extend(answer.height for answer in node.register_all(batches(50)))
    accepted = [number for number in desk.taken if number != 2]
    assert sorted(heights) == sorted(accepted)
    assert len(desk.taken) < 50


def test_what_the_file_raises_comes_after_the_answers(desk: Desk) -> None:
    def broken() -> Iterator[list[DeviceRow]]:
        yield from batches(3)
        raise ValueError("line 4")

    heights: list[int] = []
    with client(desk) as node, pytest.raises(ValueError, match="line 4"):
        heights.extend(answer.height for answer in node.register_all(broken()))
    assert heights == [0, 1, 2]
