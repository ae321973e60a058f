"""Taking turns, and being told to come back."""

from __future__ import annotations

import asyncio

import pytest

from abci_app.lane import Lane
from edgistry.errors import BusyError


async def test_one_at_a_time_and_the_next_over_the_bound_is_refused() -> None:
    lane = Lane("queries", most=3)
    inside = 0
    leave = asyncio.Event()

    async def pass_through() -> None:
        nonlocal inside
        async with lane:
            inside += 1
            assert inside == 1
            await leave.wait()
            inside -= 1

    waiting = [asyncio.create_task(pass_through()) for _ in range(3)]
    await asyncio.sleep(0)
    assert inside == 1
    with pytest.raises(BusyError, match="3 queries"):
        async with lane:
            pass
    leave.set()
    await asyncio.gather(*waiting)
    async with lane:
        assert inside == 0


async def test_who_gives_up_or_fails_leaves_room() -> None:
    lane = Lane("queries", most=2)
    async with lane:
        given_up = asyncio.create_task(lane.__aenter__())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        next_one = asyncio.create_task(lane.__aenter__())
        await asyncio.sleep(0)
    await next_one
    await lane.__aexit__(None, None, None)
    with pytest.raises(KeyError):
        async with lane:
            raise KeyError
    async with lane:
        pass
