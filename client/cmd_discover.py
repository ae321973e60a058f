"""``edgistry discover``: find services by place and type."""

from __future__ import annotations

from typing import Any

import click

from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.api import (
    DEFAULT_RESULTS,
    DiscoverAnswer,
    DiscoverBody,
    DiscoverQuery,
    ServiceEntry,
)
from edgistry.discover_query import check_discover_body

from .area_options import area_fields, area_options, usage_errors
from .handle_book import HandleBook, short
from .identity import read_identity
from .output import print_json, print_table, remark
from .params import json_option, node_options, option

COUNT_COLUMNS = ("type", "cell", "center", "services", "owners")
SERVICE_COLUMNS = ("handle", "type", "cell", "center", "accuracy", "actions", "state", "wake")


@click.command("discover")
@area_options("discover")
@option(
    "--limit",
    type=int,
    metavar="N",
    default=DEFAULT_RESULTS,
    show_default=True,
    help="Services to show, at most 1000.",
)
@option("--cursor", metavar="CURSOR", help="Go on after an earlier answer (its `next`).")
@option(
    "--min-height",
    type=int,
    metavar="HEIGHT",
    help="Answer only from this height on (read your own writes); waits up to 5 s.",
)
@option("--browse", is_flag=True, help="Ask as nobody: how many there are, without handles.")
@node_options
@json_option
def discover(node: str, timeout_s: float, as_json: bool, browse: bool, **options: Any) -> None:
    """Find services in one area.

    Give exactly one of --region, --cell, --near with --radius-km, or --polygon. A service is found
    when the centre of its published cell lies in the area; nobody learns where in its cell it is.
    Services come in an order of your own, --limit at a time; --cursor gets the next ones.

    You ask as yourself (`edgistry grant id`), and get handles that mean something to you alone,
    until the privacy epoch ends and for a day more. Tables show how a handle begins; that is enough
    for commands, which remember the whole of those that were shown here. --json has it too.
    --browse asks as nobody, and gets numbers.

    \b
    Examples:
      edgistry discover --region california --type weather-station
      edgistry discover --near 37.77,-122.42 --radius-km 20 --json
      edgistry discover --region california --browse
    """
    query = _query(**options)
    answer = run(_ask(node, timeout_s, query, None if browse else read_identity()))
    HandleBook.of_user().remember(each.handle for each in answer.services)
    if as_json:
        print_json(answer)
    elif browse:
        _show_counts(answer)
    else:
        _show(answer)


async def _ask(
    node: str, timeout_s: float, query: DiscoverQuery, keys: ClientKeys | None
) -> DiscoverAnswer:
    async with NodeClient(node, keys=keys, timeout_s=timeout_s) as client:
        if keys is None:
            return await client.browse_query(query)
        return await client.answer_query(query)


def _query(**options: Any) -> DiscoverQuery:
    body = DiscoverBody(**area_fields(**options))
    with usage_errors():
        return check_discover_body(body)


def _show(answer: DiscoverAnswer) -> None:
    count = len(answer.services)
    title = f"{count} service{'' if count == 1 else 's'}"
    when = f"at height {answer.height}, {answer.block_time}"
    print_table(f"{title} {when}", SERVICE_COLUMNS, [service_row(each) for each in answer.services])
    if not answer.services:
        remark(f"No services found {when}.")
    _show_next(answer)


def _show_counts(answer: DiscoverAnswer) -> None:
    when = f"at height {answer.height}, {answer.block_time}"
    rows = [
        (each.type, each.cell, _point(each.center), str(each.services), str(each.owners))
        for each in answer.counts
    ]
    print_table(f"Services {when}", COUNT_COLUMNS, rows)
    if not answer.counts:
        remark(f"No services found {when}.")
    _show_next(answer)


def _show_next(answer: DiscoverAnswer) -> None:
    if answer.next is not None:
        remark(f"There are more: add --cursor {answer.next}")


def _point(center: tuple[float, float]) -> str:
    return f"{center[0]:.5f},{center[1]:.5f}"


def service_row(service: ServiceEntry) -> tuple[str, ...]:
    """What people see of a service."""
    return (
        short(service.handle),
        service.type,
        service.cell,
        _point(service.center),
        f"{service.accuracy_m} m",
        ",".join(service.actions) or "-",
        service.state,
        service.wake,
    )
