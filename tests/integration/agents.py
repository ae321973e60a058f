"""Devices as processes of their own, that tests start, kill and look into."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from device_agent.config import AgentConfig
from device_agent.directory import create, read_device_id, read_device_secret
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.issuer import Issuer
from edgistry.woof_store import WoofStore

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
EFFECTS = "ledger/effects"
EFFECTS_WOOF = f'[[woof]]\nname = "{EFFECTS}"\nhistory = 100000\n'
"""For a manifest: where the handlers of chaos note what they have done."""


def agent_command(root: Path, command: str, *words: str, text: str = "") -> None:
    """Run ``edgistry-agent COMMAND ROOT WORDS``, with ``text`` typed in; it has to succeed."""
    done = subprocess.run(
        [Path(sys.executable).with_name("edgistry-agent"), command, str(root), *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


class Killable:
    """A process that a test may kill; who derives from it starts it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_ended(self) -> bool:
        """Whether it ended without having been killed here."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Run it from now on."""
        raise NotImplementedError

    def last_words(self) -> str:
        """The end of what it said."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL; it may be dead already."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait(LIMIT_S)


class AgentProcess(Killable):
    """The device in ``root``, which is made here."""

    def __init__(self, root: Path, *, config: AgentConfig, manifest: str, handlers: str) -> None:
        super().__init__()
        self.layout = create(root, config=config, manifest=manifest, handlers=handlers)

    @property
    def id(self) -> str:
        """Its device id."""
        return read_device_id(self.layout)

    @property
    def issuer(self) -> Issuer:
        """Whoever has it can make any capability for the device."""
        return Issuer.from_secret(read_device_secret(self.layout), epoch=1)

    def pair(self, url: str, code: str) -> None:
        """Pair with the node whose API is at ``url``."""
        words = ("pair", str(self.layout.root), "--node", url, "--code", "-")
        done = subprocess.run(
            self._command(*words),
            input=f"{code}\n",
            text=True,
            check=False,
            capture_output=True,
            cwd=ROOT,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Run it from now on."""
        self._process = subprocess.Popen(
            self._command("run", str(self.layout.root)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=ROOT,
        )

    def elements(self, woof: str) -> list[bytes]:
        """What is in a WooF of the device, which is killed to look."""
        self.kill()
        store = LevelKeyValue(self.layout.database)
        try:
            return [element for _, element in WoofStore(store).scan(woof, 1)]
        finally:
            store.close()

    def last_words(self) -> str:
        """The end of its log."""
        log = self.layout.log_file
        return f"{self.layout.root}: {log.read_text()[-2000:] if log.exists() else ''}"

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-c", "from device_agent.cli import main; main()", *words]


def device_manifest(type_name: str, **actions: str) -> str:
    """The manifest of a device with one service, where all of these tests have their devices.

    ``actions`` are the settings of its actions, lines of TOML, by their names.
    """
    found = f'lat = 46.0\nlon = 8.0\n[[service]]\ntype = "{type_name}"\n'
    for name, settings in actions.items():
        found += f'[[service.action]]\nname = "{name}"\n{settings}\n'
    return found
