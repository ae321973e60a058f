"""``edgistry-node forwards``: WooFs whose elements go onward to another runtime."""

from __future__ import annotations

from pathlib import Path

import click

from edgistry.adapters.commands import (
    directory_argument,
    json_option,
    print_json,
    print_table,
    tell,
)
from edgistry.wording import in_one_line

from .cli_waiting import admin_client
from .forwards_api import ForwardEntry, ForwardList


@click.group()
def forwards() -> None:
    """See how WooFs are forwarded to other nodes and hosts.

    The tables [[forward]] of node.toml say which WooF goes where.
    """


@forwards.command("list")
@directory_argument
@json_option
def forwards_list(directory: Path, as_json: bool) -> None:
    """List what the node in DIR, which must run, forwards.

    LAG is the number of elements still to go. GONE are those that the history had moved past
    before they went; REFUSED those that the destination does not take. STATE is reading, when
    nothing is under way; sending; starting, while the destination has not answered; in doubt,
    when nobody but you can tell whether an element has arrived (see settle).
    """
    with admin_client(directory) as client:
        answer = client.forwards()
    if as_json:
        print_json(answer)
        return
    if not answer.forwards:
        tell(f"nothing is forwarded; see [[forward]] in {directory / 'node.toml'}")
        return
    _print(answer)


@forwards.command("settle")
@directory_argument
@click.argument("woof", metavar="WOOF")
@click.argument("through", metavar="NUMBER", type=click.IntRange(0))
@json_option
def forwards_settle(directory: Path, woof: str, through: int, as_json: bool) -> None:
    """Say which elements in doubt have arrived: those of WOOF up to NUMBER.

    Elements come into doubt when their answer was lost and cannot be asked for again: after an
    outage of more than a week, or a change of the capability in the midst of one. Look at the
    newest elements there, then say the number, here, of the last one that has arrived; of none,
    the number before the first in doubt. The others are sent again.
    """
    with admin_client(directory) as client:
        answer = client.settle_forward(woof, through)
    if as_json:
        print_json(answer)
        return
    _print(answer)


def _print(answer: ForwardList) -> None:
    header = ("WOOF", "TO", "STATE", "LAG", "DELIVERED", "REFUSED", "GONE")
    print_table(header, [_row(each) for each in answer.forwards])
    for each in answer.forwards:
        for remark in (each.reason, each.refusal and f"refused: {each.refusal}"):
            if remark:
                tell(f"{each.woof}: {in_one_line(remark)}")


def _row(entry: ForwardEntry) -> tuple[object, ...]:
    counts = (entry.lag, entry.delivered, entry.refused, entry.gone)
    return (entry.woof, entry.to, entry.state, *counts)
