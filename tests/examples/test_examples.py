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


def test_monitor_raises_each_alarm_once_and_its_reader_can_only_read() -> None:
    lines = output_of("temperature_monitor/run.py").splitlines()
    by_sensor = [line for line in lines if line.startswith("sensor")]
    assert len(by_sensor) == 12
    assert by_sensor[6] == "sensor  7: 31.5 °C"
    assert [line for line in lines if line not in by_sensor] == [
        "reader  alarm 1, too warm: reading 7 is 31.5 °C",
        "reader  alarm 2, over: reading 10 is 27.5 °C",
        "reader  the newest readings are 16.5 °C, 22.0 °C, 27.5 °C",
        "reader  may not put: no entry allows put on 'greenhouse/temp'",
    ]


def test_every_example_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    found = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/run.py")]
    assert {each.parent for each in found} == {
        EXAMPLES,
        *(each for each in EXAMPLES.iterdir() if each.is_dir() and each.name != "__pycache__"),
    }
    assert all(f'"{path.relative_to(EXAMPLES)}"' in source for path in found)
