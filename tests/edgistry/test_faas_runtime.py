"""Handlers that run in the program itself: what they see, and what they put, once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    DivergedError,
    ElementEvictedError,
    MissingWoofError,
    UnknownHandlerError,
)
from edgistry.faas_calls import MAX_PUTS
from edgistry.handlers import BlockingContext, Context, handler
from edgistry.kv import KeyValue, MemoryKeyValue

from .faas_world import START_US, Gate, copy, faas, quick, until


@handler
def copy_plainly(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("a/out", b"%d:%b" % (seq, element))


both = pytest.mark.parametrize("copying", [copy, copy_plainly], ids=["async", "plain"])


@pytest.fixture(params=["memory", "leveldb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = (
        MemoryKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "faas.ldb")
    )
    yield opened
    opened.close()


# --- running ------------------------------------------------------------------------------------


@both
async def test_handler_runs_for_each_element_that_names_it(copying: type, store: KeyValue) -> None:
    name = copying.__name__
    async with faas(copying, store=store) as world:
        for _ in range(20):
            await world.put(b"x", handler=name)
            await world.woofs.put("a/in", b"names nobody")
        await world.idle()
        assert sorted(world.elements()) == sorted(b"%d:x" % n for n in range(1, 40, 2))
        assert world.status(name).counts.done == 20


async def test_handler_reads_this_and_other_woofs() -> None:
    found: dict[str, object] = {}

    @handler
    async def reads(context: Context, woof: str, seq: int, element: bytes) -> None:
        found["get"] = await context.get(woof, seq - 1)
        found["latest"] = await context.latest("a/out")
        found["tail"] = await context.tail(woof, 2)

    @handler
    def reads_plainly(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        found["plain"] = (
            context.get(woof, seq - 1),
            context.latest("a/out"),
            context.tail(woof, 2),
        )

    async with faas(reads, reads_plainly) as world:
        await world.woofs.put("a/out", b"other")
        await world.woofs.put("a/in", b"one")
        await world.handle(b"two", handler="reads")
        assert found == {
            "get": b"one",
            "latest": (1, b"other"),
            "tail": [(2, b"two"), (1, b"one")],
        }
        await world.woofs.delete("a/in")
        await world.woofs.create("a/in", 10)
        await world.woofs.put("a/in", b"one")
        await world.handle(b"two", handler="reads_plainly")
        assert found["plain"] == tuple(found[name] for name in ("get", "latest", "tail"))


async def test_refusals_reach_the_handler_as_what_they_are() -> None:
    refusals: list[type[Exception]] = []

    @handler
    async def asks(context: Context, woof: str, seq: int, element: bytes) -> None:
        for asking in (
            lambda: context.get("a/missing", 1),
            lambda: context.get("a/short", 1),
            lambda: context.put("a/missing", b"x"),
            lambda: context.put("a/out", b"x", handler="nobody"),
        ):
            try:
                await asking()
            except Exception as error:
                refusals.append(type(error))

    async with faas(asks) as world:
        await world.woofs.create("a/short", 1)
        await world.woofs.put("a/short", b"1")
        await world.woofs.put("a/short", b"2")
        await world.handle(b"x", handler="asks")
    assert refusals == [
        MissingWoofError,
        ElementEvictedError,
        MissingWoofError,
        UnknownHandlerError,
    ]


async def test_handler_sees_its_element_also_when_the_woof_has_moved_on_or_is_gone() -> None:
    gate = Gate()
    seen: list[bytes] = []

    @handler(concurrency=1)
    async def slow(context: Context, woof: str, seq: int, element: bytes) -> None:
        await gate.wait_async()
        seen.append(element)

    async with faas(slow) as world:
        await world.woofs.create("a/short", 1)
        for number in range(5):
            await world.put(b"%d" % number, handler="slow", woof="a/short")
        await world.woofs.delete("a/short")
        gate.open()
        await world.idle()
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


async def test_handlers_put_fires_another_handler() -> None:
    @handler
    async def first(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("a/middle", element + b"1", handler="second")

    @handler
    def second(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        context.put("a/out", element + b"2")

    async with faas(first, second) as world:
        await world.woofs.create("a/middle", 10)
        await world.handle(b"x", handler="first")
        assert world.elements() == [b"x12"]


async def test_context_has_the_time_the_attempt_and_a_logger() -> None:
    found: list[object] = []

    @handler
    async def looks(context: Context, woof: str, seq: int, element: bytes) -> None:
        found.extend([context.now(), context.attempt])
        context.logger.info("seen", degrees=41)

    async with faas(looks, clock_us=lambda: START_US + 1) as world:
        await world.handle(b"x", handler="looks")
    assert found == [datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC), 1]


async def test_no_more_run_at_a_time_than_the_handler_allows() -> None:
    gate = Gate()

    @handler(concurrency=3)
    async def three(context: Context, woof: str, seq: int, element: bytes) -> None:
        await gate.wait_async()

    async with faas(three) as world:
        for _ in range(10):
            await world.put(b"x", handler="three")
        await until(lambda: gate.entered == 3)
        assert world.status("three").counts.running == 3
        assert world.status("three").waiting == 7
        gate.open()
        await world.idle()
        assert gate.entered == 10


async def test_with_concurrency_one_elements_are_handled_in_order() -> None:
    @handler(concurrency=1)
    async def one(context: Context, woof: str, seq: int, element: bytes) -> None:
        await asyncio.sleep(0.002 if seq % 2 else 0)
        await context.put("a/out", b"%d" % seq)

    async with faas(one) as world:
        await world.handle(*[b"x"] * 12, handler="one")
        assert world.elements() == [b"%d" % number for number in range(1, 13)]


# --- exactly once -------------------------------------------------------------------------------


async def test_puts_of_a_handler_that_is_tried_again_are_made_once() -> None:
    attempts: list[int] = []

    @quick(attempts=5)
    async def fails_twice(context: Context, woof: str, seq: int, element: bytes) -> None:
        attempts.append(context.attempt)
        await asyncio.gather(*(context.put("a/out", b"%d" % number) for number in range(3)))
        if len(attempts) < 3:
            raise ValueError("not yet")
        await context.put("a/out", b"end")

    async with faas(fails_twice) as world:
        await world.handle(b"x", handler="fails_twice")
        assert attempts == [1, 2, 3]
        assert world.elements() == [b"0", b"1", b"2", b"end"]


async def test_put_that_goes_elsewhere_when_tried_again_is_refused() -> None:
    refused: list[Exception] = []
    targets = iter(["a/out", "a/in"])

    @quick(attempts=2)
    def wavers(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        try:
            context.put(next(targets), b"x")
        except DivergedError as error:
            refused.append(error)
            return
        raise ValueError("again")

    async with faas(wavers) as world:
        await world.handle(b"x", handler="wavers")
        assert len(refused) == 1
        assert world.elements() == [b"x"]
        assert world.elements("a/in") == [b"x"]


async def test_put_that_nobody_waits_for_is_made_before_the_try_ends() -> None:
    @handler
    async def forgets(context: Context, woof: str, seq: int, element: bytes) -> None:
        context.put("a/out", b"made")

    async with faas(forgets) as world:
        await world.handle(b"x", handler="forgets")
        assert world.elements() == [b"made"]


async def test_refused_put_that_nobody_waits_for_fails_the_try() -> None:
    @handler(attempts=1)
    async def forgets(context: Context, woof: str, seq: int, element: bytes) -> None:
        context.put("a/missing", b"lost?")
        await asyncio.sleep(0.01)

    async with faas(forgets) as world:
        await world.handle(b"x", handler="forgets")
        assert world.reasons() == ["woof-missing: there is no WooF 'a/missing'"]


async def test_puts_of_one_invocation_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgistry.adapters.faas_context.MAX_PUTS", 5)

    @handler(attempts=1)
    def floods(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        for _ in range(6):
            context.put("a/out", b"x")

    async with faas(floods) as world:
        await world.handle(b"x", handler="floods")
        assert len(world.elements()) == 5
        assert world.reasons() == ["limit-exceeded: one invocation may put 5 times"]
    assert MAX_PUTS > 5


async def test_namespace_of_dead_letters_is_there_from_the_start() -> None:
    async with faas(copy) as world:
        await until(lambda: "dead-letters" in world.woofs.woofs.namespaces())
        assert world.woofs.woofs.latest("dead-letters/handlers") == 0
