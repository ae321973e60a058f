"""The examples run as their first lines say, and print what they are there to show."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from edgistry.errors import ElementEvictedError
from edgistry.handlers import GiveUpError

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
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


class Readings:
    """What the monitor's function sees of a WooF, and what it puts."""

    def __init__(self, *elements: bytes) -> None:
        self._elements = elements
        self.alarms: list[bytes] = []
        self.logger = Mock()

    async def get(self, woof: str, seq: int) -> bytes:
        if self._elements[seq - 1] == b"evicted":
            raise ElementEvictedError("gone")
        return self._elements[seq - 1]

    async def put(self, woof: str, element: bytes) -> int:
        assert woof == "house/alarms"
        self.alarms.append(element)
        return len(self.alarms)


@pytest.mark.parametrize(
    ("elements", "alarm"),
    [
        ([b"30.0"], None),
        ([b"30.1"], "too warm: reading 1 is 30.1 °C"),
        ([b"30.0", b"30.1"], "too warm: reading 2 is 30.1 °C"),
        ([b"30.1", b"35"], None),
        ([b"30.1", b"30.0"], "over: reading 2 is 30.0 °C"),
        ([b"29", b"-3"], None),
        ([b"evicted", b"31"], "too warm: reading 2 is 31 °C"),
        ([b"warm", b"31"], "too warm: reading 2 is 31 °C"),
        ([b"warm", b"29"], None),
    ],
)
async def test_monitor_decides_by_a_reading_and_the_one_before(
    elements: list[bytes], alarm: str | None
) -> None:
    context: Any = Readings(*elements)
    await monitor()["watch"](context, "house/temp", len(elements), elements[-1])
    assert context.alarms == ([] if alarm is None else [alarm.encode()])


@pytest.mark.parametrize("element", [b"", b"warm", b"\xff", b"nan", b"inf", b"1 2"])
async def test_monitor_gives_up_what_is_no_reading(element: bytes) -> None:
    context: Any = Readings(element)
    with pytest.raises(GiveUpError, match="is no temperature"):
        await monitor()["watch"](context, "house/temp", 1, element)
    assert context.alarms == []


def monitor() -> dict[str, Any]:
    """The names of the monitor's module."""
    return runpy.run_path(str(EXAMPLES / "temperature_monitor" / "alarms.py"))


def test_every_example_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    found = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/run.py")]
    assert {each.parent for each in found} == {
        EXAMPLES,
        *(each for each in EXAMPLES.iterdir() if each.is_dir() and each.name != "__pycache__"),
    }
    assert all(f'"{path.relative_to(EXAMPLES)}"' in source for path in found)
