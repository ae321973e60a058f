"""Handlers that take their time: what is given up, left behind, and delayed by nobody."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from edgistry.adapters import faas_workers
from edgistry.adapters.faas_workers import MAX_LEFT_BEHIND
from edgistry.errors import (
    TriggerSettledError,
)
from edgistry.handlers import BlockingContext, Context, handler

from .faas_world import Gate, copy, faas, until


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

    @handler(timeout_s=0.4, attempts=1, concurrency=1)
    async def blocks(context: Context, woof: str, seq: int, element: bytes) -> None:
        if element == b"block":
            gate.wait()
        await context.put("a/out", element)

    async with faas(blocks) as world:
        await world.handle(b"block", b"free", handler="blocks")
        assert world.elements() == [b"free"]
        assert world.reasons() == ["took more than 0.4 s"]
        gate.open()
        await until(lambda: world.status("blocks").counts.left_behind == 0)
        assert world.elements() == [b"free"]


async def test_handler_that_ignores_being_cancelled_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faas_workers, "CANCEL_GRACE_S", 0.05)
    gate = Gate()

    @handler(timeout_s=0.4, attempts=1)
    async def stubborn(context: Context, woof: str, seq: int, element: bytes) -> None:
        while True:
            try:
                await gate.wait_async()
                return
            except asyncio.CancelledError:
                continue

    async with faas(stubborn, copy) as world:
        await world.handle(b"x", handler="stubborn")
        assert world.reasons() == ["took more than 0.4 s"]
        assert world.status("stubborn").counts.left_behind == 1
        gate.open()
        await until(lambda: world.status("stubborn").counts.left_behind == 0)


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
