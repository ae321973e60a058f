"""Requests under a capability: done once although connections break and clocks disagree."""

from __future__ import annotations

import asyncio
import random

import pytest

from edgistry import BlockingNodeClient
from edgistry.adapters.http import Request, Response
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.woof_caller import MAX_OVERTAKING
from edgistry.capability import Capability
from edgistry.envelope import GENERIC_REFUSAL, decode_envelope
from edgistry.errors import (
    BadReplyError,
    CannotReachError,
    CaveatError,
    ExpiredError,
    InvalidValueError,
    OutcomeUnknownError,
    Refused,
    StorageError,
    UnavailableError,
    UnexpectedAnswerError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.rights import Right
from edgistry.sequence import PROBE_SEQUENCE

from .grants import ME, MINUTE, NOW, ROOT, YOU, bind
from .woof_tools import FailingKeyValue
from .woof_world import between, woof_world


async def test_put_whose_answer_was_lost_is_sent_again_and_done_once() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        seen: list[bytes] = []

        async def lose_two(request: Request) -> Response:
            seen.append(request.body)
            reply = await world.server.answer(request.body)
            if len(seen) < 3:
                raise UnavailableError("lost on the way")
            return Response(body=reply)

        async with between(world, lose_two) as node:
            assert await node.put("ns/w", b"x") == 1
        assert len(seen) == 3
        assert len(set(seen)) == 1
        assert world.woofs.woofs.latest("ns/w") == 1


async def test_node_that_is_restarted_again_and_again_gets_every_put_once(
    reserved_port: int,
) -> None:
    store = MemoryKeyValue()
    chance = random.Random(5)
    async with woof_world(store, port=reserved_port) as first:
        await first.woofs.create("ns/w", 999)
        async with NodeClient(
            first.at, ROOT, timeout_s=60, patience_s=60, clock_us=first.clock
        ) as node:
            puts = [asyncio.create_task(node.put("ns/w", b"%d" % n)) for n in range(300)]
            await first.stop()
            for _ in range(10):
                async with woof_world(store, port=reserved_port) as world:
                    latest = world.woofs.woofs.latest
                    wanted = min(300, latest("ns/w") + chance.randrange(60))
                    async with asyncio.timeout(20):
                        while latest("ns/w") < wanted:  # noqa: ASYNC110
                            await asyncio.sleep(0.001)
            async with woof_world(store, port=reserved_port) as world:
                numbers = await asyncio.gather(*puts)
                there = dict(world.woofs.woofs.scan("ns/w"))
    assert there == {number: b"%d" % n for n, number in enumerate(numbers)}
    assert len(there) == 300


async def test_put_that_is_forgotten_meanwhile_is_not_put_again() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 999)
        lost = False

        async def lose(request: Request) -> Response:
            nonlocal lost
            reply = await world.server.answer(request.body)
            if lost:
                return Response(body=reply)
            lost = True
            for number in range(1, 65):
                other = bind(ROOT, 3, payload=b"other", sequence=NOW + 1000 + number)
                await world.server.answer(other.encoded)
            raise UnavailableError("lost on the way")

        async with between(world, lose) as node:
            with pytest.raises(OutcomeUnknownError, match="STALE since"):
                await node.put("ns/w", b"x")
        assert world.woofs.woofs.latest("ns/w") == 65


@pytest.mark.parametrize("late", [False, True], ids=["revoked", "after its deadline"])
async def test_put_that_may_have_been_done_before_it_is_refused_is_not_called_refused(
    late: bool,
) -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        revoked = ROOT.derive(client=ME)
        lost = False

        async def lose(request: Request) -> Response:
            nonlocal lost
            reply = await world.server.answer(request.body)
            if lost:
                return Response(body=reply)
            lost = True
            if late:
                world.clock.now_us += 10 * MINUTE
                world.server.authority.guard.sweep(now_us=world.clock.now_us)
            else:
                world.server.authority.deny(revoked.id)
            raise UnavailableError("lost on the way")

        async with between(world, lose, revoked) as node:
            with pytest.raises(OutcomeUnknownError, match="EXPIRED" if late else "REVOKED"):
                await node.put("ns/w", b"x")
        assert world.woofs.woofs.latest("ns/w") == 1


async def test_read_that_is_forgotten_meanwhile_is_read_anew() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        await world.woofs.put("ns/w", b"x")
        lost = False

        async def lose(request: Request) -> Response:
            nonlocal lost
            if lost:
                return Response(body=await world.server.answer(request.body))
            lost = True
            for number in range(1, 66):
                other = bind(ROOT, sequence=NOW + 1000 + number)
                await world.server.answer(other.encoded)
            raise UnavailableError("lost on the way")

        async with between(world, lose) as node:
            assert await node.get("ns/w") == b"x"


@pytest.mark.parametrize("minutes", [-60, 60])
async def test_client_whose_clock_is_wrong_finds_its_way(minutes: int) -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        await world.client().put("ns/w", b"before")
        async with NodeClient(
            world.at, ROOT, clock_us=lambda: NOW + minutes * MINUTE, timeout_s=7200
        ) as node:
            assert [await node.put("ns/w", b"x") for _ in range(3)] == [2, 3, 4]


async def test_client_whose_clock_is_behind_by_more_than_its_patience_finds_its_way() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        async with NodeClient(world.at, ROOT, clock_us=lambda: NOW - 60 * MINUTE) as node:
            assert [await node.put("ns/w", b"x") for _ in range(3)] == [1, 2, 3]
        async with NodeClient(world.at, ROOT, clock_us=lambda: NOW - 60 * MINUTE) as node:
            elements = node.follow("ns/w", 3)
            assert await anext(elements) == (3, b"x")
            await elements.aclose()


async def test_client_whose_clock_was_ahead_and_is_put_right_goes_on() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        ahead_us = 60 * MINUTE
        async with NodeClient(world.at, ROOT, clock_us=lambda: NOW + ahead_us) as node:
            assert await node.put("ns/w", b"x") == 1
            ahead_us = 0
            assert await node.put("ns/w", b"x") == 2


@pytest.mark.parametrize("capability", [ROOT, ROOT.derive(client=ME)], ids=["root", "one client"])
async def test_clients_that_share_a_capability_are_told_apart(capability: Capability) -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 99)
        nodes = [world.client(capability) for _ in range(3)]
        puts = [node.put("ns/w", b"x") for node in nodes for _ in range(10)]
        assert sorted(await asyncio.gather(*puts)) == list(range(1, 31))


async def test_request_that_expires_on_the_way_is_told_and_not_put_again() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        seen: list[int] = []

        async def late(request: Request) -> Response:
            seen.append(decode_envelope(request.body).sequence)
            first, world.clock.now_us = len(seen) == 1, NOW
            if first:
                world.clock.now_us += 2 * MINUTE
            return Response(body=await world.server.answer(request.body))

        async with between(world, late) as node:
            with pytest.raises(ExpiredError, match="clock"):
                await node.put("ns/w", b"x")
        assert seen[1:] == [PROBE_SEQUENCE]
        assert world.woofs.woofs.latest("ns/w") == 0


async def test_request_is_overtaken_by_few_others() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 999)
        first: bytes = b""
        go = asyncio.Event()
        answered = 0

        async def hold_the_first(request: Request) -> Response:
            nonlocal first, answered
            if not first:
                first = request.body
            if request.body == first:
                await go.wait()
            reply = await world.server.answer(request.body)
            answered += 1
            return Response(body=reply)

        async with between(world, hold_the_first) as node:
            puts = [asyncio.create_task(node.put("ns/w", b"%d" % n)) for n in range(200)]
            async with asyncio.timeout(20):
                while answered < MAX_OVERTAKING - 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert answered == MAX_OVERTAKING - 1
            puts[100].cancel()
            go.set()
            done = await asyncio.gather(*puts, return_exceptions=True)
        assert isinstance(done[100], asyncio.CancelledError)
        assert sorted(n for n in done if isinstance(n, int)) == list(range(1, 200))


async def test_busy_issuer_is_asked_again() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        grants = [ROOT.derive(client=bytes([number]) * 8) for number in range(17)]
        for grant in grants[:16]:
            await world.client(grant).put("ns/w", b"x")
        with pytest.raises(UnavailableError):
            await world.client(grants[16], timeout_s=0.2).put("ns/w", b"x")


async def test_full_disk_is_told_in_a_proven_reply_and_executed_later() -> None:
    store = FailingKeyValue()
    async with woof_world(store) as world:
        await world.woofs.create("ns/w", 9)
        store.failures = 1
        request = bind(ROOT, 3, payload=b"x")
        with pytest.raises(StorageError):
            await world.client().put("ns/w", b"x")
        refused = request.open_reply(await world.server.answer(request.encoded))
        assert (refused.status, refused.result) == (0, 1)


async def test_what_the_capability_cannot_allow_is_not_sent() -> None:
    async with woof_world() as world:
        asked = 0

        async def count(request: Request) -> Response:
            nonlocal asked
            asked += 1
            return Response(body=GENERIC_REFUSAL)

        mine = ROOT.derive(client=ME, max_payload=3, allow=Right.PUT)
        async with between(world, count, mine) as node:
            with pytest.raises(CaveatError, match="3 bytes"):
                await node.put("ns/w", b"four")
            with pytest.raises(Refused):
                await node.get("ns/w")
            with pytest.raises(InvalidValueError):
                await node.put("ns/w/x", b"x")
        assert asked == 0


async def test_client_id_is_the_one_that_the_capability_names_or_a_new_one() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        seen: list[bytes] = []

        async def look(request: Request) -> Response:
            seen.append(decode_envelope(request.body).client)
            return Response(body=await world.server.answer(request.body))

        async with between(world, look, ROOT.derive(client=YOU)) as node:
            await node.put("ns/w", b"x")
        for _ in range(2):
            async with between(world, look) as node:
                await node.put("ns/w", b"x")
        assert seen[0] == YOU
        assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("response", "refusal"),
    [
        (Response(body=b"nonsense"), BadReplyError),
        (Response(status=204), UnexpectedAnswerError),
        (Response(status=404, body=b"x"), UnexpectedAnswerError),
    ],
)
async def test_answer_that_is_no_reply_is_refused(
    response: Response, refusal: type[Refused]
) -> None:
    async def answer(_: Request) -> Response:
        return response

    async with woof_world() as world, between(world, answer) as node:
        with pytest.raises(refusal):
            await node.get("ns/w")


async def test_node_that_is_away_cannot_be_reached() -> None:
    async with woof_world() as world:
        node = world.client(timeout_s=0.1)
        await world.stop()
        with pytest.raises(CannotReachError):
            await node.put("ns/w", b"x")


async def test_client_without_a_capability_says_so() -> None:
    async with NodeClient("http://127.0.0.1:1") as node:
        with pytest.raises(InvalidValueError, match="capability"):
            await node.get("ns/w")


async def test_scan_and_tail_go_on_over_many_replies() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 40)
        elements = [bytes([number]) * (64 * 1024 if number == 30 else 5000) for number in range(50)]
        for element in elements:
            await node.put("ns/w", element)
        kept = [(number, elements[number - 1]) for number in range(11, 51)]
        assert [each async for each in node.scan("ns/w")] == kept
        assert [each async for each in node.scan("ns/w", 20, 33)] == kept[9:23]
        assert await node.tail("ns/w", 100) == kept[::-1]
        assert await node.tail("ns/w", 25) == kept[:-26:-1]
        assert await node.tail("ns/w", 0) == []
        assert [each async for each in node.scan("ns/w", 51)] == []


async def test_blocking_client_does_the_same() -> None:
    async with woof_world() as world:

        def use() -> None:
            with BlockingNodeClient(world.at, ROOT) as node:
                node._client._woofs._clock_us = world.clock
                node.create_namespace("b")
                node.create("b/w", 9)
                assert [node.put("b/w", b"%d" % number) for number in (1, 2, 3)] == [1, 2, 3]
                assert node.get("b/w", 2) == b"2"
                assert (node.newest("b/w"), node.latest("b/w")) == ((3, b"3"), 3)
                assert (node.earliest("b/w"), node.extent("b/w").latest) == (1, 3)
                assert node.tail("b/w", 2) == [(3, b"3"), (2, b"2")]
                assert list(node.scan("b/w", 2)) == [(2, b"2"), (3, b"3")]
                following = node.follow("b/w", 3)
                assert next(following) == (3, b"3")
                following.close()
                left_open = node.follow("b/w", 3)
                assert next(left_open) == (3, b"3")
                node.delete("b/w")
                node.delete_namespace("b")
            left_open.close()

        await asyncio.to_thread(use)
