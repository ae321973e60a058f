"""``edgistry watch``: changes to the services in an area, as they happen."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import click

from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.watch_api import ServiceChange, WatchBody, WatchQuery, check_watch_body

from .area_options import area_fields, area_options, usage_errors
from .cmd_discover import service_row
from .output import print_json_line, print_row, while_somebody_reads
from .params import json_option, node_options, option


@click.command("watch")
@area_options("watch")
@option(
    "--since",
    type=click.IntRange(0),
    metavar="HEIGHT",
    help="Only changes behind this height, instead of all that is there first.",
)
@option(
    "-n",
    "--count",
    type=click.IntRange(1),
    metavar="N",
    envvar="EDGISTRY_WATCH_COUNT",
    help="End after so many lines.",
)
@node_options
@json_option
def watch(node: str, timeout_s: float, as_json: bool, count: int | None, **options: Any) -> None:
    """Show the services in an area, then each that appears, changes or leaves.

    The area is given as to `edgistry discover`, which shows the same services. Each line begins
    with the height of the block that made the change. A broken connection is made anew, for as long
    as --timeout; what happened meanwhile is told then. When the node cannot tell the changes since
    --since any more, all that is there is shown. --json prints one object a line.

    \b
    Examples:
      edgistry watch --region california --type weather-station
      edgistry watch --near 37.77,-122.42 --radius-km 20 --json
    """
    with usage_errors():
        query = check_watch_body(WatchBody(**area_fields(**options)))
    try:
        run(while_somebody_reads(_show(node, timeout_s, query, count, as_json=as_json)))
    except KeyboardInterrupt:
        click.get_current_context().exit(0)  # how a person ends it


async def _show(
    node: str, timeout_s: float, query: WatchQuery, count: int | None, *, as_json: bool
) -> None:
    shown = 0
    async with (
        NodeClient(node, timeout_s=timeout_s, patience_s=timeout_s) as client,
        aclosing(client.watch_query(query)) as changes,
    ):
        async for change in changes:
            if as_json:
                print_json_line(change)
            else:
                print_row(_row(change))
            shown += 1
            if shown == count:
                return


def _row(change: ServiceChange) -> tuple[str, ...]:
    service = change.service
    rest = (change.handle,) if service is None else service_row(service)
    return (str(change.height), change.change, *rest)
