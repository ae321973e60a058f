"""What several commands of ``edgistry-node`` have in common.

Not handled here: the commands themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgistry.adapters.commands import Command, option, print_json
from edgistry.duration import parse_duration
from edgistry.errors import FileError, InvalidValueError, MalformedError

from .config import DEFAULT_BASE_PORT
from .initialize import LEASE_S


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


def read_file(file: Path, *, limit: int) -> bytes:
    """What is in ``file``, as far as one byte more than ``limit``: whoever decodes it counts.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}") from None
