"""What the commands of nodes and of agents have in common: options, output, refusals.

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

from ..codec import encode_json
from ..errors import Refused
from ..wording import refusal_text, visible

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
    """Add the argument DIR."""
    return click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))(command)


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
