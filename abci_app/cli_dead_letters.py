"""``edgistry-node dead-letters``: what failed for good, and what to do about it.

Rules kept here: nothing leaves the list but by ``replay`` and ``purge``, and by age when there are
too many. Exit 0 when something was done, 1 when nothing was.
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
from .handlers_api import DeadLetterDetail, DeadLetterEntry

SHOWN_REASON = 60


@click.group("dead-letters")
def dead_letters() -> None:
    """See what failed for good, and try it again or forget it.

    \b
    h1, h2 ...  elements whose handler failed each time it was tried
    t1, t2 ...  transactions that the chain refused
    """


@dead_letters.command("list")
@directory_argument
@option(
    "--limit", env="EDGISTRY_LIMIT", type=click.IntRange(1, MAX_LIST), metavar="COUNT",
    default=100, help="Show at most so many.",
)  # fmt: skip
@json_option
def letters_list(directory: Path, limit: int, as_json: bool) -> None:
    """List the dead letters of the node in DIR, newest first."""
    with admin_client(directory) as client:
        answer = client.dead_letters(limit)
    if as_json:
        print_json(answer)
        return
    if not answer.dead_letters:
        tell("no dead letters")
        return
    rows = [
        (each.id, each.what, each.about, each.attempts, each.died or "-", _short(each.reason))
        for each in answer.dead_letters
    ]
    print_table(("ID", "WHAT", "ABOUT", "TRIES", "DIED", "REASON"), rows)
    if answer.more:
        tell(f"there are more; --limit shows up to {MAX_LIST}")


@dead_letters.command("show")
@directory_argument
@click.argument("name", metavar="ID")
@json_option
def letters_show(directory: Path, name: str, as_json: bool) -> None:
    """Show one dead letter of the node in DIR: its content, and what its handler printed.

    Only what an isolated handler printed is kept, the last 4 KiB. It may hold secrets.
    """
    with admin_client(directory) as client:
        answer = client.dead_letter(name)
    if as_json:
        print_json(answer)
    else:
        _print_letter(answer)


@dead_letters.command("replay")
@directory_argument
@click.argument("names", metavar="[ID]...", nargs=-1)
@option(
    "--all", "every", env="EDGISTRY_ALL", is_flag=True,
    help="All dead letters of handlers.",
)  # fmt: skip
@json_option
def letters_replay(directory: Path, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Let handlers try elements again: those that are named, or none if one cannot be.

    Puts that a handler has made before it failed are not made again.
    """
    check_named(names, every, "dead letters")
    with admin_client(directory) as client:
        answer = client.replay_letters(names, every=every)
    finish_several(as_json, answer.count, "replayed", answer)


@dead_letters.command("purge")
@directory_argument
@click.argument("names", metavar="[ID]...", nargs=-1)
@option(
    "--all", "every", env="EDGISTRY_ALL", is_flag=True,
    help="All dead letters, transactions too.",
)  # fmt: skip
@json_option
def letters_purge(directory: Path, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Forget dead letters for ever: those that are named, or none if one is not there."""
    check_named(names, every, "dead letters")
    with admin_client(directory) as client:
        answer = client.purge_letters(names, every=every)
    finish_several(as_json, answer.count, "purged", answer)


def _short(reason: str) -> str:
    return reason if len(reason) <= SHOWN_REASON else reason[: SHOWN_REASON - 1] + "…"


def _print_letter(detail: DeadLetterDetail) -> None:
    letter = detail.letter
    for name, value in _lines(letter):
        click.echo(f"{name:<10}{in_one_line(str(value))}")
    click.echo(f"{'content':<10}{_content(detail.content)}")
    if detail.printed:
        click.echo("printed:")
        for line in detail.printed.splitlines():
            click.echo(f"  {in_one_line(line)}")


def _lines(letter: DeadLetterEntry) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = [("id", letter.id), ("what", letter.what)]
    lines += [("about", letter.about), ("tries", letter.attempts)]
    if letter.died:
        lines.append(("died", letter.died))
    return [*lines, ("reason", letter.reason), ("bytes", letter.bytes)]


def _content(content: bytes) -> str:
    """As text where it is text, else as hexadecimal digits."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return f"hex {content.hex()}"
    return in_one_line(text)
