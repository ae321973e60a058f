"""``edgistry region``: the named regions of the chain."""

from __future__ import annotations

import click

from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.api import RegionList

from .output import print_json, print_table, remark
from .params import json_option, node_options


@click.group("region")
def region() -> None:
    """Named regions, the areas that everybody on the chain knows."""


@region.command("list")
@node_options
@json_option
def list_regions(node: str, timeout_s: float, as_json: bool) -> None:
    """List the named regions."""
    answer = run(_ask(node, timeout_s))
    if as_json:
        print_json(answer)
        return
    rows = [(each.name, str(each.version), str(each.cells)) for each in answer.regions]
    title = f"Regions at height {answer.height}, {answer.block_time}"
    print_table(title, ("name", "version", "cells"), rows)
    if not rows:
        remark("No regions yet; a node's operator adds them with `edgistry-node region put`.")


async def _ask(node: str, timeout_s: float) -> RegionList:
    async with NodeClient(node, timeout_s=timeout_s) as client:
        return await client.regions()
