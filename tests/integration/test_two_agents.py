"""A device's directory was copied, and both run: real programs, and what their owners are told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from device_agent.directory import read_device_id

from .sleeping import SleepingWorld

pytestmark = pytest.mark.engine

HANDLERS = """
@handler
async def read(context, woof, seq, element):
    return b"did " + element
"""


@pytest.fixture
def world() -> Iterator[SleepingWorld]:
    with SleepingWorld() as world:
        yield world


def run_agent(stack: ExitStack, root: Path) -> subprocess.Popen[str]:
    """The agent's program on ``root``, until it ends or the test does."""
    program = Path(sys.executable).with_name("edgistry-agent")
    process = subprocess.Popen(
        [program, "run", str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def end() -> None:
        process.terminate()
        process.communicate(timeout=30)

    stack.callback(end)
    return process


def test_agent_that_a_copy_has_replaced_ends_and_both_owners_are_told(
    world: SleepingWorld,
) -> None:
    device = world.device("thermometer", HANDLERS)
    person = world.person()
    handle = person.handle("thermometer")
    person.edgistry("grant", "request", handle)
    settings = device.files.config_file.read_text().replace("period_s = 60", "period_s = 1")
    settings = settings.replace("any_period = false", "any_period = true")
    device.files.config_file.write_text(settings)
    copy = device.files.root.with_name("copy")
    shutil.copytree(device.files.root, copy)
    with ExitStack() as stack:
        original = run_agent(stack, device.files.root)
        request = person.call(handle, "read", "--data", "original")
        assert person.answer(request) == "did original"
        run_agent(stack, copy)
        _, said = original.communicate(timeout=60)
        assert original.returncode == 1
        assert "[two-agents]" in said
        assert "edgistry-agent init" in said, "it says what to do"
        shown = world.node.command("mailbox", "show", "DIR", "--json")
        (mailbox,) = json.loads(shown)["mailboxes"]
        assert (mailbox["device"], mailbox["conflicts"] > 0) == (read_device_id(device.files), True)
        request = person.call(handle, "read", "--data", "copy")
        assert person.answer(request) == "did copy", "no call is lost"
