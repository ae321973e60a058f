"""Writes ``docs/commands.md``: the help of every command, exactly as ``--help`` prints it.

    .venv/bin/python scripts/gen_docs.py

Rules kept here: the text comes from the commands alone, at a fixed width and without the caller's
environment, so that it is the same wherever it is made. ``tests/test_docs.py`` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
# Installed, the packages of the programs have other names; here they are meant as they lie.
sys.path.insert(0, str(ROOT))

from abci_app.cli import program as node_program  # noqa: E402
from client.cli import program as client_program  # noqa: E402
from device_agent.cli import program as agent_program  # noqa: E402

COMMANDS_FILE = ROOT / "docs" / "commands.md"
WIDTH = 78
"""What click leaves of the 80 columns of a terminal that tells no width of its own."""

_HEAD = """\
# Commands

What `--help` prints, for every command; made by `scripts/gen_docs.py`, do not edit.

Operators use [`edgistry-node`](#edgistry-node) on the machine of a node; clients use
[`edgistry`](#edgistry) from anywhere; devices run [`edgistry-agent`](#edgistry-agent).
"""


def commands_text() -> str:
    """The content of ``docs/commands.md``."""
    parts = [_HEAD]
    programs = (
        ("edgistry-node", node_program),
        ("edgistry", client_program),
        ("edgistry-agent", agent_program),
    )
    for name, program in programs:
        for path, text in help_texts(name, program):
            level = "##" if path == name else "###"
            parts.append(f"{level} {path}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def help_texts(
    path: str, command: click.Command, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """The full name and the help of ``command`` and of all below it, by name."""
    context = click.Context(
        command,
        parent=parent,
        info_name=command.name if parent else path,
        terminal_width=WIDTH,
        **command.context_settings,
    )
    yield path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from help_texts(f"{path} {name}", below, context)


if __name__ == "__main__":
    COMMANDS_FILE.write_text(commands_text(), encoding="utf-8")
