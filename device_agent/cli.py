"""``edgistry-agent``: the command line of those who own a device.

Rules kept here: exit codes are 0 ok, 1 refused, 2 usage, 3 cannot reach, 4 timed out; a refusal is
shown in one form, by one function; anything else that escapes is a bug and shows a traceback.

Not handled here: the commands themselves (``cli_*.py``).
"""

from __future__ import annotations

import click

from edgistry.adapters.commands import CONTEXT_SETTINGS, Program

from .cli_account import energy, status
from .cli_fleet import fleet
from .cli_forget import forget
from .cli_move import move
from .cli_pair import pair, pairing_file, unpair
from .cli_run import init, run


@click.group("edgistry-agent", cls=Program, context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="edgistry", prog_name="edgistry-agent")
def program() -> None:
    """Run a device: it sleeps, wakes, asks its node, answers, and sleeps on.

    \b
    edgistry-agent init DIR
    edgistry-agent pair DIR --node URL --code CODE
    edgistry-agent run DIR

    \b
    Exit codes: 0 ok, 1 refused, 2 usage, 3 cannot reach the node, 4 timed out.
    """


for _command in (init, pair, pairing_file, unpair, move, forget, run, status, energy, fleet):
    program.add_command(_command)


def main() -> None:
    """The entry point of the ``edgistry-agent`` program."""
    program(prog_name="edgistry-agent")
