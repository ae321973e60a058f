"""``edgistry-agent forget``: a device ends, and nothing of it stays.

Rules kept here:

* Nodes are told first, while there is something to tell them with; then everything in ``keys/``
  goes before all else, settings last: as long as ``agent.toml`` is there, one that was interrupted
  can be run again, and when it is gone nothing secret is left.
* Nobody runs the device meanwhile, or moves it: a move would write the seed anew.
* A node that cannot be told is named, with what its operator can do. The device is destroyed all
  the same: its owner wants that, and no node can hinder it.
* Nothing but what belongs to a device is removed, so that a wrong DIR loses nothing else. The
  owner's own handlers stay.

Not handled here: what a file system, a flash memory or a backup keeps of files that were removed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from edgistry.adapters.clock import wall_us
from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.adapters.http import run as run_loop
from edgistry.codec import Document
from edgistry.errors import DirectoryError, FileError, NotPairedError, Refused

from .directory import AgentDirectory, hold, hold_whereabouts, open_directory, read_device_id
from .pair_link import ask_to_leave
from .pairing import ROLES, Pairing, read_pairing

TIMEOUT_S = 10.0


class ForgetAnswer(Document):
    """What forgetting a device did."""

    device: str
    told: tuple[str, ...]
    """Names of the nodes that have forgotten it, or did not know it."""
    not_told: tuple[str, ...]
    """Names of the nodes that could not be told, or their roles if what was kept is damaged."""


@click.command("forget")
@directory_argument
@option(
    "--yes", "is_sure", env="EDGISTRY_YES", is_flag=True, help="Do not ask whether you are sure."
)  # fmt: skip
@json_option
def forget(directory: Path, is_sure: bool, as_json: bool) -> None:
    """Destroy the device in DIR: its secret, noise, pairings and data, here and at its nodes.

    Its services leave the registry. It cannot be undone: what was granted on it is void, and nobody
    can bring together with it what old blocks say.
    """
    layout, _ = open_directory(directory)
    device = _id_of(layout)
    if not is_sure:
        click.confirm(f"Destroy the device {device} for good?", abort=True, err=True)
    told: list[str] = []
    not_told: list[str] = []
    with hold(layout), hold_whereabouts(layout):
        for role in ROLES:
            try:
                pairing = read_pairing(layout.root, role, epoch=None)
            except FileError as error:
                tell(error.detail)
                not_told.append(f"the {role} node")
                continue
            if pairing is not None:
                names = told if _tell(pairing) else not_told
                names.append(pairing.answer.node_name)
        for name in not_told:
            # Before what is known of it is gone: whoever runs this again hears nothing of it.
            tell(f"{name} could not be told: edgistry-node device forget NODE_DIR {device}")
        destroy(layout)
    if as_json:
        print_json(ForgetAnswer(device=device, told=tuple(told), not_told=tuple(not_told)))
    else:
        click.echo(f"{device} is forgotten")


def destroy(layout: AgentDirectory) -> None:
    """Remove what belongs to the device, its secrets first. Safe to repeat after an interruption.

    Raises:
        DirectoryError: something cannot be removed; it can be tried again.
    """
    try:
        for path in (layout.secret_file, layout.whereabouts_file):
            path.unlink(missing_ok=True)
        # Also what a process that was killed had not yet put in its place. The folder stays until
        # the end: without it nobody can run this again.
        for path in layout.keys_dir.iterdir():
            _remove(path)
        _sync(layout.keys_dir)
        for folder in (layout.database.parent, layout.log_file.parent):
            if folder.exists():
                shutil.rmtree(folder)
        for path in (layout.manifest_file, layout.id_file):
            path.unlink(missing_ok=True)
        _sync(layout.root)
        layout.config_file.unlink()
        _sync(layout.root)
        layout.keys_dir.rmdir()
    except OSError as error:
        raise DirectoryError(f"{error.filename or layout.root}: {error.strerror}") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(folder: Path) -> None:
    """What was removed from ``folder`` stays removed, whatever happens."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _id_of(layout: AgentDirectory) -> str:
    try:
        return read_device_id(layout)
    except DirectoryError:
        return "of this directory"  # an earlier run was interrupted


def _tell(pairing: Pairing) -> bool:
    leaving = ask_to_leave(pairing, now_us=wall_us(), timeout_s=TIMEOUT_S, forget=True)
    try:
        run_loop(leaving)
    except NotPairedError:
        return True
    except Refused as error:
        tell(f"{pairing.answer.node_name}: {error.detail}")
        return False
    return True
