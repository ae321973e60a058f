"""A device's whole program in a child process, to be killed at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

from abci_app.pairing import node_capability
from device_agent.cli_run import read_homes
from device_agent.config import AgentConfig, CycleConfig, HandlersConfig, RadioConfig
from device_agent.device import run_device
from device_agent.directory import AgentDirectory, create, hold, open_directory
from device_agent.examples import manifest_text
from device_agent.pairing import pairing_of, write_pairing
from edgistry.pairing import PairingAnswer
from tests.abci_app.desk_world import DEVICE, NODE, NOW, PAIRED
from tests.edgistry.killing import Told

TICK_S = 0.003
HANDLERS = """
from edgistry.handlers import handler

@handler
async def read(context, woof, seq, element):
    await context.put("thermometer/effects", element)
    return b"did " + element
"""


def make_device(root: Path, url: str) -> AgentDirectory:
    """The device of ``desk_world``, paired with the node at ``url``, awake all the time."""
    config = AgentConfig(
        cycle=CycleConfig(period_s=0, shortest_sleep_s=0.001),
        radio=RadioConfig(first_wait_s=0.1, longest_wait_s=0.1),
        handlers=HandlersConfig(module="killed_handlers"),
    )
    manifest = manifest_text(name="", type_name="thermometer", lat=46.0, lon=8.0)
    directory = create(root, config=config, manifest=manifest, handlers=HANDLERS)
    directory.secret_file.write_bytes((b"d" * 32).hex().encode())
    directory.id_file.write_text(DEVICE, encoding="ascii")
    answer = PairingAnswer(
        version=1,
        device=DEVICE,
        epoch=1,
        node_name="node",
        node_key=bytes(32),
        link_port=1,
        capability=node_capability(NODE, PAIRED).danger_bytes(),
        now_us=NOW,
    )
    pairing = pairing_of(answer, role="primary", url=url, device=DEVICE, epoch=1)
    write_pairing(directory.root, pairing)
    return directory


def stop_file(root: Path) -> Path:
    """Whoever makes it asks the device to stop in good order."""
    return root / "run" / "stop"


def run_agent(root: Path, told: Told, _number: int) -> None:
    """Run the device in ``root`` until killed, or asked by ``stop_file``; tells as time goes by."""

    def tick() -> None:
        # It cannot be asked before it listens for signals.
        while not stop_file(root).exists() or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            told(b".")
            time.sleep(TICK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    directory, config = open_directory(root)
    with hold(directory):
        threading.Thread(target=tick, daemon=True).start()
        homes = read_homes(directory)
        asyncio.run(run_device(directory, config, homes, once=False, tell=lambda _: None))
