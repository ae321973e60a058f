"""Starting and stopping node programs as processes of their own.

Rules kept here:

* A node is started as ``python … edgistry-node run ABSOLUTE_DIR``, in a session of its own:
  neither a closed terminal nor a Ctrl-C reaches it. What it prints goes to ``logs/console.log``.
* A node is stopped by SIGTERM to the process that holds its directory's lock, so that no pid is
  ever signalled that only used to be a node's; SIGKILL when it does not end in time.

Not handled here: whether a node is ready, and which nodes there are (``cluster``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgistry.errors import DirectoryError, TimedOutError

from .directory import NodeDirectory, running_pid

CONSOLE_LOG = "console.log"
MAX_CONSOLE_LOG_BYTES = 1 << 20
_POLL_S = 0.05

# Without an installed command (a checkout on the path is enough) the same words do the same.
_RUN = (
    "import sys; sys.path.insert(0, {root!r}); sys.argv = sys.argv[1:];"
    " from {package}.cli import main; main()"
)


def node_program() -> list[str]:
    """The words that start ``edgistry-node`` with this Python and this code."""
    package = (__package__ or "").partition(".")[0]
    root = Path(__file__).resolve().parent.parent
    script = Path(sys.executable).parent / "edgistry-node"
    if package != "abci_app" and script.exists():
        return [sys.executable, str(script)]
    return [sys.executable, "-c", _RUN.format(root=str(root), package=package), "edgistry-node"]


def start_node(directory: NodeDirectory) -> subprocess.Popen[bytes]:
    """Start the node of ``directory`` in the background; it may still refuse to run.

    Raises:
        DirectoryError: its log cannot be written.
    """
    log_file = directory.logs_dir / CONSOLE_LOG
    try:
        directory.logs_dir.mkdir(mode=0o700, exist_ok=True)
        # Only what could not be logged goes here; one start is enough to keep.
        too_long = log_file.exists() and log_file.stat().st_size > MAX_CONSOLE_LOG_BYTES
        with log_file.open("wb" if too_long else "ab") as log:
            return subprocess.Popen(
                [*node_program(), "run", str(directory.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise DirectoryError(f"{error.filename or log_file}: {error.strerror}") from None


def last_words(directory: NodeDirectory, lines: int = 12) -> str:
    """The end of what the node printed when it was started in the background."""
    try:
        with (directory.logs_dir / CONSOLE_LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16384))
            text = log.read().decode(errors="replace")
    except OSError:
        return "(it left no log)"
    return "\n".join(text.strip().splitlines()[-lines:]) or "(it printed nothing)"


def stop_nodes(
    directories: Sequence[NodeDirectory], *, wait_s: float, tell: Callable[[str], None]
) -> int:
    """Afterwards none of these nodes runs. How many had to be stopped.

    Raises:
        TimedOutError: one is still there although it was killed.
    """
    stopping = [each for each in directories if _signal(each, signal.SIGTERM)]
    left = _wait_until_gone(stopping, wait_s)
    for directory in left:
        tell(f"{directory.root.name} did not stop within {wait_s:g} s and is killed")
        _signal(directory, signal.SIGKILL)
    left = _wait_until_gone(left, 10.0)
    if left:
        names = ", ".join(str(each.root) for each in left)
        raise TimedOutError(f"still running although killed: {names}")
    return len(stopping)


def end_processes(processes: Iterable[subprocess.Popen[bytes]], *, wait_s: float) -> None:
    """Afterwards these processes, started by us, have ended: by SIGTERM, or by SIGKILL if late."""
    ending = list(processes)
    for process in ending:
        process.terminate()
    deadline = time.monotonic() + wait_s
    for process in ending:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _signal(directory: NodeDirectory, number: signal.Signals) -> bool:
    pid = running_pid(directory)
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise DirectoryError(f"{directory.root} is run by another user (process {pid})") from None
    return True


def _wait_until_gone(directories: Sequence[NodeDirectory], wait_s: float) -> list[NodeDirectory]:
    deadline = time.monotonic() + wait_s
    left = list(directories)
    while left and time.monotonic() < deadline:
        left = [each for each in left if running_pid(each) is not None]
        if left:
            time.sleep(_POLL_S)
    return left
