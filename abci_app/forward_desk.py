"""The node's forwards: those that node.toml names, and what an operator can ask of them.

Rules kept here: a forward that cannot go on never stops the node or another forward.

Not handled here: forwarding (``edgistry.forwarding``), transport (``admin_forwards``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from edgistry.adapters.capability_file import read_capability
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.forward_link import HttpLink
from edgistry.adapters.forwarder import Forwarder, ForwardStatus
from edgistry.errors import NotFoundError
from edgistry.forward_actions import State
from edgistry.forward_requests import Forward
from edgistry.woof_uri import parse_woof_uri

from .config import ForwardConfig
from .forwards_api import ForwardEntry, ForwardList
from .metrics import NodeMetrics


class ForwardDesk:
    """Forwards what ``configs`` say, once ``run`` does; capability files begin at ``root``."""

    def __init__(
        self, woofs: DurableWoofs, configs: Iterable[ForwardConfig], *, root: Path
    ) -> None:
        self._forwarders: dict[str, tuple[ForwardConfig, Forwarder]] = {}
        self._links: list[HttpLink] = []
        for config in sorted(configs, key=lambda each: each.woof):
            place = parse_woof_uri(config.to)
            forward = Forward(woof=config.woof, target=place.name, handler=config.handler)
            link = HttpLink(place.node)
            read = partial(read_capability, root / config.capability_file)
            forwarder = Forwarder(woofs, forward, link, capability=read)
            self._forwarders[config.woof] = (config, forwarder)
            self._links.append(link)

    async def run(self) -> None:
        """Forward until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _, forwarder in self._forwarders.values():
                    tasks.create_task(forwarder.run())
                await asyncio.Event().wait()
        finally:
            for link in self._links:
                await link.close()

    # --- what an operator can ask ---------------------------------------------------------------

    def forwards(self) -> ForwardList:
        """How all of them are doing."""
        entries = [
            _entry(config, forwarder.status()) for config, forwarder in self._forwarders.values()
        ]
        return ForwardList(forwards=tuple(entries))

    def settle(self, woof: str, through: int) -> ForwardList:
        """The elements in doubt up to number ``through`` are there, the others are not.

        Raises:
            NotFoundError: the WooF is not forwarded.
            InvalidValueError: nothing of it is in doubt, or not about this number.
        """
        found = self._forwarders.get(woof)
        if found is None:
            raise NotFoundError(f"{woof[:80]!r} is not forwarded from here")
        found[1].settle(through)
        return self.forwards()

    def warnings(self) -> list[str]:
        """What the operator has to do something about; names no WooF, since everybody reads it."""
        stopped = sum(1 for each in self.forwards().forwards if each.in_doubt)
        if not stopped:
            return []
        return [
            f"{stopped} forward(s) stopped: elements may have arrived or not;"
            " `edgistry-node forwards list DIR` shows which, `forwards settle` goes on"
        ]

    def watch(self, metrics: NodeMetrics) -> None:
        """Show in ``metrics`` how all of them together are doing."""

        def total(count: str) -> int:
            return sum(getattr(each, count) for each in self.forwards().forwards)

        def waiting() -> int:
            return sum(1 for each in self.forwards().forwards if each.reason)

        metrics.watch("forwards", "WooFs that are forwarded.", lambda: len(self._forwarders))
        metrics.watch("forwards_waiting", "Forwards that cannot go on now.", waiting)
        metrics.watch("forward_lag", "Elements that are still to go onward.", lambda: total("lag"))
        metrics.watch("forward_delivered", "Elements that went onward.", lambda: total("delivered"))
        metrics.watch(
            "forward_refused", "Elements that a destination did not take.", lambda: total("refused")
        )
        metrics.watch(
            "forward_gone", "Elements evicted before they went onward.", lambda: total("gone")
        )


def _entry(config: ForwardConfig, status: ForwardStatus) -> ForwardEntry:
    record = status.record
    return ForwardEntry(
        woof=config.woof,
        to=config.to,
        handler=config.handler,
        state=status.state.value,
        lag=status.lag,
        through=record.through,
        landed=record.landed,
        delivered=record.delivered,
        refused=record.refused,
        gone=record.gone,
        in_doubt=tuple(status.begun) if status.state is State.IN_DOUBT else (),
        reason=status.reason,
        refusal=status.refusal,
    )
