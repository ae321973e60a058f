"""A node of its own, and devices that wake only when a test says so.

The node is a process. The agent and the commands run in this one, to their ends, as the installed
programs do: over real sockets, with real files.

with SleepingWorld() as world:
    device = world.device("thermometer", HANDLERS)
    device.wake()
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from click.testing import Result

from abci_app.initialize import init_node
from device_agent.config import AgentConfig, CycleConfig, HandlersConfig, RadioConfig
from device_agent.directory import AgentDirectory, create
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.errors import NoEpochKeyError

from ..abci_app.hosts import HostProcess
from ..ports import reserve_ports
from .agents import device_manifest
from .programs import run

PLACE = (46.0, 8.0)


class NodeProcess(HostProcess):
    """A solo node."""

    VERB = "run"

    def __init__(self, root: Path, port: int) -> None:
        self.layout = init_node(
            root, name="home", engine="solo", base_port=port, chain_id="chain-test"
        )
        text = self.layout.config_file.read_text()
        assert "slot_ms = 250" in text, text
        self.layout.config_file.write_text(text.replace("slot_ms = 250", "slot_ms = 0"))
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.last_words()
        return super().is_ready()

    def last_words(self) -> str:
        """What the process said before it ended."""
        assert self._process is not None
        files = [self.layout.logs_dir / name for name in ("console.log", "node.log")]
        said = "\n".join(file.read_text()[-2000:] for file in files if file.exists())
        return f"exit code {self._process.returncode}: {said}"

    def command(self, *words: str) -> str:
        """What ``edgistry-node WORDS`` prints; ``DIR`` among them is this node's directory."""
        put_in = [str(self.layout.root) if word == "DIR" else word for word in words]
        return run("edgistry-node", *put_in).stdout


class SleepingDevice:
    """The agent's program in ``root``; it runs once whenever it is told to wake.

    ``handlers`` is the source of its handlers, which may call ``note(bytes)`` to leave a trace.
    """

    def __init__(self, root: Path, *, manifest: str, handlers: str) -> None:
        config = AgentConfig(
            cycle=CycleConfig(period_s=60, linger_s=5.0),
            radio=RadioConfig(timeout_s=5.0, first_wait_s=0.1, longest_wait_s=0.2),
            # Modules have their names for as long as this process lives.
            handlers=HandlersConfig(module=f"handlers_{secrets.token_hex(4)}"),
        )
        self.files: AgentDirectory = create(
            root, config=config, manifest=manifest, handlers=_NOTE + handlers
        )
        self._effects = self.files.handlers_dir / "effects"

    def agent(self, command: str, *words: str, typed: str = "", check: bool = True) -> Result:
        """``edgistry-agent COMMAND DIR WORDS``."""
        return run(
            "edgistry-agent", command, str(self.files.root), *words, typed=typed, check=check
        )

    def pair(self, node: NodeProcess, *, url: str = "") -> None:
        """Pair with ``node``, by a code of its operator; poll at ``url``."""
        code = node.command("pair-code", "DIR")
        self.agent("pair", "--node", url or node.url, "--code", "-", typed=code)

    def wake(self, *, check: bool = True) -> int:
        """One wake; the exit code of the agent."""
        return int(self.agent("run", "--once", check=check).exit_code)

    def effects(self) -> list[str]:
        """What its handlers have noted, in order."""
        return self._effects.read_text().split() if self._effects.exists() else []


_NOTE = """
import pathlib
from edgistry.handlers import GiveUpError, handler

def note(what):
    with (pathlib.Path(__file__).parent / "effects").open("ab") as file:
        file.write(what + b"\\n")

"""


class Person:
    """Somebody at a shell with a keyring of their own, at ``node``."""

    def __init__(self, home: Path, node: str) -> None:
        self.home = home
        self.node = node
        home.mkdir(mode=0o700, exist_ok=True)

    def edgistry(self, *words: str, check: bool = True) -> Result:
        """``edgistry WORDS``."""
        told = {"XDG_CONFIG_HOME": str(self.home), "EDGISTRY_NODE": self.node}
        return run("edgistry", *words, check=check, environment=told)

    def json(self, *words: str) -> Any:
        """What ``edgistry WORDS --json`` answers."""
        return json.loads(self.edgistry(*words, "--json").stdout)

    def handle(self, type_name: str) -> str:
        """This person's handle of the only service of that type."""
        where = ("--near", f"{PLACE[0]},{PLACE[1]}", "--radius-km", "20", "--type", type_name)
        (found,) = self.json("discover", *where)["services"]
        return str(found["handle"])

    def call(self, handle: str, action: str = "read", *words: str) -> str:
        """Give a call without waiting; its id."""
        answer = self.json("call", handle, action, "--wait", "0s", *words)
        assert answer["state"] == "QUEUED"
        return str(answer["id"])

    def state(self, request: str) -> str:
        """How a call that has not been answered is doing."""
        return str(self.json("request", "status", request)["state"])

    def answer(self, request: str) -> str:
        """What a call was answered; waits for it."""
        return self.edgistry("request", "status", request, "--wait", "30s").stdout


class SleepingWorld:
    """A solo node that runs, in a short directory under /tmp; and what else a test makes in it."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
        self._ports = reserve_ports(1)
        self.node = NodeProcess(self.root / "home", self._ports.base)
        self._made = 0

    def __enter__(self) -> Self:
        self.node.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.node.__exit__()
        self._ports.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def device(
        self, type_name: str, handlers: str, *, actions: str = "", ready: bool = True
    ) -> SleepingDevice:
        """A device of this type with the action ``read`` and ``actions``.

        ``ready``: it is paired, and listed.
        """
        manifest = device_manifest(type_name, read="read = true") + actions
        device = SleepingDevice(self._place("device"), manifest=manifest, handlers=handlers)
        if ready:
            device.pair(self.node)
            self.set_up(device, type_name)
        return device

    def set_up(self, device: SleepingDevice, type_name: str) -> None:
        """Let ``device`` wake until its service is listed."""

        def listed() -> bool:
            device.wake()
            return bool(self.handles(type_name))

        self.node.until(listed, f"the listing of the {type_name}")

    def handles(self, type_name: str) -> list[str]:
        """Handles of the services of this type that somebody finds."""
        with contextlib.suppress(NoEpochKeyError), BlockingNodeClient(self.node.url) as client:
            found = client.services(near=PLACE, radius_km=20.0, type=type_name)
            return [each.handle for each in found]
        return []

    def person(self) -> Person:
        """Somebody new."""
        return Person(self._place("person"), self.node.url)

    def _place(self, what: str) -> Path:
        self._made += 1
        return self.root / f"{what}{self._made}"
