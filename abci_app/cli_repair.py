"""``edgistry-node repair``: look for damage in a node's databases, and repair it."""

from __future__ import annotations

from pathlib import Path

import click

from edgistry.adapters.commands import directory_argument, json_option, option, print_json, tell
from edgistry.errors import CorruptDatabaseError
from edgistry.wording import visible

from .directory import hold, open_directory
from .repair import DatabaseReport, RepairReport
from .repair import examine as examine_node
from .repair import repair as repair_node


@click.command("repair")
@directory_argument
@option(
    "--check",
    env="EDGISTRY_CHECK",
    is_flag=True,
    help="Only look, and change nothing; exits with 1 if something is damaged.",
)
@json_option
def repair(directory: Path, check: bool, as_json: bool) -> None:
    """Look for damage in the databases of the node in DIR, which must not run, and repair it.

    Damaged files are kept beside the repaired ones, under another name: back them up. What could
    not be saved is named.

    A damaged registry of a node with an engine is only put aside: the engine makes it anew from
    its blocks at the next start.
    """
    layout, config = open_directory(directory)
    with hold(layout):
        if check:
            report = examine_node(layout, tell=tell)
        else:
            report = repair_node(layout, config.engine, tell=tell)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.is_damaged:
        raise CorruptDatabaseError(f"{directory} is damaged; nothing was changed")


def _print(report: RepairReport) -> None:
    for database in report.databases:
        for line in _lines(database):
            click.echo(visible(line))


def _lines(database: DatabaseReport) -> list[str]:
    name = Path(database.path).name
    lines = [f"{name}: {_WORDS[database.state]}"]
    if database.damage is not None:
        lines.append(f"  damage: {database.damage}")
    if database.entries is not None:
        lines.append(f"  entries now: {database.entries}")
    if database.kept is not None:
        lines.append(f"  the damaged files are in {database.kept}")
    lines += [f"  left out: {remark}" for remark in database.remarks]
    lines += [
        f"  lost: elements {each.first} to {each.last} of {each.woof}" for each in database.lost
    ]
    if database.state == "repaired":
        lines.append("  what was newest may be missing without a trace: import your devices again")
    return lines


_WORDS = {
    "missing": "not made yet",
    "whole": "whole",
    "damaged": "damaged",
    "repaired": "repaired",
    "aside": "put aside; the engine makes it anew at the next start",
}
