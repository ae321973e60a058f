"""``edgistry-node device | fleet``: what a node's owner registers with it.

Rules kept here:

* Everything goes over the node's own socket; the node must run, the chain need not: what is
  accepted meanwhile is durable, and published when blocks are made again ("tentative").
* Exit 0 when something was accepted, 1 when nothing was.
* Files are read as a stream: of a row that is sent only a few bytes are kept.

Not handled here: the commands that read the registry as any client does (``edgistry``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from edgistry.adapters.commands import (
    directory_argument,
    json_option,
    option,
    print_json,
    print_table,
    tell,
)
from edgistry.codec import Document, encode_json
from edgistry.errors import FileError, Refused
from edgistry.policy import MAX_CROWD, MAX_NOISE_M
from edgistry.transactions import MAX_BATCH_RECORDS
from edgistry.wording import visible

from .admin_api import DeviceRow
from .cli_region import region
from .cli_waiting import admin_client, not_yet, progress, wait_option, wait_until_settled
from .contradictions import without_contradictions
from .directory import open_directory
from .fleet import DEFAULT_ACTIONS, OPTIONAL_COLUMNS, BadRow, FleetFile, LineNumber, check_device
from .import_run import ImportResult, ImportRun
from .over_limits import is_entry_over

__all__ = ["device", "fleet", "region"]

_CHUNK_BYTES = 64 * 1024
_SHOWN_REJECTIONS = 100


class RegisterResult(ImportResult):
    """What registering one device did, as ``--json`` prints it."""

    handle: str
    """The opaque name under which clients find it; empty when it was rejected."""


class WithdrawResult(Document):
    withdrawn: int
    tentative: int
    """How many of them the chain has not let go yet."""
    height: int


# --- device -------------------------------------------------------------------------------------


@click.group()
def device() -> None:
    """Register, list and withdraw the devices of a node."""


@device.command("register")
@directory_argument
@option(
    "--type", "type_name", env="EDGISTRY_TYPE", metavar="TYPE", required=True,
    help="What it is, for instance thermometer.",
)  # fmt: skip
@option(
    "--lat", env="EDGISTRY_LAT", type=float, metavar="DEGREES", required=True,
    help="Latitude, north is positive. Stays on this node.",
)  # fmt: skip
@option(
    "--lon", env="EDGISTRY_LON", type=float, metavar="DEGREES", required=True,
    help="Longitude, east is positive. Stays on this node.",
)  # fmt: skip
@option(
    "--resolution", env="EDGISTRY_RESOLUTION", type=click.IntRange(5, 7), metavar="5|6|7",
    default=7, help="Resolution of the published H3 cell; 7 (about 5 km²) is the finest.",
)  # fmt: skip
@option(
    "--noise", "noise_m", env="EDGISTRY_NOISE", type=click.IntRange(0, MAX_NOISE_M),
    metavar="METRES", default=0, help="Move the position at random by up to so much, once.",
)  # fmt: skip
@option(
    "--crowd", env="EDGISTRY_CROWD", type=click.IntRange(1, MAX_CROWD), metavar="OWNERS",
    default=1, help="Show it only in an area where so many owners have such a device.",
)  # fmt: skip
@option(
    "--owner", env="EDGISTRY_OWNER", metavar="KEY", default="",
    help="Ed25519 public key (hexadecimal) of whom it belongs to; if not given, the operator.",
)  # fmt: skip
@option(
    "--action", "actions", env="EDGISTRY_ACTION", metavar="ACTION", multiple=True,
    default=DEFAULT_ACTIONS, help="What may be asked of it; give it again for each.",
)  # fmt: skip
@option(
    "--name", env="EDGISTRY_DEVICE_NAME", metavar="NAME", default="",
    help="Your own name for it. Stays on this node; tells two devices at one place apart.",
)  # fmt: skip
@wait_option
@json_option
def device_register(
    directory: Path,
    type_name: str,
    lat: float,
    lon: float,
    resolution: int,
    noise_m: int,
    crowd: int,
    owner: str,
    actions: tuple[str, ...],
    name: str,
    wait_s: float,
    as_json: bool,
) -> None:
    """Register one device with the node in DIR.

    The same type, position and name again is the same device: nothing changes. Where it is
    published is decided once, and stays when it is withdrawn and registered again. [privacy] in
    node.toml may forbid to show so much.
    """
    row = DeviceRow(
        line=1,
        id=None,
        name=name,
        lat=lat,
        lon=lon,
        type=type_name,
        actions=actions,
        resolution=resolution,
        noise_m=noise_m,
        crowd=crowd,
        owner=owner.strip().lower(),
    )
    with admin_client(directory) as client:
        run = ImportRun(client)
        run.send([_checked(row)])
        run.wait(wait_s)
    result = run.result()
    if as_json:
        print_json(_with_handle(result, run.handle if run.accepted else ""))
    elif run.accepted:
        click.echo(f"{_one_outcome(result)}: {run.handle}{not_yet(result.tentative > 0)}")
    else:
        tell(f"rejected: {result.rejected[0].reason}")
    _exit_unless(run.accepted)


def _checked(row: DeviceRow) -> DeviceRow | BadRow:
    # Checked here as a file's rows are: JSON, which goes to the node, has no nan and no inf.
    try:
        return check_device(row)
    except Refused as error:
        return BadRow(line=LineNumber(row.line), reason=error.detail)


@device.command("list")
@directory_argument
@option(
    "--over-limits",
    env="EDGISTRY_OVER_LIMITS",
    is_flag=True,
    help="Only those that show more than [privacy] in node.toml allows now.",
)
@json_option
def device_list(directory: Path, over_limits: bool, as_json: bool) -> None:
    """List the devices of the node in DIR, with their names and positions.

    Limits in node.toml hold for what is registered or paired from then on. With --over-limits you
    see which devices were listed before under a policy that shows more: register or pair them anew
    with another one, or withdraw them.
    """
    with admin_client(directory) as client:
        devices = client.devices()
        if over_limits:
            limits = open_directory(directory)[1].privacy.limits
            devices = (each for each in devices if is_entry_over(each, limits))
        if as_json:
            _print_json_list("devices", devices)
            return
        rows = [
            (
                each.handle,
                each.state,
                each.type,
                each.cell,
                f"{each.lat:.5f},{each.lon:.5f}",
                each.name if each.id is None else f"{each.name} [{each.id}]",
            )
            for each in devices
        ]
    print_table(("HANDLE", "STATE", "TYPE", "CELL", "POSITION", "NAME"), rows)


@device.command("withdraw")
@directory_argument
@click.argument("handles", metavar="HANDLE...", nargs=-1, required=True)
@wait_option
@json_option
def device_withdraw(
    directory: Path, handles: tuple[str, ...], wait_s: float, as_json: bool
) -> None:
    """Withdraw devices of the node in DIR, all or none.

    Their records leave the registry; then the node forgets their names, positions and salts. What
    noise was drawn from stays, so that they are published where they were if they come back;
    `device forget` destroys that too.
    """
    if len(set(handles)) > MAX_BATCH_RECORDS:
        raise click.UsageError(
            f"{len(set(handles))} handles; {MAX_BATCH_RECORDS} fit into the one transaction that"
            " withdraws all or none of them"
        )
    with admin_client(directory) as client:
        answer = client.withdraw(sorted(set(handles)))
        settled, height = wait_until_settled(
            client, answer.sequence, height=answer.height, timeout_s=wait_s
        )
    result = WithdrawResult(
        withdrawn=answer.withdrawn, tentative=0 if settled else len(set(handles)), height=height
    )
    if as_json:
        print_json(result)
    else:
        click.echo(f"withdrawn: {answer.withdrawn}{not_yet(not settled)}")


# --- fleet --------------------------------------------------------------------------------------


@click.group()
def fleet() -> None:
    """Register many devices at once."""


@fleet.command("import")
@directory_argument
@option(
    "--csv", "file", env="EDGISTRY_CSV", metavar="FILE", required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8, with a header that names name,lat,lon and, if wanted, "
    + ",".join(OPTIONAL_COLUMNS) + ".",
)  # fmt: skip
@option(
    "--type", "type_name", env="EDGISTRY_TYPE", metavar="TYPE",
    help="Type of the rows that have none of their own.",
)  # fmt: skip
@wait_option
@json_option
def fleet_import(
    directory: Path, file: Path, type_name: str | None, wait_s: float, as_json: bool
) -> None:
    """Register the devices in a CSV file with the node in DIR.

    A device is the same one when its id is, or without an id when name, position and type are
    exactly the same. So a second run changes nothing, and a run that was interrupted is finished
    by running it again. Bad rows are listed; good rows are imported all the same. A row that says
    something else about a device than an earlier one is bad. A device with an id that has moved is
    published there when the next privacy epoch begins.
    """
    with admin_client(directory) as client, _open(file) as stream:
        run = ImportRun(client)
        size = os.fstat(stream.fileno()).st_size
        with progress("importing", size) as sent:
            rows = FleetFile(_chunks(stream, sent), default_type=type_name)
            if rows.ignored:
                tell(f"ignored columns: {', '.join(rows.ignored)}")
            try:
                run.send(without_contradictions(rows))
            except BaseException:
                if run.accepted:
                    tell(f"{run.accepted} rows are accepted; run it again to go on from there")
                raise
        with progress("waiting for blocks", run.waiting) as confirmed:
            run.wait(wait_s, confirmed)
    result = run.result()
    if as_json:
        print_json(result)
    else:
        _print_import(result)
    if run.unlisted:
        tell(f"{run.unlisted} more rows were rejected and are not listed")
    _exit_unless(run.accepted)


# --- what they share ----------------------------------------------------------------------------


@contextlib.contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}") from None
    with stream:
        yield stream


def _chunks(stream: BinaryIO, sent: Callable[[int], None]) -> Iterator[bytes]:
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
            sent(len(chunk))
    except OSError as error:
        raise FileError(f"{stream.name}: {error.strerror}") from None


def _print_json_list(name: str, entries: Iterable[object]) -> None:
    """A JSON object with one long list, an entry a line, without holding all of it."""
    click.echo(f'{{"{name}": [', nl=False)
    separator = "\n  "
    for entry in entries:
        click.echo(separator + encode_json(entry).decode(), nl=False)
        separator = ",\n  "
    click.echo("\n]}")


def _with_handle(result: ImportResult, handle: str) -> RegisterResult:
    return RegisterResult(
        added=result.added,
        updated=result.updated,
        unchanged=result.unchanged,
        rejected=result.rejected,
        tentative=result.tentative,
        height=result.height,
        handle=handle,
    )


def _one_outcome(result: ImportResult) -> str:
    return "added" if result.added else "updated" if result.updated else "unchanged"


def _print_import(result: ImportResult) -> None:
    click.echo(
        f"added {result.added}, updated {result.updated}, unchanged {result.unchanged}, "
        f"rejected {len(result.rejected)} (height {result.height})"
    )
    if result.tentative:
        click.echo(
            f"{result.tentative} of them are kept here, but the chain has not confirmed them yet; "
            "they are published as soon as it makes blocks again"
        )
    for each in result.rejected[:_SHOWN_REJECTIONS]:
        click.echo(f"line {each.line}: {visible(each.reason)}")
    if len(result.rejected) > _SHOWN_REJECTIONS:
        click.echo(f"… and {len(result.rejected) - _SHOWN_REJECTIONS} more; --json lists them")


def _exit_unless(accepted: int) -> None:
    if not accepted:
        raise SystemExit(1)
