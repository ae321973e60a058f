"""The commands that people type, run in this process to their ends: that takes no time to start."""

from __future__ import annotations

from collections.abc import Mapping

from click.testing import CliRunner, Result

import abci_app.cli
import client.cli
import device_agent.cli

_PROGRAMS = {
    "edgistry": client.cli.program,
    "edgistry-agent": device_agent.cli.program,
    "edgistry-node": abci_app.cli.program,
}


def run(
    program: str,
    *words: str,
    typed: str = "",
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """What ``program`` prints, and its exit code."""
    done = CliRunner().invoke(
        _PROGRAMS[program], words, input=typed, env=environment, catch_exceptions=False
    )
    assert done.exit_code == 0 or not check, f"{program} {words}: {done.output}"
    return done
