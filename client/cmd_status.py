"""``edgistry status``: how a node is doing."""

from __future__ import annotations

import click

from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.api import ReadyAnswer, StatusAnswer
from edgistry.codec import to_builtins

from .output import print_facts, print_json
from .params import json_option, node_options


@click.command("status")
@node_options
@json_option
def status(node: str, timeout_s: float, as_json: bool) -> None:
    """Show how a node is doing.

    Whether it answers reads, whether its writes get through and if not why, its height, peers and
    what it holds.
    """
    answer, ready = run(_ask(node, timeout_s))
    if as_json:
        print_json({**to_builtins(answer), **to_builtins(ready)})
    else:
        print_facts(_facts(answer, ready))


async def _ask(node: str, timeout_s: float) -> tuple[StatusAnswer, ReadyAnswer]:
    async with NodeClient(node, timeout_s=timeout_s) as client:
        return await client.status(), await client.ready()


def _facts(answer: StatusAnswer, ready: ReadyAnswer) -> list[tuple[str, str]]:
    return [
        ("node", f"{answer.node} (edgistry-node {answer.version}, engine {answer.engine})"),
        ("chain", f"{answer.chain_id}, {answer.members} members"),
        ("reads", "yes" if ready.ready else "no"),
        ("writes", "yes" if ready.writes else "no"),
        *(("because", reason) for reason in ready.reasons),
        *(("warning", warning) for warning in ready.warnings),
        ("height", f"{answer.height}, {answer.block_time}"),
        ("app hash", answer.app_hash),
        ("peers", str(answer.peers)),
        ("catching up", "yes" if answer.catching_up else "no"),
        ("services", str(answer.services)),
        ("regions", str(answer.regions)),
        ("outbox", f"{answer.outbox} transactions wait for a block"),
        ("epoch", f"{answer.epoch or 'none yet'} (handles are renewed with each)"),
    ]
