"""Real MicroPython for the tests: installed once per user, run under Node.js.

Rules kept here:

* The runtime comes from the npm package that ``package-lock.json`` pins by hash, and is installed
  into the user's cache, never into the checkout.
* Where there is no Node.js the caller learns why (``MicroPythonMissingError``). What to do about it
  is decided in one place, ``require_micropython``: skip with the reason, but fail in CI.

Not handled here: what the scripts test.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from device_agent.micro import capability as micro

_HERE = Path(__file__).parent
_MODULE = Path(micro.__file__)
_INSTALL_TIMEOUT_S = 180
_RUN_TIMEOUT_S = 120


class MicroPythonMissingError(Exception):
    """MicroPython cannot be run here; the text says why."""


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise MicroPythonMissingError("Node.js (the program `node`) is not on the PATH")
    return node


def _cache_directory() -> Path:
    lock = (_HERE / "package-lock.json").read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "edgistry" / f"micropython-{hashlib.sha256(lock).hexdigest()[:16]}"


def install() -> Path:
    """The directory of the installed runtime, installing it first where that is needed.

    Safe to call from several processes at once: the directory appears complete or not at all.

    Raises:
        MicroPythonMissingError: there is no Node.js or npm, or npm cannot install it.
    """
    _node()
    target = _cache_directory()
    if target.is_dir():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise MicroPythonMissingError("npm is not on the PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="installing-") as work:
        fresh = Path(work) / "fresh"
        fresh.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_HERE / name, fresh / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=fresh, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise MicroPythonMissingError("`npm ci` did not finish in time") from None
        if done.returncode != 0:
            raise MicroPythonMissingError(f"`npm ci` failed:\n{done.stderr[-2000:]}")
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first otherwise, and that is fine
                raise
    return target


def run_script(script: Path, files: Sequence[Path]) -> list[Any]:
    """Run ``script`` on MicroPython with ``files`` beside it; the JSON lines that it printed.

    Raises:
        MicroPythonMissingError: see ``install``.
        RuntimeError: the script raised; the text has MicroPython's traceback.
    """
    command = [_node(), str(_HERE / "run.mjs"), str(install()), str(script), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"MicroPython stopped:\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def outcomes_of(cases: list[dict[str, Any]], directory: Path) -> list[Any]:
    """What the micro verifier makes of ``cases`` there (see ``outcomes``).

    ``directory`` takes the file that passes them on.
    """
    file = directory / "cases.json"
    file.write_text(json.dumps(cases))
    return run_script(_HERE / "run_cases.py", [_MODULE, _HERE / "outcomes.py", file])


def heap_of(cases: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """The bytes that verifying each of ``cases`` allocates, step by step (see ``run_heap``).

    ``directory`` takes the file that passes them on.
    """
    file = directory / "heap.json"
    file.write_text(json.dumps(cases))
    return run_script(_HERE / "run_heap.py", [_MODULE, file])


def require_micropython() -> None:
    """Skip the calling test, and say why, where MicroPython is missing; in CI fail instead."""
    try:
        install()
    except MicroPythonMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"MicroPython must run in CI, but {missing}")
        pytest.skip(f"MicroPython is not tested here: {missing}")
