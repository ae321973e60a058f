"""Hosts as processes of their own, that tests kill, stop and ask."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from abci_app.admin_client import AdminClient
from abci_app.config import ForwardConfig
from abci_app.directory import NodeDirectory
from abci_app.forwards_api import ForwardEntry
from abci_app.initialize import init_host
from abci_app.issuing_api import MintRequest
from abci_app.launch import node_program
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.capability import Capability
from edgistry.captext import parse_text
from edgistry.errors import Refused
from edgistry.rights import ALL_RIGHTS, names_of

LIMIT_S = 60.0
POLL_S = 0.02


class HostProcess:
    """The host in ``root``, which is made here."""

    VERB = "host"
    """The command that runs it."""

    def __init__(self, root: Path, port: int) -> None:
        self.layout: NodeDirectory = init_host(root, name=root.name, base_port=port)
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forward(self, config: ForwardConfig) -> None:
        """Write it into node.toml, before the next start."""
        fields = ("woof", "to", "capability_file", "handler")
        lines = [f'{field} = "{getattr(config, field)}"\n' for field in fields]
        with self.layout.config_file.open("a") as file:
            file.writelines(["\n[[forward]]\n", *lines])

    # --- processes ------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start it; with ``wait`` until it answers."""
        log = (self.layout.logs_dir / "console.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [*node_program(), self.VERB, str(self.layout.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.until(self.is_ready)

    def is_ready(self) -> bool:
        """Whether it answers."""
        assert self._process is not None
        assert self._process.poll() is None, (self.layout.logs_dir / "console.log").read_text()
        try:
            with BlockingNodeClient(self.url, timeout_s=5.0) as client:
                return client.ready().ready and self.layout.admin_socket.exists()
        except Refused:
            return False

    def kill(self) -> None:
        """kill -9; afterwards it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        os.kill(process.pid, number)
        return process.wait(LIMIT_S)

    def until(self, condition: Callable[[], bool], what: str = "what is waited for") -> None:
        """Return when ``condition()`` is true."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} does not come"
            time.sleep(POLL_S)

    # --- asking ---------------------------------------------------------------------------------

    def mint(self, object_name: str = "", rights: int = ALL_RIGHTS) -> Capability:
        """A capability of this host."""
        asked = MintRequest(object=object_name, rights=tuple(names_of(rights)))
        with AdminClient(self.layout) as admin:
            return parse_text(admin.mint(asked).danger_text)

    def forwards(self) -> list[ForwardEntry]:
        """What it forwards."""
        with AdminClient(self.layout) as admin:
            return list(admin.forwards().forwards)

    def lag(self) -> int:
        """Elements that are still to go onward."""
        return sum(each.lag for each in self.forwards())

    def client(self) -> BlockingNodeClient:
        """A client that may do everything; close it."""
        return BlockingNodeClient(self.url, self.mint())
