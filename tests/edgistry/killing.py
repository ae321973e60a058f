"""Running a program in a child process, and killing it at a random moment.

A program is a function at the top of a module: ``program(directory, told, number)``. It tells what
it has achieved by ``told(bytes)``; what it told before it died arrives, whole. Children are forked
from a server that has imported the module already, so that hundreds of rounds take seconds.

    with Nursery() as nursery:
        told = nursery.run_and_kill(program, directory, number, seeded)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Self

Told = Callable[[bytes], None]
Program = Callable[[Path, Told, int], None]

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
_END = b"\0end"


@contextlib.contextmanager
def memory_directory() -> Iterator[Path]:
    """A new directory in memory: what a process wrote outlives it, and syncing costs nothing."""
    shared = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="edg", dir=shared if os.access(shared, os.W_OK) else None))
    try:
        yield place
    finally:
        shutil.rmtree(place)


class Nursery:
    """The server that children are forked from."""

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=ROOT,
            )
        self._socket = ours
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._server.wait(LIMIT_S)

    def run_and_kill(
        self, program: Program, directory: Path, number: int, seeded: Random
    ) -> list[bytes]:
        """Run ``program`` as round ``number``, kill -9 it at a random moment; what it told."""
        enough = seeded.choice([0, 1, seeded.randint(2, 15), seeded.randint(2, 60)])
        return self.kill_after(
            program, directory, number, messages=enough, and_s=seeded.random() * 0.004
        )

    def kill_after(
        self, program: Program, directory: Path, number: int, *, messages: int, and_s: float = 0.0
    ) -> list[bytes]:
        """Run ``program``, kill -9 it ``and_s`` after it has told so much; what it told in all."""
        with self._child(program, directory, number) as (pid, pipe):
            told = list(_messages(pipe, messages))
            time.sleep(and_s)
            os.kill(pid, signal.SIGKILL)
            return told + list(_messages(pipe, None))

    def run_to_the_end(self, program: Program, directory: Path, number: int) -> list[bytes]:
        """Run ``program`` until it returns by itself; what it told.

        Raises:
            RuntimeError: it failed, or died.
        """
        with self._child(program, directory, number) as (_, pipe):
            told = list(_messages(pipe, None))
        if not told or told.pop() != _END:
            raise RuntimeError("the child did not come to its end")
        return told

    @contextlib.contextmanager
    def _child(self, program: Program, directory: Path, number: int) -> Iterator[tuple[int, int]]:
        reading, writing = os.pipe()
        request = json.dumps([program.__module__, program.__name__, str(directory), number])
        socket.send_fds(self._socket, [request.encode()], [writing])
        os.close(writing)
        pid = int(self._socket.recv(20))
        try:
            yield pid, reading
        finally:
            # The server reaps it only when the next one is asked for: the pid is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.close(reading)


def _messages(pipe: int, count: int | None) -> Iterator[bytes]:
    """The next ``count`` messages; ``None``: all until the child has ended."""
    while count is None or count > 0:
        head = _read(pipe, 4)
        if len(head) < 4:
            return
        yield _read(pipe, *struct.unpack("!I", head))
        count = None if count is None else count - 1


def _read(pipe: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not select.select([pipe], [], [], LIMIT_S)[0]:
            raise TimeoutError("the child tells nothing more, and lives")
        part = os.read(pipe, size - len(found))
        if not part:
            break
        found += part
    return found


# --- the server ----------------------------------------------------------------------------------


def _serve(requests: socket.socket) -> None:
    while True:
        data, handles, _, _ = socket.recv_fds(requests, 4096, 1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not data:
            return
        module, name, directory, number = json.loads(data)
        program: Program = getattr(importlib.import_module(module), name)
        pid = os.fork()
        if pid == 0:
            requests.close()
            _run(program, Path(directory), handles[0], number)
        os.close(handles[0])
        requests.send(b"%d" % pid)


def _run(program: Program, directory: Path, pipe: int, number: int) -> None:
    def told(message: bytes) -> None:
        # At most PIPE_BUF bytes, so that the kernel takes all of it or nothing.
        os.write(pipe, struct.pack("!I", len(message)) + message)

    try:
        program(directory, told, number)
        told(_END)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
