"""One running node: its parts, in the order in which they start and stop.

Rules kept here:

* Start: handlers' module, databases, application, ABCI socket, engine, use cases and handlers,
  HTTP, operator's socket. A node that cannot have one of them says why and starts nothing further.
* Stop, in the reverse order, on SIGTERM or Ctrl-C: nobody is answered by half a node, and the
  engine ends while the application still answers it.
* What only a bug or damaged data can cause stops the node: halting is safe, diverging is not.

Not handled here: what the parts do; the lock on the directory (``directory.hold``), which the
caller keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from edgistry import __version__
from edgistry.adapters.crypto import public_key_of, signer
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_module import load_handlers
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.log import get_logger
from edgistry.adapters.woof_server import WoofServer
from edgistry.errors import ChainMismatchError, ConfigError, UnavailableError
from edgistry.transactions import node_id_of

from .abci_server import ABCIServer
from .admin_server import admin_server
from .application import RegistryApplication
from .comet_config import Genesis, read_genesis
from .config import NodeConfig, peer_id_of
from .consensus import CometConsensus, Consensus, SoloConsensus, check_port_free
from .directory import NodeDirectory, read_registry_seed
from .handler_desk import HandlerDesk
from .http_server import public_server
from .issuing import open_authority
from .schema import genesis_members
from .service import NodeService

logger = get_logger("edgistry.node")

Tell = Callable[[str], None]

HANDLERS_DIRECTORY = "handlers"
"""Of a node's directory: where its operator's own module is looked for."""


async def run_node(
    directory: NodeDirectory,
    config: NodeConfig,
    *,
    engine_binary: Path | None,
    tell: Tell,
) -> None:
    """Run the node of ``directory`` until SIGTERM or Ctrl-C; then everything has stopped.

    ``engine_binary`` is CometBFT's, ``None`` for a solo node.

    Raises:
        Refused: the node cannot run as it is; the detail says what to do.
        Exception: a bug; the node has stopped.
    """
    stop = _stop_signal()
    async with AsyncExitStack() as parts:
        seed = read_registry_seed(directory)
        node_id = node_id_of(public_key_of(seed))
        genesis = read_genesis(directory.genesis_file)
        if node_id not in genesis_members(genesis.state):
            raise ConfigError(
                f"{directory.genesis_file}: this node's key is not among the members; the files of"
                " two nodes or clusters are mixed up"
            )
        handlers = load_handlers(config.handlers.module, directory.root / HANDLERS_DIRECTORY)
        await check_port_free(config.api.host, config.api.port, "api")
        app = _open_application(parts, directory, config, genesis)
        queues = LevelKeyValue(directory.queues_db)
        parts.callback(queues.close)
        woofs = DurableWoofs(queues)
        parts.push_async_callback(woofs.close)
        runtime = HandlerRuntime(queues, woofs, handlers)
        door = WoofServer(
            woofs, open_authority(directory, queues), require_handler=handlers.require
        )
        consensus = _consensus(directory, config, app, genesis, engine_binary)
        parts.push_async_callback(consensus.stop)
        await consensus.start()
        service = NodeService(
            name=config.name,
            engine=config.engine,
            chain_id=genesis.chain_id,
            node_id=node_id,
            sign=signer(seed),
            store=queues,
            reader=app.reader,
            sink=consensus.sink,
            view=lambda: consensus.view,
        )
        tasks = _Running(consensus.run(), service.run(), runtime.run(), door.run())
        async with tasks as running, AsyncExitStack() as doors:
            http = public_server(service, door, version=__version__)
            doors.push_async_callback(http.stop)
            await http.listen_tcp(config.api.host, config.api.port)
            desk = HandlerDesk(runtime, module=config.handlers.module, outbox=service.outbox)
            admin = admin_server(service, desk)
            doors.push_async_callback(admin.stop)
            await admin.listen_unix(directory.admin_socket)
            logger.info("the node runs", name=config.name, api=config.api_url)
            tell(f"{config.name} runs: {config.api_url} (engine {config.engine}); Ctrl-C stops it")
            await running.until(stop)
            logger.info("the node stops, as asked")
    logger.info("the node has stopped")


async def run_abci(
    directory: NodeDirectory, config: NodeConfig, *, port: int | None, tell: Tell
) -> None:
    """Serve only the application of ``directory``, until SIGTERM or Ctrl-C.

    Raises:
        Refused: it cannot be served as it is.
        Exception: a bug; nothing is served any more.
    """
    stop = _stop_signal()
    async with AsyncExitStack() as parts:
        genesis = read_genesis(directory.genesis_file)
        app = _open_application(parts, directory, config, genesis)
        if port is None:
            server = ABCIServer(app, path=directory.abci_socket)
            where = f"unix://{directory.abci_socket}"
        else:
            server = ABCIServer(app, port=port)
            where = f"tcp://127.0.0.1:{port}"
        async with _Running(server.serve()) as running:
            tell(f"ABCI server of {config.name} on {where}, height {app.reader.head.height}")
            await running.until(stop)


def _open_application(
    parts: AsyncExitStack, directory: NodeDirectory, config: NodeConfig, genesis: Genesis
) -> RegistryApplication:
    registry = LevelKeyValue(directory.registry_db)
    parts.callback(registry.close)
    allowed = frozenset(peer_id_of(member) for member in config.peers.members)
    app = RegistryApplication(registry, allowed_peer_ids=allowed.__contains__)
    with contextlib.suppress(UnavailableError):  # no chain has begun here
        found = app.reader.parameters.chain_id
        if found != genesis.chain_id:
            raise ChainMismatchError(
                f"{directory.registry_db} belongs to chain {found!r},"
                f" {directory.genesis_file} to {genesis.chain_id!r}"
            )
    return app


def _consensus(
    directory: NodeDirectory,
    config: NodeConfig,
    app: RegistryApplication,
    genesis: Genesis,
    engine_binary: Path | None,
) -> Consensus:
    if engine_binary is None:
        return SoloConsensus(app, genesis)
    return CometConsensus(directory, config, app, engine_binary)


def _stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class _Running:
    """Coroutines that run beside a block; after it they are cancelled and have ended."""

    def __init__(self, *parts: Coroutine[Any, Any, None]) -> None:
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._tasks = {asyncio.create_task(part) for part in self._parts}
        return self

    async def until(self, stop: asyncio.Event) -> None:
        """Wait until ``stop`` is set; raises what a part raises before."""
        stopped = asyncio.create_task(stop.wait())
        try:
            running: set[asyncio.Task[Any]] = {stopped, *self._tasks}
            while not stopped.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    _raise_failure(task)
        finally:
            stopped.cancel()

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _raise_failure(task: asyncio.Task[Any]) -> None:
    error = task.exception()
    # A group of tasks wraps what one of them raised; people want to read that one.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
