"""What people and programs get to see (this is the only module that imports rich).

Rules kept here:

* Results go to standard output, remarks and errors to standard error.
* A terminal gets tables with borders and colours; anything else gets the same rows as plain
  columns separated by tabs, with the column names in the first line.
* Control characters in what a node sent are made visible, never sent to the terminal.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgistry.codec import encode_json
from edgistry.wording import in_one_line, visible

_STEERING = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters that JSON does not escape, and those that turn the direction of writing."""

_LOOK_EVERY_S = 0.5


def print_json(value: object) -> None:
    """``value`` as indented JSON on standard output."""
    click.echo(_harmless(encode_json(value, indent=2)))


def print_json_line(value: object) -> None:
    """``value`` as JSON in one line, for programs that read one line at a time."""
    click.echo(_harmless(encode_json(value)))


def _harmless(json: bytes) -> str:
    # JSON has these only inside of its texts, and there an escape means the same.
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", json.decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """``rows`` under ``columns``; ``title`` only where a person looks."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print_row(row)
        return
    table = Table(title=Text(in_one_line(title)), title_justify="left")
    for number, column in enumerate(columns):
        # The first names the row: it stays in one piece, to be copied.
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        # Text, not markup: a name like [red] is a name.
        table.add_row(*(Text(in_one_line(cell)) for cell in row))
    Console().print(table)


def print_row(row: Sequence[str]) -> None:
    """One row at once, of a table that is not complete."""
    click.echo("\t".join(in_one_line(cell) for cell in row))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in facts) if sys.stdout.isatty() else 0
    for name, value in facts:
        gap = " " * (width + 2 - len(name)) if width else "\t"
        click.echo(f"{click.style(name, bold=True)}{gap}{in_one_line(value)}")


def remark(text: str) -> None:
    """A line for people beside the result."""
    click.echo(visible(text), err=True)


async def while_somebody_reads(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, which may wait for long, to its end.

    Raises:
        BrokenPipeError: nobody reads standard output any longer; ``work`` was cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            if not _somebody_reads():
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            await asyncio.wait({task}, timeout=_LOOK_EVERY_S)
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _somebody_reads() -> bool:
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # there is no file behind it
        return True
    poll = select.poll()
    # What is asked for is nothing; that the other end is closed is told unasked.
    poll.register(descriptor, 0)
    return not poll.poll(0)
