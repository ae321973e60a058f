"""Options that several commands of ``edgistry-agent`` have.

Not handled here: the commands themselves.
"""

from __future__ import annotations

import click

from edgistry.adapters.commands import Command, option
from edgistry.errors import InvalidValueError
from edgistry.pairing import MAX_PERIOD_S

from .config import CycleConfig
from .periods import LISTED


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
