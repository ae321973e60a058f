"""One running host: WooFs, handlers and forwards, without a registry and without an engine.

Rules kept here: started and stopped in the same order as a node (``node.py``); everything about
WooFs is the same as there, and asked for in the same way.

Not handled here: what the parts do; the lock on the directory, which the caller keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import NoReturn

from edgistry import __version__
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.adapters.log import get_logger
from edgistry.api import (
    DiscoverQuery,
    ReadyAnswer,
    StatusAnswer,
    block_time_text,
)
from edgistry.errors import ConfigError, NoRegistryError
from edgistry.signed_request import Client
from edgistry.watch_api import WatchQuery

from .admin_forwards import forward_routes
from .admin_issuing import issuing_routes
from .admin_server import admin_server
from .config import NodeConfig
from .consensus import check_port_free
from .directory import NodeDirectory
from .handler_desk import HandlerDesk
from .http_server import public_server
from .issuing_desk import IssuingDesk
from .metrics import NodeMetrics
from .running import Running, Tell, stop_signal
from .woof_parts import load_node_handlers, open_woof_parts

logger = get_logger("edgistry.node.host")


async def run_host(directory: NodeDirectory, config: NodeConfig, *, tell: Tell) -> None:
    """Run the host of ``directory`` until SIGTERM or Ctrl-C; then everything has stopped.

    Raises:
        Refused: the host cannot run as it is; the detail says what to do.
        Exception: a bug; the host has stopped.
    """
    if config.engine != "none":
        raise ConfigError(f"{directory.root} is a node; `edgistry-node run` runs it")
    stop = stop_signal()
    async with AsyncExitStack() as parts:
        handlers = load_node_handlers(directory, config)
        await check_port_free(config.api.host, config.api.port, "api")
        local = open_woof_parts(parts, directory, config, handlers)
        async with Running(*local.running()) as running, AsyncExitStack() as doors:
            metrics = NodeMetrics()
            local.watch(metrics)
            host = Host(config.name, local.runtime, warnings=local.forwards.warnings)
            http = public_server(host, local.door, version=__version__, metrics=metrics)
            desk = HandlerDesk(local.runtime, module=config.handlers.module)
            issuing = IssuingDesk(local.authority, local.woofs.committer)
            more = [*forward_routes(local.forwards), *issuing_routes(issuing)]
            admin = admin_server(None, desk, more=more)
            doors.push_async_callback(admin.stop)
            await admin.listen_unix(directory.admin_socket)
            # Last: whoever is answered over HTTP finds the operator's door open too.
            doors.push_async_callback(http.stop)
            await http.listen_tcp(config.api.host, config.api.port)
            logger.info("the host runs", name=config.name, api=config.api_url)
            tell(f"host {config.name} runs: {config.api_url}; Ctrl-C stops it")
            await running.until(stop)
            logger.info("the host stops, as asked")
    logger.info("the host has stopped")


class Host:
    """What the public API can ask of a host; a ``PublicNode`` without a registry."""

    def __init__(
        self, name: str, runtime: HandlerRuntime, *, warnings: Callable[[], list[str]]
    ) -> None:
        self._name = name
        self._runtime = runtime
        self._warnings = warnings

    async def discover(self, _query: DiscoverQuery, _client: Client | None) -> NoReturn:
        """Raises NoRegistryError."""
        raise NoRegistryError("this is a host: it knows no services")

    async def watch(self, _query: WatchQuery, _client: Client) -> NoReturn:
        """Raises NoRegistryError."""
        raise NoRegistryError("this is a host: it knows no services")

    def regions(self) -> NoReturn:
        """Raises NoRegistryError."""
        raise NoRegistryError("this is a host: it knows no regions")

    def status(self) -> StatusAnswer:
        """What the host says about itself: of everything that a registry has, nothing."""
        return StatusAnswer(
            node=self._name,
            version=__version__,
            engine="none",
            chain_id="",
            height=0,
            app_hash="",
            block_time=block_time_text(0),
            members=0,
            peers=0,
            catching_up=False,
            services=0,
            regions=0,
            outbox=0,
        )

    def ready(self) -> tuple[bool, ReadyAnswer]:
        """Whether it takes requests, and whether puts get through."""
        halted = self._runtime.halted
        reasons = () if halted is None else (f"the disk takes no more writes: {halted.detail}",)
        return True, ReadyAnswer(
            ready=True, writes=not reasons, reasons=reasons, warnings=tuple(self._warnings())
        )
