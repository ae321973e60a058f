"""``edgistry-node pair-code``, ``device import | paired | revoke``: devices and their home node.

Rules kept here: a code goes to stdout alone, so that a script can pass it on; files with secrets
are 0600 and never overwritten.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgistry.adapters.commands import (
    directory_argument,
    json_option,
    option,
    print_json,
    print_table,
    tell,
)
from edgistry.errors import FileError
from edgistry.pairing import MAX_OFFER_BYTES

from .admin_api import MAX_LIST
from .cli_shared import DURATION, read_file
from .cli_waiting import admin_client
from .directory import write_secret
from .pairing_api import MAX_CODES, MirrorEntry, PairedEntry

replace_option = option(
    "--replace", env="EDGISTRY_REPLACE", is_flag=True,
    help="Also let in a device whose id is known here with another key.",
)  # fmt: skip

limit_option = option(
    "--limit", env="EDGISTRY_LIMIT", type=click.IntRange(1, MAX_LIST), metavar="COUNT",
    default=100, help="Show at most so many.",
)  # fmt: skip


@click.command("pair-code")
@directory_argument
@option(
    "--ttl", "ttl_s", env="EDGISTRY_TTL", type=DURATION, metavar="DURATION", default="10m",
    help="How long it is good, up to 7 days.",
)  # fmt: skip
@option(
    "--count", env="EDGISTRY_COUNT", type=click.IntRange(1, MAX_CODES), metavar="COUNT",
    default=1, help="Make so many codes, one a line.",
)  # fmt: skip
@replace_option
@json_option
def pair_code(directory: Path, ttl_s: float, count: int, replace: bool, as_json: bool) -> None:
    """Make a code with which one device can pair with the node in DIR.

    Type it at the device: edgistry-agent pair DIR --node URL --code CODE. It says which key the
    node has, so that the device speaks to nobody else, and is a secret until it was used.
    """
    with admin_client(directory) as client:
        answer = client.pair_codes(count, ttl_s=ttl_s, replace=replace)
    if as_json:
        print_json(answer)
        return
    for code in answer.codes:
        click.echo(code)
    tell(f"good for one device{' each' if count > 1 else ''} until {answer.expires}")


@click.command("import")
@directory_argument
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@option(
    "--out", env="EDGISTRY_OUT", metavar="FILE", type=click.Path(path_type=Path), required=True,
    help="Where to write the node's answer, for the device; must not exist.",
)  # fmt: skip
@replace_option
@json_option
def device_import(directory: Path, file: Path, out: Path, replace: bool, as_json: bool) -> None:
    """Pair the device that wrote FILE (edgistry-agent pairing-file) with the node in DIR.

    Carry the answer back: edgistry-agent pair DIR --node URL --answer FILE. Both files are secrets;
    remove them when the device is paired.
    """
    offer = read_file(file, limit=MAX_OFFER_BYTES)
    if out.exists():
        raise FileError(f"{out} exists")
    with admin_client(directory) as client:
        answer = client.import_device(offer, replace=replace)
    _write(out, answer.answer)
    if as_json:
        print_json({"device": answer.device, "answer": str(out)})
    else:
        click.echo(f"{answer.device} is paired; carry {out} to it")


@click.command("mirrors")
@directory_argument
@limit_option
@json_option
def device_mirrors(directory: Path, limit: int, as_json: bool) -> None:
    """List the WooFs of devices that the node in DIR mirrors.

    THROUGH is the number, on the device, of the last element that is here; LOST counts those that
    the device had evicted before they were read. MIRROR is a WooF of this node: it can be read with
    a capability, and go onward with [[forward]] in node.toml. HANDLER runs here on each element:
    elements wait for one that is missing, and become dead letters of one that is not for devices.
    """
    with admin_client(directory) as client:
        answer = client.mirrors(limit)
    if as_json:
        print_json(answer)
        return
    if not answer.mirrors:
        tell("nothing is mirrored; a device's manifest says mirror = true")
        return
    rows = [
        (each.device, each.woof, each.mirror, each.through, each.lost, _handler(each))
        for each in answer.mirrors
    ]
    print_table(("DEVICE", "WOOF", "MIRROR", "THROUGH", "LOST", "HANDLER"), rows)
    if answer.more:
        tell(f"there are more; --limit shows up to {MAX_LIST}")


@click.command("paired")
@directory_argument
@limit_option
@json_option
def device_paired(directory: Path, limit: int, as_json: bool) -> None:
    """List the devices that are paired with the node in DIR.

    STATE is ready when the services are listed, else how many requests of the set-up the device
    has not answered yet. Of a device whose primary node is another one it is fallback; or stands
    in, while that one is away and the services are listed here.
    """
    with admin_client(directory) as client:
        answer = client.paired(limit)
    if as_json:
        print_json(answer)
        return
    if not answer.devices:
        tell("no device is paired; `edgistry-node pair-code` makes a code for one")
        return
    header = ("DEVICE", "NAME", "STATE", "WAKES", "SERVICES", "PAIRED")
    print_table(header, [_row(each) for each in answer.devices])
    if answer.more:
        tell(f"there are more; --limit shows up to {MAX_LIST}")


@click.command("revoke")
@directory_argument
@click.argument("device", metavar="DEVICE")
@json_option
def device_revoke(directory: Path, device: str, as_json: bool) -> None:
    """Forget DEVICE (its id), which is lost or stolen, at the node in DIR.

    Its services are withdrawn, requests that wait for it end, and it can poll no more. What others
    have granted on it with its own key ends only with its key.
    """
    with admin_client(directory) as client:
        answer = client.revoke_device(device)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"revoked {answer.device}")


def _handler(entry: MirrorEntry) -> str:
    states = {"missing": " (missing)", "refused": " (not for devices)"}
    return (entry.handler or "-") + states.get(entry.handler_state, "")


def _row(entry: PairedEntry) -> tuple[object, ...]:
    state = entry.stage if entry.stage != "asked" else f"{entry.waiting} to answer"
    if entry.role == "fallback":
        state = "stands in" if entry.stands_in else "fallback"
    wakes = f"every {entry.period_s} s" if entry.period_s else "always"
    types = ",".join(entry.types) or "-"
    return (entry.device, entry.name or "-", state, wakes, types, entry.paired)


def _write(out: Path, data: bytes) -> None:
    try:
        write_secret(out, data)
    except OSError as error:
        raise FileError(f"{out}: {error.strerror}") from None
