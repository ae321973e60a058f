"""What makes blocks for a node: a CometBFT engine as a child process, or the solo engine.

Rules kept here:

* Both kinds have one shape, ``Consensus``: the rest of a node does not know which it has.
* The application listens before the engine starts (it then catches up in 2.4 s instead of 7–9),
  and goes on answering until the engine has stopped.
* An engine that does not answer yet counts as catching up, without peers.

Not handled here: the rules of the registry (``application``), the child process (``supervisor``).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgistry.adapters.log import get_logger
from edgistry.errors import ConfigError, PortInUseError, UnavailableError

from . import comet_config
from .abci_server import ABCIServer
from .application import RegistryApplication
from .comet_config import Genesis
from .comet_rpc import CometRpc
from .config import NodeConfig
from .directory import NodeDirectory
from .outbox import TransactionSink
from .solo import SoloEngine
from .supervisor import EngineSupervisor, end_leftover, engine_command

logger = get_logger("edgistry.node.consensus")

WATCH_EVERY_S = 1.0
PORT_TRIES_S = 3.0
"""How long a taken port is tried again: a killed engine lets go of its ports within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusView:
    """How the engine is doing, as of a moment ago."""

    peers: int
    catching_up: bool
    engine_pid: int | None = None
    engine_restarts: int = 0


class Consensus(Protocol):
    """Makes blocks for a node's application."""

    @property
    def sink(self) -> TransactionSink:
        """Where transactions go."""

    @property
    def view(self) -> ConsensusView:
        """How it is doing."""

    async def start(self) -> None:
        """Take ports and sockets; afterwards ``run`` may be called.

        Raises:
            PortInUseError, DirectoryError, ConfigError, ChainMismatchError.
        """

    async def run(self) -> None:
        """Make blocks until ``stop``; raises what a restart of the engine cannot mend."""

    async def stop(self) -> None:
        """Afterwards no block is made and nothing is listened on. Safe to repeat."""


class CometConsensus:
    """``binary`` as a child process, and the ABCI server that it talks to."""

    def __init__(
        self, directory: NodeDirectory, config: NodeConfig, app: RegistryApplication, binary: Path
    ) -> None:
        self._directory = directory
        self._config = config
        self._command = engine_command(binary, directory.engine_home)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = ABCIServer(app, path=directory.abci_socket, on_fatal=self._fail)
        self._supervisor = EngineSupervisor(
            self._command,
            log_file=directory.logs_dir / "engine.log",
            pid_file=directory.engine_pid_file,
        )
        self._rpc = CometRpc(config.cometbft.rpc_port)
        self._peers = 0
        self._catching_up = True

    @property
    def sink(self) -> TransactionSink:
        return self._rpc

    @property
    def view(self) -> ConsensusView:
        state = self._supervisor.state
        return ConsensusView(
            peers=self._peers,
            catching_up=self._catching_up,
            engine_pid=state.pid,
            engine_restarts=state.restarts,
        )

    async def start(self) -> None:
        comet_config.write_config(self._directory, self._config)
        await end_leftover(self._directory.engine_pid_file, self._command)
        await check_port_free(self._config.peers.host, self._config.peers.port, "peers")
        await check_port_free("127.0.0.1", self._config.cometbft.rpc_port, "cometbft.rpc")
        await self._server.start()

    async def run(self) -> None:
        tasks = [
            asyncio.ensure_future(self._supervisor.run()),
            asyncio.ensure_future(self._watch()),
            self._failed,
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # Also when cancelled: the engine ends politely, while the application answers it.
            await self._supervisor.stop()
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        await self._supervisor.stop()
        await self._server.stop()
        await self._rpc.close()

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _watch(self) -> None:
        while True:
            try:
                status = await self._rpc.status()
                self._peers = len(await self._rpc.peers())
                self._catching_up = status.catching_up
            except UnavailableError:
                self._peers = 0
                self._catching_up = True
            await asyncio.sleep(WATCH_EVERY_S)


class SoloConsensus:
    """Blocks made in this process."""

    def __init__(self, app: RegistryApplication, genesis: Genesis) -> None:
        self._engine = SoloEngine(
            app,
            chain_id=genesis.chain_id,
            genesis=genesis.state,
            genesis_time_us=genesis.time_us,
            clock_us=wall_clock_us,
        )

    @property
    def sink(self) -> TransactionSink:
        return self._engine

    @property
    def view(self) -> ConsensusView:
        return ConsensusView(peers=0, catching_up=False)

    async def start(self) -> None:
        await self._engine.start()

    async def run(self) -> None:
        await self._engine.run()

    async def stop(self) -> None:
        return None


def wall_clock_us() -> int:
    """Now, in microseconds since 1970."""
    return time.time_ns() // 1000


async def check_port_free(
    host: str,
    port: int,
    key: str,
    *,
    tries_s: float = PORT_TRIES_S,
    clock_s: Callable[[], float] = time.monotonic,
) -> None:
    """Check that this process could listen on ``host``:``port``; ``key`` names the setting.

    Raises:
        PortInUseError: somebody else keeps listening there.
        ConfigError: this machine has no such address, or may not use this port.
    """
    deadline = clock_s() + tries_s
    while True:
        try:
            _try_to_bind(host, port)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"node.toml: {key}: cannot listen on {host} port {port}: {error.strerror}"
                ) from None
            if clock_s() > deadline:
                raise PortInUseError(
                    f"port {port} on {host} ({key} in node.toml) is in use by another program;"
                    f" `ss -ltnp sport = :{port}` shows which"
                ) from None
        await asyncio.sleep(0.1)


def _try_to_bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # What servers set as well: a closed connection's remains do not count as use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
