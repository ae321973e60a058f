"""Options and argument types that several commands share.

Rules kept here: text is read by the parsers of the core, so that the command line and the node
agree on what is readable; what cannot be read is a usage error (exit code 2).

Not handled here: values over a limit, which are refused like everywhere else (exit code 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgistry.adapters.node_client import DEFAULT_NODE
from edgistry.api import CellArea, DiscoverBody
from edgistry.discover_query import check_discover_body, parse_point
from edgistry.duration import parse_duration
from edgistry.errors import InvalidValueError, MalformedError

Command = TypeVar("Command", bound=Callable[..., Any])


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions
    """A type whose reader raises refusals, as the functions of the core do."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except (MalformedError, InvalidValueError) as error:
            return self.fail(str(error), param, ctx)


def _read_cell(text: str) -> str:
    area = check_discover_body(DiscoverBody(cell=text.lower())).area
    return area.cell if isinstance(area, CellArea) else text


def _read_timeout(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise InvalidValueError(f"{text}: give more than zero")
    return seconds


POINT = Parsed("LAT,LON", lambda text: parse_point("point", text))
"""``37.77,-122.42`` as (latitude, longitude) in degrees."""

CELL = Parsed("CELL", _read_cell)
"""An H3 cell as 15 lower-case hex digits."""

DURATION = Parsed("DURATION", parse_duration)
"""``90s``, ``5m``, ``2h`` as seconds."""

TIMEOUT = Parsed("DURATION", _read_timeout)
"""A duration that is not zero: to the network library that would mean no limit at all."""


option = functools.partial(click.option, show_envvar=True)
"""As ``click.option``; the help names the environment variable, ``EDGISTRY_COMMAND_OPTION``."""


def node_options(command: Command) -> Command:
    """Add ``--node`` and ``--timeout``, which every command that asks a node has."""
    timeout = option(
        "--timeout",
        "timeout_s",
        type=TIMEOUT,
        metavar="DURATION",
        envvar="EDGISTRY_TIMEOUT",
        default="30s",
        show_default=True,
        help="How long to wait for the node's answer.",
    )
    node = option(
        "--node",
        metavar="URL",
        envvar="EDGISTRY_NODE",
        default=DEFAULT_NODE,
        show_default=True,
        help="The node to ask; any node of the cluster will do.",
    )
    return node(timeout(command))


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    flag = option(
        "--json",
        "as_json",
        is_flag=True,
        envvar="EDGISTRY_JSON",
        help="Print JSON, for programs.",
    )
    return flag(command)
