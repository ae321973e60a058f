"""The examples run as their first lines say, and print what they are there to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_narrowed_capability_allows_what_was_kept_and_nothing_else() -> None:
    lines = output_of("narrow_a_capability.py").splitlines()
    assert lines[1:] == [
        "latest sensors/temp: allowed",
        "latest sensors/door: no-right",
        "delete sensors/temp: no-right",
    ]


def test_every_example_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))
