"""``edgistry-node handlers``: what runs on a node when something is put."""

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

from .cli_waiting import admin_client
from .handlers_api import HandlerEntry

COUNTED = 1000


@click.group()
def handlers() -> None:
    """See the handlers that a node runs, and how they are doing.

    They are functions of the Python module that node.toml names under [handlers].
    """


@handlers.command("list")
@directory_argument
@json_option
def handlers_list(directory: Path, as_json: bool) -> None:
    """List the handlers of the node in DIR, which must run.

    STATE is ok; stuck, when too many tries were given up and do not end; missing, when elements
    wait for a handler that is not in the module; halted, when the disk takes no more writes.
    """
    with admin_client(directory) as client:
        answer = client.handlers()
    if as_json:
        print_json(answer)
        return
    if not answer.handlers:
        tell(f"no handlers; name their module in {directory / 'node.toml'}: [handlers] module")
        return
    header = ("HANDLER", "STATE", "WAITING", "RUNNING", "DONE", "FAILED", "DEAD", "HOW")
    print_table(header, [_row(each) for each in answer.handlers])


def _row(entry: HandlerEntry) -> tuple[object, ...]:
    waiting = f"{COUNTED}+" if entry.waiting >= COUNTED else entry.waiting
    counts = (entry.running, entry.done, entry.failed, entry.dead)
    return (entry.name, entry.state, waiting, *counts, _how(entry))


def _how(entry: HandlerEntry) -> str:
    if entry.kind == "unknown":
        return "-"
    place = ", isolated" if entry.isolation == "process" else ""
    place += ", for devices" if entry.for_devices else ""
    return (
        f"{entry.kind}{place}, {entry.concurrency} at a time, {entry.attempts} tries"
        f" of {entry.timeout_s:g} s"
    )
