"""``docs/commands.md`` and README against the programs themselves."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from abci_app.cli import program as node_program
from client.cli import program as client_program
from device_agent.cli import program as agent_program

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS: dict[str, click.Command] = {
    "edgistry-node": node_program,
    "edgistry": client_program,
    "edgistry-agent": agent_program,
}
DOCUMENTED = dict(
    re.findall(
        r"^##+ ([^\n]+)\n\n```text\n(.*?)\n```$",
        (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


def commands_below(path: str, command: click.Command) -> list[str]:
    """The full names of a command and of all below it."""
    names = [path]
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            names += commands_below(f"{path} {name}", below)
    return names


COMMANDS = [name for path, program in PROGRAMS.items() for name in commands_below(path, program)]


@pytest.mark.parametrize("path", COMMANDS)
def test_documented_help_is_what_help_prints(path: str) -> None:
    program, *arguments = path.split()
    result = CliRunner().invoke(
        PROGRAMS[program], [*arguments, "--help"], prog_name=program, terminal_width=78
    )
    assert result.exit_code == 0
    # Words, not layout: that is click's, and may change with its version.
    assert DOCUMENTED.get(path, "").split() == result.output.split(), (
        "docs/commands.md is out of date: run .venv/bin/python scripts/gen_docs.py"
    )


def test_no_command_is_documented_that_does_not_exist() -> None:
    assert sorted(DOCUMENTED) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/operations.md",
        "docs/handlers.md",
        "docs/devices.md",
        "CONTRIBUTING.md",
        "examples/temperature_monitor/README.md",
    ],
)
def test_every_command_line_in_the_docs_names_a_command_and_its_options(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(
        r"^(?:    |\$ )((?:edgistry|edgistry-node|edgistry-agent) .*)$", text, re.MULTILINE
    )
    for line in lines:
        words = line.partition("#")[0].split()
        command: click.Command = PROGRAMS[words[0]]
        rest = words[1:]
        while isinstance(command, click.Group):
            assert rest, f"{page}: {line!r} names a group of commands"
            assert rest[0] in command.commands, f"{page}: {line!r}: no command {rest[0]!r}"
            command = command.commands[rest.pop(0)]
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert options <= known | {"-h", "--help"}, f"{page}: {line!r}"


def test_tour_in_the_readme_has_command_lines_to_check() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\$ edgistry", text, re.MULTILINE)) >= 5


def test_every_link_between_the_pages_leads_to_a_file() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/adr/*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing
