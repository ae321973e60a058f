"""Handlers that run in the program itself: what they see, what they do, how they fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edgistry.adapters import faas_workers
from edgistry.adapters.faas_workers import MAX_LEFT_BEHIND
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    DivergedError,
    ElementEvictedError,
    MissingWoofError,
    NotFoundError,
    StorageError,
    TriggerSettledError,
    UnknownHandlerError,
)
from edgistry.faas import ALONE_AFTER, MAX_INTERRUPTIONS
from edgistry.faas_calls import MAX_PUTS
from edgistry.faas_outcome import Answer, Failure, Outcome
from edgistry.handlers import BlockingContext, Context, GiveUpError, handler
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

from .faas_world import START_US, Gate, faas, until
from .woof_tools import FailingKeyValue

Function = TypeVar("Function", bound=Callable[..., Any])


def quick(*, attempts: int) -> Callable[[Function], Function]:
    """A handler that is tried again almost at once."""
    return handler(attempts=attempts, first_wait_s=0.001, longest_wait_s=0.01)


@handler
async def copy(context: Context, woof: str, seq: int, element: bytes) -> None:
    await context.put("a/out", b"%d:%b" % (seq, element))


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


# --- failing ------------------------------------------------------------------------------------


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


# --- time ---------------------------------------------------------------------------------------


async def test_handler_that_takes_too_long_has_failed() -> None:
    @handler(timeout_s=0.02, attempts=1)
    async def waits(context: Context, woof: str, seq: int, element: bytes) -> None:
        await asyncio.sleep(3600)

    async with faas(waits) as world:
        await world.handle(b"x", handler="waits")
        assert world.reasons() == ["took more than 0.02 s"]
        assert world.status("waits").counts.left_behind == 0


async def test_thread_that_hangs_is_left_behind_and_its_puts_are_refused() -> None:
    gate = Gate()
    late: list[Exception] = []

    @handler(timeout_s=0.05, attempts=1)
    def hangs(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        gate.wait()
        try:
            context.put("a/out", b"too late")
        except TriggerSettledError as error:
            late.append(error)

    async with faas(hangs) as world:
        await world.handle(b"x", handler="hangs")
        assert world.reasons() == ["took more than 0.05 s"]
        assert world.status("hangs").counts.left_behind == 1
        gate.open()
        await until(lambda: world.status("hangs").counts.left_behind == 0)
        assert len(late) == 1
        assert world.elements() == []


async def test_handler_with_too_many_threads_left_behind_waits_until_one_ends() -> None:
    gate = Gate()

    @handler(timeout_s=0.02, attempts=1, concurrency=4)
    def hangs(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        gate.wait()

    async with faas(hangs, copy) as world:
        for _ in range(MAX_LEFT_BEHIND + 6):
            await world.put(b"x", handler="hangs")
        await until(lambda: world.status("hangs").stuck)
        await world.put(b"y", handler="copy")
        await until(lambda: world.elements())
        status = world.status("hangs")
        assert status.waiting > 0
        assert status.counts.left_behind >= MAX_LEFT_BEHIND
        gate.open()
        await world.idle()
        assert not world.status("hangs").stuck


async def test_handler_that_blocks_its_loop_delays_no_other_handler() -> None:
    gate = Gate()

    @handler(timeout_s=20, attempts=1)
    async def blocks(context: Context, woof: str, seq: int, element: bytes) -> None:
        gate.wait()

    async with faas(blocks, copy) as world:
        await world.put(b"x", handler="blocks")
        await until(lambda: gate.entered)
        await world.put(b"y", handler="copy")
        await until(lambda: world.elements() == [b"2:y"])
        assert world.status("blocks").counts.running == 1
        gate.open()
        await world.idle()


async def test_handler_whose_loop_is_blocked_gets_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faas_workers, "CANCEL_GRACE_S", 0.05)
    gate = Gate()

    @handler(timeout_s=0.05, attempts=1, concurrency=1)
    async def blocks(context: Context, woof: str, seq: int, element: bytes) -> None:
        if element == b"block":
            gate.wait()
        await context.put("a/out", element)

    async with faas(blocks) as world:
        await world.handle(b"block", b"free", handler="blocks")
        assert world.elements() == [b"free"]
        assert world.reasons() == ["took more than 0.05 s"]
        gate.open()
        await until(lambda: world.status("blocks").counts.left_behind == 0)
        assert world.elements() == [b"free"]


async def test_handler_that_ignores_being_cancelled_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faas_workers, "CANCEL_GRACE_S", 0.05)
    gate = Gate()

    @handler(timeout_s=0.05, attempts=1)
    async def stubborn(context: Context, woof: str, seq: int, element: bytes) -> None:
        while True:
            try:
                await gate.wait_async()
                return
            except asyncio.CancelledError:
                continue

    async with faas(stubborn, copy) as world:
        await world.handle(b"x", handler="stubborn")
        assert world.reasons() == ["took more than 0.05 s"]
        assert world.status("stubborn").counts.left_behind == 1
        gate.open()
        await until(lambda: world.status("stubborn").counts.left_behind == 0)


# --- stopping and starting again ----------------------------------------------------------------


async def test_triggers_that_were_not_handled_are_handled_after_a_restart(
    store: KeyValue,
) -> None:
    async with faas(store=store) as world:  # no handler at all
        for _ in range(300):
            await world.woofs.commit(lambda s: s.put("a/in", b"x", handler="copy"))
        assert world.status("copy").handler is None
        assert world.status("copy").waiting == 300
    async with faas(copy, store=store) as world:
        await world.idle()
        assert sorted(world.elements()) == sorted(b"%d:x" % n for n in range(1, 301))


async def test_stopping_lets_quick_handlers_end() -> None:
    store = MemoryKeyValue()
    gate = Gate()

    @handler
    async def quick(context: Context, woof: str, seq: int, element: bytes) -> None:
        await gate.wait_async()
        await context.put("a/out", b"done")

    async with faas(quick, store=store) as world:
        await world.put(b"x", handler="quick")
        await until(lambda: gate.entered)
        asyncio.get_running_loop().call_later(0.05, gate.open)
    async with faas(quick, store=store) as world:
        await world.idle()
        assert world.elements() == [b"done"]
        assert gate.entered == 1


async def test_try_that_the_stop_cuts_short_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgistry.adapters.faas_runtime.STOP_GRACE_S", 0.01)
    store = MemoryKeyValue()
    attempts: list[int] = []

    @handler(attempts=1)
    async def patient(context: Context, woof: str, seq: int, element: bytes) -> None:
        attempts.append(context.attempt)
        if len(attempts) <= MAX_INTERRUPTIONS + 2:
            await asyncio.sleep(3600)

    async with faas(patient, store=store) as world:
        await world.put(b"x", handler="patient")
        await until(lambda: attempts)
    for number in range(MAX_INTERRUPTIONS + 1):
        async with faas(patient, store=store):
            await until(lambda number=number: len(attempts) == number + 2)  # type: ignore[misc]
    async with faas(patient, store=store) as world:
        await world.idle()
        assert world.reasons() == []
    assert set(attempts) == {1}


async def test_handler_that_ends_the_program_each_time_becomes_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgistry.adapters.faas_runtime.STOP_GRACE_S", 0.01)
    store = MemoryKeyValue()
    tries = 0

    def snapshot() -> MemoryKeyValue:
        copied = MemoryKeyValue()
        copied.write(list(store.scan(b"", None)), sync=True)
        return copied

    @handler(attempts=2, first_wait_s=0.001, longest_wait_s=0.001)
    async def deadly(context: Context, woof: str, seq: int, element: bytes) -> None:
        nonlocal tries
        tries += 1
        left.append(snapshot())  # what a program that is killed now leaves
        await asyncio.sleep(3600)

    left: list[MemoryKeyValue] = []
    async with faas(store=store) as world:
        await world.woofs.commit(lambda s: s.put("a/in", b"x", handler="deadly"))
    for _ in range(MAX_INTERRUPTIONS):
        async with faas(deadly, store=store):
            await until(lambda: left)
        store = left.pop()
    async with faas(deadly, store=store) as world:
        await world.idle()
        assert world.reasons() == ["the program ended each time it was tried"]
    assert tries == MAX_INTERRUPTIONS


async def test_suspects_are_tried_one_at_a_time_and_others_beside_them() -> None:
    store = MemoryKeyValue()
    gate = Gate()

    @handler(concurrency=8, first_wait_s=0.01)
    async def suspect(context: Context, woof: str, seq: int, element: bytes) -> None:
        await gate.wait_async()

    async with faas(store=store) as world:
        for _ in range(3):
            await world.woofs.commit(lambda s: s.put("a/in", b"x", handler="suspect"))
        triggers = list(world.woofs.woofs.triggers("suspect"))

        def interrupted(staging: Staging) -> None:
            for each in triggers:
                staging.retry(
                    each, attempts=0, interruptions=ALONE_AFTER, not_before_us=0, reason=""
                )

        await world.woofs.commit(interrupted)
    async with faas(suspect, copy, store=store) as world:
        await until(lambda: gate.entered == 1)
        await world.put(b"y", handler="copy")
        await until(lambda: world.elements() == [b"4:y"])
        assert gate.entered == 1
        gate.open()
        await world.idle()
        assert gate.entered == 3


async def test_wait_between_tries_survives_a_restart() -> None:
    store = MemoryKeyValue()
    now_us = START_US
    tries: list[int] = []

    @handler(attempts=5, first_wait_s=100, longest_wait_s=100)
    async def fails_once(context: Context, woof: str, seq: int, element: bytes) -> None:
        tries.append(context.attempt)
        if len(tries) == 1:
            raise ValueError

    async with faas(fails_once, store=store, clock_us=lambda: now_us) as world:
        await world.put(b"x", handler="fails_once")
        await until(lambda: world.status("fails_once").counts.failed == 1)
    async with faas(fails_once, copy, store=store, clock_us=lambda: now_us) as world:
        await world.put(b"y", handler="copy")
        await until(lambda: world.elements())
        assert tries == [1]
    now_us += 101 * 1_000_000
    async with faas(fails_once, store=store, clock_us=lambda: now_us) as world:
        await world.idle()
        assert tries == [1, 2]


async def test_more_triggers_than_fit_in_memory_are_all_handled_once() -> None:
    gate = Gate()

    @handler(concurrency=2)
    async def counts(context: Context, woof: str, seq: int, element: bytes) -> None:
        await gate.wait_async()
        await context.put("a/out", b"%d" % seq)

    async with faas(counts) as world:
        await asyncio.gather(*(world.put(b"x", handler="counts") for _ in range(500)))
        gate.open()
        await world.idle()
        assert sorted(map(int, world.elements())) == list(range(1, 501))
        assert world.status("counts").counts.done == 500


async def test_when_the_disk_is_full_nothing_is_started_and_the_triggers_stay() -> None:
    store = FailingKeyValue()

    @handler(concurrency=1)
    async def puts(context: Context, woof: str, seq: int, element: bytes) -> None:
        store.failures = 1_000_000
        await context.put("a/out", b"x")

    async with faas(puts, store=store) as world:
        await asyncio.gather(*(world.put(b"x", handler="puts") for _ in range(3)))
        with pytest.raises(StorageError):
            await world.idle()
        assert world.runtime.halted is not None
        assert world.status("puts").waiting == 3
        assert not world.running.done()
    store.failures = 0
    async with faas(copy, store=store) as world:
        assert world.status("puts").waiting == 3


async def test_bug_of_the_owner_stops_the_runtime() -> None:
    def on_end(staging: Staging, trigger: Trigger, outcome: Outcome) -> None:
        raise ZeroDivisionError

    async with faas(copy, on_end=on_end) as world:
        await world.put(b"x", handler="copy")
        await until(world.running.done)
        assert isinstance(world.running.exception(), ZeroDivisionError)


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


# --- threads ------------------------------------------------------------------------------------


async def test_plain_functions_run_beside_each_other_and_outside_the_programs_loop() -> None:
    barrier = threading.Barrier(3)
    threads: set[int] = set()

    @handler(concurrency=3)
    def meets(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        barrier.wait(timeout=20)
        threads.add(threading.get_ident())

    async with faas(meets) as world:
        await world.handle(b"1", b"2", b"3", handler="meets")
        assert world.reasons() == []
    assert len(threads) == 3
    assert threading.get_ident() not in threads


async def test_program_goes_on_while_a_handler_computes() -> None:
    stop = threading.Event()

    @handler
    async def computes(context: Context, woof: str, seq: int, element: bytes) -> None:
        while not stop.is_set():
            sum(range(100))

    async with faas(computes) as world:
        await world.put(b"x", handler="computes")
        await until(lambda: world.status("computes").counts.running)
        started = time.monotonic()
        for _ in range(5):
            await asyncio.sleep(0)
            await world.woofs.put("a/out", b"still here")
        assert time.monotonic() - started < 20
        stop.set()
        await world.idle()


async def test_namespace_of_dead_letters_is_there_from_the_start() -> None:
    async with faas(copy) as world:
        await until(lambda: "dead-letters" in world.woofs.woofs.namespaces())
        assert world.woofs.woofs.latest("dead-letters/handlers") == 0
