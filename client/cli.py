"""``edgistry``: the command line for people and scripts.

Rules kept here: exit codes are 0 ok, 1 refused, 2 usage, 3 cannot reach, 4 timed out; a refusal is
shown in one form, by one function; anything else that escapes is a bug and shows a traceback.

Not handled here: the commands (``cmd_*.py``), and everything an operator does on the node's own
machine (``edgistry-node``).
"""

from __future__ import annotations

from typing import Any

import click

from edgistry.errors import Refused
from edgistry.wording import refusal_text

from .cmd_call import call
from .cmd_cap import cap
from .cmd_discover import discover
from .cmd_grant import grant
from .cmd_namespace import namespace
from .cmd_privacy import privacy
from .cmd_region import region
from .cmd_request import request
from .cmd_status import status
from .cmd_watch import watch
from .cmd_woof import woof


class Program(click.Group):
    """A group in which refusals of any command become text and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            click.echo(refusal_text(error), err=True)
            ctx.exit(error.exit_code)


@click.group(
    "edgistry",
    cls=Program,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "auto_envvar_prefix": "EDGISTRY",
    },
)
@click.version_option(package_name="edgistry", prog_name="edgistry")
def program() -> None:
    """Find and use services of sleeping devices through an Edgistry node.

    Any option can be set by an environment variable named after its command: EDGISTRY_DISCOVER_TYPE
    is --type of `edgistry discover`. EDGISTRY_NODE, EDGISTRY_TIMEOUT and EDGISTRY_CAPABILITY
    serve all commands.

    \b
    Exit codes: 0 ok, 1 refused, 2 usage, 3 cannot reach the node, 4 timed out.
    """


for _command in (
    call, cap, discover, grant, namespace, privacy, region, request, status, watch, woof,
):  # fmt: skip
    program.add_command(_command)


def main() -> None:
    """The entry point of the ``edgistry`` program."""
    program(prog_name="edgistry")
