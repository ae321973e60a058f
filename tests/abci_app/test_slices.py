"""Long work that lets others run."""

from __future__ import annotations

import asyncio

import pytest

from abci_app.slices import Slices


@pytest.mark.parametrize(("slice_s", "others_ran"), [(0.0, True), (3600.0, False)])
async def test_others_run_only_when_the_slice_is_used_up(slice_s: float, others_ran: bool) -> None:
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await Slices(slice_s).rest()
    assert ran.is_set() == others_ran


async def test_a_new_slice_begins_after_a_rest() -> None:
    slices = Slices(3600.0)
    slices._began -= 7200.0
    await slices.rest()
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await slices.rest()
    assert not ran.is_set()
