"""``edgistry discover``: find services by place and type."""

from __future__ import annotations

from typing import Any

import click

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
from .output import print_json, print_table, remark
from .params import json_option, node_options, option

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
@node_options
@json_option
def discover(node: str, timeout_s: float, as_json: bool, **options: Any) -> None:
    """Find services in one area.

    Give exactly one of --region, --cell, --near with --radius-km, or --polygon. A service is found
    when the centre of its published cell lies in the area; nobody learns where in its cell it is.
    Services come in a fixed order, --limit at a time; --cursor gets the next ones.

    \b
    Examples:
      edgistry discover --region california --type weather-station
      edgistry discover --near 37.77,-122.42 --radius-km 20 --json
    """
    query = _query(**options)
    answer = run(_ask(node, timeout_s, query))
    if as_json:
        print_json(answer)
    else:
        _show(answer)


async def _ask(node: str, timeout_s: float, query: DiscoverQuery) -> DiscoverAnswer:
    async with NodeClient(node, timeout_s=timeout_s) as client:
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
    if answer.next is not None:
        remark(f"There are more: add --cursor {answer.next}")


def service_row(service: ServiceEntry) -> tuple[str, ...]:
    """What people see of a service."""
    latitude, longitude = service.center
    return (
        service.handle,
        service.type,
        service.cell,
        f"{latitude:.5f},{longitude:.5f}",
        f"{service.accuracy_m} m",
        ",".join(service.actions) or "-",
        service.state,
        service.wake,
    )
