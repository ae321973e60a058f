"""Nodes, and links to and between them that a test can cut; clients as processes.

Between clients and nodes, devices and nodes, and nodes and nodes are links: who makes a world says
which.

Not handled here: devices (``call_world``, ``any_service_world``), breaking anything (``blows``).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from abci_app.admin_client import AdminClient
from device_agent.config import AgentConfig, CycleConfig, HandlersConfig, RadioConfig
from edgistry.errors import Refused

from ..cut_link import CutLink
from .agents import ROOT, Killable
from .following_client import append, read_lines
from .harness import READY_S, Cluster

LINK_OFFSET = 3


def agent_config(period_s: int, *, module: str = "station") -> AgentConfig:
    """Of a device that does not wait long for a node that was killed."""
    return AgentConfig(
        cycle=CycleConfig(period_s=period_s, any_period=True, shortest_sleep_s=0.1),
        radio=RadioConfig(timeout_s=5.0, first_wait_s=0.2, longest_wait_s=1.0),
        handlers=HandlersConfig(module=module),
    )


class PythonProcess(Killable):
    """A module of the tests that runs as a program in ``folder``, with these ``words``."""

    MODULE = ""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir()
        self.folder = folder

    @property
    def words(self) -> Sequence[str]:
        """What the program is told."""
        return [str(self.folder)]

    def start(self) -> None:
        """Run it from now on."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.integration.{self.MODULE}", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )

    def last_words(self) -> str:
        """The end of what it printed."""
        log = self.folder / "log"
        return f"{self.folder}: {log.read_text()[-2000:] if log.exists() else ''}"


class FollowerProcess(PythonProcess):
    """A client in ``folder``, which talks to node ``entry`` at ``url``."""

    def __init__(self, folder: Path, *, entry: int, url: str) -> None:
        super().__init__(folder)
        self.entry = entry
        self.url = url

    def give(self, order: Any) -> None:
        """Have it make a call."""
        append(self.folder / "orders", asdict(order))

    def outcomes(self) -> list[dict[str, object]]:
        """What it has recorded."""
        return read_lines(self.folder / "outcomes")

    def tickets(self) -> list[str]:
        """The names of tickets of calls that it has not ended with."""
        return sorted(each.name for each in (self.folder / "tickets").glob("*.ticket"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link, and the calls that use it: those from ``entry``, those to ``home``, or from to."""

    cut: CutLink
    entry: int | None = None
    home: int | None = None


class LinkedWorld:
    """A cluster whose nodes reach the ``homes`` of devices by links, from those in ``entries``."""

    def __init__(
        self,
        cluster: Cluster,
        stack: contextlib.ExitStack,
        *,
        entries: Collection[int],
        homes: Collection[int],
    ) -> None:
        self.cluster = cluster
        self.homes = homes
        self.links: list[list[Link]] = [[], [], []]
        """Of clients, of devices, between nodes."""
        self.stack = stack
        self._configure(entries)

    @property
    def others(self) -> Sequence[Killable]:
        """All that are no nodes."""
        raise NotImplementedError

    def link(self, port: int, *, entry: int | None = None, home: int | None = None) -> int:
        """The port of a new link to ``port``."""
        cut = self.stack.enter_context(CutLink(port))
        kind = 0 if home is None else 1 if entry is None else 2
        self.links[kind].append(Link(cut=cut, entry=entry, home=home))
        return cut.port

    def _configure(self, entries: Collection[int]) -> None:
        """Have every node reach every other by a link of its own, and grant everything."""
        cluster = self.cluster
        for number in cluster.numbers:
            file = cluster.directory(number).config_file
            text = file.read_text()
            for home in set(self.homes) - {number} if number in entries else ():
                port = cluster.port(home) + LINK_OFFSET
                link = self.link(port, entry=number, home=home)
                assert f"127.0.0.1:{port}" in text, text
                text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{link}")
            assert 'anyone = "read"' in text, text
            file.write_text(text.replace('anyone = "read"', 'anyone = "all"'))

    def pairing_codes(self, home: int, count: int) -> Sequence[str]:
        """For so many devices of the node ``home``."""
        with AdminClient(self.cluster.directory(home)) as admin:
            return admin.pair_codes(count, ttl_s=600, replace=False).codes

    def outstanding(self, home: int) -> int | None:
        """How many requests that have not ended a home node has; ``None`` if it does not say."""
        with contextlib.suppress(Refused), AdminClient(self.cluster.directory(home)) as admin:
            return admin.mailboxes(1).outstanding
        return None

    def wait_until_nothing_waits(self, seconds: float = READY_S) -> None:
        """Until no home node has a request that has not ended."""
        for home in self.homes:
            self.cluster.wait_until(
                f"nothing waits at node {home}",
                lambda: self.outstanding(home) == 0,  # noqa: B023
                seconds,
            )

    def last_words(self) -> str:
        """What everybody said last."""
        words = [self.cluster.report()]
        words += [each.last_words() for each in self.others]
        return "\n".join(words)
