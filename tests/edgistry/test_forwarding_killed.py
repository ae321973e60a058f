"""kill -9 of either side at random moments, and a link that is cut, while elements go onward."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.woof_store import WoofStore
from tests.cut_link import CutLink
from tests.ports import reserve_ports

from .forwarding_programs import (
    CLOUD_DB,
    EDGE_DB,
    LAST_ROUND,
    SOURCE,
    TARGET,
    put_and_forward,
    serve_cloud,
    write_ports,
)
from .killing import Nursery, Program, memory_directory


class Sides(Nursery):
    """Both programs in one directory; each may be killed, and is started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sides: dict[Program, tuple[int, int, contextlib.ExitStack]] = {}

    def start(self, program: Program) -> None:
        """Start it; it runs until it is killed."""
        side = contextlib.ExitStack()
        pid, pipe = side.enter_context(self._child(program, self._directory, 0))
        self._sides[program] = (pid, pipe, side)

    def kill(self, program: Program) -> None:
        """kill -9; afterwards it is gone."""
        pid, pipe, side = self._sides.pop(program)
        with side:
            os.kill(pid, signal.SIGKILL)
            # Its end of the pipe is closed by its death, and by nothing else.
            while os.read(pipe, 65536):
                pass

    def __exit__(self, *details: object) -> None:
        for program in list(self._sides):
            self.kill(program)
        super().__exit__(*details)


def elements(path: Path, name: str) -> list[bytes]:
    store = LevelKeyValue(path)
    try:
        return [element for _, element in WoofStore(store).scan(name)]
    finally:
        store.close()


def kill_and_cut(kills: int, seeded: Random) -> None:
    """Kill both sides so many times altogether; then everything has arrived once, in order."""
    with (
        memory_directory() as directory,
        reserve_ports() as ports,
        CutLink(ports.base) as link,
    ):
        write_ports(directory, cloud=ports.base, link=link.port)
        with Sides(directory) as sides:
            for program in (serve_cloud, put_and_forward):
                sides.start(program)
            for _ in range(kills):
                for change in (link.mend, seeded.choice([link.cut, link.deafen])):
                    change()
                    time.sleep(seeded.uniform(0.0, 0.1))
                victim = seeded.choice([serve_cloud, put_and_forward])
                sides.kill(victim)
                sides.start(victim)
            link.mend()
            sides.kill(put_and_forward)
            sides.run_to_the_end(put_and_forward, directory, LAST_ROUND)
        put = elements(directory / EDGE_DB, SOURCE)
        assert put == [b"%d" % number for number in range(1, len(put) + 1)]
        assert len(put) > kills
        assert elements(directory / CLOUD_DB, TARGET) == put


def test_kills_and_cuts_lose_nothing_repeat_nothing_and_keep_the_order() -> None:
    kill_and_cut(10, Random(1))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_50_kills_and_cuts_lose_nothing_repeat_nothing_and_keep_the_order(seed: int) -> None:
    kill_and_cut(50, Random(seed))
