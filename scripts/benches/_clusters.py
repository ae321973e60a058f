"""Clusters to measure: ours, and the engine's own example application under the same engine files.

Rules kept here:

* Both kinds come from one `edgistry-node cluster init`: same engine, same configuration, same
  genesis parameters. They differ in the application at the other end of the Unix socket (or, for
  "builtin", in the engine's own process).
* Only processes started here are ended, by process id.

Not handled here: the load (``_load``), what is reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from _settings import unguarded

BIN = Path(sys.executable).parent
NODES = 4
PORTS_PER_NODE = 10
START_LIMIT_S = 90


def rpc(port: int, path: str) -> Any:
    """The result of one GET on an engine's RPC."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
        return json.load(answer)["result"]


def resident_mib(pid: int, what: str = "VmRSS") -> float:
    """Resident memory of a process, MiB; with ``RssFile``, what of it are mapped files."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


class Cluster:
    """Four node directories, and how their applications and engines are started."""

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory = directory
        self.base_port = base_port

    def rpc_port(self, node: int) -> int:
        return self.base_port + PORTS_PER_NODE * node + 2

    def api(self, node: int) -> str:
        return f"http://127.0.0.1:{self.base_port + PORTS_PER_NODE * node}"

    def node(self, number: int) -> Path:
        return self.directory / f"node{number}"

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        self.start()
        try:
            self._wait_for_blocks()
            yield self
        finally:
            self.stop()

    def _wait_for_blocks(self) -> None:
        """All have committed a block, and none lacks more than one connection."""
        end = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError, KeyError):
                states = [rpc(self.rpc_port(node), "status") for node in range(NODES)]
                peers = [rpc(self.rpc_port(node), "net_info") for node in range(NODES)]
                if all(
                    int(state["sync_info"]["latest_block_height"]) > 0 for state in states
                ) and all(int(known["n_peers"]) >= NODES - 2 for known in peers):
                    return
            if time.monotonic() > end:
                raise SystemExit(f"bench: no blocks in {self.directory} after {START_LIMIT_S} s")
            time.sleep(0.2)


class EdgistryCluster(Cluster):
    """Our nodes, as a user runs them."""

    def start(self) -> None:
        command("edgistry-node", "cluster", "up", str(self.directory), "--detach")

    def stop(self) -> None:
        command("edgistry-node", "cluster", "down", str(self.directory))

    def pid(self, node: int) -> int:
        return int((self.node(node) / "run" / "node.pid").read_text().split()[0])

    def engine_pid(self, node: int) -> int:
        return int((self.node(node) / "run" / "engine.pid").read_text().split()[0])


class KvstoreCluster(Cluster):
    """CometBFT's kvstore: over the Unix socket (``abci-cli kvstore``), or built into the engine."""

    def __init__(self, directory: Path, base_port: int, *, builtin: bool) -> None:
        super().__init__(directory, base_port)
        self.builtin = builtin
        self._processes: list[subprocess.Popen[bytes]] = []
        for node in range(NODES):
            self._convert(self.node(node))

    def _convert(self, node: Path) -> None:
        genesis = node / "genesis.json"
        document = json.loads(genesis.read_text())
        document.pop("app_state", None)
        genesis.write_text(json.dumps(document))
        config = node / "engine" / "config" / "config.toml"
        text = config.read_text()
        proxy = "kvstore" if self.builtin else f"unix://{node}/run/abci.sock"
        text = re.sub(r"(?m)^proxy_app = .*$", f'proxy_app = "{proxy}"', text)
        # The kvstore does not answer who may connect.
        text = re.sub(r"(?m)^filter_peers = .*$", "filter_peers = false", text)
        config.write_text(text)

    def start(self) -> None:
        engine = command("edgistry-node", "engine", "path").strip()
        for number in range(NODES):
            node = self.node(number)
            if not self.builtin:
                socket = node / "run" / "abci.sock"
                socket.unlink(missing_ok=True)
                self._spawn(
                    [str(abci_cli()), "--address", f"unix://{socket}", "kvstore"], node, "kvstore"
                )
                while not socket.exists():
                    time.sleep(0.02)
            self._spawn([engine, "start", "--home", str(node / "engine")], node, "engine")

    def _spawn(self, words: list[str], node: Path, name: str) -> None:
        with (node / "logs" / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def command(*words: str) -> str:
    """Run one of our commands; what it printed."""
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def new_directory(name: str) -> Path:
    """A short new directory (Unix socket paths have at most 107 bytes)."""
    return Path(tempfile.mkdtemp(prefix=f"edgb-{name}-", dir="/tmp"))


def init_cluster(name: str, base_port: int, *, engine_files: bool = False) -> Path:
    """A new cluster directory; with ``engine_files`` the engine's configuration is written too."""
    directory = new_directory(name) / "c"
    command(
        "edgistry-node",
        "cluster",
        "init",
        str(directory),
        "--nodes",
        str(NODES),
        "--base-port",
        str(base_port),
    )
    for number in range(NODES):
        unguarded(directory / f"node{number}")
    if engine_files:
        # The installed name: benchmarks run from anywhere.
        from edgistry_abci_app import comet_config
        from edgistry_abci_app.directory import open_directory

        for number in range(NODES):
            comet_config.write_config(*open_directory(directory / f"node{number}"))
    return directory


def add_members(cluster: Cluster, public_keys: list[bytes]) -> str:
    """Let these keys write to the registry too; the chain id."""
    document: dict[str, Any] = {}
    for number in range(NODES):
        path = cluster.node(number) / "genesis.json"
        document = json.loads(path.read_text())
        document["app_state"]["members"] += [
            {"name": f"client{index}", "public_key": key.hex()}
            for index, key in enumerate(public_keys)
        ]
        path.write_text(json.dumps(document))
    chain_id: str = document["chain_id"]
    return chain_id


def abci_cli() -> Path:
    """The stock ABCI client that holds the kvstore, built once into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "edgistry" / "tools" / "abci-cli"
    if not target.exists():
        from edgistry_abci_app.engine import find_go

        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                str(find_go(print)),
                "install",
                "github.com/cometbft/cometbft/abci/cmd/abci-cli@v0.38.26",
            ],
            env={**os.environ, "GOBIN": str(target.parent), "CGO_ENABLED": "0"},
            check=True,
        )
    return target
