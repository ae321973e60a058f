"""Any service while nodes do not answer: waiting goes on, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from abci_app.mailbox_records import RECORDS, RequestRecord, read_request
from abci_app.request_desk import RequestDesk
from edgistry.adapters import any_caller, any_search, service_caller
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import HttpClient, Response
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.service_caller import CallTracker
from edgistry.anycast_api import AnyGrantAnswer
from edgistry.calls import Ticket
from edgistry.errors import (
    CallEndedError,
    CallPendingError,
    CannotReachError,
    TimedOutError,
    UnavailableError,
)
from edgistry.handles import parse_handle_text
from edgistry.kv import prefix_end
from edgistry.requests_api import RequestAnswer
from edgistry.signed_request import SignedRequest

from .any_world import AREA, AnyWorld, OneOfMany, any_world

ME = ClientKeys.generate()
LIMIT_S = 20.0


class Calling:
    """A call of any service that changes something, under way, and the services it was given to."""

    def __init__(
        self, world: AnyWorld, *, wait_s: float = LIMIT_S, patience_s: float = 0.02
    ) -> None:
        self._world = world
        self.tickets: list[Ticket] = []
        self.keep: Callable[[Ticket], None] = self.tickets.append
        self.answer: RequestAnswer | None = None
        self.task = asyncio.create_task(self._made(wait_s, patience_s))

    async def _made(self, wait_s: float, patience_s: float) -> str:
        async with NodeClient(self._world.at) as node:
            answer = await node.call_any(
                "open",
                b"please",
                type="valve",
                cell=AREA,
                keys=ME,
                wait_s=wait_s,
                patience_s=patience_s,
                keep=lambda ticket: self.keep(ticket),
                news=self._hear,
            )
        return answer.payload.decode()

    def _hear(self, answer: RequestAnswer) -> None:
        self.answer = answer

    @property
    def given_to(self) -> list[OneOfMany]:
        """Devices whose services were called."""
        handles = self._world.keys.handles()
        return [
            self._world.device_of(handles.open(parse_handle_text(each.handle)).record)
            for each in self.tickets
        ]

    async def answered_by(self, device: Callable[[], OneOfMany]) -> str:
        """The answer, when ``device`` wakes again and again."""
        async with asyncio.timeout(LIMIT_S):
            while not self.task.done():
                await self._world.wake(self._world.devices.index(device()))
                await asyncio.wait({self.task}, timeout=0.01)
        return await self.task


def records(world: AnyWorld) -> list[RequestRecord]:
    store = world.writer.store
    return [read_request(value) for _, value in store.scan(RECORDS, prefix_end(RECORDS))]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Choosing:
    """A node that chooses, and does not answer when it is asked for so many others."""

    def __init__(self, world: AnyWorld, *, away: int) -> None:
        self.asked = 0
        self._away = away
        self._choose = world.desk.any_grant
        world.desk.any_grant = self._any_grant  # type: ignore[method-assign]

    async def _any_grant(self, request: SignedRequest) -> AnyGrantAnswer:
        self.asked += 1
        if 1 < self.asked <= 1 + self._away:
            raise UnavailableError("away")
        return await self._choose(request)


async def test_call_goes_on_while_the_node_cannot_be_asked_for_another_service() -> None:
    async with any_world(2) as world:
        choosing = Choosing(world, away=1000)
        calling = Calling(world)
        await until(lambda: choosing.asked > 1)
        first = calling.given_to[0]
        assert await calling.answered_by(lambda: first) == first.id
        assert calling.given_to == [first]


async def test_node_is_asked_again_for_another_service_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(any_search, "_SHORTEST_PATIENCE_S", 0.01)
    async with any_world(2) as world:
        Choosing(world, away=2)
        calling = Calling(world)
        await until(lambda: len(calling.given_to) == 2)
        _, second = calling.given_to
        assert await calling.answered_by(lambda: second) == second.id
        assert len(world.executed) == 1


async def test_call_that_was_given_up_tells_its_end_until_the_ticket_of_the_next_is_kept() -> None:
    async with any_world(2) as world:
        calling = Calling(world)
        known: list[str] = []

        def look(ticket: Ticket) -> None:
            calling.tickets.append(ticket)
            if len(calling.tickets) == 2:
                known.append(first_state())

        def first_state() -> str:
            (record, *_) = sorted(records(world), key=lambda each: each.order)
            return record.outcome.name

        calling.keep = look
        await until(lambda: len(calling.given_to) == 2)
        assert known == ["CANCELLED"]
        _, second = calling.given_to
        assert await calling.answered_by(lambda: second) == second.id
        assert first_state() == "DELIVERED"


class TakingBack:
    """Calls that are taken back, or not, where nobody is told so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, works: bool) -> None:
        self.tries = 0
        cancel = RequestDesk.cancel

        async def cancelled(*how: Any) -> RequestAnswer:
            self.tries += 1
            if works:
                await cancel(*how)
            raise UnavailableError("away")

        monkeypatch.setattr(RequestDesk, "cancel", cancelled)


async def test_call_that_was_taken_back_though_nobody_said_so_is_given_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back = TakingBack(monkeypatch, works=True)
    async with any_world(2) as world:
        calling = Calling(world)
        await until(lambda: len(calling.given_to) == 2)
        first, second = calling.given_to
        assert first != second
        assert await calling.answered_by(lambda: second) == second.id
        assert (back.tries, len(world.executed)) == (1, 1)


async def test_call_that_may_have_been_taken_back_and_was_not_is_given_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back = TakingBack(monkeypatch, works=False)
    async with any_world(2) as world:
        calling = Calling(world)
        await until(lambda: back.tries)
        (first,) = calling.given_to
        assert await calling.answered_by(lambda: first) == first.id
        assert calling.given_to == [first]
        assert len(world.executed) == 1


async def test_call_that_ended_cancelled_after_a_device_was_handed_it_is_given_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with any_world(2) as world:
        calling = Calling(world)

        async def too_late(*_: Any) -> RequestAnswer:
            (device,) = calling.given_to
            await device.exchange(world.exchanges, world.now_us)
            mailbox, now_us = world.writer.mailbox, world.now_us
            await world.writer.commit(
                lambda decision: mailbox.forget_device(decision, device.id, now_us=now_us)
            )
            raise UnavailableError("away")

        monkeypatch.setattr(RequestDesk, "cancel", too_late)
        with pytest.raises(CallEndedError, match="nobody knows"):
            await calling.task
        assert (len(calling.given_to), len(world.executed)) == (1, 1)


async def test_call_that_somebody_else_takes_back_is_given_to_nobody_else() -> None:
    async with any_world(2) as world, HttpClient(world.at) as http:
        calling = Calling(world, patience_s=LIMIT_S)
        await until(lambda: calling.answer)
        assert calling.answer is not None
        tracker = CallTracker(http, calling.tickets[0])
        tracker.known_as(calling.answer.id)
        assert (await tracker.cancel()).state == "CANCELLED"
        with pytest.raises(CallEndedError):
            await calling.task
        assert len(calling.given_to) == 1


async def test_node_that_may_have_the_call_is_waited_for_beyond_the_patience_with_one_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_caller, "_PAUSES_S", (0.02, 0.02, 0.02))
    tries = 0
    send = HttpClient.request

    async def request(http: HttpClient, method: str, path: str, **how: Any) -> Response:
        nonlocal tries
        is_call = (method, path) == ("POST", "/v1/requests")
        tries += is_call
        if is_call and tries <= 8:
            error = CannotReachError("away")
            if tries == 1:
                await send(http, method, path, **how)
                error.may_have_arrived = True
            raise error
        return await send(http, method, path, **how)

    monkeypatch.setattr(HttpClient, "request", request)
    async with any_world(1) as world:
        calling = Calling(world, patience_s=0.001)
        await until(lambda: calling.answer)
        (device,) = calling.given_to
        assert await calling.answered_by(lambda: device) == device.id
        assert len(world.executed) == 1


async def forever(*_: Any, **__: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("silent", "told"),
    [("any_grant", TimedOutError), ("submit", TimedOutError), ("fetch", CallPendingError)],
)
async def test_caller_hears_soon_after_the_time_that_it_waits_whatever_a_node_never_answers(
    monkeypatch: pytest.MonkeyPatch, silent: str, told: type[Exception]
) -> None:
    monkeypatch.setattr(any_caller, "OVERTIME_S", 0.1)
    async with any_world(1) as world:
        if silent == "any_grant":
            world.desk.any_grant = forever  # type: ignore[method-assign]
        else:
            monkeypatch.setattr(RequestDesk, silent, forever)
        async with asyncio.timeout(LIMIT_S / 2):
            with pytest.raises(told):
                await Calling(world, wait_s=1.0).task
