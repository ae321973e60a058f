"""Stock tools of the engine's makers, for tests that speak to ours with somebody else's code.

Built once per user from the published module, at the engine's version, and kept in
``$XDG_CACHE_HOME/edgistry/tools``. The first use needs the network and takes a minute.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from abci_app.engine import ENGINE_VERSION, cache_directory, find_go

MODULE = "github.com/cometbft/cometbft"
BUILD_TIMEOUT_S = 1200


def abci_client() -> Path:
    """The stock ABCI client, ``abci-cli``."""
    return _tool("abci-cli", "abci/cmd/abci-cli")


def engine_protocol() -> list[Path]:
    """Import directories of the engine's published protocol definitions."""
    engine = _sources(MODULE, f"v{ENGINE_VERSION}")
    wanted = re.search(
        r"^\s*(github\.com/cosmos/gogoproto) (\S+)", (engine / "go.mod").read_text(), re.M
    )
    assert wanted is not None
    return [engine / "proto", _sources(wanted[1], wanted[2])]


def _sources(module: str, version: str) -> Path:
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [find_go(_tell), "mod", "download", "-json", f"{module}@{version}"],
            cwd=elsewhere,
            env={**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    return Path(json.loads(done.stdout)["Dir"])


def _tool(name: str, package: str) -> Path:
    folder = cache_directory().with_name("tools")
    path = folder / f"{name}-{ENGINE_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second test process waits, then finds it there
        if not path.exists():
            _build(name, package, path)
    return path


def _build(name: str, package: str, path: Path) -> None:
    go = find_go(_tell)
    _tell(f"building {name} {ENGINE_VERSION} (once; a minute or two)")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as scratch:
        environment = {**os.environ, "GOBIN": scratch, "CGO_ENABLED": "0", "GOWORK": "off"}
        environment.pop("GOOS", None)
        environment.pop("GOARCH", None)
        done = subprocess.run(
            [go, "install", f"{MODULE}/{package}@v{ENGINE_VERSION}"],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"go install {name} failed:\n{done.stderr[-2000:]}")
        Path(scratch, name).replace(path)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
