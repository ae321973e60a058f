"""``edgistry watch``: changes to the services in an area, as they happen."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Self

import click

from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.watch_api import ServiceChange, WatchBody, WatchQuery, check_watch_body

from .area_options import area_fields, area_options, usage_errors
from .cmd_discover import service_row
from .handle_book import HandleBook, short
from .identity import read_identity
from .output import print_json_line, print_row, while_somebody_reads
from .params import json_option, node_options, option

_SOON_S = 0.2


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
    --since any more, all that is there is shown. When a privacy epoch begins, a line says so, and
    all that is there is shown under new handles. --json prints one object a line.

    \b
    Examples:
      edgistry watch --region california --type weather-station
      edgistry watch --near 37.77,-122.42 --radius-km 20 --json
    """
    keys = read_identity()
    with usage_errors():
        query = check_watch_body(WatchBody(**area_fields(**options)))
    try:
        run(while_somebody_reads(_show(node, keys, timeout_s, query, count, as_json=as_json)))
    except KeyboardInterrupt:
        click.get_current_context().exit(0)  # how a person ends it


async def _show(
    node: str,
    keys: ClientKeys,
    timeout_s: float,
    query: WatchQuery,
    count: int | None,
    *,
    as_json: bool,
) -> None:
    shown = 0
    async with (
        _Remembering(HandleBook.of_user()) as remembering,
        NodeClient(node, keys=keys, timeout_s=timeout_s, patience_s=timeout_s) as client,
        aclosing(client.watch_query(query)) as changes,
    ):
        async for change in changes:
            if change.change == "appeared":
                remembering.add(change.handle)
            if as_json:
                print_json_line(change)
            else:
                print_row(_row(change))
            shown += 1
            if shown == count:
                return


class _Remembering:
    """Has handles remembered some at a time: many services may appear at once."""

    def __init__(self, book: HandleBook) -> None:
        self._book = book
        self._new: list[str] = []

    def add(self, handle: str) -> None:
        """Remember ``handle`` soon."""
        if not self._new:
            asyncio.get_running_loop().call_later(_SOON_S, self._write)
        self._new.append(handle)

    def _write(self) -> None:
        new, self._new = self._new, []
        if new:
            self._book.remember(new)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._write()


def _row(change: ServiceChange) -> tuple[str, ...]:
    service = change.service
    rest = (short(change.handle),) if service is None else service_row(service)
    return (str(change.height), change.change, *rest)
