"""What an operator can ask about mailboxes, over the API and the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from abci_app.admin_mailbox import mailbox_admin_routes
from abci_app.admin_requests import AdminRoute
from abci_app.mailbox_desk import MailboxDesk
from edgistry.errors import ExpiredError, MalformedError, NotFoundError
from edgistry.kv import KeyValue, MemoryKeyValue

from .desk_world import CLIENT, DEVICE, FETCH_KEY, SECOND, Desks, RealDevice, desks
from .node_thread import NodeThread


def desk_of(world: Desks) -> MailboxDesk:
    return MailboxDesk(world.writer, world.exchanges)


async def die(world: Desks, **more: Any) -> bytes:
    """A request that is handed down once, and lost."""
    number = await world.submit(world.bind(**more))
    await world.device.exchange()
    await world.device.exchange(want_count=0)
    return number


async def test_mailboxes_are_listed_with_what_waits_in_them() -> None:
    async with desks() as world:
        desk = desk_of(world)
        assert desk.mailboxes(10).mailboxes == ()
        await world.submit(world.bind())
        await world.device.exchange(back_in_s=600)
        await world.submit(world.bind(payload=bytes(1000)))
        [entry] = desk.mailboxes(10).mailboxes
        assert (entry.device, entry.queued, entry.leased, entry.acked) == (DEVICE, 1, 1, 0)
        assert entry.bytes > 1000
        assert (entry.exchanges, entry.back_in_s, entry.conflicts) == (1, 600, 0)
        assert entry.seen == entry.oldest == "2025-06-15T15:06:40.000000Z"
        assert desk.mailboxes(10).outstanding == 2


async def test_more_mailboxes_than_asked_for_are_told() -> None:
    async with desks() as world:
        await world.device.exchange()
        assert not desk_of(world).mailboxes(1).more
        assert desk_of(world).mailboxes(0).more


async def test_mailbox_shows_its_requests_and_not_what_they_ask() -> None:
    async with desks() as world:
        number = await world.submit(world.bind(payload=b"a secret question"), priority=4)
        detail = desk_of(world).mailbox(DEVICE, 10)
        [request] = detail.requests
        assert (request.id, request.state, request.priority) == (number.hex(), "QUEUED", 4)
        assert (request.client, request.attempts) == (CLIENT.hex(), 0)
        assert "secret" not in repr(detail)
        assert desk_of(world).mailbox(DEVICE, 0).more
        with pytest.raises(NotFoundError):
            desk_of(world).mailbox("b" * 26, 10)


async def test_two_agents_with_one_identity_are_shown() -> None:
    async with desks() as world:
        first, second = world.device, RealDevice(world, instance=b"agent..2")
        second.counter = 10
        await first.exchange()
        await second.exchange()
        await world.exchanges.answer(first.request().encoded)
        assert desk_of(world).mailbox(DEVICE, 10).mailbox.conflicts == 1


async def test_dead_requests_are_listed_replayed_and_purged() -> None:
    async with desks(attempts=1) as world:
        desk = desk_of(world)
        first, second = await die(world), await die(world)
        assert {each.id for each in desk.dead(10).requests} == {first.hex(), second.hex()}
        assert desk.dead(1).more
        assert (await desk.replay([first.hex()], every=False)).count == 1
        await world.device.wake()
        assert (await world.requests.fetch(first, FETCH_KEY)).state == "RESPONDED"
        assert (await desk.purge([], every=True)).count == 1
        assert desk.dead(10).requests == ()
        assert (await world.requests.fetch(second, FETCH_KEY)).state == "DEAD"


async def test_all_that_is_replayed_is_what_can_be() -> None:
    async with desks(attempts=1) as world:
        desk = desk_of(world)
        late = await die(world, deadline=world.now_us + 60 * SECOND)
        told, good = await die(world), await die(world)
        await world.requests.acknowledge(told, FETCH_KEY)
        world.now_us += 61 * SECOND
        assert (await desk.replay([], every=True)).count == 1
        assert {each.id for each in desk.dead(10).requests} == {late.hex(), told.hex()}
        with pytest.raises(ExpiredError):
            await desk.replay([late.hex()], every=False)
        assert (await world.requests.fetch(good, FETCH_KEY)).state == "QUEUED"


@pytest.mark.parametrize("name", ["", "x", "0" * 31, "0" * 33, "G" * 32, "A" * 32, " " * 32])
async def test_id_of_another_form_is_refused(name: str) -> None:
    async with desks() as world:
        with pytest.raises(MalformedError):
            await desk_of(world).replay([name], every=False)


# --- the command line ---------------------------------------------------------------------------


class MailThread(NodeThread):
    """A node with a mailbox; its clock stands still."""

    world: Desks

    async def furnish_more(self, parts: AsyncExitStack, queues: KeyValue) -> list[AdminRoute]:
        self.world = await parts.enter_async_context(desks(MemoryKeyValue(), attempts=1))
        return mailbox_admin_routes(desk_of(self.world))


@pytest.fixture
def node() -> Iterator[MailThread]:
    with MailThread.started() as node:
        yield node


def run_json(node: MailThread, *words: str) -> Any:
    result = node.invoke(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_command_for_an_empty_node_says_that_it_is(node: MailThread) -> None:
    shown = node.invoke("mailbox", "show")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "no device has come" in shown.stderr
    assert "no dead letters" in node.invoke("mailbox", "dead-letters").stderr


def test_command_shows_replays_and_purges(node: MailThread) -> None:
    number = node.ask(die(node.world)).hex()
    node.ask(node.world.submit(node.world.bind()))
    header, row = node.invoke("mailbox", "show").stdout.splitlines()
    assert header.split()[:5] == ["DEVICE", "QUEUED", "LEASED", "ACKED", "BYTES"]
    assert row.split()[:4] == [DEVICE, "1", "0", "0"]
    assert run_json(node, "mailbox", "show")["mailboxes"][0]["queued"] == 1
    assert "QUEUED" in node.invoke("mailbox", "show", DEVICE).stdout.splitlines()[-1]
    assert run_json(node, "mailbox", "show", DEVICE)["requests"][0]["state"] == "QUEUED"
    dead = node.invoke("mailbox", "dead-letters").stdout
    assert number in dead
    assert "handed down 1 times" in dead
    assert run_json(node, "mailbox", "dead-letters")["requests"][0]["id"] == number
    assert node.invoke("mailbox", "replay", number).stdout == "replayed: 1\n"
    again = node.invoke("mailbox", "replay", number)
    assert again.exit_code == 1
    assert "is no dead letter" in again.stderr
    nothing = node.invoke("mailbox", "purge", "--all")
    assert (nothing.exit_code, nothing.stdout) == (1, "purged: 0\n")


def test_command_that_names_nothing_is_a_usage_error(node: MailThread) -> None:
    for verb in ("replay", "purge"):
        for words in ((), ("0" * 32, "--all")):
            result = node.invoke("mailbox", verb, *words)
            assert result.exit_code == 2
            assert "name dead requests, or say --all" in result.stderr
