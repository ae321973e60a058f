"""An import into a node that is killed at random moments is finished by repeating it."""

from __future__ import annotations

import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.admin_client import AdminClient
from abci_app.directory import NodeDirectory
from abci_app.import_run import ImportRun
from abci_app.initialize import init_node
from abci_app.launch import last_words, start_node
from edgistry.errors import CannotReachError, Refused

from ..abci_app.solo_node import row
from ..ports import reserve_ports

ROWS = 512 * 5
KILLS = 2
START_S = 60.0


@pytest.fixture
def layout() -> Iterator[NodeDirectory]:
    with (
        reserve_ports() as ports,
        tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory,
    ):
        root = Path(directory) / "n"
        yield init_node(root, name="n", engine="solo", base_port=ports.base, chain_id="killed")


def start(layout: NodeDirectory) -> subprocess.Popen[bytes]:
    """A node that answers."""
    process = start_node(layout)
    deadline = time.monotonic() + START_S
    while True:
        try:
            with AdminClient(layout) as client:
                client.regions()
            return process
        except Refused:
            assert process.poll() is None, last_words(layout)
            assert time.monotonic() < deadline, last_words(layout)
            time.sleep(0.05)


def test_import_is_finished_by_repeating_it_after_kills(layout: NodeDirectory) -> None:
    dice = random.Random(7)
    rows = [row(n, lat=dice.uniform(-60, 60), lon=dice.uniform(-180, 180)) for n in range(ROWS)]
    durable = 0
    for _ in range(KILLS):
        process = start(layout)
        killer = threading.Timer(dice.uniform(0.05, 0.6), process.kill)
        with AdminClient(layout) as client:
            run = ImportRun(client)
            killer.start()
            try:
                run.send(rows)
                run.wait(30.0)
            except CannotReachError:
                pass
            finally:
                killer.join()
                process.wait(30.0)
        # Everything the node ever answered for is still known.
        assert run.result().unchanged >= min(durable, run.accepted)
        durable = max(durable, run.accepted)
    process = start(layout)
    try:
        with AdminClient(layout) as client:
            run = ImportRun(client)
            run.send(rows)
            run.wait(60.0)
            result = run.result()
            assert (result.added + result.unchanged, result.tentative) == (ROWS, 0)
            assert result.unchanged >= durable
            states = [device.state for device in client.devices()]
        assert states == ["published"] * ROWS
    finally:
        process.terminate()
        process.wait(30.0)
