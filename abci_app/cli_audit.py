"""``edgistry-node audit``: what was asked of a node."""

from __future__ import annotations

from datetime import UTC, datetime
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

from .cli_mailbox import limit_option
from .cli_waiting import admin_client


@click.group("audit")
def audit() -> None:
    """See what was asked of a node, by pseudonym."""


@audit.command("list")
@directory_argument
@limit_option
@json_option
def audit_list(directory: Path, limit: int, as_json: bool) -> None:
    """List the newest questions to the node in DIR, newest first.

    WHO is a pseudonym of the client who signed, or of the address that the question came from: the
    same for the same one, on this node alone. STATUS - is a question that was refused. How many
    are kept, and for how long, node.toml says in section [audit].
    """
    with admin_client(directory) as client:
        answer = client.queries(limit)
    if as_json:
        print_json(answer)
        return
    if not answer.queries:
        tell("nothing was asked")
        return
    rows = [
        (
            _moment(each.time_us), each.who, each.operation, each.type or "-",
            in_one_line(each.area) or "-", each.status or "-", each.size,
        )
        for each in answer.queries
    ]  # fmt: skip
    print_table(("TIME", "WHO", "OPERATION", "TYPE", "AREA", "STATUS", "BYTES"), rows)
    if answer.lost:
        tell(f"{answer.lost} more came faster than they could be kept")


def _moment(time_us: int) -> str:
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
