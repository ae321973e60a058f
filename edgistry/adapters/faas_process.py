"""Handlers in child processes: started, asked, watched and ended.

Rules kept here:

* A child serves one handler, one element at a time. After a try that ended well, or that raised, it
  is used again; after anything else it is killed, with its whole process group, and replaced.
* The group is killed before its leader is waited for: until then its number can be nobody else's.
* What a child prints is read all the time, and only the end is kept, for the dead letter. It goes
  to no log.
* A child inherits no environment but what finding its modules takes, no files and no secrets.
* What it asks is done through the same ``Access`` as for a handler in this program. A child that
  sends anything but frames in their order is killed.

Not handled here: the limits (``faas_limits.py``).
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

from ..errors import ConfigError, Refused
from ..faas_calls import MAX_PUTS
from ..faas_frames import (
    FROM_CHILD_BYTES,
    Ask,
    Begin,
    Ended,
    Frame,
    FrameReader,
    Operation,
    Ready,
    Reply,
    Say,
    Setup,
    frame_bytes,
)
from ..faas_letters import MAX_OUTPUT_BYTES
from ..faas_outcome import Answer, Failure, Outcome
from ..handlers import Handler
from .faas_context import Access
from .faas_workers import overdue

START_S: Final = 30.0
"""How long loading the handler's module may take."""
IDLE_S: Final = 60.0
"""A child that has had nothing to do for so long is ended."""
MAX_USES: Final = 1000
"""Tries of one child: what its handler leaks is bounded."""
MAX_AT_ONCE: Final = 64
"""Puts of one child that are under way."""
MAX_SAID: Final = 100
"""Lines that one try may log."""

_CHUNK = 64 * 1024
_KEPT_ENVIRONMENT = ("LANG", "LC_ALL", "LC_CTYPE", "PATH", "TZ")


class ProcessWorker:
    """Runs one handler in child processes, as many as it has tries at the same time."""

    def __init__(self, handler: Handler) -> None:
        if handler.function.__module__ == "__main__":
            raise ConfigError(
                f"handler {handler.name!r}: to be isolated it must be in a module of its own"
            )
        self._handler = handler
        self._idle: list[_Child] = []
        self._ending: set[asyncio.Task[None]] = set()
        self.stuck = False
        self.left_behind = 0
        self.on_free: Callable[[], None] = lambda: None

    async def run(self, access: Access) -> Outcome:
        """As ``Worker.run``."""
        child = self._idle.pop() if self._idle else None
        if child is not None and not child.rests():
            await child.end()
            child = None
        if child is None:
            try:
                child = _Child(self._handler)
            except OSError as error:
                return Failure(reason=f"its process cannot be started: {error.strerror}")
        try:
            outcome = await self._run(child, access)
        finally:
            access.end()
            # Shielded: a child that is being ended is ended also when we are cancelled.
            await asyncio.shield(asyncio.ensure_future(self._put_away(child)))
        if isinstance(outcome, Failure):
            return Failure(
                reason=outcome.reason, for_good=outcome.for_good, output=bytes(child.output)
            )
        return outcome

    async def _run(self, child: _Child, access: Access) -> Outcome:
        if child.is_new:
            failure = await child.set_up()
            if failure is not None:
                return failure
        try:
            async with asyncio.timeout(self._handler.timeout_s):
                return await child.handle(access)
        except TimeoutError:
            return overdue(self._handler)

    async def _put_away(self, child: _Child) -> None:
        if child.is_reusable and child.uses < MAX_USES:
            child.rest(self._end_idle)
            self._idle.append(child)
        else:
            await child.end()

    def _end_idle(self, child: _Child) -> None:
        if child in self._idle:
            self._idle.remove(child)
            task = asyncio.get_running_loop().create_task(child.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End the children that have nothing to do; the others end with their tries."""
        idle, self._idle = self._idle, []
        for child in idle:
            child.rests()
            await child.end()
        await asyncio.gather(*self._ending)


class _Child:
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
            woof=trigger.woof,
            number=trigger.number,
            element=trigger.element,
            attempt=access.attempt,
        )
        async with _Puts(self, access) as puts:
            await self._send(begin)
            said = 0
            while True:
                frame = await self._receive()
                if isinstance(frame, Ask):
                    await puts.do(frame)
                elif isinstance(frame, Say):
                    said += 1
                    if said <= MAX_SAID:
                        _log(access, frame)
                elif isinstance(frame, Ended):
                    await puts.end()
                    self._read_output()
                    self.is_reusable = not frame.exhausted
                    return _outcome(frame)
                else:
                    return await self._why(frame)

    def rest(self, too_long: Callable[[_Child], None]) -> None:
        """It has nothing to do from now on; ``too_long`` hears of it when that lasts."""
        self._rest = self._loop.call_later(IDLE_S, too_long, self)

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

    async def reply(self, reply: Reply) -> None:
        """Answer a question."""
        await self._send(reply)


class _Puts:
    """What a child has asked for: reading is done at once, puts are under way together."""

    def __init__(self, child: _Child, access: Access) -> None:
        self._child = child
        self._access = access
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> _Puts:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._access.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def do(self, ask: Ask) -> None:
        """Do what the child asks."""
        if ask.operation is not Operation.PUT:
            await self._answer(self._read(ask))
            return
        await self._slots.acquire()
        task = asyncio.create_task(self._put(ask))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def end(self) -> None:
        """All puts are made."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    def _read(self, ask: Ask) -> Reply:
        access = self._access
        try:
            if ask.operation is Operation.GET:
                found = [(ask.number, access.get(ask.woof, ask.number))]
            elif ask.operation is Operation.LATEST:
                found = [access.latest(ask.woof)]
            else:
                found = access.tail(ask.woof, ask.number)
        except Refused as error:
            return Reply(id=ask.id, code=error.code, detail=error.detail)
        return Reply(id=ask.id, elements=tuple(found))

    async def _put(self, ask: Ask) -> None:
        index = min(ask.index, MAX_PUTS - 1)
        try:
            number = await self._access.put(index, ask.woof, ask.element, ask.handler)
        except Refused as error:
            await self._answer(Reply(id=ask.id, code=error.code, detail=error.detail))
        else:
            await self._answer(Reply(id=ask.id, number=number))

    async def _answer(self, reply: Reply) -> None:
        # One frame after the other: a large one is sent in pieces.
        async with self._writing:
            await self._child.reply(reply)


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


def _log(access: Access, say: Say) -> None:
    # With a prefix, so that none passes for a fact of ours.
    facts = {f"said_{name}": value for name, value in say.facts}
    {
        "debug": access.logger.debug,
        "info": access.logger.info,
        "warning": access.logger.warning,
        "error": access.logger.error,
    }[say.level](say.event, **facts)


def _outcome(ended: Ended) -> Outcome:
    if ended.failure is not None:
        return Failure(reason=ended.failure, for_good=ended.for_good)
    return Answer(answer=ended.answer)
