"""What runs together: how it ends, and how it is ended."""

from __future__ import annotations

import asyncio

import pytest

from abci_app.running import run_together


class Part:
    """Runs until cancelled, and takes its time to end in good order."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.is_ending = asyncio.Event()
        self.ended_well = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.is_ending.set()
            await self.may_end.wait()
            self.ended_well = True


async def fails() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError


async def test_part_that_takes_long_to_end_is_not_cancelled_again_by_the_end_of_others() -> None:
    quick, slow = Part(), Part()
    quick.may_end.set()
    running = asyncio.create_task(run_together(quick.run(), slow.run()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await slow.is_ending.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert quick.ended_well
    assert not running.done()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert slow.ended_well


async def test_what_a_part_raises_ends_the_others_and_is_raised_as_itself() -> None:
    part = Part()
    part.may_end.set()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(run_together(part.run(), fails()), 20)
    assert part.ended_well


async def test_it_ends_when_all_have() -> None:
    await run_together(asyncio.sleep(0), asyncio.sleep(0))
