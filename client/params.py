"""Options and argument types that several commands share.

Rules kept here: text is read by the parsers of the core, so that the command line and the node
agree on what is readable; what cannot be read is a usage error (exit code 2).

Not handled here: values over a limit, which are refused like everywhere else (exit code 1).
"""

from __future__ import annotations

import functools
import re
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


_LIKE_A_NAME = re.compile(r"-[A-Za-z0-9_-]{7,97}")
"""A handle, a beginning of one, or an id."""
_LIKE_AN_OPTION = re.compile(r"--[a-z-]+")


class HandleCommand(click.Command):
    """A command whose arguments are handles or ids: one in 64 of these begins like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            options, named, values = self._apart(ctx, args)
            if named:
                # Before the other arguments, which follow a handle, and after all options.
                args = [*options, "--", *named, *values]
        return super().parse_args(ctx, args)

    def _apart(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str], list[str]]:
        """Options with their values, names that begin like one, and what is neither, in order."""
        known = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        takes_value = {name for each in known if not each.is_flag for name in each.opts}
        options: list[str] = []
        named: list[str] = []
        values: list[str] = []
        words = iter(args)
        for word in words:
            if not word.startswith("-"):
                values.append(word)
            elif word in takes_value:
                options += [word, *(value for value in (next(words, None),) if value is not None)]
            elif _LIKE_A_NAME.fullmatch(word) and not _LIKE_AN_OPTION.fullmatch(word):
                named.append(word)
            else:
                options.append(word)
        return options, named, values


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
