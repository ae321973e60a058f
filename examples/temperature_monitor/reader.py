"""The application: it reads, and its capability allows nothing else.

python reader.py http://127.0.0.1:27000 reader.cap
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from edgistry import Capability, NodeClient
from edgistry.captext import parse_text

ALARMS = "greenhouse/alarms"
READINGS = "greenhouse/temp"


async def show_newest(node: str, capability: Capability, count: int) -> None:
    """Print the newest readings."""
    async with NodeClient(node, capability) as client:
        newest = await client.tail(READINGS, count)
    readings = ", ".join(f"{element.decode()} °C" for _, element in newest)
    print(f"reader  the newest readings are {readings}", flush=True)


async def show_alarms(node: str, capability: Capability, *, count: int | None = None) -> None:
    """Print every alarm from the first one on, for ever or until there were ``count``.

    When the connection breaks, it goes on where it was: none is missed, none comes twice.
    """
    async with (
        NodeClient(node, capability) as client,
        contextlib.aclosing(client.follow(ALARMS, 1)) as alarms,
    ):
        async for number, alarm in alarms:
            print(f"reader  alarm {number}, {alarm.decode()}", flush=True)
            if number == count:
                return


async def application(node: str, capability: Capability) -> None:
    """What there is, and then what comes."""
    await show_newest(node, capability, 3)
    await show_alarms(node, capability)


def main() -> None:
    parser = argparse.ArgumentParser(description="Show the alarms of the greenhouse.")
    parser.add_argument("node", help="address of the node, http://host:port")
    parser.add_argument("capability", type=Path, help="file with the capability")
    told = parser.parse_args()
    capability = parse_text(told.capability.read_text())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(application(told.node, capability))


if __name__ == "__main__":
    main()
