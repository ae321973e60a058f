"""The sensor: a periodic Put that names the function to run. It never reads anything.

python sensor.py http://127.0.0.1:27000 sensor.cap --every 900
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgistry import Capability, NodeClient
from edgistry.captext import parse_text

READINGS = "greenhouse/temp"


async def measure(
    node: str, capability: Capability, readings: Iterable[float], *, every_s: float
) -> None:
    """Put each reading. A Put that returns is durable, and was made once, however often the
    network failed meanwhile."""
    async with NodeClient(node, capability) as client:
        for reading in readings:
            number = await client.put(READINGS, f"{reading:.1f}".encode(), handler="watch")
            print(f"sensor  {number}: {reading:.1f} °C", flush=True)
            await asyncio.sleep(every_s)


def one_day(readings: int) -> Iterator[float]:
    """A day in a greenhouse, from midnight to midnight."""
    for number in range(readings):
        hour = 24 * number / readings
        yield 22.0 - 11.0 * math.cos(2 * math.pi * (hour - 2) / 24)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a reading every so often.")
    parser.add_argument("node", help="address of the node, http://host:port")
    parser.add_argument("capability", type=Path, help="file with the capability")
    parser.add_argument("--every", type=float, default=900.0, help="seconds (default: 900)")
    told = parser.parse_args()
    capability = parse_text(told.capability.read_text())
    asyncio.run(measure(told.node, capability, one_day(96), every_s=told.every))


if __name__ == "__main__":
    main()
