"""WooFs over the wire: every operation under a capability, done once and durable."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.codec import encode
from edgistry.envelope import GENERIC_REFUSAL, Operation, Status
from edgistry.errors import (
    CorruptDatabaseError,
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    MissingNamespaceError,
    MissingWoofError,
    NamespaceNotEmptyError,
    NoRightError,
    TooLargeError,
    UnknownHandlerError,
    UnprovenRefusalError,
    WoofExistsError,
)
from edgistry.event_stream import EventReader
from edgistry.faas_letters import LETTERS_NAMESPACE, LETTERS_WOOF, HandlerLetters
from edgistry.issuer import Issuer
from edgistry.kv import Change, MemoryKeyValue, prefix_end
from edgistry.operations import Extent, Scan, encode_get, encode_scan
from edgistry.replay import Outcome
from edgistry.rights import Right
from edgistry.verifier import Checked
from edgistry.woof_keys import ELEMENTS
from edgistry.woof_staging import Staging

from .grants import ME, MINUTE, NOW, ROOT, bind
from .woof_world import HANDLER, WoofWorld, woof_world

sequences = itertools.count(NOW + 1)


async def test_put_is_numbered_and_read_back() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 3)
        assert [await node.put("ns/w", b"%d" % number) for number in range(1, 5)] == [1, 2, 3, 4]
        assert await node.get("ns/w") == b"4"
        assert await node.get("ns/w", 2) == b"2"
        assert await node.newest("ns/w") == (4, b"4")
        assert await node.extent("ns/w") == Extent(earliest=2, latest=4)


async def test_four_ways_of_not_being_there_differ() -> None:
    async with woof_world() as world:
        node = world.client()
        with pytest.raises(MissingWoofError, match="ns/w"):
            await node.get("ns/w")
        await node.create("ns/w", 2)
        with pytest.raises(EmptyWoofError):
            await node.get("ns/w")
        for number in range(3):
            await node.put("ns/w", b"%d" % number)
        with pytest.raises(ElementEvictedError) as evicted:
            await node.get("ns/w", 1)
        assert evicted.value.earliest == 2
        with pytest.raises(ElementNotYetError) as not_yet:
            await node.get("ns/w", 4)
        assert not_yet.value.latest == 3


async def test_same_envelope_appends_once_also_after_a_restart() -> None:
    store = MemoryKeyValue()
    async with woof_world(store) as world:
        await world.client().create("ns/w", 9)
        request = bind(ROOT, Operation.PUT, payload=b"x", sequence=NOW + 1000)
        replies = await asyncio.gather(*(world.server.answer(request.encoded) for _ in range(5)))
        assert len(set(replies)) == 1
        assert request.open_reply(replies[0]).result == 1
    async with woof_world(store) as world:
        assert await world.server.answer(request.encoded) == replies[0]
        assert world.woofs.woofs.latest("ns/w") == 1


async def test_concurrent_puts_share_writes() -> None:
    class Counting(MemoryKeyValue):
        writes = 0

        def write(self, changes: Iterable[Change], *, sync: bool) -> None:
            self.writes += 1
            super().write(changes, sync=sync)

    store = Counting()
    async with woof_world(store) as world:
        node = world.client()
        await node.create("ns/w", 1000)
        before = store.writes
        requests = [
            bind(ROOT, Operation.PUT, payload=b"x", sequence=NOW + 1000 + number)
            for number in range(64)
        ]
        await asyncio.gather(*(world.server.answer(request.encoded) for request in requests))
        assert world.woofs.woofs.latest("ns/w") == 64
        assert store.writes - before < 16


async def test_put_is_one_write_with_all_that_belongs_to_it() -> None:
    class Recording(MemoryKeyValue):
        batches: ClassVar[list[list[bytes]]] = []

        def write(self, changes: Iterable[Change], *, sync: bool) -> None:
            batch = list(changes)
            self.batches.append([key for key, _ in batch])
            assert sync
            super().write(batch, sync=sync)

    store = Recording()
    async with woof_world(store) as world:
        await world.woofs.create("ns/w", 9)
        store.batches.clear()
        await world.server.answer(bind(ROOT, Operation.PUT, payload=b"x", handler=HANDLER).encoded)
    (batch,) = store.batches
    kinds = [b"replay/S", b"replay/R", b"We", b"Wt"]
    assert all(any(key.startswith(kind) for key in batch) for kind in kinds)


async def test_refused_put_leaves_no_trace_but_its_reply() -> None:
    async with woof_world() as world:
        request = bind(ROOT, Operation.PUT, payload=b"x")
        refused = await world.server.answer(request.encoded)
        assert request.open_reply(refused).status == Status.NOT_FOUND
        await world.client().create("ns/w", 9)
        assert await world.server.answer(request.encoded) == refused
        assert world.woofs.woofs.latest("ns/w") == 0


async def test_put_that_names_a_handler_fires_it() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 9)
        await node.put("ns/w", b"hot", handler=HANDLER)
        (trigger,) = world.woofs.woofs.triggers(HANDLER)
        assert (trigger.woof, trigger.number, trigger.element) == ("ns/w", 1, b"hot")


async def test_put_that_names_an_unknown_handler_is_refused() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 9)
        with pytest.raises(UnknownHandlerError, match="nobody"):
            await node.put("ns/w", b"x", handler="nobody")
        assert await node.latest("ns/w") == 0


async def test_narrowed_capability_allows_only_what_is_left() -> None:
    async with woof_world() as world:
        await world.client().create("ns/w", 9)
        reader = world.client(ROOT.derive(allow=Right.GET | Right.LATEST, object_name="ns/w"))
        assert await reader.latest("ns/w") == 0
        with pytest.raises(NoRightError):
            await reader.put("ns/w", b"x")
        writer = ROOT.derive(allow=Right.PUT, object_name="ns/w")
        request = bind(writer, Operation.GET, "ns/w")
        reply = await world.server.answer(request.encoded)
        assert request.open_reply(reply).status == Status.NO_RIGHT


async def test_capability_of_another_issuer_is_refused_without_a_word() -> None:
    stranger = Issuer.from_secret(bytes(32), epoch=4).mint(serial=1)
    async with woof_world() as world:
        assert await world.server.answer(bind(stranger).encoded) == GENERIC_REFUSAL
        assert await world.server.answer(b"anything") == GENERIC_REFUSAL
        with pytest.raises(UnprovenRefusalError):
            await world.client(stranger).get("ns/w")


async def test_creating_again_is_no_change_unless_the_parameters_differ() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create_namespace("other")
        await node.create_namespace("other")
        await node.create("other/w", 3)
        await node.create("other/w", 3)
        with pytest.raises(WoofExistsError):
            await node.create("other/w", 4)
        with pytest.raises(MissingNamespaceError):
            await node.create("nowhere/w", 3)


async def test_deleted_woof_begins_again_at_one() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 3)
        await node.put("ns/w", b"x")
        with pytest.raises(NamespaceNotEmptyError):
            await node.delete_namespace("ns")
        await node.delete("ns/w")
        with pytest.raises(MissingWoofError):
            await node.put("ns/w", b"x")
        await node.create("ns/w", 3)
        assert await node.put("ns/w", b"y") == 1
        await node.delete("ns/w")
        await node.delete_namespace("ns")
        with pytest.raises(MissingNamespaceError):
            await node.create("ns/w", 3)


async def test_what_an_earlier_life_left_of_a_deleted_woof_is_removed() -> None:
    store = MemoryKeyValue()

    def rest() -> list[bytes]:
        return [key for key, _ in store.scan(ELEMENTS, prefix_end(ELEMENTS))]

    async with woof_world(store) as world:
        await world.woofs.create("ns/w", 9)
        await world.woofs.put("ns/w", b"x")
        await world.woofs.commit(lambda staging: staging.delete("ns/w"))
    assert rest()
    async with woof_world(store) as world:
        upkeep = asyncio.create_task(world.server.run())
        async with asyncio.timeout(20):
            while rest():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        upkeep.cancel()


async def test_dead_letters_can_be_read_and_changed_by_no_capability() -> None:
    async with woof_world() as world:
        node = world.client()
        await world.woofs.commit(HandlerLetters(world.store).prepare)
        await world.woofs.put(LETTERS_WOOF, b"letter")
        assert await node.get(LETTERS_WOOF) == b"letter"
        for change in (
            node.put(LETTERS_WOOF, b"forged"),
            node.create(f"{LETTERS_NAMESPACE}/other", 9),
            node.create_namespace(LETTERS_NAMESPACE),
            node.delete(LETTERS_WOOF),
            node.delete_namespace(LETTERS_NAMESPACE),
        ):
            with pytest.raises(NoRightError):
                await change
        assert world.woofs.woofs.latest(LETTERS_WOOF) == 1


async def test_scan_gives_what_fits_into_a_reply() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 100)
        for number in range(1, 6):
            await node.put("ns/w", bytes([number]) * 20_000)
        found = await node.scan_some("ns/w", 2)
        assert found == [(number, bytes([number]) * 20_000) for number in (2, 3, 4)]
        assert [number for number, _ in await node.scan_some("ns/w", 5)] == [5]
        assert await node.scan_some("ns/w", 6) == []
        with pytest.raises(ElementNotYetError):
            await node.scan_some("ns/w", 7)
        await node.put("ns/w", bytes(64 * 1024))
        with pytest.raises(TooLargeError):
            await node.scan_some("ns/w", 6)


async def test_scan_from_an_evicted_number_says_where_to_begin() -> None:
    async with woof_world() as world:
        node = world.client()
        await node.create("ns/w", 2)
        for _ in range(5):
            await node.put("ns/w", b"x")
        with pytest.raises(ElementEvictedError) as gone:
            await node.scan_some("ns/w", 3)
        assert gone.value.earliest == 4


async def test_put_that_met_damage_is_executed_when_it_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(_checked: Checked, _staging: Staging) -> Outcome:
        raise CorruptDatabaseError("a block does not fit its checksum")

    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        request = bind(ROOT, Operation.PUT, payload=b"x", sequence=next(sequences))
        with monkeypatch.context() as patched:
            patched.setattr(world.server._service, "change", damaged)
            refused = request.open_reply(await world.server.answer(request.encoded))
        assert refused.status == Status.STORAGE
        done = request.open_reply(await world.server.answer(request.encoded))
        assert (done.status, done.result) == (Status.OK, 1)


async def test_request_that_met_a_bug_can_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        await world.woofs.put("ns/w", b"x")
        request = bind(ROOT)
        with monkeypatch.context() as broken:
            broken.setattr(world.woofs.woofs, "newest", lambda name: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await world.server.answer(request.encoded)
        reply = request.open_reply(await world.server.answer(request.encoded))
        assert (reply.status, reply.payload) == (Status.OK, b"x")


async def test_caller_who_goes_away_undoes_nothing() -> None:
    async with woof_world() as world:
        await world.woofs.create("ns/w", 9)
        request = bind(ROOT, Operation.PUT, payload=b"x")
        asking = asyncio.create_task(world.server.answer(request.encoded))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        reply = request.open_reply(await world.server.answer(request.encoded))
        assert (reply.status, reply.result) == (Status.OK, 1)
        assert world.woofs.woofs.latest("ns/w") == 1


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[asyncio.Runner, WoofWorld]]:
    async def furnish(stack: AsyncExitStack) -> WoofWorld:
        world = await stack.enter_async_context(woof_world())
        await world.woofs.create("ns/w", 4)
        for number in range(6):
            await world.woofs.put("ns/w", b"%d" % number)
        return world

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield runner, runner.run(furnish(stack))
        runner.run(stack.aclose())


numbers = st.integers(0, 8) | st.integers(0, (1 << 64) - 1)
payloads = (
    st.binary(max_size=24)
    | numbers.map(encode_get)
    | st.builds(lambda start, count: encode_scan(Scan(start, count)), numbers, st.integers(0, 9))
    | st.builds(lambda h, s: encode((h, s)), numbers, numbers)
)


@settings(max_examples=150, deadline=None)
@given(
    op=st.integers(0, 13),
    target=st.sampled_from(["", "ns", "new", "ns/w", "ns/new", "no/w"]),
    handler=st.sampled_from(["", HANDLER, "nobody"]),
    payload=payloads,
    flags=st.integers(0, 3),
    streamed=st.booleans(),
)
def test_any_authentic_request_is_answered_with_proof(
    fuzzed: tuple[asyncio.Runner, WoofWorld],
    op: int,
    target: str,
    handler: str,
    payload: bytes,
    flags: int,
    streamed: bool,
) -> None:
    runner, world = fuzzed
    sequence = next(sequences)
    request = ROOT.bind(
        cast(Operation, op),
        target,
        payload,
        handler=handler,
        flags=flags,
        client=ME,
        sequence=sequence,
        deadline=sequence + MINUTE,
    )

    async def ask() -> bytes:
        if not streamed:
            return await world.server.answer(request.encoded)
        opened = await world.server.open_stream(request.encoded)
        if isinstance(opened, bytes):
            return opened
        async with aclosing(opened):
            (event,) = EventReader().feed(await anext(opened))
        return base64.b64decode(event.data)

    reply = request.open_reply(runner.run(ask()))
    assert reply.status in set(Status) - {Status.REFUSED, Status.STALE}


async def test_bad_names_and_numbers_are_refused_before_anything_is_sent() -> None:
    async with woof_world() as world:
        node = world.client()
        for name in ("ns", "ns/w/x", "NS/w", ""):
            with pytest.raises(InvalidValueError):
                await node.put(name, b"x")
        with pytest.raises(InvalidValueError):
            await node.get("ns/w", 0)
        with pytest.raises(TooLargeError):
            await node.put("ns/w", bytes(64 * 1024 + 1))
