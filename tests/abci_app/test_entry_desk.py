"""Requests at any node: forwarded to the home node, kept while it is away, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import abci_app.entry_courier as courier_module
from abci_app.entry_book import EntryBook
from abci_app.entry_courier import AT_ONCE
from abci_app.entry_desk import EntryDesk
from abci_app.entry_records import ANSWERS, DAMAGED, ENVELOPES, Stage
from abci_app.mailbox_boxes import Boxes
from abci_app.peer_api import PASS_PATH, PassedRequest
from abci_app.peer_link import AWAY_S, MAX_WAITING
from abci_app.peer_parts import under_way
from edgistry.codec import decode, encode, replace
from edgistry.envelope import BY_NODE, Status, encode_reply
from edgistry.errors import (
    BadReplyError,
    BadTagError,
    BudgetError,
    CaveatError,
    DiskFullError,
    ExpiredError,
    KeyReusedError,
    MailboxFullError,
    NotEndedError,
    NotFoundError,
    PermissionRefusedError,
    Refused,
    TimedOutError,
    UnavailableError,
    UnknownRequestError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.requests_api import RequestAnswer, to_text

from .desk_world import CLIENT, FETCH_KEY, GRANT, SERVICE_KEY, desks, text_bytes
from .peer_world import ENTRY, Nodes, nodes
from .test_request_desk import Disk, granted_to


def stage(world: Nodes, answer: RequestAnswer) -> Stage | None:
    record = world.book.get(text_bytes(answer.id))
    return None if record is None else Stage(record.stage)


def reply_in(answer: RequestAnswer) -> bytes:
    assert answer.reply is not None
    return text_bytes(answer.reply)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what we wait for has no event)
            await asyncio.sleep(0.001)


# --- the home node answers ----------------------------------------------------------------------


async def test_call_through_another_node_is_answered_end_to_end() -> None:
    async with nodes() as world:
        request = world.home.bind()
        answer = await world.submit(request)
        assert (answer.state, stage(world, answer)) == ("QUEUED", Stage.PASSED)
        await world.home.device.wake()
        answer = await world.fetch(answer)
        reply = request.open_reply(reply_in(answer))
        assert (answer.state, reply.status, reply.payload) == ("RESPONDED", Status.OK, b"21.5")
        assert world.home.device.executed == [b"please"]


async def test_acknowledged_outcome_is_forgotten_at_both_nodes() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        with pytest.raises(NotEndedError):
            await world.acknowledge(answer)
        await world.fetch(answer)
        assert (await world.acknowledge(answer)).state == "DELIVERED"
        await world.step()
        at_home = await world.home.requests.fetch(text_bytes(answer.id), FETCH_KEY)
        again = await world.acknowledge(answer)
        assert (at_home.state, again.state, again.reply) == ("DELIVERED", "DELIVERED", None)
        await world.passes(24 * 3600)
        assert (len(world.book), list(world.store.scan(b"entry/", b"entry0"))) == (0, [])


async def test_refusal_of_the_home_node_is_told_at_once_and_nothing_is_kept() -> None:
    async with nodes() as world:
        bound = world.home.bind()
        forged = bytes([*bound.encoded[:-1], bound.encoded[-1] ^ 1])
        with pytest.raises(BadTagError):
            await world.entry.submit(world.home.asked(bound, envelope=forged))
        assert len(world.book) == 0


async def test_caveat_that_does_not_hold_is_told_at_once_and_nothing_is_kept() -> None:
    async with nodes() as world:
        over = GRANT.derive(not_after_us=world.home.now_us - 1)
        with pytest.raises(CaveatError, match="time is over"):
            await world.submit(world.home.bind(over))
        assert len(world.book) == 0


async def test_full_mailbox_at_home_is_told_with_the_time_to_come_back() -> None:
    async with nodes(home_limits={"share": 1}) as world:
        await world.submit(world.home.bind())
        with pytest.raises(MailboxFullError) as refused:
            await world.submit(world.home.bind())
        assert refused.value.retry_after_s == 15 * 60


async def test_queue_that_others_have_filled_is_not_told_and_the_request_waits() -> None:
    async with nodes(home_limits={"depth": 1}) as world:
        first = await world.submit(world.home.bind())
        other = await world.submit(world.home.bind(client=b"client-2"))
        assert (other.state, len(world.home.writer.boxes.live)) == ("QUEUED", 1)
        await world.home.device.wake()
        assert (await world.fetch(first)).state == "RESPONDED"
        await world.step()
        assert len(world.home.writer.boxes.live) == 1


async def test_home_node_whose_queue_others_have_filled_is_unavailable_and_says_no_more() -> None:
    async with nodes(home_limits={"depth": 1}) as world, desks(depth=1) as own:
        local = EntryDesk(
            own.requests, world.book, world.courier, node_id=ENTRY, find=lambda _key: None
        )
        await local.submit(own.asked(own.bind()))
        with pytest.raises(UnavailableError) as refused:
            await local.submit(own.asked(own.bind(client=b"client-2")))
        for word in ("full", "queue", "many"):
            assert word not in refused.value.detail


async def test_client_s_own_requests_are_counted_wherever_they_wait() -> None:
    async with nodes() as world:
        count = under_way(Boxes(MemoryKeyValue()), world.book)
        committer = world.home.woofs.committer
        at_home = under_way(world.home.writer.boxes, EntryBook(MemoryKeyValue(), committer))
        answer = await world.submit(world.home.bind(granted_to(CLIENT, serial=901)))
        world.way.is_cut = True
        await held(world)
        assert count(SERVICE_KEY, CLIENT) == 2
        assert count(SERVICE_KEY, b"client-2") == 0
        assert (at_home(SERVICE_KEY, CLIENT), at_home(SERVICE_KEY, b"client-2")) == (1, 0)
        await world.home.device.wake()
        assert at_home(SERVICE_KEY, CLIENT) == 0
        world.way.is_cut = False
        await world.step()
        await world.fetch(answer)
        assert count(SERVICE_KEY, CLIENT) == 1


async def test_request_sent_again_is_the_same_one_and_its_fetch_key_counts() -> None:
    async with nodes() as world:
        asked = world.home.asked(world.home.bind())
        first, is_new = await world.entry.submit(asked)
        again, is_new_again = await world.entry.submit(asked)
        assert (first.id, is_new, is_new_again) == (again.id, True, False)
        with pytest.raises(KeyReusedError):
            await world.entry.submit(dataclasses.replace(asked, fetch_hash=bytes(32)))


async def test_request_nobody_knows_and_one_with_a_wrong_key_are_refused_alike() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        for number, key in ((text_bytes(answer.id), b"wrong"), (b"?" * 16, FETCH_KEY)):
            for operation in (world.entry.fetch, world.entry.acknowledge, world.entry.cancel):
                with pytest.raises(UnknownRequestError):
                    await operation(number, key)


async def test_service_that_nobody_knows_is_not_found() -> None:
    async with nodes() as world:
        with pytest.raises(NotFoundError):
            await world.submit(world.home.bind(), service=b"?" * 16)


async def test_waiting_client_gets_the_answer_when_the_device_gave_it() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        waiting = asyncio.create_task(world.fetch(answer, wait_s=30))
        await until(lambda: "look" in world.way.sent)
        await world.home.device.wake()
        assert (await waiting).state == "RESPONDED"


async def test_cancelled_request_is_proved_by_the_home_node() -> None:
    async with nodes() as world:
        request = world.home.bind()
        answer = await world.cancel(await world.submit(request))
        reply = request.open_reply(reply_in(answer))
        assert (answer.state, reply.status) == ("CANCELLED", Status.CANCELLED | BY_NODE)
        await world.home.device.wake()
        assert world.home.device.executed == []


async def test_only_nodes_of_the_chain_are_heard_on_the_link() -> None:
    async with nodes() as world:
        world.way.peer = None
        answer = await world.submit(world.home.bind())
        with pytest.raises(PermissionRefusedError):
            await world.step()
        assert stage(world, answer) == Stage.SENT


# --- a node in the middle that lies -------------------------------------------------------------


async def test_entry_node_that_changes_a_request_is_caught_by_home_node_and_device() -> None:
    async with nodes() as world:
        request = world.home.bind(payload=b"please")
        changed = request.encoded.replace(b"please", b"PLEASE")

        def tamper(path: str, body: bytes) -> bytes:
            if path != PASS_PATH:
                return body
            passed = decode(body, PassedRequest, limit=1 << 20)
            return encode(replace(passed, envelope=changed))

        world.way.tamper_request = tamper
        with pytest.raises(BadTagError):
            await world.submit(request)
        device = world.home.device
        device.authority.answer(changed, device._read, now_us=world.home.now_us)
        assert device.executed == []


async def test_entry_node_that_changes_a_reply_is_caught_by_the_client() -> None:
    async with nodes() as world:
        request = world.home.bind()
        answers = [await world.submit(request)]
        answers.append(await world.submit(world.home.bind(payload=b"another")))
        await world.home.device.wake()
        good, swapped = [reply_in(await world.fetch(each)) for each in answers]
        made_up = encode_reply(
            bytes(32), bytes(16), status=Status.OK, result=1, sequence_epoch=0, sequence_floor=0,
            payload=b"99.9", flat=b"",
        )  # fmt: skip
        for lie in (good.replace(b"21.5", b"99.9"), swapped, made_up):
            with pytest.raises(BadReplyError):
                request.open_reply(lie)
        assert request.open_reply(good).payload == b"21.5"


async def test_answer_about_another_request_is_not_taken() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())

        def tamper(path: str, body: bytes) -> bytes:
            return body.replace(answer.id.encode(), to_text(b"?" * 16).encode())

        world.way.tamper_answer = tamper
        await world.home.device.wake()
        with pytest.raises(Refused):
            await world.fetch(answer)
        world.way.tamper_answer = lambda _path, body: body
        assert (await world.fetch(answer)).state == "RESPONDED"


# --- the home node is away ----------------------------------------------------------------------


async def held(world: Nodes, **more: Any) -> tuple[Any, RequestAnswer]:
    """A request that came while the link was known to be cut."""
    world.way.is_cut = True
    with pytest.raises(Refused):
        await world.link.which_ended(())
    request = world.home.bind(**more)
    answer = await world.submit(request)
    assert stage(world, answer) == Stage.HELD
    return request, answer


async def test_request_waits_here_while_its_home_node_is_away() -> None:
    async with nodes() as world:
        request, answer = await held(world)
        assert (answer.state, answer.final, answer.wake) == ("QUEUED", False, "15m")
        with pytest.raises(Refused):
            await world.step()
        assert stage(world, answer) == Stage.HELD
        world.way.is_cut = False
        await world.step()
        await world.home.device.wake()
        found = await world.fetch(answer)
        assert request.open_reply(reply_in(found)).payload == b"21.5"
        assert world.home.device.executed == [b"please"]


async def test_request_that_waits_here_survives_a_restart_of_this_node() -> None:
    store, home_store = MemoryKeyValue(), MemoryKeyValue()
    async with nodes(store, home_store=home_store) as world:
        request, answer = await held(world)
        now_us = world.home.now_us
    async with nodes(store, home_store=home_store, now_us=now_us) as world:
        assert stage(world, answer) == Stage.HELD
        await world.step()
        await world.home.device.wake()
        found = await world.fetch(answer)
        assert request.open_reply(reply_in(found)).payload == b"21.5"


async def test_request_whose_answer_was_lost_is_executed_once() -> None:
    async with nodes() as world:
        world.way.lose_answers = 1
        answer = await world.submit(world.home.bind())
        assert stage(world, answer) == Stage.SENT
        await world.home.device.wake()
        await world.passes(5)
        await world.step()
        assert (await world.fetch(answer)).state == "RESPONDED"
        assert world.home.device.executed == [b"please"]


async def test_request_whose_fate_was_unknown_is_not_taken_for_expired() -> None:
    async with nodes() as world:
        world.way.lose_answers = 1
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.passes(2 * 3600 - 3601)
        await world.passes(3600)
        assert stage(world, answer) == Stage.SENT
        await world.step()
        assert (await world.fetch(answer)).state == "RESPONDED"


async def test_outcome_travels_back_without_being_asked_for() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.step()
        world.way.is_cut = True
        assert stage(world, answer) == Stage.ENDED
        assert (await world.fetch(answer)).reply is not None


async def test_acknowledgement_travels_when_the_home_node_is_back() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.fetch(answer)
        world.way.is_cut = True
        assert (await world.acknowledge(answer)).state == "DELIVERED"
        with pytest.raises(Refused):
            await world.step()
        world.way.is_cut = False
        await world.step()
        at_home = await world.home.requests.fetch(text_bytes(answer.id), FETCH_KEY)
        assert at_home.state == "DELIVERED"


async def test_request_that_only_this_node_has_is_cancelled_for_certain() -> None:
    async with nodes() as world:
        _, answer = await held(world)
        assert (await world.cancel(answer)).state == "CANCELLED"
        world.way.is_cut = False
        await world.step()
        await world.home.device.wake()
        assert world.home.device.executed == []
        assert (await world.fetch(answer)).state == "CANCELLED"


async def test_recall_of_a_request_that_may_be_at_home_travels_with_it() -> None:
    async with nodes() as world:
        world.way.lose_answers = 1
        world.way.tamper_request = lambda path, body: b"" if path == PASS_PATH else body
        answer = await world.submit(world.home.bind())
        world.way.is_cut = True
        recalled = await world.cancel(answer)
        assert (recalled.state, recalled.recalled) == ("QUEUED", True)
        world.way.is_cut = False
        world.way.tamper_request = lambda _path, body: body
        await world.passes(5)
        await world.step()
        assert (await world.fetch(answer)).state == "CANCELLED"
        await world.home.device.wake()
        assert world.home.device.executed == []


async def test_recalled_request_is_not_given_to_a_device_that_waits_for_work() -> None:
    async with nodes() as world:
        world.way.tamper_request = lambda path, body: b"" if path == PASS_PATH else body
        world.way.lose_answers = 1
        answer = await world.submit(world.home.bind())
        await world.cancel(answer)
        world.way.tamper_request = lambda _path, body: body
        waiting = asyncio.create_task(world.home.device.exchange(wait_s=0.2))
        await until(lambda: world.home.exchanges.waiting)
        await world.passes(5)
        await world.step()
        assert (await world.fetch(answer)).state == "CANCELLED"
        assert (await waiting).requests == ()


async def test_recall_of_a_request_at_home_travels_when_the_link_is_back() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        world.way.is_cut = True
        assert (await world.cancel(answer)).state == "QUEUED"
        world.way.is_cut = False
        await world.step()
        assert (await world.fetch(answer)).state == "CANCELLED"


async def test_request_that_waits_here_expires_at_its_deadline_and_never_runs() -> None:
    async with nodes() as world:
        _, answer = await held(world, deadline=world.home.now_us + 60_000_000)
        await world.passes(61)
        found = await world.fetch(answer)
        assert (found.state, found.final, found.reply) == ("EXPIRED", True, None)
        assert "not carried out" in found.reason
        world.way.is_cut = False
        await world.step()
        await world.home.device.wake()
        assert world.home.device.executed == []


async def test_client_hears_that_nobody_knows_when_the_home_node_never_comes_back() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        world.way.is_cut = True
        await world.passes(26 * 3600)
        found = await world.fetch(answer)
        assert (found.state, found.final) == ("EXPIRED", True)
        assert "nobody knows" in found.reason


async def test_request_that_the_home_node_refuses_later_ends_as_rejected() -> None:
    async with nodes() as world:
        world.way.is_cut = True
        bound = world.home.bind()
        forged = bytes([*bound.encoded[:-1], bound.encoded[-1] ^ 1])
        answer, _ = await world.entry.submit(world.home.asked(bound, envelope=forged))
        world.way.is_cut = False
        await world.step()
        found = await world.fetch(answer)
        assert (found.state, found.final, found.reply) == ("REJECTED", True, None)
        assert "not taken by its home node" in found.reason


async def test_home_node_that_is_full_later_gets_the_request_when_it_has_room() -> None:
    async with nodes(home_limits={"share": 1}) as world:
        first = await world.submit(world.home.bind())
        _, answer = await held(world)
        world.way.is_cut = False
        await world.step()
        assert stage(world, answer) == Stage.SENT
        await world.home.device.wake()
        await world.step()
        assert (await world.fetch(first)).state == "RESPONDED"
        world.courier._rested(text_bytes(answer.id), world.link.node)
        await world.step()
        assert stage(world, answer) == Stage.PASSED


async def test_client_that_asks_the_home_node_too_much_is_told_and_what_waits_waits() -> None:
    async with nodes() as world:
        left = [1]

        class Budget:
            def spend(self, party: bytes) -> None:
                assert party
                if not left[0]:
                    raise BudgetError("spent", retry_after_s=7)
                left[0] -= 1

            def give_back(self, party: bytes) -> None:
                left[0] += 1

        world.home.requests.budget = Budget()
        asked = world.home.asked(world.home.bind())
        await world.entry.submit(asked)
        with pytest.raises(BudgetError) as refused:
            await world.submit(world.home.bind())
        assert (refused.value.retry_after_s, world.link.seems_up) == (7, True)
        # What was taken is known, also at the home node and with nothing left.
        assert (await world.home.requests.submit(asked))[1] is False
        _, answer = await held(world)
        world.way.is_cut = False
        await world.step()
        assert stage(world, answer) == Stage.SENT
        left[0] = 1
        world.courier._rested(text_bytes(answer.id), world.link.node)
        await world.step()
        assert stage(world, answer) == Stage.PASSED


async def test_queue_for_nodes_that_are_away_is_bounded_and_says_when_to_come_back() -> None:
    async with nodes(share=2) as world:
        for _ in range(2):
            await held(world)
        with pytest.raises(MailboxFullError):
            await world.submit(world.home.bind())
        assert (await world.submit(world.home.bind(client=b"client-2"))).state == "QUEUED"


async def test_who_has_an_alias_takes_nothing_of_the_share_of_the_client_it_names() -> None:
    async with nodes(share=2) as world:
        _, answer = await held(world)
        await world.cancel(answer)
        count = world.book.outstanding
        forged = [await world.submit(world.home.bind(), alias=b"a" * 16) for _ in range(2)]
        with pytest.raises(MailboxFullError):
            await world.submit(world.home.bind(), alias=b"a" * 16)
        assert count(SERVICE_KEY, CLIENT) == 0
        own = [await world.submit(world.home.bind()) for _ in range(2)]
        with pytest.raises(MailboxFullError):
            await world.submit(world.home.bind())
        assert count(SERVICE_KEY, CLIENT) == 2
        for each in (*forged, *own):
            await world.cancel(each)
        assert count(SERVICE_KEY, CLIENT) == 0
        assert +world.book._waiting == +world.book._clients == {}
        for each in (*forged, *own):
            await world.acknowledge(each)
        await world.passes(24 * 3600)
        assert (len(world.book), world.book._aliases) == (0, {})


async def test_what_the_home_node_refuses_leaves_nothing_of_its_alias() -> None:
    async with nodes() as world:
        over = GRANT.derive(not_after_us=world.home.now_us - 1)
        with pytest.raises(CaveatError):
            await world.submit(world.home.bind(over), alias=b"a" * 16)
        assert world.book._aliases == {}


async def test_room_comes_from_requests_that_were_delivered() -> None:
    async with nodes(total=1) as world:
        first = await world.submit(world.home.bind())
        with pytest.raises(UnavailableError):
            await world.submit(world.home.bind())
        await world.home.device.wake()
        await world.fetch(first)
        await world.acknowledge(first)
        await world.step()
        assert (await world.submit(world.home.bind())).state == "QUEUED"


async def test_request_that_its_home_node_took_is_never_refused_for_want_of_room() -> None:
    async with nodes(total=2) as world:
        asked = [world.home.asked(world.home.bind()) for _ in range(4)]
        found = await asyncio.gather(*map(world.entry.submit, asked), return_exceptions=True)
        refused = [each for each in found if isinstance(each, BaseException)]
        assert {type(each) for each in refused} == {UnavailableError}
        assert (len(refused), world.way.sent.count("requests")) == (2, 2)


async def test_each_of_two_requests_gets_the_room_of_one_that_was_delivered() -> None:
    async with nodes(total=2) as world:
        for _ in range(2):
            answer = await world.submit(world.home.bind())
            await world.home.device.wake()
            await world.fetch(answer)
            await world.acknowledge(answer)
            await world.step()
        asked = [world.home.asked(world.home.bind()) for _ in range(2)]
        found = await asyncio.gather(*map(world.entry.submit, asked))
        assert [answer.state for answer, _ in found] == ["QUEUED", "QUEUED"]


async def test_request_past_its_deadline_that_its_home_node_never_had_is_refused() -> None:
    async with nodes() as world:
        with pytest.raises(ExpiredError):
            await world.submit(world.home.bind(deadline=world.home.now_us))
        assert len(world.book) == 0


async def test_request_sent_again_after_its_deadline_is_answered_as_it_ended() -> None:
    async with nodes() as world:
        asked = world.home.asked(world.home.bind())
        first, _ = await world.entry.submit(asked)
        await world.home.device.wake()
        await world.passes(2 * 3600)
        await world.step()
        again, is_new = await world.entry.submit(asked)
        assert (again.id, again.state, is_new) == (first.id, "RESPONDED", False)


async def test_request_sent_again_when_its_service_is_withdrawn_is_answered_as_it_ended() -> None:
    async with nodes() as world:
        asked = world.home.asked(world.home.bind())
        first, _ = await world.entry.submit(asked)
        await world.home.device.wake()
        await world.step()
        world.home.pairings.is_listed = False
        again, is_new = await world.entry.submit(asked)
        assert (again.id, again.state, is_new) == (first.id, "RESPONDED", False)
        with pytest.raises(KeyReusedError):
            await world.entry.submit(dataclasses.replace(asked, fetch_hash=bytes(32)))
        for other in (
            dataclasses.replace(asked, idempotency_key=b"other"),
            dataclasses.replace(asked, envelope=b"none"),
        ):
            with pytest.raises(NotFoundError):
                await world.entry.submit(other)


async def test_full_disk_makes_no_request_look_refused_that_its_home_node_may_have() -> None:
    disk = Disk()
    async with nodes(disk) as world:
        taken, lost, held = (world.home.asked(world.home.bind()) for _ in range(3))
        disk.full = True
        with pytest.raises(UnavailableError):
            await world.entry.submit(taken)
        world.way.lose_answers = 1
        with pytest.raises(UnavailableError):
            await world.entry.submit(lost)
        with pytest.raises(DiskFullError):
            await world.entry.submit(held)  # the node seems to be away: it was not sent
        assert len(world.book) == 0
        disk.full = False
        await world.passes(AWAY_S)
        await world.home.device.wake()
        states = [(await world.entry.submit(each))[0].state for each in (taken, lost, held)]
        assert states == ["RESPONDED", "RESPONDED", "QUEUED"]
        assert len(world.home.device.executed) == 2


async def test_request_that_only_its_home_node_remembers_is_found_after_its_deadline() -> None:
    async with nodes() as world:
        asked = world.home.asked(world.home.bind())
        # This node died between the home node's answer and its own record.
        await world.home.requests.submit(asked)
        await world.home.device.wake()
        await world.passes(2 * 3600)
        again, is_new = await world.entry.submit(asked)
        assert (again.state, is_new) == ("RESPONDED", False)
        assert (await world.fetch(again)).reply == again.reply


async def test_request_is_not_called_expired_while_only_an_absent_node_knows() -> None:
    async with nodes() as world:
        asked = world.home.asked(world.home.bind())
        await world.home.requests.submit(asked)
        await world.home.device.wake()
        await world.passes(2 * 3600)
        world.way.is_cut = True
        for _ in ("not known to be away", "known to be away"):
            with pytest.raises(UnavailableError):
                await world.entry.submit(asked)
        assert len(world.book) == 0
        world.way.is_cut = False
        await world.passes(AWAY_S)
        assert (await world.entry.submit(asked))[0].state == "RESPONDED"


async def test_client_that_waits_while_the_link_is_cut_hears_when_it_is_back() -> None:
    async with nodes() as world:
        _, answer = await held(world)
        running = asyncio.create_task(world.courier.run())
        waiting = asyncio.create_task(world.fetch(answer, wait_s=30))
        await asyncio.sleep(0)
        world.way.is_cut = False
        world.courier.wake(world.link.node)
        await until(lambda: "look" in world.way.sent)
        await world.home.device.wake()
        assert (await waiting).state == "RESPONDED"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def running(world: Nodes) -> AsyncIterator[None]:
    """The courier of the entry node runs, and has nothing to do yet."""
    task = asyncio.create_task(world.courier.run())
    await asyncio.sleep(0)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_outcome_of_a_request_that_was_taken_at_once_comes_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courier_module, "FOLLOW_AWAITED_EVERY_S", 0.01)
    monkeypatch.setattr(courier_module, "FOLLOW_EVERY_S", 0.05)
    async with nodes() as world, running(world):
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        await until(lambda: stage(world, answer) == Stage.ENDED)


async def test_clients_that_wait_do_not_ask_the_home_node_one_by_one_each_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courier_module, "FOLLOW_AWAITED_EVERY_S", 0.01)
    async with nodes(home_limits={"share": 64}) as world, running(world):
        answers = [await world.submit(world.home.bind()) for _ in range(MAX_WAITING + 6)]
        waiting = [asyncio.create_task(world.fetch(each, wait_s=30)) for each in answers]
        await until(lambda: world.way.sent.count("outcomes") >= 5)
        assert world.way.sent.count("look") == len(answers)
        await world.home.device.wake()
        await world.home.device.wake()
        ended = await asyncio.gather(*waiting)
        assert {each.state for each in ended} == {"RESPONDED"}


async def test_request_that_its_home_node_cannot_handle_stops_no_other() -> None:
    async with nodes() as world:
        _, bad = await held(world, payload=b"poison")
        _, good = await held(world)
        world.way.is_cut = False
        world.way.poison = b"poison"
        await world.step()
        assert (stage(world, bad), stage(world, good)) == (Stage.SENT, Stage.PASSED)


async def test_request_that_stays_without_an_answer_stops_no_other() -> None:
    async with nodes(share=2 * AT_ONCE, home_limits={"share": 2 * AT_ONCE}) as world:
        followed = await world.submit(world.home.bind())
        _, stuck = await held(world, payload=b"stuck")
        more = [(await held(world))[1] for _ in range(AT_ONCE)]
        world.way.is_cut = False
        world.way.silent = b"stuck"
        await world.home.device.wake()
        await world.step()
        assert {stage(world, each) for each in more} == {Stage.PASSED}
        assert (stage(world, stuck), stage(world, followed)) == (Stage.SENT, Stage.ENDED)


async def test_node_that_answers_nothing_any_more_is_left_alone() -> None:
    async with nodes() as world:
        _, answer = await held(world)
        world.way.is_cut = False
        world.way.silent = b""
        with pytest.raises(TimedOutError):
            await world.step()
        assert stage(world, answer) == Stage.HELD


async def test_outcome_that_the_home_node_does_not_know_any_more_is_told() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        world.home.store.write([(b"mailbox/r/" + text_bytes(answer.id), None)], sync=True)
        await world.step()
        found = await world.fetch(answer)
        assert (found.state, found.final) == ("EXPIRED", True)
        assert "does not know it" in found.reason


async def test_envelope_is_kept_only_while_the_home_node_may_not_have_it() -> None:
    async with nodes() as world:
        _, answer = await held(world)
        key = ENVELOPES + text_bytes(answer.id)
        assert world.store.get(key) is not None
        world.way.is_cut = False
        await world.step()
        assert world.store.get(key) is None


async def test_damaged_request_ends_and_stops_no_other() -> None:
    async with nodes() as world:
        _, lost = await held(world)
        _, good = await held(world)
        world.store.write([(ENVELOPES + text_bytes(lost.id), None)], sync=True)
        world.way.is_cut = False
        await world.step()
        found = await world.fetch(lost)
        assert (found.state, found.final, found.reason) == ("EXPIRED", True, DAMAGED)
        assert stage(world, good) == Stage.PASSED


async def test_outcome_that_was_damaged_is_told_as_lost() -> None:
    async with nodes() as world:
        answer = await world.submit(world.home.bind())
        await world.home.device.wake()
        assert (await world.fetch(answer)).final
        world.store.write([(ANSWERS + text_bytes(answer.id), None)], sync=True)
        found = await world.fetch(answer)
        assert (found.state, found.final, found.reason) == ("EXPIRED", True, DAMAGED)
