"""Devices that were listed before the operator allowed less are found, and told of."""

from __future__ import annotations

import asyncio

import pytest

import abci_app.over_limits as over_limits
from abci_app.over_limits import OverLimits, is_entry_over, is_over
from edgistry.kv import MemoryKeyValue
from edgistry.policy import PolicyLimits, PrivacyPolicy

from .solo_node import SoloNode, open_solo, row

LIMITS = PolicyLimits(finest_resolution=6)


async def node_with(*resolutions: int) -> tuple[SoloNode, MemoryKeyValue, list[str]]:
    """A node with a device for each of these, its store, and the devices' handles."""
    store = MemoryKeyValue()
    node = await open_solo(MemoryKeyValue(), store)
    rows = [row(number, resolution=each) for number, each in enumerate(resolutions)]
    outcomes = await node.service.register(rows)
    await node.settle()
    return node, store, [str(each.handle) for each in outcomes.outcomes]


def told(over: OverLimits) -> list[int]:
    """How many devices are told of."""
    return [int(each.split()[0]) for each in over.warnings()]


async def test_those_that_show_more_are_counted_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(over_limits, "_PORTION", 2)
    _, store, _ = await node_with(7, 6, 5, 7, 7)
    over = OverLimits(store, LIMITS)
    await over.look()
    assert told(over) == [3]
    assert "--over-limits" in over.warnings()[0]


async def test_those_that_are_registered_anew_or_withdrawn_are_told_of_no_more() -> None:
    node, store, handles = await node_with(7, 7, 7)
    over = OverLimits(store, LIMITS)
    await over.look()
    await node.service.register([row(0, resolution=6)])
    await node.service.withdraw(handles[1:2])
    await over.look_again()
    assert told(over) == [1]
    entries = node.service.registrar.page(after=None, limit=9).devices
    assert {each.handle for each in entries} == set(handles)
    assert [each.handle for each in entries if is_entry_over(each, LIMITS)] == handles[2:]
    await node.settle()
    await node.service.withdraw(handles[2:])
    await node.settle()
    await over.look_again()
    assert told(over) == []


async def test_node_looks_again_until_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_limits, "LOOK_AGAIN_S", 0.001)
    node, store, handles = await node_with(7)
    over = OverLimits(store, LIMITS)
    running = asyncio.create_task(over.run())
    while not told(over):  # noqa: ASYNC110 (what we wait for has no event)
        await asyncio.sleep(0)
    await node.service.withdraw(handles)
    async with asyncio.timeout(10):
        await running
    assert told(over) == []


async def test_without_limits_nobody_looks() -> None:
    _, store, _ = await node_with(7)
    over = OverLimits(store, PolicyLimits())
    await over.run()
    assert told(over) == []


def test_each_limit_counts() -> None:
    policy = PrivacyPolicy(resolution=6, noise_m=100, crowd=3)
    assert not is_over(policy, PolicyLimits(finest_resolution=6, least_noise_m=100, least_crowd=3))
    for limits in (
        PolicyLimits(finest_resolution=5),
        PolicyLimits(least_noise_m=101),
        PolicyLimits(least_crowd=4),
    ):
        assert is_over(policy, limits)
