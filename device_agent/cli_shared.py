"""What the commands of ``edgistry-agent`` have in common: options, output, refusals.

Rules kept here: one function turns a refusal into text; answers go to stdout, everything for the
person who waits to stderr, so that ``--json`` can be piped.

Not handled here: the commands themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgistry.codec import encode_json
from edgistry.errors import InvalidValueError, Refused
from edgistry.pairing import MAX_PERIOD_S
from edgistry.wording import refusal_text, visible

from .config import CycleConfig
from .periods import LISTED

Command = TypeVar("Command", bound=Callable[..., Any])

CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}


class Program(click.Group):
    """A group in which refusals of any command become text and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            click.echo(refusal_text(error), err=True)
            ctx.exit(error.exit_code)


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


def period_options(command: Command) -> Command:
    """Add ``--period`` and ``--any-period``."""
    period = option(
        "--period", "period_s", env="EDGISTRY_PERIOD", type=click.IntRange(0, MAX_PERIOD_S),
        metavar="SECONDS", default=600, help=f"From one wake to the next: {LISTED}.",
    )  # fmt: skip
    any_period = option(
        "--any-period", env="EDGISTRY_ANY_PERIOD", is_flag=True,
        help="Let --period be any number, by which devices can be told apart.",
    )  # fmt: skip
    return period(any_period(command))


def told_cycle(period_s: int, *, any_period: bool) -> CycleConfig:
    """The duty cycle that ``period_options`` tell; a usage error if there is none with them."""
    try:
        return CycleConfig(period_s=period_s, any_period=any_period)
    except InvalidValueError as error:
        raise click.BadParameter(error.detail, param_hint="--period") from None


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
