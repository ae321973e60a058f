"""The engine as a child process. A small shell script plays the engine here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import abci_app.supervisor as supervisor_module
from abci_app.supervisor import (
    EngineSupervisor,
    end_leftover,
    engine_pid,
    explain_exit,
    write_pid_file,
)
from edgistry.errors import (
    ChainMismatchError,
    DatabaseLockedError,
    EngineError,
    PortInUseError,
    Refused,
)

ROOT = Path(__file__).resolve().parents[2]


class Stage:
    """A directory with a script that plays the engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pid_file = root / "engine.pid"
        self.log_file = root / "engine.log"
        self.home = root / "home"

    def command(self, script: str) -> tuple[str, ...]:
        path = self.root / "engine"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return (str(path), "start", "--home", str(self.home))

    def supervisor(self, script: str, **environment: str) -> EngineSupervisor:
        return EngineSupervisor(
            self.command(script),
            log_file=self.log_file,
            pid_file=self.pid_file,
            environment={**os.environ, **environment},
        )

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as root:
        yield Stage(Path(root))


@asynccontextmanager
async def running(supervisor: EngineSupervisor) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield task
    finally:
        await supervisor.stop()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("code", [0, 1])
async def test_an_exit_nobody_asked_for_is_followed_by_a_restart(stage: Stage, code: int) -> None:
    supervisor = stage.supervisor(f"echo ran; exit {code}")
    async with running(supervisor):
        await until(lambda: stage.log().count("ran") >= 3)
        assert supervisor.state.restarts >= 2


async def test_a_killed_engine_is_started_again(stage: Stage) -> None:
    supervisor = stage.supervisor("echo ran; exec sleep 60")
    async with running(supervisor):
        await until(lambda: "ran" in stage.log())
        first = engine_pid(stage.pid_file)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: stage.log().count("ran") == 2)
        assert engine_pid(stage.pid_file) not in {None, first}


async def test_a_stopped_engine_stays_stopped(stage: Stage) -> None:
    supervisor = stage.supervisor(
        "echo ran; trap 'echo polite; exit 0' TERM; while :; do sleep 0.1; done"
    )
    async with running(supervisor) as task:
        await until(lambda: "ran" in stage.log())
        await supervisor.stop()
        await asyncio.wait_for(task, 5)
    assert stage.log().split() == ["ran", "polite"]
    assert supervisor.state.restarts == 0
    assert not stage.pid_file.exists()


async def test_stopping_during_the_pause_between_two_runs_ends_at_once(stage: Stage) -> None:
    supervisor = stage.supervisor("echo ran")
    async with running(supervisor) as task:
        await until(lambda: stage.log().count("ran") >= 4)
        await supervisor.stop()
        await asyncio.wait_for(task, 2)
    assert task.done()


async def test_an_engine_that_ignores_the_request_to_stop_is_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abci_app.supervisor.STOP_GRACE_S", 0.2)
    supervisor = stage.supervisor("trap '' TERM; echo ran; while :; do sleep 0.1; done")
    async with running(supervisor):
        await until(lambda: "ran" in stage.log())
        pid = engine_pid(stage.pid_file)
        assert pid is not None
        await supervisor.stop()
        assert not is_alive(pid)


async def test_a_fail_point_is_set_for_the_first_start_only(stage: Stage) -> None:
    supervisor = stage.supervisor("echo [$FAIL_TEST_INDEX]", FAIL_TEST_INDEX="3")
    async with running(supervisor):
        await until(lambda: len(stage.log().split()) >= 2)
    assert stage.log().split()[:2] == ["[3]", "[]"]


async def test_a_mismatched_chain_stops_at_once_with_advice(stage: Stage) -> None:
    supervisor = stage.supervisor(
        "echo 'failed: app block height (7) is higher than core (3)'; exit 1"
    )
    with pytest.raises(ChainMismatchError, match=r"did you restore(.|\n)*\(7\) is higher"):
        await supervisor.run()
    assert supervisor.state.restarts == 0


async def test_a_port_that_stays_taken_stops_after_some_tries(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abci_app.supervisor.FIRST_PAUSE_S", 0.001)
    supervisor = stage.supervisor("echo 'listen tcp 127.0.0.1:1: bind: address already in use'")
    with pytest.raises(PortInUseError, match="address already in use"):
        await supervisor.run()
    assert supervisor.state.restarts == 5


async def test_an_engine_that_is_no_program_is_reported_in_its_log(stage: Stage) -> None:
    supervisor = EngineSupervisor(
        (str(stage.root / "absent"), "start", "--home", str(stage.home)),
        log_file=stage.log_file,
        pid_file=stage.pid_file,
    )
    async with running(supervisor):
        await until(lambda: "No such file" in stage.log())


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("panic: state.AppHash does not match AppHash after replay. Got", ChainMismatchError),
        ("app block height (1) is too far below block store base (9)", ChainMismatchError),
        ("listen tcp 0.0.0.0:26656: bind: address already in use", PortInUseError),
        ("failed to create node: resource temporarily unavailable", DatabaseLockedError),
    ],
)
def test_what_the_engine_says_is_explained(line: str, kind: type[Refused]) -> None:
    refusal = explain_exit(f"I[2026] start\n{line}\n\ngoroutine 1:\n")
    assert type(refusal) is kind
    assert line in str(refusal)


def test_an_ordinary_crash_needs_no_explanation() -> None:
    assert explain_exit("panic: runtime error\n") is None


async def test_an_engine_dies_with_a_node_that_is_killed(stage: Stage) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from abci_app.supervisor import EngineSupervisor\n"
        "root = Path(sys.argv[1])\n"
        "asyncio.run(EngineSupervisor(tuple(sys.argv[2:]),\n"
        "    log_file=root / 'engine.log', pid_file=root / 'engine.pid').run())\n"
    )
    command = stage.command("echo ran; exec sleep 60")
    node = start(sys.executable, "-c", code, str(stage.root), *command)
    try:
        await until(lambda: "ran" in stage.log())
        pid = engine_pid(stage.pid_file)
        assert pid is not None
    finally:
        node.kill()
        node.wait()
    await until(lambda: not is_alive(pid))


async def test_an_engine_left_behind_is_ended(stage: Stage) -> None:
    command = stage.command("exit")
    left = start(sys.executable, "-c", "import time; time.sleep(60)", "--home", str(stage.home))
    try:
        write_pid_file(stage.pid_file, left.pid)
        await end_leftover(stage.pid_file, command)
        assert left.wait(timeout=5) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()


async def test_another_program_with_the_same_pid_is_left_alone(stage: Stage) -> None:
    other = start(sys.executable, "-c", "import time; time.sleep(60)")
    try:
        write_pid_file(stage.pid_file, other.pid)
        await end_leftover(stage.pid_file, stage.command("exit"))
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("text", ["", "1 2", "x y", "999999999 1", "0 0", "-1 5", "\0"])
async def test_a_pid_file_of_no_living_engine_means_nothing(stage: Stage, text: str) -> None:
    stage.pid_file.write_text(text)
    assert engine_pid(stage.pid_file) is None
    await end_leftover(stage.pid_file, stage.command("exit"))


async def test_a_log_that_cannot_be_written_is_refused(stage: Stage) -> None:
    supervisor = EngineSupervisor(
        stage.command("exit"), log_file=stage.root / "no" / "log", pid_file=stage.pid_file
    )
    with pytest.raises(EngineError, match="cannot be started"):
        await supervisor.run()


async def test_log_that_somebody_removes_is_trimmed_again_when_it_is_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LOG_CHECK_S", 0.01)
    monkeypatch.setattr(supervisor_module, "MAX_ENGINE_LOG_BYTES", 100)
    looks: list[str] = []

    def warned(event: str, **_: object) -> None:
        looks.append(event)

    supervisor = stage.supervisor("exec sleep 60")
    async with running(supervisor):
        await until(lambda: supervisor.state.pid)
        monkeypatch.setattr(supervisor_module.logger, "warning", warned)
        stage.log_file.unlink()
        await until(lambda: looks)
        stage.log_file.write_bytes(b"x" * 200)
        await until(lambda: stage.log() == "")
        assert stage.log_file.with_suffix(".log.1").read_bytes() == b"x" * 200


async def test_engine_whose_log_was_removed_is_started_again(stage: Stage) -> None:
    supervisor = stage.supervisor(f"rm -f {stage.log_file}; exit 1")
    async with running(supervisor):
        await until(lambda: supervisor.state.restarts >= 2)
