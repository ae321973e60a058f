"""``edgistry-agent energy | status``: what a device has spent, and how it is doing."""

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
from edgistry.codec import Document
from edgistry.errors import FileError, NotFoundError

from .account import Account, WakeEntry, read_account
from .directory import (
    AgentDirectory,
    open_directory,
    read_device_id,
    read_epoch,
    running_pid,
)
from .energy import BOARDS, Spending, estimated_mj
from .pairing import read_pairings

DAY_S = 86_400.0


@click.command("energy")
@directory_argument
@option(
    "--limit", env="EDGISTRY_LIMIT", type=click.IntRange(0, 48), metavar="N", default=10,
    help="How many of the last wakes to show.",
)  # fmt: skip
@json_option
def energy(directory: Path, limit: int, as_json: bool) -> None:
    """Show what the device in DIR has spent: time awake, bytes, and an estimate of the energy.

    Time and bytes are measured. The energy is what a board of the profile in agent.toml would have
    taken: good for comparing settings; measure the board to know.
    """
    layout, _ = open_directory(directory)
    try:
        account = read_account(layout.account_file)
    except NotFoundError:
        raise NotFoundError(
            f"there is no account yet: the device has not woken; `edgistry-agent run {directory}`"
        ) from None
    if as_json:
        print_json(account)
        return
    _print_wakes(account.wakes[max(len(account.wakes) - limit, 0) :])
    _print_totals(account)


def _print_wakes(wakes: tuple[WakeEntry, ...]) -> None:
    if not wakes:
        return
    rows = [
        (
            each.ended,
            each.awake_ms,
            each.sent,
            each.received,
            each.requests,
            each.failures,
            f"{each.energy_mj:.1f}",
        )
        for each in wakes
    ]
    header = ("ENDED", "AWAKE ms", "SENT B", "RECEIVED B", "REQUESTS", "FAILURES", "ENERGY mJ")
    print_table(header, rows)
    click.echo()


def _print_totals(account: Account) -> None:
    totals = account.totals
    count = max(totals.wakes, 1)
    # The sleep that the last wake planned belongs to its cycle: without it the first wake of a
    # device would look as if it never slept.
    planned_s = account.wakes[-1].next_wake_s if account.wakes else 0.0
    whole_s = totals.awake_s + totals.asleep_s + planned_s
    click.echo(f"since {account.since}: {totals.wakes} wakes, {totals.requests} requests")
    click.echo(
        f"a wake: {totals.awake_s / count * 1000:.0f} ms awake, {totals.sent / count:.0f} bytes up,"
        f" {totals.received / count:.0f} down"
    )
    if whole_s > 0:
        energy_mj = totals.energy_mj
        if account.board in BOARDS:
            energy_mj += estimated_mj(Spending(asleep_s=planned_s), BOARDS[account.board])
        a_day_j = energy_mj / 1000.0 * DAY_S / whole_s
        share = totals.awake_s / whole_s
        click.echo(
            f"awake {share:.3%} of the time; about {a_day_j:.1f} J a day"
            f" (estimate, board {account.board})"
        )


class NodeLine(Document):
    """One node that the device is paired with."""

    role: str
    name: str
    url: str


class DeviceStatus(Document):
    """How a device is doing."""

    device: str
    """The device's id."""
    running: bool
    pid: int | None
    epoch: int
    nodes: tuple[NodeLine, ...]
    last_wake: WakeEntry | None


@click.command("status")
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show how the device in DIR is doing: its nodes, and its last wake."""
    layout, _ = open_directory(directory)
    answer = device_status(layout)
    if as_json:
        print_json(answer)
        return
    state = f"runs (pid {answer.pid})" if answer.running else "does not run"
    click.echo(f"device {answer.device}: {state}, epoch {answer.epoch}")
    for node in answer.nodes:
        click.echo(f"{node.role} node: {node.name}, {node.url}")
    if not answer.nodes:
        click.echo("not paired with a node")
    last = answer.last_wake
    if last is not None:
        outcome = "no node answered" if not last.exchanges else f"{last.requests} requests"
        click.echo(
            f"last wake: {last.ended}, {last.awake_ms} ms, {outcome};"
            f" the next one {last.next_wake_s:.0f} s after it"
        )


def device_status(layout: AgentDirectory) -> DeviceStatus:
    """How the device in ``layout`` is doing."""
    epoch = read_epoch(layout)
    try:
        wakes = read_account(layout.account_file).wakes
    except NotFoundError:
        wakes = ()
    except FileError as error:
        tell(f"the last wake is not known: {error.detail}")
        wakes = ()
    pid = running_pid(layout)
    return DeviceStatus(
        device=read_device_id(layout),
        running=pid is not None,
        pid=pid,
        epoch=epoch,
        nodes=tuple(
            NodeLine(role=each.role, name=each.answer.node_name, url=each.url)
            for each in read_pairings(layout.root, epoch=epoch)
        ),
        last_wake=wakes[-1] if wakes else None,
    )
