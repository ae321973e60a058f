"""A real cluster for tests: nodes and engines as processes, in a short directory under /tmp.

    with Cluster() as cluster:
        cluster.start()
        cluster.kill_node(2)
        cluster.wait_until("three go on", lambda: cluster.height(0) > 5)

Every process it ends is one that it started, by its pid; leaving the block ends them all. Nothing
here sleeps for its own sake: one waits for a condition, with a deadline, and a condition that
never comes true fails with what every node said last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from abci_app.config import PORTS_PER_NODE
from abci_app.directory import NodeDirectory
from abci_app.initialize import init_cluster
from abci_app.launch import last_words, node_program
from abci_app.supervisor import engine_pid
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.api import ReadyAnswer, StatusAnswer
from edgistry.errors import Refused

from ..ports import reserve_ports
from .programs import run

T = TypeVar("T")

POLL_S = 0.1
READY_S = 60.0
"""How long a cluster may take to become ready, and to recover: two cores are shared."""
COMMAND_S = 180.0
BEAT_S = 2
"""Between two blocks of an idle chain; 10 s without this, which is long to wait for one."""


class Cluster:
    """``nodes`` node directories; ``start`` runs them."""

    def __init__(
        self,
        *,
        nodes: int = 4,
        lease_s: int = 600,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.parent = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
        self.root = self.parent / "c"
        self.size = nodes
        beat = {"CMT_CONSENSUS_CREATE_EMPTY_BLOCKS_INTERVAL": f"{BEAT_S}s"}
        self.environment = {**os.environ, **beat, **(environment or {})}
        self._ports = reserve_ports(nodes)
        self.base_port = self._ports.base
        self.chain_id = f"test-{self.base_port}"
        init_cluster(
            self.root,
            hosts=("127.0.0.1",) * nodes,
            base_port=self.base_port,
            chain_id=self.chain_id,
            lease_s=lease_s,
        )
        for number in self.numbers:
            self.edit_settings(number, "slot_ms = 250", "slot_ms = 0")
        self.programs: dict[int, Sequence[str]] = {}
        """What runs in place of ``edgistry-node``, by node."""
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(keep=kind is not None and bool(os.environ.get("EDGISTRY_KEEP_TESTS")))

    def close(self, *, keep: bool = False) -> None:
        """End every node that was started; ``keep`` leaves the files."""
        try:
            for number in list(self._processes):
                self.kill_node(number)
        finally:
            self._ports.release()
            if not keep:
                shutil.rmtree(self.parent, ignore_errors=True)

    def edit_genesis(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change the first state of the chain, on all nodes alike, before they first start.

        ``edit`` changes the ``app_state`` of the genesis document in place.
        """
        for number in self.numbers:
            path = self.directory(number).genesis_file
            document = json.loads(path.read_text())
            edit(document["app_state"])
            path.write_text(json.dumps(document))

    def edit_settings(self, number: int, old: str, new: str) -> None:
        """Write ``new`` in place of ``old`` in a node's node.toml, before it starts."""
        path = self.directory(number).root / "node.toml"
        text = path.read_text()
        assert old in text, f"{path} does not say {old}"
        path.write_text(text.replace(old, new, 1))

    # --- where things are -----------------------------------------------------------------------

    @property
    def numbers(self) -> range:
        """0 … size - 1."""
        return range(self.size)

    def directory(self, number: int) -> NodeDirectory:
        """The directory of a node; its ``root`` is what commands take as DIR."""
        return NodeDirectory(self.root / f"node{number}")

    def port(self, number: int) -> int:
        """The API port; + 1 is for peers, + 2 the engine's RPC."""
        return self.base_port + PORTS_PER_NODE * number

    def api(self, number: int) -> str:
        """Where a node's API answers."""
        return f"http://127.0.0.1:{self.port(number)}"

    # --- processes ------------------------------------------------------------------------------

    def start(self, *numbers: int, wait: bool = True, **environment: str) -> None:
        """Start these nodes (all if none is named) and wait until they are ready.

        ``environment`` is added to theirs.
        """
        chosen = numbers or tuple(self.numbers)
        for number in chosen:
            assert not self.is_running(number), f"node {number} runs already"
            directory = self.directory(number)
            program = self.programs.get(number, node_program())
            with (directory.logs_dir / "console.log").open("ab") as log:
                self._processes[number] = subprocess.Popen(
                    [*program, "run", str(directory.root)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**self.environment, **environment},
                    start_new_session=True,
                )
        if wait:
            self.wait_ready(*chosen)

    def is_running(self, number: int) -> bool:
        """Whether the process of a node that was started is alive."""
        process = self._processes.get(number)
        return process is not None and process.poll() is None

    def stop(self, *numbers: int, seconds: float = 30.0) -> dict[int, int]:
        """Stop these nodes (all if none is named) by SIGTERM; their exit codes."""
        chosen = [each for each in numbers or self.numbers if self.is_running(each)]
        for number in chosen:
            self._processes[number].terminate()
        return {number: self.wait_exit(number, seconds) for number in chosen}

    def wait_exit(self, number: int, seconds: float = 30.0) -> int:
        """The exit code of a node that ends by itself or was asked to."""
        try:
            code = self._processes[number].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"node {number} does not end\n{self.report()}") from None
        del self._processes[number]
        return code

    def kill_node(self, number: int, signum: int = signal.SIGKILL) -> None:
        """Signal the process of a node; after SIGKILL it is gone."""
        process = self._processes[number]
        process.send_signal(signum)
        if signum == signal.SIGKILL:
            process.wait()
            del self._processes[number]

    def engine_pid(self, number: int) -> int | None:
        """The pid of the engine that belongs to a node, if it lives."""
        return engine_pid(self.directory(number).engine_pid_file)

    def kill_engine(self, number: int, signum: int = signal.SIGKILL) -> int:
        """Signal the engine of a node; its pid."""
        pid = self.wait_until(f"engine {number} runs", lambda: self.engine_pid(number))
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        return pid

    # --- what nodes say -------------------------------------------------------------------------

    def status(self, number: int) -> StatusAnswer | None:
        """What a node says about itself; ``None`` when it does not answer."""
        return self._ask(number, BlockingNodeClient.status)

    def ready(self, number: int) -> ReadyAnswer | None:
        """Whether a node serves reads and takes writes; ``None`` when it does not answer."""
        return self._ask(number, BlockingNodeClient.ready)

    def height(self, number: int) -> int:
        """The height of a node; 0 when it does not answer."""
        answer = self.status(number)
        return answer.height if answer else 0

    def _ask(self, number: int, what: Callable[[BlockingNodeClient], T]) -> T | None:
        try:
            with BlockingNodeClient(self.api(number), timeout_s=5.0) as client:
                return what(client)
        except Refused:
            return None

    def agreed(self, numbers: Iterable[int] | None = None) -> StatusAnswer | None:
        """What these nodes (all if none is named) say alike; ``None`` while they differ."""
        answers = [self.status(number) for number in (numbers or self.numbers)]
        first = answers[0]
        facts = {
            answer and (answer.height, answer.app_hash, answer.services, answer.regions)
            for answer in answers
        }
        return first if len(facts) == 1 else None

    def engine_rpc(self, number: int, method: str, **parameters: str) -> Any:
        """What a node's engine answers to one call of its RPC."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port(number) + 2}/",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)["result"]

    # --- waiting --------------------------------------------------------------------------------

    def wait_until(
        self, what: str, condition: Callable[[], T | None], seconds: float = READY_S
    ) -> T:
        """The first true value of ``condition``; fails with a report when there is none."""
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"after {seconds:g} s: not {what}\n{self.report()}")
            time.sleep(POLL_S)

    def wait_ready(self, *numbers: int, seconds: float = READY_S) -> None:
        """Wait until these nodes (all if none is named) answer, have a block, and caught up."""
        for number in numbers or self.numbers:

            def is_ready(number: int = number) -> bool:
                # One that ended will never be ready: no need to wait for it.
                assert self.is_running(number), f"node {number} ended\n{self.report()}"
                answer = self.status(number)
                return answer is not None and answer.height > 0 and not answer.catching_up

            self.wait_until(f"node {number} ready", is_ready, seconds)

    def wait_agreement(
        self, *numbers: int, height: int = 0, seconds: float = READY_S
    ) -> StatusAnswer:
        """Wait until these nodes say the same at ``height`` or above; what they say."""

        def same() -> StatusAnswer | None:
            answer = self.agreed(numbers)
            return answer if answer and answer.height >= height else None

        return self.wait_until(f"agreement at height {height}", same, seconds)

    def report(self) -> str:
        """What every node said last, for a failed test."""
        parts = []
        for number in self.numbers:
            state = "runs" if self.is_running(number) else "does not run"
            parts.append(f"--- node {number} {state}: {self.status(number)}")
            parts.append(last_words(self.directory(number), 20))
            parts.append(tail(self.directory(number).logs_dir / "node.log", 20))
            parts.append(tail(self.directory(number).logs_dir / "engine.log", 5))
        return "\n".join(parts)

    # --- commands -------------------------------------------------------------------------------

    def command(self, *words: str, accept: tuple[int, ...] = (0,)) -> str:
        """Run ``edgistry-node`` with these words; what it printed on stdout."""
        done = run("edgistry-node", *words, check=False, environment=self.environment)
        assert done.exit_code in accept, (
            f"edgistry-node {' '.join(words)} exited with {done.exit_code}\n{done.output}"
        )
        return done.stdout

    def program(self, *words: str, accept: tuple[int, ...] = (0,)) -> None:
        """As ``command``, in a process of its own: for what runs a node, or leaves it running."""
        done = subprocess.run(
            [*node_program(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            env=self.environment,
            check=False,
        )
        assert done.returncode in accept, (
            f"edgistry-node {' '.join(words)} exited with {done.returncode}\n{done.stdout}"
        )

    def command_json(self, *words: str, accept: tuple[int, ...] = (0,)) -> Any:
        """Run ``edgistry-node`` with these words and ``--json``; what it answered."""
        return json.loads(self.command(*words, "--json", accept=accept))


def tail(path: Path, lines: int) -> str:
    """The last lines of a file, or nothing."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
