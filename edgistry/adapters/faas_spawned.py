"""One child process of an isolated handler, from its start to its end, as its parent sees it.

Rules kept here:

* A child inherits no environment but what finding its modules takes, no files and no secrets.
* It is killed with its whole process group, and the group before its leader is waited for: until
  then its number can be nobody else's.
* What it prints is read all the time, and only the end is kept, for the dead letter. It goes to no
  log.
* A child that sends anything but frames in their order is killed.

Not handled here: when a child is made and used again (``faas_process.py``), what it asks for
(``faas_asked.py``), the limits (``faas_limits.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from ..errors import Refused
from ..faas_frames import (
    FROM_CHILD_BYTES,
    Ask,
    Begin,
    Ended,
    Frame,
    FrameReader,
    Ready,
    Say,
    Setup,
    frame_bytes,
)
from ..faas_letters import MAX_OUTPUT_BYTES
from ..faas_outcome import Answer, Failure, Outcome
from ..handlers import Handler
from .faas_asked import Asked
from .faas_context import Access

START_S: Final = 30.0
"""How long loading the handler's module may take."""

_CHUNK = 64 * 1024
_KEPT_ENVIRONMENT = ("LANG", "LC_ALL", "LC_CTYPE", "PATH", "TZ")


class Child:
    """One child process, from its start to its end."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self.is_new = True
        self.is_reusable = False
        self.uses = 0
        self.output = bytearray()
        """The end of what it printed since its try began."""
        self._rest: asyncio.TimerHandle | None = None
        self._frames = FrameReader(limit=FROM_CHILD_BYTES)
        self._received: list[Frame] = []
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        self._pipe, printed = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = _start(theirs.fileno(), printed)
        except BaseException:
            ours.close()
            os.close(self._pipe)
            raise
        finally:
            theirs.close()
            os.close(printed)
        self._loop.add_reader(self._pipe, self._read_output)

    # --- its life -------------------------------------------------------------------------------

    async def set_up(self) -> Failure | None:
        """Let it load the handler; why it could not, or ``None``."""
        self.is_new = False
        handler = self._handler
        try:
            async with asyncio.timeout(START_S):
                await self._send(
                    Setup(
                        module=handler.function.__module__,
                        handler=handler.name,
                        memory_mb=handler.limits.memory_mb,
                        cpu_s=handler.limits.cpu_s,
                        files=handler.limits.files,
                    )
                )
                frame = await self._receive()
        except TimeoutError:
            return Failure(reason=f"took more than {START_S:g} s to load its module")
        if isinstance(frame, Ended):
            return Failure(reason=frame.failure or "cannot be loaded")
        if isinstance(frame, Ready):
            return None
        return await self._why(frame)

    async def handle(self, access: Access) -> Outcome:
        """Let it handle one element; how that ended. It is reusable if it is in good order."""
        self.uses += 1
        self.is_reusable = False
        self._read_output()
        self.output.clear()
        trigger = access.trigger
        begin = Begin(
            woof=access.woof,
            number=trigger.number,
            element=trigger.element,
            attempt=access.attempt,
        )
        async with Asked(access, self._send) as asked:
            await self._send(begin)
            while True:
                frame = await self._receive()
                if isinstance(frame, Ask):
                    await asked.do(frame)
                elif isinstance(frame, Say):
                    asked.say(frame)
                elif isinstance(frame, Ended):
                    await asked.end()
                    self._read_output()
                    self.is_reusable = not frame.exhausted
                    return _outcome(frame)
                else:
                    return await self._why(frame)

    def rest(self, idle_s: float, too_long: Callable[[Child], None]) -> None:
        """It has nothing to do from now on; ``too_long`` hears of it after ``idle_s``."""
        self._rest = self._loop.call_later(idle_s, too_long, self)

    def rests(self) -> bool:
        """It has something to do again; whether it is still there, and was silent."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def end(self) -> None:
        """It and everything it started is gone."""
        self.is_reusable = False
        if self._process.returncode is not None:
            return
        # Its leader was not waited for, so the group has this number and nobody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._read_output()
        self._loop.remove_reader(self._pipe)
        self._socket.close()
        await asyncio.to_thread(self._process.wait)
        os.close(self._pipe)

    # --- talking --------------------------------------------------------------------------------

    async def _send(self, frame: Frame) -> None:
        with contextlib.suppress(OSError):  # it has ended: receiving says how
            await self._loop.sock_sendall(self._socket, frame_bytes(frame))

    async def _receive(self) -> Frame | str:
        """The next frame, or why there will be none."""
        while not self._received:
            try:
                data = await self._loop.sock_recv(self._socket, _CHUNK)
            except OSError:
                data = b""
            if not data:
                return ""
            try:
                self._received += self._frames.feed(data)
            except Refused as error:
                return f"wrote to its parent by itself ({error.code})"
        return self._received.pop(0)

    async def _why(self, frame: Frame | str) -> Failure:
        """Why it cannot go on after ``frame``; it has ended."""
        await self.end()
        if isinstance(frame, str) and not frame:
            return Failure(reason=self._how_it_ended())
        return Failure(reason=frame if isinstance(frame, str) else "wrote to its parent by itself")

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return f"used more than {self._handler.limits.cpu_s} s of processor time"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def _read_output(self) -> None:
        """Take what it has printed; keep the end."""
        for _ in range(64):  # it may print faster than anybody reads
            try:
                data = os.read(self._pipe, _CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(self._pipe)
                break
            self.output += data
            del self.output[:-MAX_OUTPUT_BYTES]


def _start(descriptor: int, printed: int) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Address space is limited, and each arena of the C library takes 64 MiB of it.
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    module = f"{__package__}.faas_child"
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(descriptor), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=printed,
        pass_fds=(descriptor,),
        cwd="/",
        env=environment,
        start_new_session=True,
    )


def _outcome(ended: Ended) -> Outcome:
    if ended.failure is not None:
        return Failure(reason=ended.failure, for_good=ended.for_good)
    return Answer(answer=ended.answer)
