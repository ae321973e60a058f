"""Invocations that are taken back before they have begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from edgistry.errors import InvalidValueError
from edgistry.handlers import handler
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

from .faas_world import Faas, Gate, faas, until


def one_at_a_time() -> tuple[Gate, list[int], Callable[..., object]]:
    """A handler that runs once at a time; the first waits for the gate."""
    gate = Gate()
    ran: list[int] = []

    @handler("slow", concurrency=1)
    async def slow(_context: Any, _woof: str, seq: int, _element: bytes) -> None:
        ran.append(seq)
        await gate.wait_async()

    return gate, ran, slow


def _withdraw(running: Faas, trigger: Trigger, staging: Staging) -> bool:
    return running.runtime.withdraw(staging, trigger)


async def test_invocations_that_were_withdrawn_never_run_and_the_others_do_in_order() -> None:
    """Of more than the queue has in memory: some are only in the store."""
    gate, ran, slow = one_at_a_time()
    async with faas(slow) as running:
        await running.idle()
        await asyncio.gather(*(running.put(b"", handler="slow") for _ in range(300)))
        await until(lambda: gate.entered)
        triggers = list(running.woofs.woofs.triggers("slow"))
        withdrawn = [each for each in triggers if each.number % 2 == 1]
        for each in withdrawn:
            could = await running.woofs.commit(partial(_withdraw, running, each))
            assert could == (each.number != 1), "the first has begun"
        gate.open()
        await running.idle()
        assert ran == [1, *range(2, 301, 2)]


async def test_withdrawal_that_is_taken_back_leaves_the_invocation_to_run() -> None:
    gate, ran, slow = one_at_a_time()
    async with faas(slow) as running:
        await running.idle()
        for _ in range(2):
            await running.put(b"", handler="slow")
        await until(lambda: gate.entered)
        last = list(running.woofs.woofs.triggers("slow"))[-1]

        def fail(staging: Staging) -> None:
            assert running.runtime.withdraw(staging, last)
            raise InvalidValueError("something else")

        with pytest.raises(InvalidValueError):
            await running.woofs.commit(fail)
        gate.open()
        await running.idle()
        assert ran == [1, 2]
