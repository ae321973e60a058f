"""What an entry node does for requests by itself: when, and what becomes of them."""

from __future__ import annotations

import asyncio

import pytest

import abci_app.entry_courier as courier_module
from abci_app.entry_records import HOME_FORGOT, Stage
from edgistry.errors import (
    BadRequestError,
    FutureError,
    MalformedError,
    Refused,
    UnavailableError,
)
from edgistry.messages import MAX_QUEUED_ENVELOPE_BYTES
from edgistry.replay_window import MAX_AHEAD_US

from .desk_world import FETCH_KEY, text_bytes
from .peer_world import nodes
from .test_entry_desk import held, running, stage, until

# --- what the courier is rung for ---------------------------------------------------------------


@pytest.fixture
def only_rung_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The courier asks for nothing by itself for a long time."""
    monkeypatch.setattr(courier_module, "FOLLOW_AWAITED_EVERY_S", 1000.0)
    monkeypatch.setattr(courier_module, "FOLLOW_EVERY_S", 1000.0)


@pytest.mark.usefixtures("only_rung_for")
async def test_request_that_is_kept_here_is_on_its_way_at_once() -> None:
    async with nodes() as world, running(world):
        world.way.is_cut = True
        with pytest.raises(Refused):
            await world.link.which_ended(())
        world.way.is_cut = False
        answer = await world.submit(world.home.bind())
        assert stage(world, answer) == Stage.HELD
        await until(lambda: stage(world, answer) == Stage.PASSED)


@pytest.mark.usefixtures("only_rung_for")
async def test_acknowledgement_is_on_its_way_at_once() -> None:
    async with nodes() as world, running(world):
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.fetch(answer)
        await world.acknowledge(answer)
        await until(lambda: "acknowledge" in world.way.sent)


@pytest.mark.usefixtures("only_rung_for")
async def test_recall_is_on_its_way_as_soon_as_the_home_node_can_be_asked() -> None:
    async with nodes() as world, running(world):
        answer = await world.submit(world.home.bind())
        world.way.is_cut = True
        with pytest.raises(Refused):
            await world.link.which_ended(())
        world.way.is_cut = False
        assert (await world.cancel(answer)).state == "QUEUED"
        await until(lambda: "cancel" in world.way.sent)


@pytest.mark.usefixtures("only_rung_for")
async def test_client_hears_what_is_new_once_the_home_node_can_be_asked_again() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        world.way.is_cut = True
        waiting = asyncio.create_task(world.fetch(answer, wait_s=30, known="QUEUED"))
        async with running(world):
            await until(lambda: not world.link.seems_up)
            await world.home.device.exchange()
            world.way.is_cut = False
            async with asyncio.timeout(10):
                assert (await waiting).state == "LEASED"


async def test_client_that_knows_another_state_hears_at_once() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.exchange()
        async with asyncio.timeout(10):
            assert (await world.fetch(answer, wait_s=30, known="QUEUED")).state == "LEASED"


# --- what a home node says later ----------------------------------------------------------------


async def test_acknowledgement_that_its_home_node_has_no_use_for_is_told() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.fetch(answer)
        world.home.store.write([(b"mailbox/r/" + text_bytes(answer.id), None)], sync=True)
        await world.acknowledge(answer)
        await world.step()
        record = world.book.get(text_bytes(answer.id))
        assert record is not None
        assert not record.untold


async def test_recall_of_what_the_home_node_does_not_know_any_more_ends() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        world.way.is_cut = True
        await world.cancel(answer)
        world.home.store.write([(b"mailbox/r/" + text_bytes(answer.id), None)], sync=True)
        world.home.writer.boxes.reload()
        world.way.is_cut = False
        await world.step()
        found = await world.fetch(answer)
        assert (found.state, found.reason) == ("EXPIRED", HOME_FORGOT)


async def test_request_whose_deadline_its_home_node_sees_first_is_expired() -> None:
    async with nodes() as world:
        _, answer = await held(world, deadline=world.home.now_us + 60_000_000)
        world.book.clock_us = lambda: world.home.now_us - 60_000_000
        world.home.now_us += 60_000_000
        world.way.is_cut = False
        await world.step()
        assert (await world.fetch(answer)).state == "EXPIRED"


async def test_acknowledged_end_of_this_node_alone_leaves_the_outcome_at_home() -> None:
    async with nodes(silence_s=10) as world:
        world.way.lose_answers = 1
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        world.way.is_cut = True
        await world.passes(3600 + 10)
        assert "nobody knows" in (await world.fetch(answer)).reason
        await world.acknowledge(answer)
        world.way.is_cut = False
        await world.step()
        at_home = await world.home.requests.fetch(text_bytes(answer.id), FETCH_KEY)
        assert at_home.state == "RESPONDED"


# --- what is refused here already ---------------------------------------------------------------


async def test_what_no_home_node_would_take_does_not_leave_this_one() -> None:
    async with nodes() as world:
        home = world.home
        exchange = home.device.request()
        future = home.bind(sequence=home.now_us + MAX_AHEAD_US + 1)
        large = home.bind()
        for asked, refusal in (
            (home.asked(exchange), BadRequestError),
            (home.asked(future), FutureError),
            (home.asked(large, envelope=bytes(MAX_QUEUED_ENVELOPE_BYTES + 1)), MalformedError),
        ):
            with pytest.raises(refusal):
                await world.entry.submit(asked)
        assert world.way.sent == []


# --- two at a time, and disks that fail ---------------------------------------------------------


async def test_outcome_that_two_bring_at_a_time_is_taken_once() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        found, _ = await asyncio.gather(world.fetch(answer), world.step())
        assert (found.state, stage(world, answer)) == ("RESPONDED", Stage.ENDED)


async def test_queue_for_one_service_is_bounded_for_all_clients_together() -> None:
    async with nodes(service=1) as world:
        await held(world)
        with pytest.raises(UnavailableError, match="cannot take the request now"):
            await world.submit(world.home.bind(client=b"client-2"))


async def test_queue_for_nodes_that_are_away_is_bounded_in_bytes() -> None:
    async with nodes(bytes=1000) as world:
        await held(world)
        with pytest.raises(UnavailableError, match="cannot take the request now"):
            await world.submit(world.home.bind(payload=bytes(1000)))


async def test_recall_that_the_device_has_to_decide_is_told_once() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.exchange()
        assert (await world.cancel(answer)).recalled
        await world.step()
        assert world.way.sent.count("cancel") == 1
