"""The part of a node that works without a registry: WooFs, handlers, forwards, and the door.

Rules kept here: the same on a node and on a host; what cannot be had stops the start.

Not handled here: HTTP, and in which order parts start and stop (``node``, ``host``).
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_module import load_handlers
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.woof_server import WoofServer
from edgistry.authority import Authority
from edgistry.faas_scope import everywhere
from edgistry.handlers import HandlerTable
from edgistry.woof_service import change_anything

from .config import NodeConfig
from .directory import NodeDirectory
from .forward_desk import ForwardDesk
from .handler_metrics import watch_handlers
from .issuing import open_authority
from .metrics import NodeMetrics
from .mirror_reach import MirrorReach

HANDLERS_DIRECTORY = "handlers"
"""Of a node's directory: where its operator's own module is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WoofParts:
    """Open WooFs with all that works on them; ``running`` has to run."""

    queues: LevelKeyValue
    """The database that they rest in, with everything else of this node's own."""
    woofs: DurableWoofs
    runtime: HandlerRuntime
    authority: Authority
    door: WoofServer
    forwards: ForwardDesk

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run while the node does."""
        return [self.runtime.run(), self.door.run(), self.forwards.run()]

    def watch(self, metrics: NodeMetrics) -> None:
        """Show in ``metrics`` how handlers and forwards are doing."""
        watch_handlers(metrics.watch, self.runtime)
        self.forwards.watch(metrics)


def load_node_handlers(directory: NodeDirectory, config: NodeConfig) -> HandlerTable:
    """The handlers of the module that the operator names.

    Raises:
        ConfigError: there is no such module, or it is none of handlers.
    """
    return load_handlers(config.handlers.module, directory.root / HANDLERS_DIRECTORY)


def open_woof_parts(
    parts: AsyncExitStack, directory: NodeDirectory, config: NodeConfig, handlers: HandlerTable
) -> WoofParts:
    """Open the WooFs of ``directory``; ``parts`` closes them.

    Raises:
        Refused: the database or the issuer's key cannot be used.
    """
    queues = LevelKeyValue(directory.queues_db)
    parts.callback(queues.close)
    woofs = DurableWoofs(queues)
    parts.push_async_callback(woofs.close)
    authority = open_authority(directory, queues)
    reach = MirrorReach(queues)
    has_devices = config.engine != "none"  # on a host a mirror's name is one like any other
    return WoofParts(
        queues=queues,
        woofs=woofs,
        runtime=HandlerRuntime(
            queues, woofs, handlers, scope_of=reach.scope_of if has_devices else everywhere
        ),
        authority=authority,
        door=WoofServer(
            woofs,
            authority,
            require_handler=handlers.require,
            check_change=reach.check_change if has_devices else change_anything,
        ),
        forwards=ForwardDesk(woofs, config.forward, root=directory.root),
    )
