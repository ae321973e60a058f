"""Small file systems that tests may fill or make read-only; they need the right to mount."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(size: str = "2m") -> Iterator[Path]:
    """A new tmpfs of ``size``; skips the test where mounting is not allowed."""
    place = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place],
        capture_output=True,
        check=False,
    )
    if not done or done.returncode:
        place.rmdir()
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def fill(disk: Path) -> Path:
    """Leave no byte free on ``disk``; removing the file that is returned frees it again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for block in (1 << 16, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))
    return ballast


@contextlib.contextmanager
def read_only(path: Path, disk: Path) -> Iterator[None]:
    """Nobody can write to ``path``, which lies on ``disk``. Root may write where modes forbid it,
    so for root the disk itself is made read-only."""
    if os.geteuid():
        path.chmod(0o555)
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        if os.geteuid():
            path.chmod(0o755)
        else:
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
