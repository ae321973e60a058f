"""``edgistry-node device forget``: destroys what a node knows of a device.

Rules kept here: nothing is destroyed without a question, unless the caller is sure (``--yes``).
That it is to be destroyed is durable when the command ends, also if the chain has to be waited for.

Not handled here: what is destroyed (``registration``, ``pairing_desk``, ``mirror_keeper``).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from edgistry.adapters.commands import directory_argument, json_option, option, print_json
from edgistry.codec import Document
from edgistry.errors import MalformedError
from edgistry.pairing import check_device_id
from edgistry.wording import visible

from .admin_client import AdminClient
from .cli_waiting import admin_client, not_yet, wait_option, wait_until_settled
from .pairing import device_of_row

_LOOK_EVERY_S: Final = 0.5


class ForgetResult(Document):
    """What was forgotten."""

    forgotten: str
    tentative: bool
    """The chain has not let its records go yet; what they were made from goes with them."""


@click.command("forget")
@directory_argument
@click.argument("which", metavar="[HANDLE|DEVICE]", required=False)
@option(
    "--withdrawn", "is_withdrawn", env="EDGISTRY_WITHDRAWN", is_flag=True,
    help="Destroy instead what was kept of all devices that were withdrawn.",
)  # fmt: skip
@option(
    "--yes", "is_sure", env="EDGISTRY_YES", is_flag=True, help="Do not ask whether you are sure."
)  # fmt: skip
@wait_option
@json_option
def device_forget(
    directory: Path,
    which: str | None,
    is_withdrawn: bool,
    is_sure: bool,
    wait_s: float,
    as_json: bool,
) -> None:
    """Destroy what the node in DIR knows of a device: by a handle, or the id of a paired one.

    Its services leave the registry; its name, position, salt, noise, key, pairing and mirrors are
    destroyed. Nobody can bring together with it then what old blocks say.
    """
    if (which is None) != is_withdrawn:
        raise click.UsageError("name a device, or --withdrawn")
    name = which or "withdrawn devices"
    if not is_sure:
        question = f"Destroy all that this node knows of {visible(name)}?"
        click.confirm(question, abort=True, err=True)
    with admin_client(directory) as client:
        device = "" if which is None else _paired_device(client, which)
        is_settled = True
        if which is None:
            name = f"{client.forget_withdrawn()} withdrawn devices"
        elif device:
            client.revoke_device(device, forget=True)
            is_settled = _wait_until_gone(client, device, timeout_s=wait_s)
        else:
            answer = client.withdraw([which], forget=True)
            is_settled, _ = wait_until_settled(
                client, answer.sequence, height=answer.height, timeout_s=wait_s
            )
    if as_json:
        print_json(ForgetResult(forgotten=name, tentative=not is_settled))
    else:
        click.echo(f"forgotten: {visible(name)}{not_yet(not is_settled)}")


def _paired_device(client: AdminClient, which: str) -> str:
    """The id of the paired device that ``which`` is, or whose service it is; "" for neither."""
    try:
        return check_device_id(which)
    except MalformedError:
        return client.device_of(which)


def _wait_until_gone(client: AdminClient, device: str, *, timeout_s: float) -> bool:
    """Whether no service of ``device`` was left in time."""
    deadline_s = time.monotonic() + timeout_s
    while any(device_of_row(row.id) == device for row in client.devices()):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(_LOOK_EVERY_S, left_s))
    return True
