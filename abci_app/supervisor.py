"""The consensus engine as our child process: started, watched, restarted, and never left behind.

Rules kept here:

* Any exit that nobody asked for is a crash, also with code 0 (the engine exits so when it loses
  the application): restart after a pause that doubles from 0.1 s to 10 s and starts over once
  the engine has run for 30 s.
* The engine dies with this process, however it dies: the kernel kills it (PR_SET_PDEATHSIG). If
  one is left behind all the same, the pid file tells which process it is (pid and start time, so
  that a reused pid harms nobody) and the next start ends it first.
* The engine is in a session of its own: a Ctrl-C at the terminal reaches only us, and we stop it
  in order.
* What a restart cannot mend stops the node with a message: a chain that does not belong to the
  application's state at once; a port or a database that stays taken, after a few tries.

Not handled here: the engine's files (``comet_config``), and the order in which a node starts its
parts (``node``): the application must listen before ``run``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters.log import get_logger
from edgistry.errors import (
    ChainMismatchError,
    DatabaseLockedError,
    EngineError,
    PortInUseError,
    Refused,
)

logger = get_logger("edgistry.node.engine")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_AFTER_S = 30.0
STOP_GRACE_S = 10.0
TRIES_WHILE_TAKEN = 6
"""Tries while something else holds a port or the database: an engine that is just dying lets go
within the three seconds that these take."""
MAX_ENGINE_LOG_BYTES = 32 << 20
LOG_CHECK_S = 30.0

FAIL_POINT_VARIABLE = "FAIL_TEST_INDEX"
"""A stock engine kills itself at this danger point; it must come back, so only the first start
sees the variable."""

# Run by a bare Python that then becomes the engine: no code of ours between fork and exec in a
# process with threads. 1 is PR_SET_PDEATHSIG; exec keeps it. The parent may already be gone.
_LAUNCH = """\
import os, signal, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
except (ImportError, AttributeError):
    pass  # no such call here: the pid file has to do
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# What the engine prints, and what it means.
_MISMATCH = (
    "is higher than core",
    "is too far below block store",
    "does not match AppHash after replay",
    "does not match app's AppHash",
    "does not match core block hash",
    "> StoreBlockHeight",
)
_PORT_TAKEN = ("address already in use",)
_DATABASE_TAKEN = ("resource temporarily unavailable",)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """How the engine is doing. ``pid`` is ``None`` between two runs."""

    pid: int | None
    restarts: int


class EngineSupervisor:
    """Keeps ``command`` running until ``stop``; its output goes to ``log_file``."""

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        log_file: Path,
        pid_file: Path,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._command = command
        self._log_file = log_file
        self._pid_file = pid_file
        self._environment = dict(environment)
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._restarts = 0
        self._log_start = 0

    @property
    def state(self) -> EngineState:
        """A snapshot for status pages."""
        return EngineState(
            pid=self._process.pid if self._process else None, restarts=self._restarts
        )

    async def run(self) -> None:
        """Run the engine until ``stop`` is called.

        Raises:
            EngineError: it cannot be started at all.
            ChainMismatchError: its chain and the application's state do not belong together.
            PortInUseError, DatabaseLockedError: something else keeps what it needs.
        """
        await end_leftover(self._pid_file, self._command)
        pause = FIRST_PAUSE_S
        taken = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            refusal = explain_exit(self._last_output())
            if refusal:
                taken += 1
                if isinstance(refusal, ChainMismatchError) or taken >= TRIES_WHILE_TAKEN:
                    raise refusal
            else:
                taken = 0
            if time.monotonic() - started >= STEADY_AFTER_S:
                pause = FIRST_PAUSE_S
            logger.warning(
                "the engine ended by itself; starting it again",
                exit_code=code,
                pause_s=pause,
                last_line=_last_line(self._last_output()),
            )
            self._restarts += 1
            self._environment.pop(FAIL_POINT_VARIABLE, None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def stop(self) -> None:
        """Afterwards the engine has ended; politely if it can."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_GRACE_S)
        except TimeoutError:
            logger.warning("the engine did not stop in time and is killed", grace_s=STOP_GRACE_S)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run_once(self) -> int:
        launcher = (sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()))
        try:
            with self._log_file.open("ab") as log:
                self._log_start = log.tell()
                process = await asyncio.create_subprocess_exec(
                    *launcher,
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    env=self._environment,
                )
        except OSError as error:
            raise EngineError(f"the engine cannot be started: {error}") from None
        self._process = process
        write_pid_file(self._pid_file, process.pid)
        logger.info("the engine has started", pid=process.pid)
        watch = asyncio.create_task(self._keep_log_small())
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            # Whoever cancels wants it gone now: stop() is the polite way.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        finally:
            watch.cancel()
        self._process = None
        self._pid_file.unlink(missing_ok=True)
        if self._stopping.is_set():
            logger.info("the engine has stopped", exit_code=code)
        return code

    def _last_output(self) -> str:
        try:
            log = self._log_file.open("rb")
        except FileNotFoundError:
            return ""
        with log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - 65536))
            return log.read().decode(errors="replace")

    async def _keep_log_small(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            try:
                await self._trim_log()
            except OSError as error:
                # Removed by somebody, say: the engine writes on, and the next look may succeed.
                logger.warning("the engine's log cannot be trimmed", reason=str(error))

    async def _trim_log(self) -> None:
        if self._log_file.stat().st_size > MAX_ENGINE_LOG_BYTES:
            # The engine has the file open for appending: copy what is there and empty it.
            await asyncio.to_thread(
                shutil.copyfile, self._log_file, self._log_file.with_suffix(".log.1")
            )
            os.truncate(self._log_file, 0)
            self._log_start = 0


def engine_command(binary: Path, home: Path) -> tuple[str, ...]:
    """How CometBFT is started on ``home``."""
    return (str(binary), "start", "--home", str(home))


def explain_exit(output: str) -> Refused | None:
    """What the engine's last output says about why a restart will not help, if it does."""
    for signs, kind, advice in _EXPLANATIONS:
        for line in reversed(output.splitlines()):
            if any(sign in line for sign in signs):
                return kind(f"{advice}\n  the engine said: {line.strip()[:400]}")
    return None


_EXPLANATIONS: tuple[tuple[tuple[str, ...], Callable[[str], Refused], str], ...] = (
    (
        _MISMATCH,
        ChainMismatchError,
        "the engine's chain (engine/data) and the application's state (data/registry.ldb) do not"
        " belong together: did you restore, copy or reset one without the other? If only the"
        " registry is from elsewhere, stop the node and remove data/registry.ldb: it is rebuilt"
        " from the blocks. Never reset engine/data of a validator that has voted.",
    ),
    (_PORT_TAKEN, PortInUseError, "a port of the engine is in use by another program"),
    (
        _DATABASE_TAKEN,
        DatabaseLockedError,
        "another process has the engine's database (engine/data) open; find it with"
        " `fuser engine/data/*.db/LOCK` and stop it",
    ),
)


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1][:300] if lines else ""


# --- an engine left behind ---------------------------------------------------------------------


def write_pid_file(path: Path, pid: int) -> None:
    """Remember the process ``pid`` by its pid and start time."""
    path.write_text(f"{pid} {_start_time(pid) or 0}\n")


def engine_pid(path: Path) -> int | None:
    """The pid in the pid file, if that very process still lives."""
    try:
        pid_text, start_text = path.read_text().split()
        pid, start = int(pid_text), int(start_text)
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and start and _start_time(pid) == start else None


async def end_leftover(path: Path, command: tuple[str, ...]) -> None:
    """Afterwards the process of the pid file, if it was an engine of ours, has ended.

    Raises:
        EngineError: it cannot be ended.
    """
    pid = engine_pid(path)
    if pid is None or not await _runs(pid, command):
        return
    logger.warning("ending an engine that was left behind", pid=pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        raise EngineError(f"an engine of another user runs here (process {pid})") from None
    deadline = time.monotonic() + STOP_GRACE_S
    while engine_pid(path) is not None:
        if time.monotonic() > deadline:
            raise EngineError(f"process {pid}, an engine left behind, does not end")
        await asyncio.sleep(0.02)


async def _runs(pid: int, command: tuple[str, ...]) -> bool:
    """Whether the process works on the home that ``command`` ends with."""
    # For an instant while a program is started its command line is empty.
    for _ in range(50):
        words = _command_line(pid)
        if words != [b""]:
            return os.fsencode(command[-1]) in words
        await asyncio.sleep(0.02)
    return False


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; ``None`` if it is dead or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, also spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])
