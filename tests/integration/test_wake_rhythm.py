"""A real node tells its devices when the privacy epoch ends, by which they change their rhythm."""

from __future__ import annotations

import asyncio
import time

import pytest

from device_agent.directory import read_device_id, read_epoch
from device_agent.link import HttpLink
from device_agent.pairing import read_pairings
from device_agent.talk import Talk, Wish
from edgistry.messages import Account, ExchangeDown

from .sleeping import SleepingDevice, SleepingWorld

pytestmark = pytest.mark.engine

HANDLERS = """
@handler
async def read(context, woof, seq, element):
    return b"did " + element
"""
DAY_US = 24 * 3600 * 1_000_000


async def exchange(device: SleepingDevice) -> ExchangeDown:
    """One exchange with the device's keys."""
    (pairing,) = read_pairings(device.files.root, epoch=read_epoch(device.files))
    talk = Talk(pairing.home, read_device_id(device.files), instance=b"by hand.")
    now_us = time.time_ns() // 1000
    request = talk.request(Wish(count=0, size=0), (), Account(), now_us=now_us)
    link = HttpLink(pairing.home.url)
    try:
        answer = await link.post(request.encoded, wait_s=0, timeout_s=20.0)
    finally:
        await link.close()
    understood = talk.understood(request, answer.reply)
    assert isinstance(understood, ExchangeDown)
    return understood


def test_node_tells_its_devices_when_the_epoch_of_the_chain_ends() -> None:
    with SleepingWorld() as world:
        device = world.device("thermometer", HANDLERS)
        world.person().handle("thermometer")  # there are handles: the first epoch has begun
        down = asyncio.run(exchange(device))
        assert down.now_us - 600_000_000 < down.epoch_ends_us - DAY_US <= down.now_us
        again = asyncio.run(exchange(device))
        assert again.epoch_ends_us == down.epoch_ends_us
