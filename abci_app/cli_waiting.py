"""What the commands that write have in common: reaching the node, and waiting for the chain.

Rules kept here: a write that the node accepted is never lost; ``--wait`` only says how long to
look. Progress goes to stderr, and only when a person looks.

Not handled here: the commands themselves.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from edgistry.adapters.commands import option
from edgistry.errors import NodeProblemError

from .admin_client import AdminClient
from .cli_shared import DURATION
from .directory import open_directory

Command = TypeVar("Command", bound=Callable[..., Any])

POLL_S = 5.0


def wait_option(command: Command) -> Command:
    """Add ``--wait``, in seconds as ``wait_s``."""
    decorated: Command = option(
        "--wait",
        "wait_s",
        env="EDGISTRY_WAIT",
        type=DURATION,
        metavar="DURATION",
        default="60s",
        help="How long to wait for the chain. What was accepted is sent on in any case.",
    )(command)
    return decorated


def admin_client(directory: Path) -> AdminClient:
    """A client of the node in ``directory``.

    Raises:
        DirectoryError, ConfigError: no node is there.
    """
    layout, _ = open_directory(directory)
    return AdminClient(layout)


def wait_until_settled(
    client: AdminClient, sequence: int, *, height: int, timeout_s: float
) -> tuple[bool, int]:
    """Whether the chain took the transaction in time, and the chain's height then.

    ``sequence`` 0 waits for nothing; ``height`` is then the answer's.

    Raises:
        NodeProblemError: the chain refused it.
    """
    if sequence == 0:
        return True, height
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        answer = client.settled(first=sequence, last=sequence, timeout_s=min(left_s, POLL_S))
        for refusal in answer.refused:
            raise NodeProblemError(
                refusal.reason, problem_code="dead-letter", advice="Nothing on the chain changed."
            )
        if answer.through >= sequence:
            return True, answer.height
        if left_s <= 0:
            return False, answer.height


def not_yet(tentative: bool) -> str:
    """A note for the end of a line when the chain has not confirmed it."""
    return "; kept here, but the chain has not confirmed it yet" if tentative else ""


@contextlib.contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """A progress bar of ``length`` steps on stderr; call what it yields with steps done."""
    if not sys.stderr.isatty() or length <= 0:
        yield lambda steps: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update
