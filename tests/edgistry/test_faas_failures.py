"""Handlers that fail: what is tried again, and what becomes of dead letters."""

from __future__ import annotations

import asyncio

import pytest

from edgistry.adapters.faas_lane import Lane
from edgistry.errors import (
    NotFoundError,
    UnknownHandlerError,
)
from edgistry.faas_outcome import Answer, Failure, Outcome
from edgistry.handlers import BlockingContext, Context, GiveUpError, handler
from edgistry.kv import MemoryKeyValue
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

from .faas_world import copy, faas, quick, until


async def test_handler_that_always_fails_becomes_a_dead_letter_with_the_reason() -> None:
    tries: list[int] = []

    @quick(attempts=3)
    def fails(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        tries.append(context.attempt)
        raise ValueError(f"number {seq}\nis bad")

    async with faas(fails) as world:
        await world.handle(b"x", handler="fails")
        assert tries == [1, 2, 3]
        (letter,) = world.runtime.letters.newest(10)
        assert letter.record.reason == "ValueError: number 1\\nis bad"
        assert (letter.record.attempts, letter.record.element) == (3, b"x")
        counts = world.status("fails").counts
        assert (counts.failed, counts.dead, counts.done) == (3, 1, 0)


async def test_handler_that_gives_up_is_not_tried_again() -> None:
    @handler(attempts=9)
    async def gives_up(context: Context, woof: str, seq: int, element: bytes) -> None:
        raise GiveUpError("broken sensor")

    async with faas(gives_up) as world:
        await world.handle(b"x", handler="gives_up")
        assert world.reasons() == ["GiveUpError: broken sensor"]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1), MemoryError()]
)
async def test_whatever_a_handler_raises_is_only_its_own_failure(error: BaseException) -> None:
    @handler(attempts=1)
    def plain(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        raise error

    @handler(attempts=1)
    async def in_loop(context: Context, woof: str, seq: int, element: bytes) -> None:
        raise error

    async with faas(plain, in_loop, copy) as world:
        await world.handle(b"x", handler="plain")
        await world.handle(b"x", handler="in_loop")
        await world.handle(b"x", handler="copy")
        assert len(world.reasons()) == 2
        assert world.elements() == [b"3:x"]


async def test_failing_element_does_not_hold_up_those_after_it() -> None:
    @handler(concurrency=1, attempts=2, first_wait_s=3600, longest_wait_s=3600)
    async def picky(context: Context, woof: str, seq: int, element: bytes) -> None:
        if element == b"bad":
            raise ValueError
        await context.put("a/out", element)

    async with faas(picky) as world:
        for element in (b"bad", b"1", b"bad", b"2"):
            await world.put(element, handler="picky")
        await until(lambda: world.elements() == [b"1", b"2"])
        assert world.status("picky").waiting == 2


async def test_wait_that_ends_while_the_lane_looks_for_work_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_s = 0.0

    def now_s(_lane: Lane) -> float:
        """On a machine so slow that 30 ms pass before the next look at the clock."""
        nonlocal slow_s
        slow_s += 0.03
        return asyncio.get_running_loop().time() + slow_s

    monkeypatch.setattr(Lane, "_now_s", now_s)

    @handler(attempts=2, first_wait_s=0.05)
    async def fails(context: Context, woof: str, seq: int, element: bytes) -> None:
        raise ValueError

    async with faas(fails) as world:
        await world.handle(b"x", handler="fails")
        assert world.status("fails").counts.failed == 2


async def test_value_that_is_no_answer_is_the_handlers_bug() -> None:
    @handler
    def wordy(context: BlockingContext, woof: str, seq: int, element: bytes) -> str:
        return "done"

    async with faas(wordy) as world:
        await world.handle(b"x", handler="wordy")
        assert world.reasons() == ["returned a str; a handler returns None or bytes"]


async def test_owner_joins_changes_to_the_end_of_an_invocation() -> None:
    ends: list[tuple[int, Outcome]] = []

    def on_end(staging: Staging, trigger: Trigger, outcome: Outcome) -> None:
        ends.append((trigger.number, outcome))
        staging.put("a/out", b"ended")

    @quick(attempts=2)
    def answers(context: BlockingContext, woof: str, seq: int, element: bytes) -> bytes:
        if element == b"bad":
            raise ValueError("bad")
        return b"yes"

    async with faas(answers, on_end=on_end) as world:
        await world.handle(b"good", b"bad", handler="answers")
        assert world.elements() == [b"ended"] * 2
    assert dict(ends) == {1: Answer(answer=b"yes"), 2: Failure(reason="ValueError: bad")}


# --- dead letters -------------------------------------------------------------------------------


async def test_replayed_letter_is_handled_and_its_puts_are_not_made_twice() -> None:
    broken = True

    @handler(attempts=1)
    async def repaired(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("a/out", b"first")
        if broken:
            raise ValueError("broken")
        await context.put("a/out", b"second")

    async with faas(repaired) as world:
        await world.handle(b"x", handler="repaired")
        (letter,) = world.runtime.letters.newest(10)
        broken = False
        assert await world.runtime.replay([letter.number]) == 1
        await world.idle()
        assert world.elements() == [b"first", b"second"]
        assert world.runtime.letters.count() == 0
        with pytest.raises(NotFoundError):
            await world.runtime.replay([letter.number])


async def test_letters_are_taken_out_all_or_none() -> None:
    @handler(attempts=1)
    async def fails(context: Context, woof: str, seq: int, element: bytes) -> None:
        raise ValueError

    async with faas(fails) as world:
        await world.handle(b"x", b"y", handler="fails")
        for take in (world.runtime.replay, world.runtime.purge):
            with pytest.raises(NotFoundError):
                await take([1, 2, 3])
            assert world.runtime.letters.numbers() == [1, 2]
        assert await world.runtime.purge([1, 2, 2]) == 2
        assert world.runtime.letters.numbers() == []


async def test_letter_of_a_handler_that_is_not_there_is_not_replayed() -> None:
    store = MemoryKeyValue()

    @handler(attempts=1)
    async def fails(context: Context, woof: str, seq: int, element: bytes) -> None:
        raise ValueError

    async with faas(fails, store=store) as world:
        await world.handle(b"x", handler="fails")
    async with faas(copy, store=store) as world:
        with pytest.raises(UnknownHandlerError):
            await world.runtime.replay([1])
        assert world.runtime.letters.numbers() == [1]


async def test_one_letter_is_replayed_once_by_two_at_a_time() -> None:
    fails_still = True

    @handler(attempts=1)
    async def fails(context: Context, woof: str, seq: int, element: bytes) -> None:
        if fails_still:
            raise ValueError
        await context.put("a/out", b"once")

    async with faas(fails) as world:
        await world.handle(b"x", handler="fails")
        fails_still = False
        outcomes = await asyncio.gather(
            *(world.runtime.replay([1]) for _ in range(5)), return_exceptions=True
        )
        assert outcomes.count(1) == 1
        await world.idle()
        assert world.elements() == [b"once"]
