"""``edgistry-node``: the command line of those who run a node.

Rules kept here: exit codes are 0 ok, 1 refused, 2 usage, 3 cannot reach, 4 timed out; a refusal
is shown in one form, by one function; anything else that escapes is a bug and shows a traceback.

Not handled here: the commands themselves (``cli_*.py``).
"""

from __future__ import annotations

import click

from edgistry.adapters.commands import CONTEXT_SETTINGS, Program

from .cli_audit import audit
from .cli_cap import cap
from .cli_cluster import cluster
from .cli_dead_letters import dead_letters
from .cli_engine import engine
from .cli_forget import device_forget
from .cli_forwards import forwards
from .cli_handlers import handlers
from .cli_host import host
from .cli_mailbox import mailbox
from .cli_member import join, member
from .cli_node import abci, init, run, status
from .cli_pairing import device_import, device_mirrors, device_paired, device_revoke, pair_code
from .cli_register import device, fleet, region
from .cli_repair import repair


@click.group("edgistry-node", cls=Program, context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="edgistry", prog_name="edgistry-node")
def program() -> None:
    """Run Edgistry nodes, and register devices with them.

    \b
    A node on its own:   edgistry-node init DIR; edgistry-node run DIR
    Four that agree:     edgistry-node cluster init DIR; edgistry-node cluster up DIR
    Without a registry:  edgistry-node init DIR --engine none; edgistry-node host DIR

    \b
    Exit codes: 0 ok, 1 refused, 2 usage, 3 cannot reach the node, 4 timed out.
    """


for _command in (
    init, join, run, host, status, pair_code, device, fleet, region, cap, handlers, dead_letters,
    mailbox, forwards, audit, member, cluster, engine, abci, repair,
):  # fmt: skip
    program.add_command(_command)

for _command in (device_import, device_paired, device_mirrors, device_revoke, device_forget):
    device.add_command(_command)


def main() -> None:
    """The entry point of the ``edgistry-node`` program."""
    program(prog_name="edgistry-node")
