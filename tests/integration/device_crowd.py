"""Several devices in one process, each as ``edgistry-agent run`` runs it.

    python -m tests.integration.device_crowd DIR...

A device that has to stop, because it is paired with nobody any more, say, stops alone.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from device_agent.cli_run import read_homes
from device_agent.device import run_device
from device_agent.directory import hold, open_directory
from edgistry.errors import Refused


async def run(roots: list[Path]) -> None:
    """Run the devices in ``roots`` until killed."""
    async with asyncio.TaskGroup() as devices:
        for root in roots:
            devices.create_task(run_one(root))
        await asyncio.Event().wait()


async def run_one(root: Path) -> None:
    """Run the device in ``root`` until it stops."""
    layout, config = open_directory(root)
    try:
        with ExitStack() as held:
            held.enter_context(hold(layout))
            await run_device(layout, config, read_homes(layout), once=False, tell=print)
    except Refused as refusal:
        print(f"{root}: {refusal.code}: {refusal.detail}", flush=True)


if __name__ == "__main__":
    asyncio.run(run([Path(each) for each in sys.argv[1:]]))
