"""``edgistry-node mailbox``: what waits for devices, and what never arrived.

Rules kept here: nothing leaves the list of dead requests but by ``replay`` and ``purge``, and by
age when their clients have been told or are gone. Exit 0 when something was done, 1 when nothing
was.
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
from edgistry.wording import in_one_line

from .admin_api import MAX_LIST
from .cli_shared import check_named, finish_several
from .cli_waiting import admin_client
from .mailbox_api import MailboxEntry, RequestEntry

limit_option = option(
    "--limit", env="EDGISTRY_LIMIT", type=click.IntRange(1, MAX_LIST), metavar="COUNT",
    default=100, help="Show at most so many.",
)  # fmt: skip


@click.group("mailbox")
def mailbox() -> None:
    """See what waits for devices, and try again or forget what never arrived.

    \b
    QUEUED  waits for the device             LEASED  was handed to it
    ACKED   is durable there                 DEAD    was handed down in vain, too often
    """


@mailbox.command("show")
@directory_argument
@click.argument("device", metavar="[DEVICE]", required=False)
@limit_option
@json_option
def mailbox_show(directory: Path, device: str | None, limit: int, as_json: bool) -> None:
    """Show the mailboxes of the node in DIR, or that of DEVICE with its requests.

    SEEN is the device's last exchange. A device that is marked with ! is polled for by two
    programs: somebody has copied its directory.
    """
    with admin_client(directory) as client:
        if device is not None:
            detail = client.mailbox(device, limit)
            answer, more = detail, detail.more
            mailboxes, requests = [detail.mailbox], detail.requests
        else:
            listed = client.mailboxes(limit)
            answer, more = listed, listed.more  # type: ignore[assignment]
            mailboxes, requests = list(listed.mailboxes), ()
    if as_json:
        print_json(answer)
        return
    if not mailboxes:
        tell("no device has come, and nothing waits for one")
        return
    header = ("DEVICE", "QUEUED", "LEASED", "ACKED", "BYTES", "SEEN", "BACK IN", "EXCHANGES")
    print_table(header, [_box_row(each) for each in mailboxes])
    if device is not None:
        _print_requests(requests)
    _tell_more(more)


@mailbox.command("dead-letters")
@directory_argument
@limit_option
@json_option
def mailbox_dead(directory: Path, limit: int, as_json: bool) -> None:
    """List the requests of the node in DIR that never arrived."""
    with admin_client(directory) as client:
        answer = client.dead_requests(limit)
    if as_json:
        print_json(answer)
        return
    if not answer.requests:
        tell("no dead letters")
        return
    _print_requests(answer.requests)
    _tell_more(answer.more)


@mailbox.command("replay")
@directory_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@option(
    "--all", "every", env="EDGISTRY_ALL", is_flag=True, help="All for which it is not too late.",
)  # fmt: skip
@json_option
def mailbox_replay(directory: Path, ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Queue dead requests again: those that are named, or none if it is too late for one.

    It is too late when the deadline has passed, or the client has taken note of the end.
    """
    check_named(ids, every, "dead requests")
    with admin_client(directory) as client:
        answer = client.replay_requests(ids, every=every)
    finish_several(as_json, answer.count, "replayed", answer)


@mailbox.command("purge")
@directory_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@option("--all", "every", env="EDGISTRY_ALL", is_flag=True, help="All dead requests.")
@json_option
def mailbox_purge(directory: Path, ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Forget dead requests: those that are named, or none if one is not there.

    Clients that have not asked yet are still told that they are dead.
    """
    check_named(ids, every, "dead requests")
    with admin_client(directory) as client:
        answer = client.purge_requests(ids, every=every)
    finish_several(as_json, answer.count, "purged", answer)


def _tell_more(more: bool) -> None:
    if more:
        tell(f"there are more; --limit shows up to {MAX_LIST}")


def _box_row(entry: MailboxEntry) -> tuple[object, ...]:
    device = entry.device + ("!" if entry.conflicts else "")
    back_in = f"{entry.back_in_s} s" if entry.back_in_s else "-"
    return (
        device, entry.queued, entry.leased, entry.acked, entry.bytes, _moment(entry.seen), back_in,
        entry.exchanges,
    )  # fmt: skip


def _print_requests(requests: tuple[RequestEntry, ...]) -> None:
    header = ("ID", "STATE", "CLIENT", "PRIORITY", "TRIES", "BYTES", "DEADLINE", "REASON")
    rows = [
        (
            each.id, each.state + (" (recalled)" if each.recalled else ""), each.client,
            each.priority, each.attempts, each.bytes, _moment(each.deadline),
            in_one_line(each.reason) or "-",
        )
        for each in requests
    ]  # fmt: skip
    if rows:
        print_table(header, rows)


def _moment(text: str) -> str:
    """To the second: what is finer helps nobody."""
    return f"{text.partition('.')[0]}Z" if text else "-"
