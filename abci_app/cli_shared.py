"""What the commands of ``edgistry-node`` have in common: options, output, refusals.

Rules kept here: one function turns a refusal into text; answers go to stdout, everything for the
person who waits to stderr, so that ``--json`` can be piped.

Not handled here: the commands themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from edgistry.codec import encode_json
from edgistry.duration import parse_duration
from edgistry.errors import InvalidValueError, MalformedError, Refused
from edgistry.wording import refusal_text
from edgistry.wording import visible as visible  # for the commands

from .config import DEFAULT_BASE_PORT
from .initialize import LEASE_S

Command = TypeVar("Command", bound=Callable[..., Any])

CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}


class RefusedCommand(click.ClickException):
    """A refusal on its way to the exit code."""

    def __init__(self, error: Refused) -> None:
        super().__init__(error.detail)
        self.error = error
        self.exit_code = error.exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(refusal_text(self.error), file=file or sys.stderr)


class Program(click.Group):
    """A group in which refusals of any command become text and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            raise RefusedCommand(error) from None


class _Duration(click.ParamType):  # type: ignore[type-arg]
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_duration(value)
        except (MalformedError, InvalidValueError) as error:
            return self.fail(str(error), param, ctx)


class _WholeSeconds(_Duration):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != round(seconds):
            return self.fail(f"duration {value!r}: a whole number of seconds", param, ctx)
        return round(seconds)


DURATION = _Duration()
"""``90s``, ``5m``, ``2h`` as seconds."""
WHOLE_SECONDS = _WholeSeconds()
"""The same, and no fraction of a second."""


def option(
    name: str, *names: str, env: str, help: str, **settings: Any
) -> Callable[[Command], Command]:
    """An option that can also be given by the environment variable ``EDGISTRY_…``."""
    settings.setdefault("show_default", settings.get("default") is not None)
    return click.option(name, *names, envvar=env, show_envvar=True, help=help, **settings)


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return option(
        "--json", "as_json", env="EDGISTRY_JSON", is_flag=True, help="Print JSON for programs."
    )(command)


def directory_argument(command: Command) -> Command:
    """Add the argument DIR, as an absolute path."""
    return click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))(command)


def chain_options(*, ports: str) -> Callable[[Command], Command]:
    """Add what every new chain is made with; ``ports`` says what is done with the base port."""

    def add(command: Command) -> Command:
        # The last one added is the first that --help shows.
        for one in (_EPOCH, _LEASE, _CHAIN_ID, _base_port(ports)):
            command = one(command)
        return command

    return add


def _base_port(ports: str) -> Callable[[Command], Command]:
    return option(
        "--base-port",
        env="EDGISTRY_BASE_PORT",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        default=DEFAULT_BASE_PORT,
        help=ports,
    )


_CHAIN_ID: Callable[[Command], Command] = option(
    "--chain-id",
    env="EDGISTRY_CHAIN_ID",
    metavar="ID",
    help="Name of the chain.  [default: a new random one]",
)
_LEASE: Callable[[Command], Command] = option(
    "--lease-s",
    env="EDGISTRY_LEASE_S",
    type=click.IntRange(1),
    metavar="SECONDS",
    default=LEASE_S,
    help="How long records stay visible when their node is silent. Part of the genesis.",
)
_EPOCH: Callable[[Command], Command] = option(
    "--epoch",
    "epoch_s",
    env="EDGISTRY_EPOCH",
    type=WHOLE_SECONDS,
    metavar="DURATION",
    default="24h",
    help="How long a privacy epoch lasts: clients' handles are the same for so long, and moves of"
    " devices wait for its end. Part of the genesis.",
)


def print_json(value: object) -> None:
    """``value`` as indented JSON on stdout."""
    click.echo(encode_json(value, indent=2))


def tell(text: str) -> None:
    """A line for the person who waits, on stderr."""
    click.echo(visible(text), err=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their content, on stdout."""
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(visible("  ".join(padded).rstrip()))


def check_named(names: Sequence[str], every: bool, what: str) -> None:
    """Either ``names`` or ``--all``.

    Raises:
        click.UsageError: both, or neither.
    """
    if bool(names) == every:
        raise click.UsageError(f"name {what}, or say --all")


def finish_several(as_json: bool, count: int, done: str, answer: object) -> None:
    """Say that ``done`` happened to ``count`` of them; to none of them is a failure."""
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{done}: {count}")
    if not count:
        raise SystemExit(1)
