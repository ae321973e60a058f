"""Handlers across stops, crashes, restarts and full disks: what is started again, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    StorageError,
)
from edgistry.faas import ALONE_AFTER, MAX_INTERRUPTIONS
from edgistry.faas_outcome import Outcome
from edgistry.handlers import Context, handler
from edgistry.kv import MemoryKeyValue
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

from .faas_world import START_US, Gate, copy, faas, until
from .woof_tools import FailingKeyValue


async def test_triggers_that_were_not_handled_are_handled_after_a_restart(
    tmp_path: Path,
) -> None:
    store = LevelKeyValue(tmp_path / "faas.ldb")
    async with faas(store=store) as world:  # no handler at all
        await world.woofs.commit(
            lambda s: [s.put("a/in", b"x", handler="copy") for _ in range(300)]
        )
        assert world.status("copy").handler is None
        assert world.status("copy").waiting == 300
    store.close()
    store = LevelKeyValue(tmp_path / "faas.ldb")
    async with faas(copy, store=store) as world:
        await world.idle()
        assert sorted(world.elements()) == sorted(b"%d:x" % n for n in range(1, 301))
    store.close()


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


async def test_trigger_that_comes_after_the_newest_from_before_has_ended_is_run() -> None:
    store = MemoryKeyValue()
    gate = Gate()

    @handler
    async def waits(context: Context, woof: str, seq: int, element: bytes) -> None:
        if element == b"older":
            await gate.wait_async()
        await context.put("a/out", element)

    async with faas(store=store) as world:
        await world.put(b"older", handler="waits")
        await world.put(b"newer", handler="waits")
    async with faas(waits, store=store) as world:
        await until(lambda: world.status("waits").counts.done == 1)
        await world.put(b"new", handler="waits")
        gate.open()
        await world.idle()
        assert sorted(world.elements()) == [b"new", b"newer", b"older"]
        assert world.status("waits").waiting == 0


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
